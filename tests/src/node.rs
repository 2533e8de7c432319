//! A scratch node: cgroups, directories of the plugin, worlds and pods, all of one test.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use serde_json::{Value, json};

use crate::ask::{Dial, Place, Serve, Try};
use crate::bin;
use crate::cgroup::Cgroup;
use crate::net::{self, Interface, Netns, Shape, World};
use crate::process::{self, Server};
use crate::runtime_call::{Answer, Call, tail};
use crate::scratch::{BPF_ROOT, Scratch};
use crate::{crowd, need, redirect};

/// The user the proxy runs as.
pub const PROXY: u32 = 1337;
/// The user apps run as.
pub const APP: u32 = 1000;
/// The proxy's port for what leaves.
pub const OUTBOUND_PORT: u16 = 15001;
/// The proxy's port for what arrives.
pub const INBOUND_PORT: u16 = 15006;
/// Environment variable that puts REDIRECT rules in place of the plugin, to try the harness itself.
pub const REDIRECT_INSTEAD: &str = "SHUNT_TESTS_REDIRECT";

/// The node. It must outlive its pods, and does when it is declared first.
#[derive(Debug)]
pub struct Node {
    /// Name of the CNI spec version in every call.
    pub version: RefCell<String>,
    entry: RefCell<Value>,
    plugin: RefCell<Option<PathBuf>>,
    next: Cell<u32>,
    cgroup: Cgroup,
    bpf_dir: PathBuf,
    // Last: the directory goes when everything in it is gone.
    scratch: Scratch,
}

impl Node {
    /// A node whose plugin serves the mesh `custom` with the usual ports, under eBPF. Not under `auto`: each node would try for itself,
    /// and on a busy machine one might take iptables.
    #[expect(clippy::new_without_default, reason = "making one touches the machine; a default should not")]
    pub fn new() -> Self {
        Self::on("ebpf")
    }

    /// The same under the backend of this name.
    pub fn on(backend: &str) -> Self {
        need::root();
        need::tool("ip");
        mount_bpffs();
        let scratch = Scratch::new();
        let cgroup = Cgroup::new(scratch.name());
        let bpf_dir = Path::new(BPF_ROOT).join(scratch.name());
        let entry = json!({
            "type": "shunt",
            "capabilities": { "io.kubernetes.cri.pod-annotations": true, "cgroupPath": true },
            "mesh": "custom",
            "backend": backend,
            "redirect": { "outboundPort": OUTBOUND_PORT, "inboundPort": INBOUND_PORT, "proxyUids": [PROXY] },
            "stateDir": scratch.dir().join("state"),
            "bpfDir": bpf_dir,
            "log": { "level": "debug", "file": scratch.dir().join("shunt.log") },
        });
        Self {
            version: RefCell::new("1.0.0".to_owned()),
            entry: RefCell::new(entry),
            plugin: RefCell::new(None),
            next: Cell::new(0),
            cgroup,
            bpf_dir,
            scratch,
        }
    }

    /// Changes the conflist entry from here on.
    pub fn configure(&self, change: impl FnOnce(&mut Value)) {
        change(&mut self.entry.borrow_mut());
    }

    /// Changes one key of the entry's `redirect` from here on.
    pub fn redirect(&self, key: &str, value: Value) {
        self.configure(|entry| {
            if let Some(redirect) = entry.get_mut("redirect").and_then(Value::as_object_mut) {
                redirect.insert(key.to_owned(), value);
            }
        });
    }

    /// Pods are served by another plugin from here on; `None`: the one that was built.
    pub fn served_by(&self, plugin: Option<PathBuf>) {
        self.plugin.replace(plugin);
    }

    /// A world for pods to be in.
    pub fn world(&self) -> World {
        World::new(self.scratch.dir(), &format!("world{}", self.number()))
    }

    /// A pod with a cgroup, marked as meshed, that the plugin has not seen yet.
    pub fn pod(&self, world: &World, shape: Shape) -> Pod {
        let number = self.number();
        let netns = Netns::new(self.scratch.dir(), &format!("pod{number}"));
        self.pod_in(netns, world, shape, number)
    }

    /// The same with a user namespace of its own, whose ids begin at `first` outside.
    pub fn pod_of_user_namespace(&self, world: &World, shape: Shape, first: u32) -> Pod {
        let number = self.number();
        let netns = Netns::of_user_namespace(self.scratch.dir(), &format!("pod{number}"), first);
        self.pod_in(netns, world, shape, number)
    }

    /// Many pods whose interface leads nowhere, made a few at a time: what a node has to carry, not what talks.
    pub fn crowd(&self, count: usize) -> Vec<Pod> {
        let numbers: Vec<u32> = (0..count).map(|_| self.number()).collect();
        let (shape, directory) = (Shape::dual(), self.scratch.dir());
        let made = crowd::each(&numbers, |number| {
            let netns = Netns::new(directory, &format!("pod{number}"));
            net::wire_to_nobody(netns, &shape)
        });
        made.into_iter()
            .zip(numbers)
            .map(|(netns, number)| self.pod_of(netns, shape.clone(), number))
            .collect()
    }

    fn pod_in(&self, netns: Netns, world: &World, shape: Shape, number: u32) -> Pod {
        let netns = net::wire(netns, world, &shape, number);
        self.pod_of(netns, shape, number)
    }

    fn pod_of(&self, netns: Netns, shape: Shape, number: u32) -> Pod {
        let uid = format!("9f1c2d3e-0000-4000-8000-{number:012}");
        let mut annotations = BTreeMap::new();
        annotations.insert("shunt-cni.io/intercept".to_owned(), "true".to_owned());
        Pod {
            cgroup_path: format!("/{}/kubepods/pod{uid}", self.scratch.name()),
            cgroup: self.cgroup.child(&format!("kubepods/pod{uid}")),
            container: format!("c{number:063}"),
            name: format!("pod-{number}"),
            uid,
            netns,
            shape,
            annotations,
        }
    }

    /// A directory of the node's cgroup that is not below `kubepods`.
    pub fn system_cgroup(&self) -> PathBuf {
        self.cgroup.child("system")
    }

    fn number(&self) -> u32 {
        let number = self.next.get();
        self.next.set(number + 1);
        number
    }

    /// The configuration a verb gets for a pod.
    pub fn config(&self, pod: &Pod, prev_result: bool) -> Value {
        let mut config = self.entry.borrow().clone();
        config["cniVersion"] = json!(*self.version.borrow());
        config["name"] = json!("scratch");
        config["runtimeConfig"] = json!({
            "io.kubernetes.cri.pod-annotations": pod.annotations,
            "cgroupPath": pod.cgroup_path,
        });
        if prev_result {
            config["prevResult"] = pod.prev_result(&self.version.borrow());
        }
        config
    }

    /// A verb for one attachment of a pod, to be called later.
    pub fn prepared(&self, verb: &str, pod: &Pod, interface: &str) -> Call {
        let mut call = Call::new(verb, &self.config(pod, true));
        call.plugin.clone_from(&self.plugin.borrow());
        call.environment.extend(pod.environment(interface).map(|(name, value)| (name.to_owned(), value)));
        call
    }

    /// A verb for one attachment of a pod.
    pub fn call(&self, verb: &str, pod: &Pod, interface: &str) -> Answer {
        let answer = self.prepared(verb, pod, interface).run();
        if answer.code != 0 {
            eprint_log(&self.scratch.dir().join("shunt.log"));
        }
        answer
    }

    /// A verb that is about no pod, to be called later.
    pub fn bare(&self, verb: &str, change: impl FnOnce(&mut Value)) -> Call {
        let mut config = self.entry.borrow().clone();
        config["cniVersion"] = json!("1.1.0");
        config["name"] = json!("scratch");
        change(&mut config);
        Call::new(verb, &config)
    }

    /// A verb that is about no pod: STATUS, GC, VERSION.
    pub fn call_bare(&self, verb: &str, change: impl FnOnce(&mut Value)) -> Answer {
        self.bare(verb, change).run()
    }

    /// What this node can do, found out and kept for `backend: auto`. On a busy machine a probe may not come to its end in time,
    /// and is made again.
    pub fn probed(&self) -> Value {
        const TRIES: u32 = 20;
        for _ in 0..TRIES {
            let done = Command::new(bin::shuntctl())
                .args(["backend", "--probe", "--output", "json", "--state-dir"])
                .arg(self.state_dir())
                .arg("--bpf-dir")
                .arg(self.bpf_dir())
                .output()
                .expect("shuntctl can be run");
            // Otherwise this is an answer of the moment.
            if done.status.success() {
                return serde_json::from_slice(&done.stdout)
                    .unwrap_or_else(|error| panic!("{error}: {done:?}"));
            }
        }
        panic!("the probe came to no end in {TRIES} tries");
    }

    /// What the plugin answers to the installer, which must work.
    #[track_caller]
    pub fn ask(&self, arguments: &[&str]) -> Value {
        let mut call = Call::new("", &self.entry.borrow());
        call.arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        call.run().ok().expect("it answers with a document")
    }

    /// ADD of the pod's first interface, which must work.
    #[track_caller]
    pub fn add(&self, pod: &Pod) {
        if std::env::var_os(REDIRECT_INSTEAD).is_some() {
            redirect::apply(&pod.netns);
            return;
        }
        let said = self.call("ADD", pod, pod.first().name).ok();
        let expected = pod.prev_result(&self.version.borrow());
        assert_eq!(said.as_ref(), Some(&expected), "prevResult must go out as it came");
    }

    /// DEL of the pod's first interface, which must work.
    #[track_caller]
    pub fn del(&self, pod: &Pod) {
        if std::env::var_os(REDIRECT_INSTEAD).is_some() {
            redirect::remove(&pod.netns);
            return;
        }
        self.call("DEL", pod, pod.first().name).ok();
    }

    /// Everything the plugin keeps on this node, as paths: state files and pins, but for the tally, which stays as long as the node
    /// is ours, and its notes: those of a failed ADD are there for who asks afterwards; [`Self::has_notes`].
    pub fn kept(&self) -> BTreeSet<PathBuf> {
        let mut kept = BTreeSet::new();
        let state = self.state_dir();
        list(&state, &mut kept);
        kept.remove(&state.join("notes"));
        list(&self.bpf_dir, &mut kept);
        kept.remove(&shunt::tally::file::path(&state));
        kept
    }

    /// Whether the plugin has noted anything of a pod that it did not capture.
    pub fn has_notes(&self) -> bool {
        self.scratch.dir().join("state/notes").exists()
    }

    /// Where the plugin pins.
    pub fn bpf_dir(&self) -> &Path {
        &self.bpf_dir
    }

    /// Where it keeps its state.
    pub fn state_dir(&self) -> PathBuf {
        self.scratch.dir().join("state")
    }

    /// A directory of the node for files of a test.
    pub fn directory(&self) -> &Path {
        self.scratch.dir()
    }

    /// The end of the plugin's log.
    pub fn log(&self) -> String {
        tail(&self.scratch.dir().join("shunt.log"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprint_log(&self.scratch.dir().join("shunt.log"));
            eprint_kernel(&self.bpf_dir);
        }
        let _gone = fs::remove_dir_all(&self.bpf_dir);
    }
}

#[expect(clippy::print_stderr, reason = "shown by the test runner only for a test that failed")]
fn eprint_log(path: &Path) {
    let log = tail(path);
    if !log.is_empty() {
        eprintln!("end of the plugin's log:\n{log}");
    }
}

/// What the kernel has and counted for each pod: why a connection went where it did.
#[expect(
    clippy::print_stderr,
    clippy::use_debug,
    reason = "shown by the test runner only for a test that failed"
)]
fn eprint_kernel(bpf_dir: &Path) {
    for layout in shunt::bpf::pins::Layout::all(bpf_dir).unwrap_or_default() {
        for name in layout.attachments().unwrap_or_default() {
            for cookie in layout.cookies(&name).unwrap_or_default() {
                eprintln!("{name}: {:?}", shunt::bpf::pod::configuration(&layout, cookie));
                eprintln!("{name}: {:?}", shunt::bpf::pod::counts(&layout, cookie));
            }
        }
    }
}

fn list(dir: &Path, into: &mut BTreeSet<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.filter_map(Result::ok) {
        let path = entry.path();
        if path.is_dir() {
            list(&path, into);
        } else {
            into.insert(path);
        }
    }
}

/// bpffs is where it is on every node, or we put it there.
fn mount_bpffs() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let is_bpffs = statfs(BPF_ROOT).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC);
        if !is_bpffs {
            mount(Some("bpf"), BPF_ROOT, Some("bpf"), MsFlags::empty(), None::<&str>)
                .expect("root may mount bpffs");
        }
    });
}

/// A pod: a network namespace, a cgroup, and what the runtime knows of it.
#[derive(Debug)]
pub struct Pod {
    /// Its network namespace.
    pub netns: Netns,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// What the runtime says about its cgroup.
    pub cgroup_path: String,
    /// Its interfaces.
    pub shape: Shape,
    container: String,
    /// Its name, in the namespace `default`.
    pub name: String,
    uid: String,
    /// Directory of its cgroup.
    pub cgroup: PathBuf,
}

impl Pod {
    fn first(&self) -> &Interface {
        self.shape.interfaces.first().expect("a pod has an interface")
    }

    /// The address of a family on the first interface.
    pub fn ip(&self, v6: bool) -> IpAddr {
        net::ip_of(self.first(), v6)
    }

    /// A process of the pod under these ids, in a container cgroup of its own.
    pub fn place(&self, uid: u32, gid: u32) -> Place {
        let container = self.cgroup.join(format!("container{uid}"));
        fs::create_dir_all(&container).expect("root may make cgroups");
        Place {
            netns: Some(self.netns.path().to_owned()),
            cgroup: Some(container),
            uid,
            gid,
            euid: None,
            pretend: None,
        }
    }

    /// Where the app runs.
    pub fn app(&self) -> Place {
        self.place(APP, APP)
    }

    /// Where the proxy runs.
    pub fn proxy(&self) -> Place {
        self.place(PROXY, PROXY)
    }

    /// The app dials.
    pub fn dial(&self, dial: &Dial) -> Vec<Try> {
        process::dial(&self.app(), dial)
    }

    /// The app serves.
    pub fn serve(&self, serve: &Serve) -> Server {
        Server::start(&self.app(), serve)
    }

    /// Namespace and name.
    pub fn called(&self) -> String {
        format!("default/{}", self.name)
    }

    /// Its uid, as Kubernetes has it.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// The id of its sandbox.
    pub fn container(&self) -> &str {
        &self.container
    }

    /// The runtime makes its sandbox anew.
    pub fn renew(&mut self) {
        let (count, rest) = self.container.split_at(1);
        self.container = format!("{rest}{count}");
    }

    /// The variables a runtime sets for one attachment of the pod.
    pub fn environment(&self, interface: &str) -> [(&'static str, String); 4] {
        [
            ("CNI_CONTAINERID", self.container.clone()),
            ("CNI_NETNS", self.netns.path().display().to_string()),
            ("CNI_IFNAME", interface.to_owned()),
            ("CNI_ARGS", self.arguments()),
        ]
    }

    /// `CNI_ARGS` as Kubernetes runtimes give them.
    fn arguments(&self) -> String {
        format!(
            "K8S_POD_NAMESPACE=default;K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={};IgnoreUnknown=1",
            self.name, self.container, self.uid
        )
    }

    /// The result of the plugin before us.
    fn prev_result(&self, version: &str) -> Value {
        let sandbox = self.netns.path();
        let old = version.starts_with("0.");
        let mut interfaces = Vec::new();
        let mut ips = Vec::new();
        for (index, Interface { name, net, v4, v6 }) in self.shape.interfaces.iter().enumerate() {
            interfaces.push(json!({ "name": name, "mac": "02:00:00:00:00:01", "sandbox": sandbox }));
            let gateway4 = v4.map(|ip| (format!("{ip}/16"), format!("10.{}.0.1", 77 + net), "4"));
            let gateway6 = v6.map(|ip| (format!("{ip}/64"), format!("fd{}::1", 77 + net), "6"));
            for (address, gateway, family) in gateway4.into_iter().chain(gateway6) {
                let mut ip = json!({ "interface": index, "address": address, "gateway": gateway });
                if old {
                    ip["version"] = json!(family);
                }
                ips.push(ip);
            }
        }
        json!({ "cniVersion": version, "interfaces": interfaces, "ips": ips, "routes": [], "dns": {} })
    }
}
