//! A real Envoy in a pod: started, asked, drained, restarted and killed.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use shunt_tests::bin;
use shunt_tests::envoy::{Access, accesses};
use shunt_tests::node::{INBOUND_PORT, Node, OUTBOUND_PORT, PROXY, Pod};
use shunt_tests::process::becoming;
use shunt_tests::program::Become;

use crate::istio::{self, ADMIN_PORT, Sidecar};

/// How long anything is waited for. A busy machine takes its time; what takes all of it has hung.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// A pod's sidecar: its files, and the processes that play it one after the other.
pub(crate) struct Envoy {
    dir: PathBuf,
    own: [String; 2],
    version: u32,
    epoch: u32,
    running: Vec<Child>,
    /// Whether it writes a line for each connection or request.
    logs: bool,
}

impl Envoy {
    /// Starts it in a pod, with its listeners, and waits until it listens.
    pub(crate) fn start(node: &Node, pod: &Pod) -> Self {
        Self::logging(node, pod, true)
    }

    /// The same without an access log.
    pub(crate) fn quiet(node: &Node, pod: &Pod) -> Self {
        Self::logging(node, pod, false)
    }

    fn logging(node: &Node, pod: &Pod, logs: bool) -> Self {
        let dir = node.directory().join(format!("envoy-{}", pod.name));
        let shared = dir.join("shm");
        fs::create_dir_all(&shared).expect("a directory");
        let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
        open(&shared, 0o1777).expect("our own");
        let own = [pod.ip(false).to_string(), pod.ip(true).to_string()];
        let mut envoy = Self { dir, own, version: 0, epoch: 0, running: Vec::new(), logs };
        let access = File::create(envoy.log_file()).expect("a log");
        fchown(&access, Some(PROXY), Some(PROXY)).expect("root may give it away");
        let bootstrap = istio::bootstrap(envoy.sidecar(&envoy.log_file()), &envoy.listeners_file());
        fs::write(envoy.dir.join("bootstrap.json"), bootstrap.to_string()).expect("a file");
        envoy.put_listeners();
        envoy.run(pod, 2);
        envoy.wait_listening(pod, true);
        envoy
    }

    fn sidecar<'a>(&'a self, log: &'a Path) -> Sidecar<'a> {
        let [v4, v6] = &self.own;
        Sidecar { own: [v4, v6], log: self.logs.then_some(log) }
    }

    fn log_file(&self) -> PathBuf {
        self.dir.join("access.log")
    }

    fn listeners_file(&self) -> PathBuf {
        self.dir.join("listeners.json")
    }

    /// Puts a file of listeners in the place of the one before; Envoy watches for that.
    fn put(&self, listeners: &Value) {
        let new = self.dir.join("listeners.new");
        fs::write(&new, listeners.to_string()).expect("a file");
        fs::rename(new, self.listeners_file()).expect("in one go");
    }

    /// All listeners, or all of them again.
    pub(crate) fn put_listeners(&mut self) {
        self.version += 1;
        let listeners = istio::listeners(self.sidecar(&self.log_file()), self.version);
        self.put(&listeners);
    }

    /// Takes all listeners away.
    pub(crate) fn take_listeners(&mut self) {
        self.version += 1;
        self.put(&istio::no_listeners(self.version));
    }

    /// Runs a process of the present epoch.
    fn run(&mut self, pod: &Pod, workers: u32) {
        let log = File::options().append(true).create(true).open(self.dir.join("envoy.log")).expect("a log");
        let arguments = [
            ("--config-path", self.dir.join("bootstrap.json").display().to_string()),
            ("--concurrency", workers.to_string()),
            ("--restart-epoch", self.epoch.to_string()),
            // Ours alone: its shared memory is a directory of ours, its socket one of the pod's namespace.
            ("--base-id", "0".to_owned()),
            ("--drain-time-s", "1".to_owned()),
            ("--parent-shutdown-time-s", "3".to_owned()),
            ("--file-flush-interval-msec", "10".to_owned()),
            ("--log-level", "warning".to_owned()),
        ];
        let program = Become {
            program: bin::tool("envoy"),
            arguments: arguments.into_iter().flat_map(|(option, value)| [option.to_owned(), value]).collect(),
            shared_memory: Some(self.dir.join("shm")),
        };
        let child = becoming(&pod.proxy(), &program)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the probe can be run");
        self.running.push(child);
    }

    /// Waits until the pod's socket table shows both ports open in both families, or none of them in any. Dialling them would be a
    /// connection like any other.
    #[track_caller]
    pub(crate) fn wait_listening(&mut self, pod: &Pod, wanted: bool) {
        let open = || {
            let table =
                pod.netns.read("/proc/thread-self/net/tcp") + &pod.netns.read("/proc/thread-self/net/tcp6");
            [OUTBOUND_PORT, INBOUND_PORT]
                .iter()
                .map(|port| {
                    let (v4, v6) =
                        (format!(":{port:04X} 00000000:0000 0A"), format!(":{port:04X} {:032}:0000 0A", 0));
                    usize::from(table.contains(&v4)) + usize::from(table.contains(&v6))
                })
                .sum::<usize>()
        };
        let all = if wanted { 4 } else { 0 };
        self.wait(if wanted { "to listen" } else { "not to listen" }, |_| open() == all);
    }

    /// Waits until it is so; the end of the newest process is one too.
    #[track_caller]
    pub(crate) fn wait(&mut self, what: &str, mut so: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !so(self) {
            let ended = self.running.last_mut().and_then(|child| child.try_wait().ok().flatten());
            assert!(ended.is_none(), "Envoy ended ({ended:?}): {}", self.said());
            assert!(Instant::now() < end, "Envoy was waited for {what}: {}", self.said());
            let _waited = nix::poll::poll(&mut [], 10_u8);
        }
    }

    /// The end of what it said for people.
    pub(crate) fn said(&self) -> String {
        shunt_tests::runtime_call::tail(&self.dir.join("envoy.log"))
    }

    /// A new process takes the sockets over from the old one, which ends when its time is up.
    pub(crate) fn hot_restart(&mut self, pod: &Pod, workers: u32) {
        self.epoch += 1;
        self.run(pod, workers);
    }

    /// Waits until all processes but the newest have ended.
    #[track_caller]
    pub(crate) fn wait_alone(&mut self) {
        self.wait("to be alone", |envoy| {
            envoy.running.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
            envoy.running.len() == 1
        });
    }

    /// Kills it, as an out-of-memory killer would.
    pub(crate) fn kill(&mut self) {
        for mut child in self.running.drain(..) {
            child.kill().expect("it is our child");
            child.wait().expect("it ends");
        }
    }

    /// Starts it again from nothing, as a container's restart does.
    pub(crate) fn restart(&mut self, pod: &Pod) {
        self.kill();
        self.epoch = 0;
        self.run(pod, 2);
    }

    /// The process that serves.
    pub(crate) fn process(&self) -> u32 {
        self.running.last().expect("it has been started").id()
    }

    /// Asks it to do something; says what it answered.
    pub(crate) fn admin(pod: &Pod, path: &str) -> String {
        pod.netns.enter(|| {
            let mut admin = TcpStream::connect((Ipv4Addr::LOCALHOST, ADMIN_PORT)).expect("its admin listens");
            admin.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            write!(
                admin,
                "POST {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            )
            .expect("it reads");
            let mut answer = String::new();
            admin.read_to_string(&mut answer).expect("it answers");
            assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
            answer
        })
    }

    /// The access log so far.
    pub(crate) fn accesses(&self) -> Vec<Access> {
        accesses(&fs::read_to_string(self.log_file()).unwrap_or_default())
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        self.kill();
    }
}
