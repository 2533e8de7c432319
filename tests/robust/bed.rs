//! The ground of these tests: pods without a world around them, places for the plugin's state, and calls as raw as they come.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use shunt::attachment::Attachment;
use shunt_api::report::{Report, Swept};
use shunt_tests::cgroup::Cgroup;
use shunt_tests::net::Netns;
use shunt_tests::node::Node;
use shunt_tests::scratch::{BPF_ROOT, Scratch};
use shunt_tests::{bin, need};

use crate::deny::deny;
use crate::kernel;

/// Nothing the plugin does takes as long; one that does is killed.
const PATIENCE: Duration = Duration::from_secs(30);

/// One call: everything a runtime may get wrong can be set.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// What stands behind the program's name.
    pub(crate) arguments: Vec<OsString>,
    /// The whole environment.
    pub(crate) environment: Vec<(OsString, OsString)>,
    /// What comes on stdin.
    pub(crate) stdin: Vec<u8>,
    /// Whether stdin then stays open.
    pub(crate) hangs: bool,
    /// System calls that are refused to the plugin.
    pub(crate) denied: Vec<i64>,
}

impl Call {
    /// Sets a variable, or takes it away.
    #[must_use]
    pub(crate) fn with(mut self, name: &str, value: Option<impl AsRef<OsStr>>) -> Self {
        self.environment.retain(|(other, _)| other != name);
        if let Some(value) = value {
            self.environment.push((name.into(), value.as_ref().to_owned()));
        }
        self
    }

    /// Changes the configuration on stdin.
    #[must_use]
    pub(crate) fn configured(mut self, change: impl FnOnce(&mut Value)) -> Self {
        let mut config = serde_json::from_slice(&self.stdin).expect("a configuration of ours");
        change(&mut config);
        self.stdin = config.to_string().into_bytes();
        self
    }

    /// The same with other bytes on stdin.
    #[must_use]
    pub(crate) fn saying(mut self, stdin: impl Into<Vec<u8>>) -> Self {
        self.stdin = stdin.into();
        self
    }

    /// Runs the plugin.
    pub(crate) fn run(&self) -> Answer {
        let mut command = Command::new(bin::shunt());
        deny(&mut command, &self.denied);
        let mut child = command
            .args(&self.arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the plugin can be run");
        let mut stdin = child.stdin.take();
        let mut stdout = child.stdout.take().expect("piped");
        let mut stderr = child.stderr.take().expect("piped");
        let pid = Pid::from_raw(child.id().cast_signed());
        let (ended, patience) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                if patience.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                    let _gone = kill(pid, Signal::SIGKILL);
                }
            });
            let said = scope.spawn(move || {
                let mut bytes = Vec::new();
                stderr.read_to_end(&mut bytes).map(|_| bytes).unwrap_or_default()
            });
            if let Some(pipe) = &mut stdin {
                // A plugin may answer without reading all of its input.
                let _unread = pipe.write_all(&self.stdin);
            }
            if !self.hangs {
                drop(stdin.take());
            }
            let mut bytes = Vec::new();
            stdout.read_to_end(&mut bytes).expect("a pipe can be read");
            let status = child.wait().expect("own child");
            let _told = ended.send(());
            let stderr = said.join().expect("a reader does not panic");
            Answer { code: status.code(), stdout: bytes, stderr }
        })
    }
}

/// What the plugin answered.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// Exit code; none when a signal ended it.
    pub(crate) code: Option<i32>,
    /// All of stdout.
    pub(crate) stdout: Vec<u8>,
    /// All of stderr.
    pub(crate) stderr: Vec<u8>,
}

impl Answer {
    /// The one document on stdout, if there is any.
    #[track_caller]
    pub(crate) fn document(&self) -> Option<Value> {
        let text = String::from_utf8_lossy(&self.stdout);
        let mut found: Vec<Value> = Vec::new();
        for document in serde_json::Deserializer::from_slice(&self.stdout).into_iter() {
            found.push(document.unwrap_or_else(|error| panic!("stdout is not JSON ({error}): {text}")));
        }
        assert!(found.len() <= 1, "several documents: {text}");
        found.pop()
    }

    /// What an ADD that worked printed, as it came.
    #[track_caller]
    pub(crate) fn ok(&self) -> String {
        assert_eq!(self.code, Some(0), "the call failed: {self}");
        self.document();
        String::from_utf8(self.stdout.clone()).expect("UTF-8")
    }

    /// A call with nothing to say worked.
    #[track_caller]
    pub(crate) fn silent(&self) {
        assert_eq!((self.code, self.stdout.as_slice()), (Some(0), &b""[..]), "{self}");
    }

    /// A call failed as CNI wants it: the error code and everything said.
    #[track_caller]
    pub(crate) fn refused(&self) -> (u64, String) {
        assert_eq!(self.code, Some(1), "{self}");
        let document = self.document().unwrap_or_else(|| panic!("no document: {self}"));
        let text =
            |key: &str| document[key].as_str().unwrap_or_else(|| panic!("no `{key}`: {self}")).to_owned();
        let said = format!("{}: {}", text("msg"), text("details"));
        assert!(!text("cniVersion").is_empty());
        let everything = self.to_string().to_ascii_lowercase();
        assert!(!everything.contains("not found"), "containerd takes that for success: {self}");
        (document["code"].as_u64().unwrap_or_else(|| panic!("no `code`: {self}")), said)
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (stdout, stderr) = (String::from_utf8_lossy(&self.stdout), String::from_utf8_lossy(&self.stderr));
        match self.code {
            Some(code) => write!(f, "exit {code}, stdout {stdout}, stderr {stderr}"),
            None => write!(f, "ended by a signal, stdout {stdout}, stderr {stderr}"),
        }
    }
}

/// A pod: a namespace with an address, and a cgroup.
#[derive(Debug)]
pub(crate) struct Pod {
    /// Its network namespace.
    pub(crate) netns: Netns,
    /// What the kernel's programs know the namespace by.
    pub(crate) cookie: u64,
    /// The sandbox.
    pub(crate) container: String,
    cgroup_path: String,
    uid: String,
}

impl Pod {
    /// Its first interface's attachment as a file name.
    pub(crate) fn pin_name(&self) -> String {
        Attachment::new(&self.container, "eth0").expect("valid").pin_name()
    }
}

/// What all places of a test share: pods, cgroups, a directory.
#[derive(Debug)]
pub(crate) struct Bed {
    next: AtomicU32,
    cgroup: Cgroup,
    scratch: Scratch,
}

impl Bed {
    /// Fresh ground.
    pub(crate) fn new() -> Self {
        need::root();
        // Mounts bpffs where it is not.
        drop(Node::new());
        let scratch = Scratch::new();
        Self { next: AtomicU32::new(1), cgroup: Cgroup::new(scratch.name()), scratch }
    }

    /// Its directory.
    pub(crate) fn dir(&self) -> &Path {
        self.scratch.dir()
    }

    fn number(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A pod that the plugin has not seen.
    pub(crate) fn pod(&self) -> Pod {
        let number = self.number();
        let uid = format!("9f1c2d3e-0000-4000-8000-{number:012}");
        let netns = Netns::new(self.dir(), &format!("pod{number}"));
        netns.ip("link add eth0 type veth peer name out0\nlink set eth0 up\naddr add 10.77.0.2/16 dev eth0\naddr add fd77::2/64 dev eth0 nodad\n");
        self.cgroup.child(&format!("kubepods/pod{uid}"));
        Pod {
            cookie: shunt::netns::Netns::open(netns.path())
                .and_then(|open| open.cookie())
                .expect("a namespace has a cookie"),
            netns,
            container: format!("r{number:063}"),
            cgroup_path: format!("/{}/kubepods/pod{uid}", self.scratch.name()),
            uid,
        }
    }

    /// A place where the plugin has never run, for eBPF.
    pub(crate) fn place(&self) -> Place {
        self.place_for("ebpf")
    }

    /// The same where it finds out by itself what the node can do.
    pub(crate) fn place_on_auto(&self) -> Place {
        self.place_for("auto")
    }

    /// The same for rules.
    pub(crate) fn place_on_iptables(&self) -> Place {
        self.place_for("iptables")
    }

    fn place_for(&self, backend: &'static str) -> Place {
        let number = self.number();
        let parent = Path::new(BPF_ROOT).join(self.scratch.name());
        fs::create_dir_all(&parent).expect("root may make directories in bpffs");
        let dir = self.dir().join(format!("place{number}"));
        fs::create_dir_all(&dir).expect("own directory");
        Place {
            state: dir.join("state"),
            log: dir.join("shunt.log"),
            bpf: parent.join(number.to_string()),
            backend,
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(Path::new(BPF_ROOT).join(self.scratch.name()));
    }
}

/// Directories of one configuration.
#[derive(Debug)]
pub(crate) struct Place {
    /// `backend`
    backend: &'static str,
    /// `stateDir`
    pub(crate) state: PathBuf,
    /// `bpfDir`
    pub(crate) bpf: PathBuf,
    /// `log.file`
    pub(crate) log: PathBuf,
}

impl Drop for Place {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.bpf);
    }
}

impl Place {
    /// The entry, with what a runtime adds to it.
    pub(crate) fn config(&self, version: &str) -> Value {
        json!({
            "cniVersion": version,
            "name": "robust",
            "type": "shunt",
            "capabilities": { "io.kubernetes.cri.pod-annotations": true, "cgroupPath": true },
            "mesh": "custom",
            "backend": self.backend,
            "redirect": { "outboundPort": 15001, "inboundPort": 15006, "dnsPort": 15053, "proxyUids": [1337] },
            // All that leaves something behind. Rules cannot tell what was before the proxy.
            "captureDns": true,
            "udp": "block",
            "beforeProxy": if self.backend == "ebpf" { "bypass" } else { "closed" },
            "stateDir": self.state,
            "bpfDir": self.bpf,
            "log": { "level": "debug", "file": self.log },
        })
    }

    /// A command that is about no pod.
    pub(crate) fn bare(&self, command: &str) -> Call {
        let environment =
            vec![("CNI_COMMAND".into(), command.into()), ("CNI_PATH".into(), "/opt/cni/bin".into())];
        Call {
            arguments: Vec::new(),
            environment,
            stdin: self.config("1.1.0").to_string().into_bytes(),
            hangs: false,
            denied: Vec::new(),
        }
    }

    /// What the installer asks of the node: `report`, `sweep`, `purge`.
    pub(crate) fn node(&self, arguments: &[&str]) -> Call {
        let bare = self.bare("");
        Call {
            arguments: arguments.iter().map(OsString::from).collect(),
            environment: vec![("PATH".into(), "/usr/sbin:/usr/bin:/sbin:/bin".into())],
            ..bare
        }
    }

    /// What the plugin says of the node.
    #[track_caller]
    pub(crate) fn report(&self) -> Report {
        serde_json::from_str(&self.node(&["report"]).run().ok()).expect("a report")
    }

    /// What a sweep or a purge says it did.
    #[track_caller]
    pub(crate) fn swept(&self, arguments: &[&str]) -> Swept {
        serde_json::from_str(&self.node(arguments).run().ok()).expect("what was removed")
    }

    /// The pod's namespace goes without a DEL. Its last reference may be somebody's copy of the test's mounts, for a moment.
    pub(crate) fn vanishes(&self, pod: &Pod) {
        pod.netns.vanish();
        let alive =
            || self.report().attachments.iter().any(|one| one.container_id == pod.container && one.alive);
        for _round in 0..6000 {
            if !alive() {
                return;
            }
            let _waited = nix::poll::poll(&mut [], 10_u8);
        }
        panic!("the namespace of {} never went", pod.container);
    }

    /// Where the plugin counts.
    pub(crate) fn tally(&self) -> PathBuf {
        shunt::tally::file::path(&self.state)
    }

    /// A command for a pod's `eth0`.
    pub(crate) fn call(&self, command: &str, pod: &Pod) -> Call {
        let sandbox = pod.netns.path();
        let arguments = format!(
            "K8S_POD_NAMESPACE=default;K8S_POD_NAME=p;K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
            pod.container, pod.uid
        );
        self.bare(command)
            .with("CNI_CONTAINERID", Some(&pod.container))
            .with("CNI_NETNS", Some(sandbox))
            .with("CNI_IFNAME", Some("eth0"))
            .with("CNI_ARGS", Some(arguments))
            .configured(|config| {
                config["cniVersion"] = json!("1.0.0");
                config["runtimeConfig"] = json!({
                    "io.kubernetes.cri.pod-annotations": { "shunt-cni.io/intercept": "true" },
                    "cgroupPath": pod.cgroup_path,
                });
                config["prevResult"] = json!({
                    "cniVersion": "1.0.0",
                    "interfaces": [{ "name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": sandbox }],
                    "ips": [{ "interface": 0, "address": "10.77.0.2/16" }, { "interface": 0, "address": "fd77::2/64" }],
                    "dns": {},
                });
            })
    }

    /// ADD must work.
    #[track_caller]
    pub(crate) fn add(&self, pod: &Pod) {
        self.added(pod).ok();
    }

    /// The answer to ADD. A machine that stands still for seconds uses up its time: it may say so, and is asked again.
    pub(crate) fn added(&self, pod: &Pod) -> Answer {
        const DEADLINE: u64 = 106;
        let add = || self.call("ADD", pod).run();
        let late = |answer: &Answer| answer.code == Some(1) && answer.refused().0 == DEADLINE;
        let first = add();
        if late(&first) { add() } else { first }
    }

    /// CHECK must work.
    #[track_caller]
    pub(crate) fn check(&self, pod: &Pod) {
        self.call("CHECK", pod).run().silent();
    }

    /// DEL must work, and leave nothing.
    #[track_caller]
    pub(crate) fn del(&self, pod: &Pod) {
        self.call("DEL", pod).run().silent();
        self.nothing_of(pod);
    }

    /// DEL after something went wrong: it succeeds, and nothing of the pod is left.
    pub(crate) fn deletes(&self, pod: &Pod, what: &str) {
        let del = self.call("DEL", pod).run();
        assert_eq!(del.code, Some(0), "{what}: DEL: {del}");
        let left = self.traces(pod);
        assert!(left.is_empty(), "{what}: DEL left {left:?}; log {}", self.log());
    }

    /// Loads the programs.
    pub(crate) fn ready(&self) {
        self.bare("STATUS").run().silent();
    }

    /// Whatever there is of a pod: pins, map entries, records, files being written, locks.
    pub(crate) fn traces(&self, pod: &Pod) -> Vec<String> {
        let name = &pod.container;
        let mut found: Vec<String> = self
            .files()
            .iter()
            .map(|path| path.display().to_string())
            .filter(|path| path.contains(name.as_str()))
            .collect();
        found.extend(kernel::entries(&self.bpf, pod.cookie));
        if self.backend == "iptables" {
            found.extend(rules(&pod.netns));
        }
        found
    }

    /// Fails if there is anything of a pod.
    #[track_caller]
    pub(crate) fn nothing_of(&self, pod: &Pod) {
        assert_eq!(self.traces(pod), [""; 0], "left behind; log: {}", self.log());
    }

    /// Everything the plugin keeps: every path below its directories, but for the tally, which stays as long as the node is ours, and
    /// notes: those are about pods it has nothing of.
    pub(crate) fn files(&self) -> BTreeSet<PathBuf> {
        let mut files = BTreeSet::new();
        list(&self.state, &mut files);
        files.remove(&self.state.join("notes"));
        list(&self.bpf, &mut files);
        files.remove(&self.tally());
        files
    }

    /// The one object directory.
    pub(crate) fn object(&self) -> PathBuf {
        let mut found: Vec<PathBuf> = list_one(&self.bpf);
        found.retain(|path| !path.to_string_lossy().contains("loading-"));
        assert_eq!(found.len(), 1, "one object: {found:?}");
        found.pop().expect("one")
    }

    /// The one object directory beside another's.
    pub(crate) fn object_among(&self, other: &str) -> PathBuf {
        let mut found: Vec<PathBuf> = list_one(&self.bpf);
        found.retain(|path| path.is_dir() && !path.ends_with(other));
        assert_eq!(found.len(), 1, "one object: {found:?}");
        found.pop().expect("one")
    }

    /// The pod's record.
    pub(crate) fn record(&self, pod: &Pod) -> PathBuf {
        self.state.join("attachments").join(format!("{}.json", pod.pin_name()))
    }

    /// The end of the log, the latest first.
    pub(crate) fn log(&self) -> String {
        let log = shunt_tests::runtime_call::tail(&self.log);
        log.lines().rev().take(4).collect::<Vec<_>>().join("\n")
    }
}

/// Rules and chains of ours in a pod, and the address that comes with them.
pub(crate) fn rules(netns: &Netns) -> Vec<String> {
    let mut found = Vec::new();
    for word in ["iptables-nft", "ip6tables-nft"] {
        let text = netns.run(&format!("{word}-save"), &[], "");
        found
            .extend(text.lines().filter(|line| line.contains("SHUNT_")).map(|line| format!("{word} {line}")));
    }
    found
}

fn list_one(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path()).collect()
}

fn list(dir: &Path, into: &mut BTreeSet<PathBuf>) {
    for path in list_one(dir) {
        let is_dir = path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
        if is_dir {
            list(&path, into);
        }
        into.insert(path);
    }
}

/// Runs something on a thread whose mounts nobody else sees.
pub(crate) fn with_own_mounts<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
                .expect("root may have mounts of its own");
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
                .expect("as root");
            work()
        });
        inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Shares numbers below `count` out over as many threads as there are processors, at least two; each thread has a ground of its own
/// and calls the function it is given for the next number. The first failure is the test's.
pub(crate) fn in_parallel(count: usize, work: impl Fn(&Bed, &dyn Fn() -> Option<usize>) + Sync) {
    let next = AtomicUsize::new(0);
    let take = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|index| *index < count);
    let workers = std::thread::available_parallelism().map_or(2, std::num::NonZero::get).clamp(2, 8);
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..workers).map(|_| scope.spawn(|| work(&Bed::new(), &take))).collect();
        for worker in running {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
}

/// Whether to run all there is, not only what shows something new: `SHUNT_TESTS_ALL=1`.
pub(crate) fn all() -> bool {
    std::env::var_os("SHUNT_TESTS_ALL").is_some()
}
