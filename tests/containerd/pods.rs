//! Pods, made by calls of the CRI as a kubelet makes them.

use std::fs;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::poll::poll;
use nix::unistd::Pid;
use serde_json::{Value, json};
use shunt_tests::ask::{Dial, Greeting, Place, Serve, Try, at};
use shunt_tests::machine::cri::Refused;
use shunt_tests::machine::image;
use shunt_tests::node::{APP, INBOUND_PORT, OUTBOUND_PORT, PROXY};
use shunt_tests::process;

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
        let sum =
            self.name.bytes().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
        format!("9f1c2d3e-0000-4000-8000-{:012}", sum % 1_000_000_000_000)
    }

    /// Whether it carries a mesh's marks.
    pub(crate) fn is_meshed(&self) -> bool {
        self.annotations.as_object().is_some_and(|all| !all.is_empty())
    }

    /// The cgroup the kubelet makes for it.
    pub(crate) fn cgroup(&self) -> String {
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
        self.sandbox_within(120, spec)
    }

    /// The same, given up after so many seconds.
    pub(crate) fn sandbox_within(&self, seconds: u32, spec: &Spec) -> Result<Pod<'_>, Refused> {
        let cgroup = self.machine.cgroups().join(spec.cgroup().trim_start_matches('/'));
        fs::create_dir_all(cgroup).expect("root may make cgroups");
        let said = self.cri.call_within(seconds, "RunPodSandbox", &json!({ "config": spec.sandbox() }))?;
        let sandbox = said["pod_sandbox_id"].as_str().expect("a sandbox has an id").to_owned();
        Ok(Pod { host: self, spec: spec.clone(), sandbox, containers: Vec::new() })
    }

    /// A pod whose app serves, and whose proxy does too where it has one.
    #[track_caller]
    pub(crate) fn pod(&self, spec: &Spec, proxy: bool) -> Pod<'_> {
        let mut pod =
            self.sandbox(spec).unwrap_or_else(|why| panic!("{}: {why}\n{}", spec.name, self.machine.logs()));
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
        let mut all: Vec<IpAddr> =
            [&network["ip"]].into_iter().chain(more).filter_map(|ip| ip.as_str()?.parse().ok()).collect();
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

/// Services that apps of meshed pods dial: only a proxy may be asked for them.
pub(crate) const MESHED_SERVICES: [&str; 2] = ["10.96.0.10:81", "[fd96::10]:81"];
/// Services that anybody may dial.
pub(crate) const SERVICES: [&str; 2] = ["10.96.0.10:80", "[fd96::10]:80"];

impl Pod<'_> {
    fn in_from_the_world(&self) -> (Vec<String>, Vec<String>) {
        let at: Vec<String> = self.addresses().into_iter().map(|ip| at(ip, APP_PORT)).collect();
        assert_eq!(at.len(), 2, "{} has an address of each family", self.spec.name);
        let said = answers(&self.host.machine.beyond().dial(&Dial::to(&at)));
        (at, said)
    }

    /// Whether its traffic goes through the proxy: what the app dials, what is dialled from outside, and not what the proxy dials.
    /// Says what is otherwise.
    pub(crate) fn captured(&self) -> Result<(), String> {
        let (at, inbound) = self.in_from_the_world();
        let said = [
            answers(&self.dial(&Dial::to(MESHED_SERVICES))),
            inbound,
            answers(&self.dial_as(PROXY, &Dial::to(SERVICES))),
        ];
        let each = |by: &str, of: &[String]| -> Vec<String> {
            of.iter().map(|at| format!("{by} for {at}")).collect()
        };
        let expected = [
            each("outbound", &MESHED_SERVICES.map(str::to_owned)),
            each("inbound", &at),
            vec!["world".to_owned(); 2],
        ];
        if said == expected {
            Ok(())
        } else {
            Err(format!("{}: out, in, the proxy's own: {said:?}", self.spec.name))
        }
    }

    /// Whether nothing is in the way of its traffic; says what is otherwise.
    pub(crate) fn direct(&self) -> Result<(), String> {
        let said = [answers(&self.dial(&Dial::to(SERVICES))), self.in_from_the_world().1];
        let expected = [vec!["world".to_owned(); 2], vec!["app".to_owned(); 2]];
        if said == expected { Ok(()) } else { Err(format!("{}: out, in: {said:?}", self.spec.name)) }
    }

    /// The same two questions where the runtime cannot be asked to run something: from a process of the host that goes into the pod's
    /// namespace and cgroup. Who answers the app.
    pub(crate) fn dial_without_runtime(&self, to: &[&str]) -> Vec<String> {
        let cgroup = self.host.machine.cgroups().join(self.spec.cgroup().trim_start_matches('/'));
        let pause = *self.processes().first().expect("the sandbox runs");
        let app = cgroup.join("visitor");
        fs::create_dir_all(&app).expect("root may make cgroups");
        let place = Place {
            netns: Some(format!("/proc/{pause}/ns/net").into()),
            cgroup: Some(app.clone()),
            ..Place::default().ids(APP, APP)
        };
        let said = answers(&process::dial(&place, &Dial::to(to)));
        self.host.machine.until("the visitor has gone", || fs::remove_dir(&app).is_ok());
        said
    }

    /// The app dials again and again while something is done: each time the proxy must answer, whatever happens to the node meanwhile. Says
    /// how often that was, too.
    #[track_caller]
    pub(crate) fn dials_while<T>(&self, work: impl FnOnce() -> T) -> (T, usize) {
        let proxied = MESHED_SERVICES.map(|at| format!("outbound for {at}"));
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let dialling = scope.spawn(|| {
                let mut count = 0;
                while !over.load(Ordering::SeqCst) {
                    assert_eq!(self.dial_without_runtime(&MESHED_SERVICES), proxied, "after {count} times");
                    count += 1;
                    let _waited = poll(&mut [], 100_u8);
                }
                count
            });
            // Also when the work stops with an error: nobody would end the other.
            let done = catch_unwind(AssertUnwindSafe(work));
            over.store(true, Ordering::SeqCst);
            let count = dialling.join().unwrap_or_else(|panic| resume_unwind(panic));
            (done.unwrap_or_else(|panic| resume_unwind(panic)), count)
        })
    }

    /// The processes of its sandbox, from here.
    pub(crate) fn processes(&self) -> Vec<Pid> {
        let cgroup =
            self.host.machine.cgroups().join(self.spec.cgroup().trim_start_matches('/')).join(&self.sandbox);
        let inside = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
        inside.lines().filter_map(|line| line.parse().ok().map(Pid::from_raw)).collect()
    }

    /// Ends all that runs in its cgroup; says how many that were.
    pub(crate) fn end_processes(&self) -> usize {
        let cgroup = self.host.machine.cgroups().join(self.spec.cgroup().trim_start_matches('/'));
        let inside =
            |dir: &Path| fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default().lines().count();
        let below = fs::read_dir(&cgroup).into_iter().flatten().filter_map(Result::ok);
        let count = below.map(|one| inside(&one.path())).sum::<usize>() + inside(&cgroup);
        let _gone = fs::write(cgroup.join("cgroup.kill"), "1");
        count
    }

    /// Ends its containers, by force.
    #[track_caller]
    pub(crate) fn stop_containers(&self) {
        for container in &self.containers {
            self.host.cri.ok("StopContainer", &json!({ "container_id": container, "timeout": 0 }));
        }
    }

    /// A call about its sandbox.
    pub(crate) fn call(&self, method: &str) -> Result<Value, Refused> {
        self.host.cri.call(method, &json!({ "pod_sandbox_id": self.sandbox }))
    }

    /// Removes its cgroup, as the kubelet does when the pod is gone.
    #[track_caller]
    pub(crate) fn forget(&self) {
        let cgroup = self.host.machine.cgroups().join(self.spec.cgroup().trim_start_matches('/'));
        // A runtime leaves those of its containers when it is killed at the wrong moment.
        self.host.machine.until("the pod's cgroup is empty", || {
            let below = fs::read_dir(&cgroup).into_iter().flatten().filter_map(Result::ok);
            for one in below.filter(|one| one.path().is_dir()) {
                let _busy = fs::remove_dir(one.path());
            }
            fs::remove_dir(&cgroup).is_ok() || !cgroup.exists()
        });
    }

    /// Stops and removes it, as the kubelet does.
    #[track_caller]
    pub(crate) fn remove(self) {
        self.stop_containers();
        let ask = |method: &str| {
            self.call(method).unwrap_or_else(|why| panic!("{method} {}: {why}", self.spec.name))
        };
        ask("StopPodSandbox");
        for container in &self.containers {
            self.host.cri.ok("RemoveContainer", &json!({ "container_id": container }));
        }
        ask("RemovePodSandbox");
        self.forget();
    }
}

impl Host {
    /// Stops and removes every sandbox of a pod that the runtime knows of, as the kubelet does with what it did not finish. Says how
    /// many there were, and how many of them the runtime took for ready.
    pub(crate) fn clear(&self, spec: &Spec) -> (usize, usize) {
        let said = self.cri.ok("ListPodSandbox", &json!({}));
        let of_pod = |one: &&Value| one["metadata"]["uid"] == spec.uid();
        let items = said["items"].as_array().cloned().unwrap_or_default();
        let found: Vec<&Value> = items.iter().filter(of_pod).collect();
        for one in &found {
            let sandbox = json!({ "pod_sandbox_id": one["id"] });
            for method in ["StopPodSandbox", "RemovePodSandbox"] {
                self.machine
                    .until(&format!("{method} {}", spec.name), || self.cri.call(method, &sandbox).is_ok());
            }
        }
        // READY is 0 and is left out.
        (found.len(), found.iter().filter(|one| one["state"].as_u64().unwrap_or(0) == 0).count())
    }
}
