//! A host of a test: a directory that looks like one, the programs to install, and the installer's commands on it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use serde_json::Value;
use shunt_tests::scratch::Scratch;
use shunt_tests::{bin, need};

use crate::runtime::{self, List, Loaded};

/// Longer than anything here takes on a machine that does much else.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// The host, below a directory of its own.
#[derive(Debug)]
pub(crate) struct Host {
    /// What stands for `/`.
    pub(crate) root: PathBuf,
    /// The entry file, in a directory of its own.
    pub(crate) entry: PathBuf,
    /// The plugin to install.
    pub(crate) plugin: PathBuf,
    /// Options of every command on this host.
    pub(crate) options: Vec<String>,
    scratch: Scratch,
}

impl Host {
    /// One with a plugin that is a script and does as it is told: where the plugin is not what is tested.
    pub(crate) fn with_script() -> Self {
        let mut host = Self::bare();
        host.plugin = host.scratch.dir().join("plugin");
        host.script("");
        host
    }

    /// One with the real plugin and a BPF file system.
    pub(crate) fn new() -> Self {
        let host = Self::bare();
        let bpf = host.path("sys/fs/bpf");
        mount(Some("bpf"), &bpf, Some("bpf"), MsFlags::empty(), None::<&str>).expect("root may mount bpffs");
        host
    }

    fn bare() -> Self {
        need::root();
        let scratch = Scratch::new();
        let root = scratch.dir().join("host");
        fs::create_dir(&root).expect("own directory");
        // In memory: everything written is synced, again and again, and a disk has others to serve.
        mount(Some("tmpfs"), &root, Some("tmpfs"), MsFlags::empty(), Some("mode=755")).expect("as root");
        for directory in ["etc/cni/net.d", "opt/cni/bin", "run", "sys/fs/bpf", "var/log"] {
            fs::create_dir_all(root.join(directory)).expect("own directory");
        }
        let entry = scratch.dir().join("entry/entry.json");
        fs::create_dir(scratch.dir().join("entry")).expect("own directory");
        fs::write(&entry, ENTRY).expect("own file");
        Self { root, entry, plugin: bin::shunt(), options: Vec::new(), scratch }
    }

    /// Writes the script that stands for the plugin; `more` is done first.
    pub(crate) fn script(&self, more: &str) {
        let (run, log, bpf) =
            (self.path("run/shunt"), self.path("var/log/shunt"), self.path("sys/fs/bpf/shunt"));
        let text = format!(
            "#!/bin/sh\n{more}\ncase \"$1$CNI_COMMAND\" in\n\
             VERSION) echo '{{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"1.0.0\"]}}' ;;\n\
             STATUS) ;;\n\
             report) echo '{{\"plugin\":\"1\"}}' ;;\n\
             sweep) echo '{{}}' ;;\n\
             purge) rm -rf \"$3\" '{}' '{}' '{}'; echo '{{}}' ;;\n\
             *) exit 9 ;;\nesac\n",
            run.display(),
            log.display(),
            bpf.display(),
        );
        replace(&self.plugin, text.as_bytes(), 0o755);
    }

    /// A path of the host, from here.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// The directory that is the test's and not the host's.
    pub(crate) fn aside(&self) -> &Path {
        self.scratch.dir()
    }

    /// The directory with the network configurations.
    pub(crate) fn net_d(&self) -> PathBuf {
        self.path("etc/cni/net.d")
    }

    /// A file of it.
    pub(crate) fn conf(&self, name: &str) -> PathBuf {
        self.net_d().join(name)
    }

    /// The plugin's place.
    pub(crate) fn binary(&self) -> PathBuf {
        self.path("opt/cni/bin/shunt")
    }

    /// A command of the installer.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(bin::installer());
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .args(words)
            .arg("--host-root")
            .arg(&self.root)
            .arg("--plugin")
            .arg(&self.plugin)
            .arg("--entry")
            .arg(&self.entry)
            .args(&self.options)
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, words: &[&str]) -> Said {
        said(&mut self.command(words))
    }

    /// `once`, which must work.
    #[track_caller]
    pub(crate) fn once(&self) {
        self.run(&["once"]).ok();
    }

    /// `uninstall`, which must leave nothing.
    #[track_caller]
    pub(crate) fn uninstall(&self) {
        let said = self.run(&["uninstall"]);
        said.ok();
        assert!(said.stdout.contains("nothing of Shunt is on this node any more"), "{said:?}");
    }

    /// What `status` says.
    #[track_caller]
    pub(crate) fn status(&self) -> Value {
        let said = self.run(&["status", "--output", "json"]);
        let value: Value =
            serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}"));
        let ready = value["ready"].as_bool().expect("`ready` is said");
        assert_eq!(said.code, Some(if ready { 0 } else { 3 }), "{said:?}");
        value
    }

    /// What containerd would load.
    pub(crate) fn loaded(&self) -> Loaded {
        runtime::containerd(&self.net_d())
    }

    /// The list with our entry that runtimes of both kinds would load.
    #[track_caller]
    pub(crate) fn ours(&self) -> List {
        let mut both = (self.loaded(), runtime::crio(&self.net_d()));
        // It may change between the two.
        for _ in 0..20 {
            if matches!(&both, (Loaded::List(one), Some(other)) if one == other) {
                break;
            }
            both = (self.loaded(), runtime::crio(&self.net_d()));
        }
        let (Loaded::List(list), Some(other)) = both else { panic!("no list: {:?}", self.loaded()) };
        assert_eq!(list, other, "the same for CRI-O");
        assert_eq!(list.ours(), 1, "{list:?}");
        assert_eq!(list.kinds().last().map(String::as_str), Some(runtime::OURS), "{list:?}");
        list
    }

    /// Whether what a runtime would load is the list made of `primary`, with our entry once and last.
    pub(crate) fn follows(&self, primary: &str) -> bool {
        matches!(self.loaded(), Loaded::List(list) if list.ours() == 1 && list.kinds().last().is_some_and(|kind| kind == runtime::OURS)
            && list.less_ours() == primary)
    }

    /// Whether the installed plugin can be run.
    pub(crate) fn runs(&self) -> Result<(), String> {
        let done = Command::new(self.binary())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("CNI_COMMAND", "VERSION")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| error.to_string())?;
        if done.status.success() { Ok(()) } else { Err(format!("{done:?}")) }
    }

    /// Everything below the root: what the owner of each file wrote, and who that is.
    pub(crate) fn everything(&self) -> Files {
        let mut found = BTreeMap::new();
        list(&self.root, &self.root, &mut found);
        found
    }
}

/// An entry that needs no time to find out what the node can do.
pub(crate) const ENTRY: &str = r#"{"type":"shunt","mesh":"istio","backend":"ebpf"}"#;

/// Everything below a directory.
pub(crate) type Files = BTreeMap<PathBuf, Thing>;

/// Something in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Thing {
    /// Kind and permissions.
    pub(crate) mode: u32,
    /// Owner.
    pub(crate) uid: u32,
    /// Group.
    pub(crate) gid: u32,
    /// What is in it, or where it leads.
    pub(crate) content: Vec<u8>,
}

fn list(root: &Path, directory: &Path, into: &mut Files) {
    for entry in fs::read_dir(directory).expect("it can be listed").filter_map(Result::ok) {
        let path = entry.path();
        let Ok(about) = path.symlink_metadata() else { continue };
        let relative = path.strip_prefix(root).unwrap_or(&path).to_owned();
        // Pins are read as tables that change all the time.
        let content = if about.is_file() && !relative.starts_with("sys/fs/bpf") {
            fs::read(&path).unwrap_or_default()
        } else if about.is_symlink() {
            fs::read_link(&path).unwrap_or_default().into_os_string().into_encoded_bytes()
        } else {
            Vec::new()
        };
        let thing = Thing { mode: about.mode(), uid: about.uid(), gid: about.gid(), content };
        into.insert(relative, thing);
        if about.is_dir() {
            list(root, &path, into);
        }
    }
}

/// Names of both that are in only one, or differ.
pub(crate) fn difference(one: &Files, other: &Files) -> Vec<String> {
    let names: std::collections::BTreeSet<_> = one.keys().chain(other.keys()).collect();
    let differ = |name: &&&PathBuf| one.get(**name) != other.get(**name);
    let text = |thing: Option<&Thing>| match thing {
        None => "nothing".to_owned(),
        Some(thing) => format!(
            "{:o} {}:{} {}",
            thing.mode,
            thing.uid,
            thing.gid,
            String::from_utf8_lossy(thing.content.get(..thing.content.len().min(80)).unwrap_or_default())
        ),
    };
    names
        .iter()
        .filter(differ)
        .map(|name| format!("{}: {} | {}", name.display(), text(one.get(*name)), text(other.get(*name))))
        .collect()
}

/// How a command ended.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    /// Exit code; none when a signal ended it.
    pub(crate) code: Option<i32>,
    /// For scripts and people.
    pub(crate) stdout: String,
    /// The log.
    pub(crate) stderr: String,
}

impl Said {
    /// It worked.
    #[track_caller]
    pub(crate) fn ok(&self) {
        assert_eq!(self.code, Some(0), "{self:?}");
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

/// Runs a command to its end.
pub(crate) fn said(command: &mut Command) -> Said {
    command.output().expect("the program can be run").into()
}

/// Puts a file in place as careful owners do.
pub(crate) fn replace(path: &Path, content: &[u8], mode: u32) {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".theirs");
    let temporary = PathBuf::from(temporary);
    fs::write(&temporary, content).expect("own file");
    fs::set_permissions(&temporary, fs::Permissions::from_mode(mode)).expect("own file");
    fs::rename(&temporary, path).expect("own file");
}

/// Writes a file with an owner.
pub(crate) fn owned(path: &Path, content: &str, mode: u32, owner: u32) {
    fs::write(path, content).expect("own file");
    chown(path, Some(owner), Some(owner)).expect("as root");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("own file");
}

/// A link in place of what was there, whole at each moment.
pub(crate) fn relink(target: &str, link: &Path) {
    let temporary = link.with_file_name("new-link");
    symlink(target, &temporary).expect("own directory");
    fs::rename(&temporary, link).expect("own directory");
}

/// A program that is to run on ends with the test, however that ends.
#[expect(unsafe_code, reason = "what the child asks of the kernel before it is the program")]
pub(crate) fn ends_with_us(command: &mut Command) -> &mut Command {
    let ask =
        || nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).map_err(std::io::Error::from);
    // SAFETY: one system call between fork and exec.
    unsafe { command.pre_exec(ask) }
}

/// Waits a moment.
pub(crate) fn moment(milliseconds: u16) {
    let _waited = nix::poll::poll(&mut [], milliseconds);
}

/// Waits until something is so.
#[track_caller]
pub(crate) fn until(what: &str, mut so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        moment(5);
    }
}

/// Each of these on a thread of its own, a few at a time.
pub(crate) fn in_parallel<T: Sync>(all: &[T], work: impl Fn(&T) + Sync) {
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    while let Some(one) = all.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                        work(one);
                    }
                })
            })
            .collect();
        for worker in running {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
}

/// Opens a file for a program to write to.
pub(crate) fn created(path: &Path) -> File {
    File::options().create(true).append(true).open(path).expect("own file")
}
