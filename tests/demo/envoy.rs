//! The sidecar: a real Envoy, set up as the mesh sets up its own as far as addresses and ports go.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::{Value, json};
use shunt_tests::envoy::{
    Access, access_log, accesses, both_families, meant_for, original_dst, tcp_proxy, to_address,
    to_original_dst,
};

use crate::mesh::{Mesh, ToApp};
use crate::outcome::{Doing as _, Outcome};
use crate::place::Place;
use crate::site::{Site, wait_for};

/// A running Envoy.
#[derive(Debug)]
pub(crate) struct Envoy {
    child: Child,
}

impl Envoy {
    /// Starts it in the pod and waits until it listens.
    pub(crate) fn start(
        site: &Site,
        mesh: &Mesh,
        app_port: u16,
        place: &Place,
        program: &Path,
    ) -> Outcome<Self> {
        let config = site.path("envoy.json");
        fs::write(&config, bootstrap(mesh, app_port, &log_file(site)).to_string())
            .doing("write Envoy's configuration")?;
        fs::set_permissions(&config, PermissionsExt::from_mode(0o644)).doing("open Envoy's configuration")?;
        let program = program.display().to_string();
        let config = config.display().to_string();
        let log = File::options()
            .append(true)
            .create(true)
            .open(site.path("log/envoy.log"))
            .doing("open Envoy's log")?;
        // Envoy opens it under its own uid.
        File::options()
            .append(true)
            .create(true)
            .open(log_file(site))
            .and_then(|access| std::os::unix::fs::fchown(&access, Some(mesh.uid), Some(mesh.uid)))
            .doing("give Envoy its access log")?;
        let arguments = [
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "--log-level",
            "warning",
            "--file-flush-interval-msec",
            "10",
        ];
        let mut job = vec!["exec", &program, "--config-path", &config];
        job.extend(arguments);
        let child = place.command(&job)?.stdout(Stdio::null()).stderr(log).spawn().doing("start Envoy")?;
        let mut envoy = Self { child };
        wait_for("Envoy does not listen", || envoy.ended() || listens(site, mesh))?;
        if envoy.ended() {
            return Err("Envoy ended at once".into());
        }
        Ok(envoy)
    }

    fn ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Kills it, as an out-of-memory killer would.
    pub(crate) fn kill(mut self) -> Outcome<()> {
        self.child.kill().doing("kill Envoy")?;
        self.child.wait().doing("wait for Envoy")?;
        Ok(())
    }
}

/// Both listeners, as the pod's socket table shows them. Dialling them would be a connection like any other.
fn listens(site: &Site, mesh: &Mesh) -> bool {
    let table = site
        .inside("pod", || fs::read_to_string("/proc/thread-self/net/tcp").doing("read the pod's sockets"))
        .unwrap_or_default();
    [mesh.outbound, mesh.inbound].iter().all(|port| table.contains(&format!(":{port:04X} 00000000:0000 0A")))
}

fn log_file(site: &Site) -> std::path::PathBuf {
    site.path("log/access.log")
}

/// The access log's line about the connection this client made; Envoy writes it when the connection is over.
pub(crate) fn access(site: &Site, client: SocketAddr) -> Outcome<Access> {
    let mut found = None;
    wait_for(&format!("Envoy's log has no line about {client}"), || {
        let log = fs::read_to_string(log_file(site)).unwrap_or_default();
        found = accesses(&log).into_iter().find(|access| access.client.parse() == Ok(client));
        found.is_some()
    })?;
    found.ok_or_else(|| "Envoy's log changed under us".into())
}

/// Two listeners that ask the kernel where the client wanted to go; the outbound one goes there, the inbound one to the app.
fn bootstrap(mesh: &Mesh, app_port: u16, log: &Path) -> Value {
    let chain =
        |name: &str, cluster: &str| json!({ "filters": [tcp_proxy(cluster, &[access_log(name, log)])] });
    let family = |cluster: &str, any: &str| {
        let mut chain = chain("inbound", cluster);
        if let Some(fields) = chain.as_object_mut() {
            fields.insert("filter_chain_match".into(), meant_for(any));
            fields.insert("name".into(), cluster.into());
        }
        chain
    };
    let outbound = json!([chain("outbound", "passthrough")]);
    let inbound = json!([family("inbound-v4", "0.0.0.0"), family("inbound-v6", "::")]);
    json!({
        "static_resources": {
            "listeners": [
                listener("outbound", mesh.outbound, outbound),
                listener("inbound", mesh.inbound, inbound),
            ],
            "clusters": [
                to_original_dst("passthrough", &[]),
                to_app("inbound-v4", mesh.to_app, ("127.0.0.6", "127.0.0.1"), app_port),
                to_app("inbound-v6", mesh.to_app, ("::6", "::1"), app_port),
            ],
        },
    })
}

fn listener(name: &str, port: u16, chains: Value) -> Value {
    let mut listener = both_families("0.0.0.0", "::", port);
    if let Some(fields) = listener.as_object_mut() {
        fields.insert("name".into(), name.into());
        fields.insert("filter_chains".into(), chains);
        fields.insert("listener_filters".into(), json!([original_dst()]));
    }
    listener
}

/// How the proxy reaches the app over one family, whose pass-through and loopback addresses these are.
fn to_app(name: &str, how: ToApp, (pass_through, loopback): (&str, &str), port: u16) -> Value {
    match how {
        // From there, so that it is not taken for the app calling itself.
        ToApp::PassThrough => to_original_dst(name, &[pass_through]),
        ToApp::OwnAddress => to_original_dst(name, &[]),
        ToApp::Loopback => to_address(name, loopback, port),
    }
}
