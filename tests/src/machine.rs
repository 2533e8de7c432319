//! A whole machine of a test: a process of ours is the first in fresh mount, network, process, cgroup, UTS and IPC namespaces, in a
//! child of the host's cgroup2 tree that it sees as a unified host's `/sys/fs/cgroup`. Its root lies in memory, with the host's `/usr` and
//! a disk that survives a reboot; beyond its network there is a world that notes each connection.
//!
//! What is inside ends with that process, and it ends when the test does, however that ends.

pub mod beyond;
pub mod containerd;
pub mod cri;
pub mod daemon;
pub mod image;
pub mod orders;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::poll::poll;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cgroup::Cgroup;
use crate::runtime_call::tail;
use crate::scratch::Scratch;
use crate::{bin, need};
use beyond::Beyond;
use daemon::{Daemon, Service};
use orders::{Bind, Orders};

/// The machine's own address, on a bridge that nothing else is on.
pub const NODE_V4: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 2);
/// The same for IPv6.
pub const NODE_V6: Ipv6Addr = Ipv6Addr::new(0xfd31, 0, 0, 0, 0, 0, 0, 2);
/// Longer than anything here takes on a machine that does much else.
pub const PATIENCE: Duration = Duration::from_mins(2);

const PATH: &str =
    "/opt/rig/bin:/opt/rig/containerd:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Goes into a cgroup inside and becomes a program: `$1` and the rest.
const IN_CGROUP: &str =
    "mkdir -p \"/sys/fs/cgroup/$1\" && echo 0 > \"/sys/fs/cgroup/$1/cgroup.procs\" && shift && exec \"$@\"";

/// The machine.
#[derive(Debug)]
pub struct Machine {
    name: String,
    daemons: Vec<Daemon>,
    running: Option<Running>,
    binds: Vec<Bind>,
    beyond: Beyond,
    cgroup: Cgroup,
    // Last: the directory goes when everything in it is gone.
    scratch: Scratch,
}

/// What is there between boot and power-off.
#[derive(Debug)]
struct Running {
    outer: Child,
    /// The machine ends when this is closed.
    cord: Option<ChildStdin>,
    first: Pid,
}

impl Machine {
    /// A machine that is off, with an empty disk and the world beyond it.
    pub fn new(name: &str) -> Self {
        need::root();
        for tool in ["ip", "nsenter", "tar"] {
            need::tool(tool);
        }
        let scratch = Scratch::new();
        fs::create_dir(scratch.dir().join("mount")).expect("own directory");
        let disk = scratch.dir().join("disk");
        make_disk(&disk);
        let beyond = Beyond::new(scratch.dir());
        let cgroup = Cgroup::new(scratch.name());
        Self {
            name: name.to_owned(),
            daemons: Vec::new(),
            running: None,
            binds: Vec::new(),
            beyond,
            cgroup,
            scratch,
        }
    }

    /// Shows something of the host inside, read-only, from the next boot on.
    pub fn show(&mut self, from: &Path, to: &str) {
        let from = from.canonicalize().unwrap_or_else(|error| panic!("{}: {error}", from.display()));
        self.binds.push(Bind { from, to: to.into(), writable: false });
    }

    /// A path of the disk, from here; `etc`, `var`, `opt` and `root` are on it, and are there with the machine off.
    pub fn path(&self, path: &str) -> PathBuf {
        self.scratch.dir().join("disk").join(path.trim_start_matches('/'))
    }

    /// A path of the running machine, from here.
    pub fn inside(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.first())).join(path.trim_start_matches('/'))
    }

    /// A directory of the test's that the machine does not see.
    pub fn aside(&self) -> &Path {
        self.scratch.dir()
    }

    /// The root of the machine's cgroups, from here.
    pub fn cgroups(&self) -> &Path {
        self.cgroup.dir()
    }

    /// The world beyond it.
    pub fn beyond(&self) -> &Beyond {
        &self.beyond
    }

    /// The first process's id, from here.
    #[track_caller]
    pub fn first(&self) -> Pid {
        self.running.as_ref().expect("the machine runs").first
    }

    /// Switches it on.
    pub fn boot(&mut self) {
        assert!(self.running.is_none(), "the machine runs already");
        // Cgroups do not survive a reboot.
        crate::cgroup::empty(self.cgroup.dir());
        let orders = Orders {
            cgroup: self.cgroup.dir().to_owned(),
            root: self.scratch.dir().join("mount"),
            disk: self.scratch.dir().join("disk"),
            binds: self.binds.clone(),
            hostname: self.name.clone(),
            network: format!(
                "link add node0 type bridge\n\
                 link set node0 up\n\
                 addr add {NODE_V4}/24 dev node0\n\
                 addr add {NODE_V6}/64 dev node0 nodad\n"
            ),
        };
        let mut outer = Command::new(bin::probe())
            .args(["machine", &serde_json::to_string(&orders).expect("orders are plain data")])
            .env_clear()
            .env("PATH", PATH)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the probe can be run");
        let cord = outer.stdin.take();
        let mut said = BufReader::new(outer.stdout.take().expect("it is piped"));
        let mut line = || {
            let mut line = String::new();
            said.read_line(&mut line).expect("the probe prints text");
            line.trim_end().to_owned()
        };
        // The one that makes the machine says which process is the first, and that one says when it is ready: in either order.
        let both = [line(), line()];
        let first = both.iter().find_map(|line| line.parse().ok());
        let (Some(first), true) = (first, both.iter().any(|line| line == "ready")) else {
            panic!("the machine {} does not start: it said {both:?}", self.name);
        };
        let first = Pid::from_raw(first);
        self.running = Some(Running { outer, cord, first });
        self.beyond.wire(first);
    }

    /// Takes the power away: every process of it is gone, and with its mounts and namespaces all that was not on the disk.
    pub fn power_off(&mut self) {
        for daemon in &self.daemons {
            daemon.give_up();
        }
        if let Some(mut running) = self.running.take() {
            drop(running.cord.take());
            let end = Instant::now() + PATIENCE;
            // It does not end before all in its process namespace have.
            while running.outer.try_wait().expect("own child").is_none() {
                if Instant::now() > end {
                    let _gone = kill(running.first, Signal::SIGKILL);
                    let _gone = running.outer.kill();
                }
                let _waited = poll(&mut [], 10_u8);
            }
        }
        self.daemons.clear();
    }

    /// Power off and on again. Daemons are not started.
    pub fn reboot(&mut self) {
        self.power_off();
        self.boot();
    }

    /// A command inside, in a cgroup of its own below `system.slice`, that has not been started.
    pub fn command(&self, cgroup: &str, program: &str) -> Command {
        let first = self.first();
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &first.to_string(), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"])
            .args(["--root", "--wd", "--", "/bin/sh", "-c", IN_CGROUP, "sh"])
            .arg(format!("system.slice/{cgroup}"))
            .arg(program)
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", "/root")
            .env("LANG", "C.UTF-8")
            .stdin(Stdio::null());
        command
    }

    /// Runs a command inside to its end.
    pub fn exec(&self, program: &str, arguments: &[&str]) -> Output {
        self.command("exec", program)
            .args(arguments)
            .output()
            .unwrap_or_else(|error| panic!("{program}: {error}"))
    }

    /// Runs a command inside that must work, and gives what it printed.
    #[track_caller]
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        let done = self.exec(program, arguments);
        assert!(
            done.status.success(),
            "{program} {arguments:?}: {}: {}",
            done.status,
            String::from_utf8_lossy(&done.stderr)
        );
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    /// Starts a daemon. It is in `system.slice/NAME`, writes to a log of its own, and ends with the machine.
    pub fn start(&mut self, service: &Service) {
        self.daemons.retain(|other| other.name() != service.name);
        let mut command = self.command(&service.name, &service.program);
        command.args(&service.arguments).envs(service.environment.iter().map(|(name, value)| (name, value)));
        let log = self.log_of(&service.name);
        self.daemons.push(Daemon::start(service, command, log));
    }

    /// Ends a daemon for good, by SIGTERM, then by force.
    pub fn stop(&mut self, name: &str) {
        self.daemon(name).stop();
        self.daemons.retain(|daemon| daemon.name() != name);
    }

    /// A daemon that was started.
    #[track_caller]
    pub fn daemon(&self, name: &str) -> &Daemon {
        self.daemons
            .iter()
            .find(|daemon| daemon.name() == name)
            .unwrap_or_else(|| panic!("no daemon {name} runs"))
    }

    /// The log file of a daemon, from here. It goes on over reboots.
    pub fn log_of(&self, name: &str) -> PathBuf {
        let dir = self.path("var/log/daemons");
        fs::create_dir_all(&dir).expect("own directory");
        dir.join(format!("{name}.log"))
    }

    /// Waits until something is so; on failure shows the ends of all logs.
    #[track_caller]
    pub fn until(&self, what: &str, so: impl FnMut() -> bool) {
        self.until_within(PATIENCE, what, so);
    }

    /// The same with another patience.
    #[track_caller]
    pub fn until_within(&self, patience: Duration, what: &str, mut so: impl FnMut() -> bool) {
        let end = Instant::now() + patience;
        while !so() {
            assert!(
                Instant::now() < end,
                "machine {}: never within {patience:?}: {what}\n{}",
                self.name,
                self.logs()
            );
            let _waited = poll(&mut [], 20_u8);
        }
    }

    /// The ends of the logs of daemons and plugin.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        let daemons = fs::read_dir(self.path("var/log/daemons")).into_iter().flatten().filter_map(Result::ok);
        for log in daemons.map(|entry| entry.path()).chain([self.path("var/log/shunt/shunt.log")]) {
            let end = tail(&log);
            if !end.is_empty() {
                text += &format!("-- end of {}\n{end}\n", log.display());
            }
        }
        text
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.eprint_logs();
        }
        self.power_off();
    }
}

impl Machine {
    #[expect(clippy::print_stderr, reason = "shown by the test runner only for a test that failed")]
    fn eprint_logs(&self) {
        let logs = self.logs();
        if !logs.is_empty() {
            eprintln!("machine {}:\n{logs}", self.name);
        }
        // The disk goes with the test.
        let keep = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/machine-logs")).join(&self.name);
        let _gone = fs::remove_dir_all(&keep);
        let copied = fs::create_dir_all(&keep).is_ok()
            && Command::new("cp")
                .arg("-r")
                .arg(self.path("var/log/."))
                .arg(&keep)
                .status()
                .is_ok_and(|done| done.success());
        if copied {
            eprintln!("whole logs: {}", keep.display());
        }
    }
}

/// An empty disk, with as much of `/etc` as programs ask for.
fn make_disk(disk: &Path) {
    for name in ["etc", "var/lib", "var/log", "var/cache", "var/tmp", "opt/cni/bin", "opt/rig/bin", "root"] {
        fs::create_dir_all(disk.join(name)).expect("own directory");
    }
    symlink("/run", disk.join("var/run")).expect("own directory");
    symlink("/run/lock", disk.join("var/lock")).expect("own directory");
    for name in
        ["passwd", "group", "protocols", "services", "nsswitch.conf", "ld.so.cache", "os-release", "iproute2"]
    {
        let from = Path::new("/etc").join(name);
        if from.exists() {
            copy(&from, &disk.join("etc").join(name));
        }
    }
    // The names of iptables lead over here.
    copy(Path::new("/etc/alternatives"), &disk.join("etc/alternatives"));
    fs::write(disk.join("etc/hosts"), "127.0.0.1 localhost\n::1 localhost\n").expect("own file");
    fs::write(disk.join("etc/resolv.conf"), "").expect("own file");
    fs::write(disk.join("etc/machine-id"), "5b1d0f5e6c7f4d0a9f1e2d3c4b5a6978\n").expect("own file");
}

/// Copies a file, or a directory as it is.
pub(crate) fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp is there");
    assert!(done.success(), "cp {} {}", from.display(), to.display());
}
