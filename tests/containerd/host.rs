//! A machine with containerd on it, the images imported and Shunt installed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use shunt_tests::ask::Greeting;
use shunt_tests::bin;
use shunt_tests::machine::containerd::{self, DAEMON, SCRIBE_DIRECTORY, Version};
use shunt_tests::machine::cri::Cri;
use shunt_tests::machine::{Machine, image};

/// The host.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) machine: Machine,
    pub(crate) cri: Cri,
    pub(crate) version: Version,
    pub(crate) backend: String,
}

/// The list with our entry, as the installer names it.
pub(crate) const OURS: &str = "etc/cni/net.d/00-shunt.conflist";
/// The plugin, where the installer puts it.
pub(crate) const PLUGIN: &str = "opt/cni/bin/shunt";

impl Host {
    /// One that runs, with Shunt under this backend.
    pub(crate) fn new(name: &str, version: Version, backend: &str) -> Self {
        let mut machine = Machine::new(name);
        containerd::install(&mut machine, version);
        for program in [bin::installer(), bin::shuntctl()] {
            fs::copy(&program, machine.path("opt/rig/bin").join(program.file_name().expect("a file")))
                .expect("own disk");
        }
        fs::copy(bin::shunt(), machine.path("opt/rig/shunt")).expect("own disk");
        let archive = image::write(machine.aside());
        machine.boot();
        let cri = containerd::start(&mut machine);
        image::import(&machine, &archive);
        let host = Self { machine, cri, version, backend: backend.to_owned() };
        host.configure(
            &json!({ "type": "shunt", "mesh": "istio", "backend": backend, "log": { "level": "debug" } }),
        );
        host.install();
        host
    }

    /// Writes the entry that the next install takes.
    pub(crate) fn configure(&self, entry: &Value) {
        let path = self.machine.path("etc/shunt/entry.json");
        fs::create_dir_all(path.parent().expect("a file lies in a directory")).expect("own disk");
        fs::write(path, entry.to_string()).expect("own disk");
    }

    /// `shunt-installer once`, and waits until containerd has loaded the list.
    #[track_caller]
    pub(crate) fn install(&self) {
        self.installer(&["once"]);
        self.loads();
    }

    /// A command of the installer that must work.
    #[track_caller]
    pub(crate) fn installer(&self, words: &[&str]) {
        let places = ["--host-root", "/", "--plugin", "/opt/rig/shunt", "--entry", "/etc/shunt/entry.json"];
        self.machine.run("shunt-installer", &[words, &places].concat());
    }

    /// Waits until containerd has loaded the list that is first on the disk.
    #[track_caller]
    pub(crate) fn loads(&self) {
        let wanted = fs::read_to_string(self.machine.path(OURS)).expect("it was installed");
        let wanted: Value = serde_json::from_str(&wanted).expect("a list");
        let kinds = |list: &Value| -> Vec<Value> {
            list["plugins"].as_array().into_iter().flatten().map(|plugin| plugin["type"].clone()).collect()
        };
        self.machine.until("containerd has loaded the list", || {
            let said = self.cri.call("Status", &json!({ "verbose": true })).unwrap_or_default();
            let text = said["info"]["cniconfig"].as_str().unwrap_or_default();
            let loaded: Value = serde_json::from_str(text).unwrap_or_default();
            let networks = loaded["Networks"].as_array().cloned().unwrap_or_default();
            networks.iter().any(|network| {
                let source = network["Config"]["Source"].as_str().unwrap_or_default();
                let source: Value = serde_json::from_str(source).unwrap_or_default();
                kinds(&source) == kinds(&wanted) && source == wanted
            })
        });
    }

    /// Changes the list with our entry by hand, whole at each moment, and waits until containerd has it.
    pub(crate) fn edit(&self, change: impl FnOnce(&mut Value)) {
        let path = self.machine.path(OURS);
        let mut list =
            serde_json::from_str(&fs::read_to_string(&path).expect("it is there")).expect("a list");
        change(&mut list);
        replace(&path, format!("{list:#}\n").as_bytes(), 0o600);
        self.loads();
    }

    /// Whether containerd says that the network is ready.
    pub(crate) fn network_ready(&self) -> bool {
        let said = self.cri.call("Status", &json!({})).unwrap_or_default();
        let conditions = said["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|one| one["type"] == "NetworkReady" && one["status"] == true)
    }

    /// SIGKILL for the daemon, whose shims live on, and waits until it is there again.
    #[track_caller]
    pub(crate) fn kill_daemon(&self) {
        let daemon = self.machine.daemon(DAEMON);
        let before = daemon.starts();
        assert!(daemon.signal(Signal::SIGKILL), "containerd runs");
        self.machine.until("containerd is started again", || daemon.starts() > before);
        containerd::wait(&self.machine, &self.cri);
    }

    /// Connections of meshed apps that arrived in the world since the last time asked.
    pub(crate) fn bare_connections(&self) -> Vec<Greeting> {
        self.machine.beyond().seen().into_iter().filter(|greeting| greeting.by == "bare").collect()
    }

    /// Calls that a plugin which writes them down has had.
    pub(crate) fn calls(&self, kind: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.scribe(&format!("{kind}.calls"))).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }

    /// A file of those plugins.
    pub(crate) fn scribe(&self, name: &str) -> PathBuf {
        let directory = self.machine.inside(SCRIBE_DIRECTORY);
        fs::create_dir_all(&directory).expect("own directory");
        directory.join(name)
    }

    /// What Shunt keeps of pods: records, locks, pins.
    pub(crate) fn ours(&self) -> BTreeSet<String> {
        let mut left = BTreeSet::new();
        self.list("run/shunt/attachments", "", &mut left);
        self.list("run/shunt/locks", "pod-", &mut left);
        let hashes = fs::read_dir(self.machine.inside("sys/fs/bpf/shunt"))
            .into_iter()
            .flatten()
            .filter_map(Result::ok);
        for hash in hashes {
            self.list(&format!("sys/fs/bpf/shunt/{}/pods", hash.file_name().display()), "", &mut left);
        }
        left
    }

    /// How many attachments are recorded.
    pub(crate) fn recorded(&self) -> usize {
        self.ours().iter().filter(|one| one.starts_with("run/shunt/attachments/")).count()
    }

    /// What everybody else keeps of pods: namespaces, addresses, results, interfaces, cgroups.
    pub(crate) fn theirs(&self) -> BTreeSet<String> {
        let mut left = BTreeSet::new();
        self.list("run/netns", "cni-", &mut left);
        self.list("var/lib/cni/networks/pods", "10.", &mut left);
        self.list("var/lib/cni/networks/pods", "fd", &mut left);
        self.list("var/lib/cni/results", "", &mut left);
        self.list("sys/fs/cgroup/kubepods/besteffort", "pod", &mut left);
        let links = self.machine.run("ip", &["-brief", "link"]);
        left.extend(links.lines().filter(|line| line.starts_with("veth")).map(str::to_owned));
        left
    }

    fn list(&self, directory: &str, prefix: &str, into: &mut BTreeSet<String>) {
        let entries =
            fs::read_dir(self.machine.inside(directory)).into_iter().flatten().filter_map(Result::ok);
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        into.extend(names.filter(|name| name.starts_with(prefix)).map(|name| format!("{directory}/{name}")));
    }

    /// Nothing of any pod is left, ours or theirs.
    #[track_caller]
    pub(crate) fn nothing_left(&self) {
        // The kernel takes a namespace's interfaces away some time after the namespace.
        self.machine
            .until("no interface is left", || !self.theirs().iter().any(|one| one.starts_with("veth")));
        let left: Vec<_> = self.ours().into_iter().chain(self.theirs()).collect();
        assert!(left.is_empty(), "left: {left:#?}\n{}", self.machine.logs());
    }
}

/// Puts a file in place as careful owners do: the only way containerd sees it whole.
pub(crate) fn replace(path: &Path, content: &[u8], mode: u32) {
    let temporary = path.with_extension("new");
    fs::write(&temporary, content).expect("own disk");
    fs::set_permissions(&temporary, std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("own disk");
    fs::rename(&temporary, path).expect("own disk");
}

/// What a containerd calls itself.
pub(crate) fn number_of(version: Version) -> String {
    let done = Command::new(bin::tool(version.directory()).join("containerd")).arg("--version").output();
    let said = String::from_utf8_lossy(&done.expect("it can be run").stdout).into_owned();
    let number = said.split_whitespace().nth(2).unwrap_or_else(|| panic!("no version: {said}"));
    number.trim_start_matches('v').to_owned()
}
