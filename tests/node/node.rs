//! A node of ours: Kubernetes' own programs on a machine of [`shunt_tests::machine`], and the world beyond it.

mod control;
mod whole;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use shunt_tests::bin;
use shunt_tests::machine::beyond::{WORLD_V4, WORLD_V6};
use shunt_tests::machine::{Machine, containerd, image};

use crate::cluster::{Cluster, Images, root};
use crate::images;
use crate::world::{self, World};
pub(crate) use whole::Whole;

/// The node's name, and the machine's.
pub(crate) const NAME: &str = "node";
/// Where the kubelet looks for static pods, inside.
const MANIFESTS: &str = "etc/kubernetes/manifests";

/// The node. Everything of it ends with the test.
pub(crate) struct Node {
    pub(crate) machine: Machine,
    /// What plays the world; killed on drop.
    world: Child,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _gone = self.world.kill();
        let _gone = self.world.wait();
    }
}

impl Node {
    /// A node with an empty disk that has booted and is ready, without Shunt, and how to talk to it.
    pub(crate) fn new() -> (Self, Cluster, World) {
        let mut machine = Machine::new(NAME);
        containerd::install(&mut machine, containerd::Version::V2);
        machine.show(&bin::shuntctl(), "/opt/rig/bin/shuntctl");
        control::install(&mut machine);
        let notes = machine.aside().join("world.log");
        let world = start_world(&mut machine, &notes);
        let netns = machine.beyond().place().netns;
        let there = World::Beyond(
            vec![WORLD_V4.into(), WORLD_V6.into()],
            Box::new(move || fs::read_to_string(&notes).unwrap_or_default()),
        );
        let kubeconfig = machine.path("etc/kubernetes/admin.conf");
        let mut node = Self { machine, world };
        node.boot();
        let images = node.import_images();
        let cluster = Cluster { kubeconfig, netns, images, values: Vec::new() };
        node.wait_ready(&cluster);
        (node, cluster, there)
    }

    /// Switches the machine on and starts everything.
    pub(crate) fn boot(&mut self) {
        self.machine.boot();
        control::network(&self.machine);
        self.start_runtime();
        self.start_control();
        self.start_kubelet();
    }

    /// Takes the power away.
    pub(crate) fn power_off(&mut self) {
        self.machine.power_off();
    }

    /// Switches the machine on with containerd and the kubelet, and no API server: only static pods start.
    pub(crate) fn boot_alone(&mut self) {
        self.machine.boot();
        control::network(&self.machine);
        self.start_runtime();
        self.start_kubelet();
    }

    fn start_runtime(&mut self) {
        containerd::start(&mut self.machine);
    }

    fn start_kubelet(&mut self) {
        self.machine.start(&control::kubelet());
    }

    /// Starts etcd, the API server and, when that answers, those who work by it.
    pub(crate) fn start_control(&mut self) {
        self.machine.start(&control::etcd());
        self.start_api();
        for service in control::workers() {
            self.machine.start(&service);
        }
    }

    /// Starts the API server and waits until it answers.
    pub(crate) fn start_api(&mut self) {
        self.machine.start(&control::api());
        let ready = || {
            let arguments = ["--kubeconfig", "/etc/kubernetes/admin.conf", "get", "--raw", "/readyz"];
            self.machine.exec("/opt/rig/kubernetes/kubectl", &arguments).status.success()
        };
        self.machine.until("the API server is ready", ready);
    }

    /// Ends the API server.
    pub(crate) fn stop_api(&mut self) {
        self.machine.stop(control::API);
    }

    /// Waits until the API server calls the node ready.
    pub(crate) fn wait_ready(&self, cluster: &Cluster) {
        self.machine.until("the node is ready", || {
            let path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
            cluster.try_kubectl(&["get", "node", NAME, "-o", path]).is_ok_and(|ready| ready == "True")
        });
    }

    /// Gives containerd the images: the pods', the installer's as `make image` leaves it, and another build of that.
    fn import_images(&self) -> Images {
        let (images, archives) = images::write(self.machine.aside());
        for archive in archives {
            image::import(&self.machine, &archive);
        }
        images
    }

    /// Makes a static pod.
    pub(crate) fn add_static(&self, pod: &Value) {
        let name = pod["metadata"]["name"].as_str().expect("a pod has a name");
        let dir = self.machine.path(MANIFESTS);
        // In one go, under a name the kubelet does not read: it would take half a file.
        let temporary = dir.join(format!(".{name}"));
        fs::write(&temporary, pod.to_string()).expect("own disk");
        fs::rename(&temporary, dir.join(format!("{name}.json"))).expect("own disk");
    }

    /// Takes a static pod away.
    pub(crate) fn remove_static(&self, name: &str) {
        fs::remove_file(self.machine.path(MANIFESTS).join(format!("{name}.json"))).expect("it is there");
    }

    /// What `shuntctl` says on the node, as JSON.
    #[track_caller]
    pub(crate) fn shuntctl(&self, arguments: &[&str]) -> Value {
        let done = self.machine.exec("shuntctl", &[arguments, &["--output", "json"]].concat());
        serde_json::from_slice(&done.stdout).unwrap_or_else(|error| {
            panic!("shuntctl {arguments:?}: {error}: {}", String::from_utf8_lossy(&done.stderr))
        })
    }

    /// The ends of the node's logs, for a failure.
    pub(crate) fn picture(&self) -> String {
        self.machine.logs()
    }

    /// Keeps the node's logs where the next run does not look for its own.
    pub(crate) fn keep_logs(&self) -> PathBuf {
        let kept = root().join("target/node-logs");
        let _gone = fs::remove_dir_all(&kept);
        fs::create_dir_all(&kept).expect("target can be written to");
        let from = self.machine.path("var/log").join(".");
        let _copied = Command::new("cp").arg("-r").arg(from).arg(&kept).status();
        let _copied = fs::copy(self.machine.aside().join("world.log"), kept.join("world.log"));
        kept
    }
}

fn start_world(machine: &mut Machine, notes: &Path) -> Child {
    let netns = machine.beyond().place().netns.expect("the world has a namespace");
    Command::new("nsenter")
        .arg(format!("--net={}", netns.display()))
        .arg("--")
        .arg(bin::probe())
        .args(["pod", "world", &world::PORT.to_string()])
        .stdin(Stdio::null())
        .stdout(File::create(notes).expect("own directory"))
        .spawn()
        .expect("nsenter can be run")
}
