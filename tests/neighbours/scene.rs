//! A mesh whose cgroups others have programs on, and what is said of them.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use shunt_tests::ask::{Dial, Try};
use shunt_tests::bin;
use shunt_tests::net::Shape;
use shunt_tests::node::Node;
use shunt_tests::process;

use crate::mesh::{Mesh, captured, only};
use shunt_tests::foreign::{BACKEND, SERVICE};

pub(crate) struct Scene {
    pub(crate) mesh: Mesh,
}

impl Scene {
    /// A pod the plugin has not seen, on a node of its own.
    pub(crate) fn new() -> Self {
        Self::on("ebpf")
    }

    pub(crate) fn on(backend: &str) -> Self {
        Self { mesh: Mesh::around_node(Node::on(backend), Shape::dual()) }
    }

    /// The pod's own cgroup.
    pub(crate) fn pod(&self) -> &Path {
        &self.mesh.pod.cgroup
    }

    /// The one all pods live under, where our shared programs go.
    pub(crate) fn pods(&self) -> PathBuf {
        self.pod().parent().expect("it is below").to_owned()
    }

    /// The one above that.
    pub(crate) fn above(&self) -> PathBuf {
        self.pods().parent().expect("it is below").to_owned()
    }

    pub(crate) fn start(&mut self) {
        self.mesh.add();
        self.mesh.start_proxy();
    }

    /// The app dials the service: captured, and the proxy is told the service.
    #[track_caller]
    pub(crate) fn service_reaches_the_proxy(&self) {
        for (ip, port) in SERVICE {
            let seen = only(self.mesh.app([to(ip, port)]));
            captured(&seen);
            assert_eq!(seen.peer, Some(seen.to), "the app is told whom it called: {seen:?}");
        }
    }

    /// The same, but the proxy is told the backend: somebody was first.
    #[track_caller]
    pub(crate) fn backend_reaches_the_proxy(&self) {
        for ((ip, port), backend) in SERVICE.into_iter().zip(BACKEND) {
            let seen = only(self.mesh.app([to(ip, port)]));
            assert_eq!(seen.outcome(), "outbound", "not captured: {seen:?}");
            assert_eq!(seen.greeted().original(), Some(backend.into()), "{seen:?}");
        }
    }

    /// The proxy itself dials the service.
    pub(crate) fn proxy_dials(&self) -> Vec<Try> {
        let to = SERVICE.map(|(ip, port)| to(ip, port));
        process::dial(&self.mesh.pod.proxy(), &Dial::to(to))
    }

    /// CHECK, which passes whatever others do.
    #[track_caller]
    pub(crate) fn check(&self) {
        self.mesh.node.call("CHECK", &self.mesh.pod, "eth0").ok();
    }

    /// How often ADD or CHECK has said that somebody runs before ours.
    pub(crate) fn warnings(&self) -> usize {
        self.mesh.node.log().matches("programs of others run before ours").count()
    }

    /// What `shuntctl check` says of foreign programs: severity, and what was seen.
    pub(crate) fn foreign(&self) -> Vec<(String, String)> {
        let node = &self.mesh.node;
        let done = Command::new(bin::shuntctl())
            .args(["check", &self.mesh.pod.called(), "--output", "json", "--state-dir"])
            .arg(node.state_dir())
            .arg("--bpf-dir")
            .arg(node.bpf_dir())
            .output()
            .expect("shuntctl can be run");
        let answer: Value =
            serde_json::from_slice(&done.stdout).unwrap_or_else(|error| panic!("{error}: {done:?}"));
        let findings = answer["findings"].as_array().expect("a list").iter();
        let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
        findings
            .filter(|finding| finding["code"] == "foreign-program")
            .map(|finding| (text(finding, "severity"), text(finding, "seen")))
            .collect()
    }

    /// `shuntctl check` names these programs with this severity.
    #[track_caller]
    pub(crate) fn named(&self, severity: &str, program: &str, cgroup: &Path) {
        let found = self.foreign();
        let names = |seen: &str| seen.contains(program) && seen.contains(&cgroup.display().to_string());
        assert!(found.iter().any(|(how, seen)| how == severity && names(seen)), "{found:#?}");
    }
}

fn to(ip: std::net::IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(ip, port).to_string()
}
