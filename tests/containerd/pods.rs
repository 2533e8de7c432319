//! Pods, made by calls of the CRI as a kubelet makes them.

use std::fs;
use std::net::IpAddr;

use serde_json::{Value, json};
use shunt_tests::ask::{Dial, Greeting, Place, Serve, Try};
use shunt_tests::machine::cri::Refused;
use shunt_tests::machine::image;
use shunt_tests::node::{APP, INBOUND_PORT, OUTBOUND_PORT, PROXY};

use crate::host::Host;

/// Where an app serves.
pub(crate) const APP_PORT: u16 = 8080;

/// State of a container that has ended.
const EXITED: u8 = 2;

/// What a pod is to be like.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    pub(crate) name: String,
    /// Which try of the kubelet's it is.
    pub(crate) attempt: u32,
    pub(crate) annotations: Value,
    /// First id outside of its user namespace, if it has one.
    pub(crate) users: Option<u32>,
}

impl Spec {
    /// A pod that nobody meshes.
    pub(crate) fn plain(name: &str) -> Self {
        Self { name: name.to_owned(), attempt: 0, annotations: json!({}), users: None }
    }

    /// One with Istio's marks.
    pub(crate) fn meshed(name: &str) -> Self {
        Self {
            annotations: json!({ "sidecar.istio.io/status": r#"{"containers":["istio-proxy"]}"# }),
            ..Self::plain(name)
        }
    }

    /// The uid, as Kubernetes has it.
    pub(crate) fn uid(&self) -> String {
        let sum = self.name.bytes().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
        format!("9f1c2d3e-0000-4000-8000-{:012}", sum % 1_000_000_000_000)
    }

    fn cgroup(&self) -> String {
        format!("/kubepods/besteffort/pod{}", self.uid())
    }

    fn namespaces(&self) -> Value {
        // Network: the pod's; processes: the container's. IPC: the pod's.
        let mut options = json!({ "network": 0, "pid": 1, "ipc": 0 });
        if let Some(first) = self.users {
            let map = json!([{ "host_id": first, "container_id": 0, "length": 65536 }]);
            options["userns_options"] = json!({ "mode": 0, "uids": map, "gids": map });
        }
        options
    }

    /// What `RunPodSandbox` gets.
    pub(crate) fn sandbox(&self) -> Value {
        json!({
            "metadata": { "name": self.name, "uid": self.uid(), "namespace": "default", "attempt": self.attempt },
            "hostname": self.name,
            "log_directory": format!("/var/log/pods/{}", self.name),
            "annotations": self.annotations,
            "linux": {
                "cgroup_parent": self.cgroup(),
                "security_context": { "namespace_options": self.namespaces() },
            },
        })
    }
}

/// One that runs.
#[derive(Debug)]
pub(crate) struct Pod<'a> {
    host: &'a Host,
    pub(crate) spec: Spec,
    /// Its sandbox's id.
    pub(crate) sandbox: String,
    /// Its containers' ids: app, proxy.
    pub(crate) containers: Vec<String>,
}

impl Host {
    /// Makes the pod's cgroup, as the kubelet does before it asks for the sandbox, and asks.
    pub(crate) fn sandbox(&self, spec: &Spec) -> Result<Pod<'_>, Refused> {
        let cgroup = self.machine.cgroups().join(spec.cgroup().trim_start_matches('/'));
        fs::create_dir_all(cgroup).expect("root may make cgroups");
        let said = self.cri.call("RunPodSandbox", &json!({ "config": spec.sandbox() }))?;
        let sandbox = said["pod_sandbox_id"].as_str().expect("a sandbox has an id").to_owned();
        Ok(Pod { host: self, spec: spec.clone(), sandbox, containers: Vec::new() })
    }

    /// A pod whose app serves, and whose proxy does too where it has one.
    #[track_caller]
    pub(crate) fn pod(&self, spec: &Spec, proxy: bool) -> Pod<'_> {
        let mut pod = self.sandbox(spec).unwrap_or_else(|why| panic!("{}: {why}\n{}", spec.name, self.machine.logs()));
        if proxy {
            pod.start_proxy();
        }
        pod.start_app();
        pod
    }
}

impl Pod<'_> {
    /// Starts a container that serves.
    pub(crate) fn start(&mut self, name: &str, uid: u32, serve: &Serve) {
        let place = json!(Place::default().ids(uid, uid));
        let config = json!({
            "metadata": { "name": name, "attempt": 0 },
            "image": { "image": image::APP },
            "command": [image::PROBE],
            "args": ["serve", place.to_string(), json!(serve).to_string()],
            "log_path": format!("{name}.log"),
            "linux": { "security_context": { "namespace_options": self.spec.namespaces() } },
        });
        let cri = &self.host.cri;
        let request = json!({ "pod_sandbox_id": self.sandbox, "config": config, "sandbox_config": self.spec.sandbox() });
        let said = cri.ok("CreateContainer", &request);
        let id = said["container_id"].as_str().expect("a container has an id").to_owned();
        cri.ok("StartContainer", &json!({ "container_id": id }));
        let log = self.host.machine.path(&format!("var/log/pods/{}/{name}.log", self.spec.name));
        self.host.machine.until("the container serves", || {
            let said = fs::read_to_string(&log).unwrap_or_default();
            if said.contains("ready") {
                return true;
            }
            let status = cri.ok("ContainerStatus", &json!({ "container_id": id }));
            assert_ne!(status["status"]["state"], json!(EXITED), "{name} ended: {status}\n{said}");
            false
        });
        self.containers.push(id);
    }

    /// The app's container.
    pub(crate) fn start_app(&mut self) {
        let (v4, v6) = (format!("0.0.0.0:{APP_PORT}"), format!("[::]:{APP_PORT}"));
        self.start("app", APP, &Serve::at([("app", v4.as_str()), ("app", v6.as_str())]));
    }

    /// The proxy's container.
    pub(crate) fn start_proxy(&mut self) {
        let at: Vec<_> = [("outbound", OUTBOUND_PORT), ("inbound", INBOUND_PORT)]
            .into_iter()
            .flat_map(|(name, port)| [(name, format!("0.0.0.0:{port}")), (name, format!("[::]:{port}"))])
            .collect();
        self.start("proxy", PROXY, &Serve::at(at.iter().map(|(name, at)| (*name, at.as_str()))));
    }

    /// Its addresses, the IPv4 one first.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let said = self.host.cri.ok("PodSandboxStatus", &json!({ "pod_sandbox_id": self.sandbox }));
        let network = &said["status"]["network"];
        let more = network["additional_ips"].as_array().into_iter().flatten().map(|more| &more["ip"]);
        let mut all: Vec<IpAddr> = [&network["ip"]]
            .into_iter()
            .chain(more)
            .filter_map(|ip| ip.as_str()?.parse().ok())
            .collect();
        all.sort();
        all
    }

    /// Somebody in the app's container dials, under these ids.
    #[track_caller]
    pub(crate) fn dial_as(&self, uid: u32, dial: &Dial) -> Vec<Try> {
        let container = self.containers.last().expect("a container runs");
        let place = json!(Place::default().ids(uid, uid)).to_string();
        let said = self.host.cri.ok(
            "ExecSync",
            &json!({ "container_id": container, "cmd": [image::PROBE, "dial", place, json!(dial).to_string()], "timeout": 60 }),
        );
        let text = said["stdout"].as_str().unwrap_or_default();
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {said}"))
    }

    /// The app dials.
    #[track_caller]
    pub(crate) fn dial(&self, dial: &Dial) -> Vec<Try> {
        self.dial_as(APP, dial)
    }

    /// Stops and removes it, as the kubelet does.
    #[track_caller]
    pub(crate) fn remove(self) {
        let cri = &self.host.cri;
        let sandbox = json!({ "pod_sandbox_id": self.sandbox });
        for container in &self.containers {
            cri.ok("StopContainer", &json!({ "container_id": container, "timeout": 0 }));
        }
        cri.ok("StopPodSandbox", &sandbox);
        for container in &self.containers {
            cri.ok("RemoveContainer", &json!({ "container_id": container }));
        }
        cri.ok("RemovePodSandbox", &sandbox);
        let cgroup = self.host.machine.cgroups().join(self.spec.cgroup().trim_start_matches('/'));
        self.host.machine.until("the pod's cgroup is empty", || fs::remove_dir(&cgroup).is_ok() || !cgroup.exists());
    }
}

/// Who answered each try, and for which destination.
pub(crate) fn answers(tries: &[Try]) -> Vec<String> {
    tries
        .iter()
        .map(|one| match one.greeting.as_ref().and_then(Greeting::original) {
            Some(original) => format!("{} for {original}", one.outcome()),
            None => one.outcome().to_owned(),
        })
        .collect()
}
