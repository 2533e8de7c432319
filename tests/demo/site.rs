//! The scratch node: directories, namespaces and cgroups, all found again from one name.
//!
//! ```text
//!   world 192.0.2.2 ──── node ──── bridge demo0 ──── pod 10.88.0.x
//!         2001:db8::2                                    fd88::x
//! ```

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::outcome::{Doing as _, Outcome};

/// Of every name outside our own directory; the id of the demo's process follows.
pub(crate) const PREFIX: &str = "shunt-demo-";
/// Where the world's server is.
pub(crate) const WORLD_V4: &str = "192.0.2.2";
/// The same for IPv6.
pub(crate) const WORLD_V6: &str = "2001:db8::2";
/// The pod's UID, as Kubernetes would give it.
pub(crate) const POD_UID: &str = "6ba7b810-9dad-41d1-80b4-00c04fd430c8";

/// In a directory that outlives its demo on purpose.
const KEPT: &str = "kept";

/// Set when the site is being taken down: nothing new may start.
static STOPPED: AtomicBool = AtomicBool::new(false);

/// Names of everything the demo makes.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    name: String,
    dir: PathBuf,
    cgroups: PathBuf,
}

impl Site {
    /// The names only; nothing is made.
    pub(crate) fn named(name: &str) -> Outcome<Self> {
        if !name.starts_with(PREFIX) || name.contains('/') {
            return Err(format!("{name} is no name of a demo"));
        }
        let root = shunt_tests::cgroup::mount_point().ok_or("this machine has no cgroup2 mount")?;
        Ok(Self { name: name.to_owned(), dir: std::env::temp_dir().join(name), cgroups: root.join(name) })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// A path in the demo's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Where a namespace is bound: `world`, `node` or `pod`.
    pub(crate) fn netns(&self, name: &str) -> PathBuf {
        self.dir.join("ns").join(name)
    }

    /// A bpf file system of our own: nothing on the host's is touched, and it goes as a whole.
    fn bpf_mount(&self) -> PathBuf {
        self.dir.join("bpf")
    }

    /// The plugin's pins.
    pub(crate) fn bpf_dir(&self) -> PathBuf {
        self.bpf_mount().join("shunt")
    }

    /// The plugin's records.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// The plugin's log.
    pub(crate) fn plugin_log(&self) -> PathBuf {
        self.dir.join("log/shunt.log")
    }

    /// The pod's cgroup as a runtime writes it.
    pub(crate) fn cgroup_path(&self) -> String {
        format!("/{}/kubepods/pod{POD_UID}", self.name)
    }

    /// A cgroup's directory: `kubepods`, `pod`, a container of it, or `system`.
    pub(crate) fn cgroup(&self, name: &str) -> PathBuf {
        let pod = self.cgroups.join("kubepods").join(format!("pod{POD_UID}"));
        match name {
            "kubepods" => self.cgroups.join("kubepods"),
            "pod" => pod,
            "system" => self.cgroups.join("system"),
            container => pod.join(container),
        }
    }

    /// Makes the whole site.
    pub(crate) fn make(&self) -> Outcome<()> {
        for part in ["ns", "log", "bpf", "state", "var-lib"] {
            let dir = self.dir.join(part);
            fs::create_dir_all(&dir).doing(format_args!("make {}", dir.display()))?;
        }
        fs::set_permissions(&self.dir, PermissionsExt::from_mode(0o755))
            .doing("open the demo's directory")?;
        for cgroup in ["system", "app", "envoy"] {
            let dir = self.cgroup(cgroup);
            fs::create_dir_all(&dir).doing(format_args!("make cgroup {}", dir.display()))?;
        }
        mount(Some("bpf"), &self.bpf_mount(), Some("bpf"), MsFlags::empty(), None::<&str>)
            .doing("mount a bpf file system")?;

        for name in ["world", "node", "pod"] {
            self.make_netns(name)?;
        }
        let node = self.netns("node");
        self.ip("world", &format!("link add eth0 type veth peer name world netns {}\n", node.display()))?;
        self.ip(
            "world",
            &format!(
                "link set eth0 up\n\
                 addr add {WORLD_V4}/24 dev eth0\n\
                 addr add {WORLD_V6}/64 dev eth0 nodad\n"
            ),
        )?;
        self.ip(
            "node",
            "link set world up\n\
             addr add 192.0.2.1/24 dev world\n\
             addr add 2001:db8::1/64 dev world nodad\n",
        )?;
        self.ip("world", "route add default via 192.0.2.1\nroute add default via 2001:db8::1\n")
    }

    fn make_netns(&self, name: &str) -> Outcome<()> {
        let path = self.netns(name);
        File::create(&path).doing(format_args!("make {}", path.display()))?;
        // A namespace belongs to a thread; this one makes it, binds it to a name and ends.
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    unshare(CloneFlags::CLONE_NEWNET)?;
                    mount(
                        Some("/proc/thread-self/ns/net"),
                        &path,
                        None::<&str>,
                        MsFlags::MS_BIND,
                        None::<&str>,
                    )
                })
                .join()
                .unwrap_or(Err(nix::errno::Errno::ECANCELED))
        })
        .doing(format_args!("make network namespace {name}"))?;
        self.inside(name, || {
            // Addresses are usable at once; nobody else is on these links.
            for key in
                ["ipv6/conf/all/accept_dad", "ipv6/conf/default/accept_dad", "ipv6/conf/default/accept_ra"]
            {
                fs::write(format!("/proc/sys/net/{key}"), "0").doing(format_args!("set {key}"))?;
            }
            if name == "node" {
                for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                    fs::write(format!("/proc/sys/net/{key}"), "1").doing(format_args!("set {key}"))?;
                }
            }
            Ok(())
        })?;
        self.ip(name, "link set lo up\n")
    }

    /// Runs something on a thread inside one of the namespaces.
    pub(crate) fn inside<T: Send>(&self, name: &str, work: impl FnOnce() -> Outcome<T> + Send) -> Outcome<T> {
        let path = self.netns(name);
        std::thread::scope(|scope| {
            let inside = || {
                let namespace = File::open(&path).doing(format_args!("open {}", path.display()))?;
                setns(namespace, CloneFlags::CLONE_NEWNET).doing(format_args!("enter {}", path.display()))?;
                work()
            };
            scope.spawn(inside).join().unwrap_or_else(|_| Err("a thread of the demo's stopped".into()))
        })
    }

    /// Runs `ip` commands, one a line, inside one of the namespaces.
    pub(crate) fn ip(&self, name: &str, commands: &str) -> Outcome<()> {
        self.inside(name, || {
            let mut ip = Command::new("ip")
                .args(["-batch", "-"])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .doing("run ip")?;
            if let Some(mut stdin) = ip.stdin.take() {
                stdin.write_all(commands.as_bytes()).doing("talk to ip")?;
            }
            let done = ip.wait_with_output().doing("wait for ip")?;
            if done.status.success() {
                Ok(())
            } else {
                Err(format!("ip in {name}: {}", String::from_utf8_lossy(&done.stderr).trim()))
            }
        })
    }

    /// Says that this directory outlives the demo on purpose.
    pub(crate) fn keep(&self) -> Outcome<()> {
        fs::write(self.path(KEPT), "").doing("mark the demo's directory")
    }

    /// From here on nothing new starts.
    pub(crate) fn stop(&self) {
        STOPPED.store(true, Ordering::SeqCst);
    }

    /// Whether the site is being taken down.
    pub(crate) fn stopped() -> bool {
        STOPPED.load(Ordering::SeqCst)
    }

    /// Shows the ends of the logs.
    pub(crate) fn print_logs(&self) {
        let Ok(logs) = fs::read_dir(self.path("log")) else { return };
        for log in logs.filter_map(Result::ok) {
            let text = fs::read_to_string(log.path()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            if !lines.is_empty() {
                eprintln!("-- end of {}", log.path().display());
                for line in lines.iter().skip(lines.len().saturating_sub(12)) {
                    eprintln!("{line}");
                }
            }
        }
    }

    /// Takes everything down: processes, mounts, cgroups, files. Can be said again.
    pub(crate) fn remove(&self) -> Outcome<()> {
        remove_cgroup(&self.cgroups)?;
        let table = fs::read_to_string("/proc/self/mountinfo").doing("read the mount table")?;
        let mut below: Vec<&str> = table
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .filter(|place| Path::new(place).starts_with(&self.dir))
            .collect();
        // What lies deeper goes first.
        below.sort_by_key(|place| std::cmp::Reverse(place.len()));
        for place in below {
            umount2(place, MntFlags::MNT_DETACH).doing(format_args!("unmount {place}"))?;
        }
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(format!("remove {}: {error}", self.dir.display()))
            }
            _ => Ok(()),
        }
    }
}

/// Ends the processes of a cgroup and of those below it, then removes them.
fn remove_cgroup(dir: &Path) -> Outcome<()> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(()) };
    for child in entries.filter_map(Result::ok).filter(|entry| entry.path().is_dir()) {
        remove_cgroup(&child.path())?;
    }
    wait_for(&format!("cgroup {} does not empty", dir.display()), || {
        for pid in fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default().lines() {
            if let Ok(pid) = pid.parse() {
                let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        fs::remove_dir(dir).is_ok() || !dir.exists()
    })
}

/// Removes what demos that were killed have left.
pub(crate) fn remove_left_behind() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = name.strip_prefix(PREFIX) else { continue };
        let abandoned = !Path::new("/proc").join(pid).exists() && !entry.path().join(KEPT).exists();
        if abandoned && let Err(error) = Site::named(&name).and_then(|site| site.remove()) {
            eprintln!("demo: what {name} left: {error}");
        }
    }
}

/// Asks until it is so, at most ten seconds.
pub(crate) fn wait_for(otherwise: &str, mut so: impl FnMut() -> bool) -> Outcome<()> {
    let end = Instant::now() + Duration::from_secs(10);
    while !so() {
        if Instant::now() > end || Site::stopped() && !otherwise.starts_with("cgroup") {
            return Err(format!("{otherwise} within 10 s"));
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "the pause between two looks at something that has no event"
        )]
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
