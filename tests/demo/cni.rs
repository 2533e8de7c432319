//! The conflist, and cnitool: libcni as container runtimes use it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::mesh::Mesh;
use crate::outcome::{Doing as _, Outcome};
use crate::place::Place;
use crate::site::{POD_UID, Site};

/// Bridge, addresses and Shunt.
pub(crate) const MESHED: &str = "meshed";
/// The same without Shunt.
pub(crate) const PLAIN: &str = "plain";

/// Where the programs are.
#[derive(Debug)]
pub(crate) struct Programs {
    /// cnitool, the reference plugins, Envoy: `make deps` links them here.
    pub(crate) tools: PathBuf,
    /// The plugin.
    plugins: PathBuf,
}

impl Programs {
    /// `SHUNT_TOOLS` and `SHUNT_PLUGIN_DIR`, else what `make` leaves in the workspace.
    pub(crate) fn find() -> Outcome<Self> {
        let place = |variable: &str, usual: &str, must: &str| {
            let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
            let place = std::env::var_os(variable).map_or_else(|| target.join(usual), PathBuf::from);
            let place = fs::canonicalize(&place).unwrap_or(place);
            if place.join(must).exists() {
                Ok(place)
            } else {
                Err(format!("{} is not there: run `make demo`", place.join(must).display()))
            }
        };
        Ok(Self {
            tools: place("SHUNT_TOOLS", "tools", "cnitool")?,
            plugins: place("SHUNT_PLUGIN_DIR", "release", "shunt")?,
        })
    }
}

/// The runtime's side.
#[derive(Debug)]
pub(crate) struct Cni<'a> {
    site: &'a Site,
    programs: &'a Programs,
    mesh: &'a Mesh,
}

/// What a call gave.
#[derive(Debug)]
pub(crate) struct Answer {
    /// What cnitool printed: the result, or the error.
    pub(crate) text: String,
    /// Whether the verb succeeded.
    pub(crate) ok: bool,
    /// From start to end, cnitool and all plugins.
    pub(crate) took: Duration,
}

impl Answer {
    /// The answer of a verb that must succeed.
    pub(crate) fn expect_ok(self, what: &str) -> Outcome<Self> {
        if self.ok { Ok(self) } else { Err(format!("{what} failed: {}", self.text.trim())) }
    }

    /// The pod's addresses in the result, without their prefix lengths.
    pub(crate) fn addresses(&self) -> Outcome<Vec<std::net::IpAddr>> {
        let result: Value = serde_json::from_str(&self.text).doing("read the result of ADD")?;
        let ips = result.get("ips").and_then(Value::as_array).cloned().unwrap_or_default();
        ips.iter()
            .filter_map(|ip| ip.get("address")?.as_str()?.split('/').next())
            .map(|ip| ip.parse().doing("read an address"))
            .collect()
    }
}

impl<'a> Cni<'a> {
    /// Writes the conflists.
    pub(crate) fn new(
        site: &'a Site,
        programs: &'a Programs,
        mesh: &'a Mesh,
        backend: &str,
    ) -> Outcome<Self> {
        let dir = site.path("net.d");
        fs::create_dir_all(&dir).doing("make a directory for conflists")?;
        for (file, name, plugins) in [
            ("10-meshed.conflist", MESHED, json!([bridge(site), shunt(site, mesh, backend)])),
            ("20-plain.conflist", PLAIN, json!([bridge(site)])),
        ] {
            let list = json!({ "cniVersion": "1.0.0", "name": name, "plugins": plugins });
            let text = serde_json::to_string_pretty(&list).doing("write a conflist")?;
            fs::write(dir.join(file), text).doing("write a conflist")?;
        }
        Ok(Self { site, programs, mesh })
    }

    /// `add`, `check` or `del` of the pod in one of the networks.
    pub(crate) fn call(&self, verb: &str, network: &str) -> Outcome<Answer> {
        let place = Place {
            netns: self.site.netns("node"),
            cgroup: self.site.cgroup("system"),
            id: 0,
            with_us: true,
            // libcni caches results below /var/lib/cni: let it, but not on this machine.
            var_lib: Some(self.site.path("var-lib")),
        };
        let cnitool = self.programs.tools.join("cnitool").display().to_string();
        let pod = self.site.netns("pod").display().to_string();
        // The capabilities a runtime hands over for a pod that the mesh's webhook has given a sidecar.
        let capabilities = json!({
            "io.kubernetes.cri.pod-annotations": self.mesh.annotations,
            "cgroupPath": self.site.cgroup_path(),
        });
        let mut command = place.command(&["exec", &cnitool, verb, network, &pod])?;
        command
            .env("CNI_PATH", format!("{}:{}", self.programs.tools.display(), self.programs.plugins.display()))
            .env("NETCONFPATH", self.site.path("net.d"))
            .env("CAP_ARGS", capabilities.to_string())
            .env(
                "CNI_ARGS",
                format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=demo;K8S_POD_NAME=app-0;K8S_POD_UID={POD_UID}"),
            );
        let started = Instant::now();
        let done = command.output().doing("run cnitool")?;
        let took = started.elapsed();
        let mut text = String::from_utf8_lossy(&done.stdout).into_owned();
        if !done.status.success() {
            text.push_str(&String::from_utf8_lossy(&done.stderr));
        }
        Ok(Answer { text, ok: done.status.success(), took })
    }

    /// What the plugin itself says the last call of a verb took it. The first ADD of a node loads the programs.
    pub(crate) fn own_share(&self, verb: &str) -> String {
        let log = fs::read_to_string(self.site.plugin_log()).unwrap_or_default();
        log.lines()
            .rev()
            .filter_map(|line| serde_json::from_str::<Logged>(line).ok())
            .find(|line| line.cmd.as_deref() == Some(verb))
            .and_then(|line| line.took_us)
            .map_or_else(
                || "an unknown part".into(),
                |took| format!("{}.{} ms", took / 1000, took / 100 % 10),
            )
    }
}

/// A line of the plugin's log, as far as it is about time.
#[derive(Debug, Deserialize)]
struct Logged {
    cmd: Option<String>,
    took_us: Option<u64>,
}

fn bridge(site: &Site) -> Value {
    json!({
        "type": "bridge",
        "bridge": "demo0",
        "isDefaultGateway": true,
        "ipam": {
            "type": "host-local",
            "dataDir": site.path("addresses"),
            "ranges": [[{ "subnet": "10.88.0.0/24" }], [{ "subnet": "fd88::/64" }]],
        },
    })
}

/// Our entry as an administrator writes it, with the places moved so that the demo touches nothing of the host's.
fn shunt(site: &Site, mesh: &Mesh, backend: &str) -> Value {
    json!({
        "type": "shunt",
        "capabilities": { "io.kubernetes.cri.pod-annotations": true, "cgroupPath": true },
        "mesh": mesh.name,
        "backend": backend,
        "redirect": mesh.redirect,
        "stateDir": site.state_dir(),
        "bpfDir": site.bpf_dir(),
        "log": { "level": "info", "file": site.plugin_log() },
    })
}
