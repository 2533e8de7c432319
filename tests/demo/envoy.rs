//! The sidecar: a real Envoy, set up as the mesh sets up its own as far as addresses and ports go.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Child;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::mesh::{Mesh, ToApp};
use crate::outcome::{Doing as _, Outcome};
use crate::place::Place;
use crate::site::{Site, wait_for};

/// One line of Envoy's access log.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Access {
    /// `outbound` or `inbound`.
    pub(crate) listener: String,
    /// Who connected.
    pub(crate) client: String,
    /// Where the client meant to go: the original destination.
    pub(crate) asked_for: String,
    /// Its own end of the connection it makes for the client.
    pub(crate) dials_from: Option<String>,
}

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
        fs::write(&config, bootstrap(mesh, app_port).to_string()).doing("write Envoy's configuration")?;
        fs::set_permissions(&config, PermissionsExt::from_mode(0o644)).doing("open Envoy's configuration")?;
        let program = program.display().to_string();
        let config = config.display().to_string();
        let log = File::options()
            .append(true)
            .create(true)
            .open(site.path("log/envoy.log"))
            .doing("open Envoy's log")?;
        // Envoy opens its standard output once more, by name and under its own uid.
        let access = File::options()
            .append(true)
            .create(true)
            .open(access_log(site))
            .doing("open Envoy's access log")?;
        std::os::unix::fs::fchown(&access, Some(mesh.uid), Some(mesh.uid))
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
        let child = place.command(&job)?.stdout(access).stderr(log).spawn().doing("start Envoy")?;
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

fn access_log(site: &Site) -> std::path::PathBuf {
    site.path("log/access.log")
}

/// The access log's line about the connection this client made; Envoy writes it when the connection is over.
pub(crate) fn access(site: &Site, client: SocketAddr) -> Outcome<Access> {
    let mut found = None;
    wait_for(&format!("Envoy's log has no line about {client}"), || {
        let log = fs::read_to_string(access_log(site)).unwrap_or_default();
        found = log
            .lines()
            .filter_map(|line| serde_json::from_str::<Access>(line).ok())
            .find(|access| access.client.parse() == Ok(client));
        found.is_some()
    })?;
    found.ok_or_else(|| "Envoy's log changed under us".into())
}

/// Two listeners that ask the kernel where the client wanted to go; the outbound one goes there, the inbound one to the app.
fn bootstrap(mesh: &Mesh, app_port: u16) -> Value {
    let both = |port: u16| {
        json!({
            "address": { "socket_address": { "address": "0.0.0.0", "port_value": port } },
            "additional_addresses": [{ "address": { "socket_address": { "address": "::", "port_value": port } } }],
        })
    };
    let outbound = listener(both(mesh.outbound), "outbound", json!([chain("outbound", "passthrough", None)]));
    let inbound = listener(
        both(mesh.inbound),
        "inbound",
        json!([chain("inbound", "inbound-v4", Some("0.0.0.0")), chain("inbound", "inbound-v6", Some("::"))]),
    );
    json!({
        "static_resources": {
            "listeners": [outbound, inbound],
            "clusters": [
                cluster("passthrough", None),
                to_app("inbound-v4", mesh.to_app, ("127.0.0.6", "127.0.0.1"), app_port),
                to_app("inbound-v6", mesh.to_app, ("::6", "::1"), app_port),
            ],
        },
    })
}

fn listener(mut listener: Value, name: &str, chains: Value) -> Value {
    if let Some(fields) = listener.as_object_mut() {
        fields.insert("name".into(), name.into());
        fields.insert("filter_chains".into(), chains);
        fields.insert(
            "listener_filters".into(),
            json!([{
                "name": "envoy.filters.listener.original_dst",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
                },
            }]),
        );
    }
    listener
}

fn chain(name: &str, cluster: &str, family: Option<&str>) -> Value {
    let log = json!({
        "name": "envoy.access_loggers.stdout",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
            "log_format": { "json_format": {
                "listener": name,
                "client": "%DOWNSTREAM_REMOTE_ADDRESS%",
                "asked_for": "%DOWNSTREAM_LOCAL_ADDRESS%",
                "dials_from": "%UPSTREAM_LOCAL_ADDRESS%",
            } },
        },
    });
    let mut chain = json!({
        "filters": [{
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                "stat_prefix": cluster,
                "cluster": cluster,
                "access_log": [log],
            },
        }],
    });
    if let (Some(family), Some(fields)) = (family, chain.as_object_mut()) {
        let any = json!({ "prefix_ranges": [{ "address_prefix": family, "prefix_len": 0 }] });
        fields.insert("filter_chain_match".into(), any);
        fields.insert("name".into(), cluster.into());
    }
    chain
}

/// How the proxy reaches the app over one family, whose pass-through and loopback addresses these are.
fn to_app(name: &str, how: ToApp, (pass_through, loopback): (&str, &str), port: u16) -> Value {
    match how {
        // From there, so that it is not taken for the app calling itself.
        ToApp::PassThrough => cluster(name, Some(pass_through)),
        ToApp::OwnAddress => cluster(name, None),
        ToApp::Loopback => json!({
            "name": name,
            "type": "STATIC",
            "connect_timeout": "2s",
            "load_assignment": {
                "cluster_name": name,
                "endpoints": [{ "lb_endpoints": [{ "endpoint": {
                    "address": { "socket_address": { "address": loopback, "port_value": port } },
                } }] }],
            },
        }),
    }
}

fn cluster(name: &str, source: Option<&str>) -> Value {
    let mut cluster = json!({
        "name": name,
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": "2s",
    });
    if let (Some(source), Some(fields)) = (source, cluster.as_object_mut()) {
        let bind = json!({ "source_address": { "address": source, "port_value": 0 } });
        fields.insert("upstream_bind_config".into(), bind);
    }
    cluster
}
