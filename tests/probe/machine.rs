//! The first process of a machine: makes the machine's namespaces, its root and its network, and is its end. When its input
//! ends, and that is at the latest when the test does, it ends, and the kernel ends everything in its process namespace with it.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{chdir, pivot_root, sethostname};
use shunt_tests::machine::orders::Orders;

/// Goes into the machine's cgroup and namespaces, and starts the process that is to be the first there. Says its id, as seen from
/// here, and ends after it.
pub(crate) fn begin(text: &str) -> ExitCode {
    let orders: Orders = serde_json::from_str(text).expect("a machine's orders");
    fs::write(orders.cgroup.join("cgroup.procs"), "0").expect("root may move itself");
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWCGROUP
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC,
    )
    .expect("root may make namespaces");
    let mut first =
        Command::new("/proc/self/exe").args(["first", text]).spawn().expect("a program can run itself");
    println!("{}", first.id());
    // The input is the first process's alone: it must see its end.
    let status = first.wait().expect("own child");
    ExitCode::from(u8::from(!status.success()))
}

/// The first process.
pub(crate) fn first(text: &str) -> ExitCode {
    let orders: Orders = serde_json::from_str(text).expect("a machine's orders");
    assert_eq!(std::process::id(), 1, "the first in a process namespace");
    make_root(&orders);
    change_root(&orders.root);
    sethostname(&orders.hostname).expect("own namespace");
    make_network(&orders.network);
    // Orphans end in our arms: nobody asks what became of them.
    // SAFETY: no handler is installed, the signal is ignored.
    #[expect(unsafe_code, reason = "changing what a signal does is unsafe in general")]
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }.expect("own signals");
    println!("ready");
    io::stdout().flush().expect("the test listens");
    let mut buffer = [0; 64];
    while io::stdin().read(&mut buffer).is_ok_and(|count| count > 0) {}
    ExitCode::SUCCESS
}

fn bind(from: &Path, to: &Path, writable: bool) {
    let what = || format!("bind {} on {}", from.display(), to.display());
    if from.is_dir() {
        fs::create_dir_all(to).unwrap_or_else(|error| panic!("{}: {error}", what()));
    } else if !to.exists() {
        let parent = to.parent().expect("a file lies in a directory");
        fs::create_dir_all(parent).and_then(|()| fs::write(to, "")).expect("own directory");
    }
    let again = |flags: MsFlags| mount(Some(from), to, None::<&str>, flags, None::<&str>);
    again(MsFlags::MS_BIND | MsFlags::MS_REC).unwrap_or_else(|error| panic!("{}: {error}", what()));
    if !writable {
        again(MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY)
            .unwrap_or_else(|error| panic!("{}, read-only: {error}", what()));
    }
}

fn fresh(kind: &str, to: &Path, options: Option<&str>) {
    fs::create_dir_all(to).unwrap_or_else(|error| panic!("{}: {error}", to.display()));
    mount(Some(kind), to, Some(kind), MsFlags::empty(), options)
        .unwrap_or_else(|error| panic!("mount {kind} on {}: {error}", to.display()));
}

/// The whole tree, before it is anybody's root.
fn make_root(orders: &Orders) {
    let root = &orders.root;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .expect("own mounts");
    fresh("tmpfs", root, Some("mode=755"));
    bind(Path::new("/usr"), &root.join("usr"), false);
    for name in ["bin", "sbin", "lib", "lib32", "lib64", "libx32"] {
        let ours = Path::new("/").join(name);
        match fs::read_link(&ours) {
            Ok(target) => symlink(target, root.join(name)).expect("own directory"),
            Err(_) if ours.is_dir() => bind(&ours, &root.join(name), false),
            Err(_) => {}
        }
    }
    for name in ["etc", "var", "opt", "root"] {
        bind(&orders.disk.join(name), &root.join(name), true);
    }
    fresh("tmpfs", &root.join("run"), Some("mode=755"));
    fresh("tmpfs", &root.join("tmp"), Some("mode=1777"));
    fresh("proc", &root.join("proc"), None);
    fresh("sysfs", &root.join("sys"), None);
    fresh("cgroup2", &root.join("sys/fs/cgroup"), None);
    fresh("bpf", &root.join("sys/fs/bpf"), None);
    make_devices(&root.join("dev"));
    // A user namespace may mount a proc only where one is seen that nothing hides a part of. Files may be bound over parts of
    // the first one.
    fresh("proc", &root.join("run/proc"), None);
    for name in ["mnt", "srv", "home"] {
        fs::create_dir(root.join(name)).expect("own directory");
    }
    for one in &orders.binds {
        let to = one.to.strip_prefix("/").expect("places inside begin at the root");
        bind(&one.from, &root.join(to), one.writable);
    }
}

fn make_devices(dev: &Path) {
    fresh("tmpfs", dev, Some("mode=755"));
    let devices = [
        ("null", 1, 3),
        ("zero", 1, 5),
        ("full", 1, 7),
        ("random", 1, 8),
        ("urandom", 1, 9),
        ("kmsg", 1, 11),
        ("tty", 5, 0),
    ];
    for (name, major, minor) in devices {
        let path = dev.join(name);
        mknod(&path, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(major, minor))
            .unwrap_or_else(|error| panic!("make device {name}: {error}"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("own file");
        assert_eq!(fs::metadata(&path).expect("own file").rdev(), makedev(major, minor), "{name}");
    }
    fresh("devpts", &dev.join("pts"), Some("newinstance,ptmxmode=0666,mode=0620"));
    fresh("tmpfs", &dev.join("shm"), Some("mode=1777"));
    fresh("mqueue", &dev.join("mqueue"), None);
    for (target, name) in [
        ("pts/ptmx", "ptmx"),
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
    ] {
        symlink(target, dev.join(name)).expect("own directory");
    }
}

fn change_root(root: &Path) {
    let old = root.join("mnt");
    pivot_root(root, &old).expect("the new root is a mount of our own");
    chdir("/").expect("there is a root");
    umount2("/mnt", MntFlags::MNT_DETACH).expect("the old root is there");
    // What pods mount with propagation must find a shared tree, as systemd makes it.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SHARED, None::<&str>)
        .expect("own mounts");
}

fn make_network(commands: &str) {
    for (key, value) in [
        ("ipv4/ip_forward", "1"),
        ("ipv6/conf/all/forwarding", "1"),
        // Addresses are usable at once; nobody else is on these links.
        ("ipv6/conf/all/accept_dad", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/default/accept_ra", "0"),
    ] {
        fs::write(format!("/proc/sys/net/{key}"), value)
            .unwrap_or_else(|error| panic!("net/{key} = {value}: {error}"));
    }
    let mut ip = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().expect("ip is there");
    let mut stdin = ip.stdin.take().expect("it is piped");
    stdin.write_all(format!("link set lo up\n{commands}").as_bytes()).expect("ip reads");
    drop(stdin);
    assert!(ip.wait().expect("own child").success(), "ip: {commands}");
}

/// Holds a sandbox's namespaces until it is killed.
pub(crate) fn pause() -> ExitCode {
    loop {
        nix::unistd::pause();
    }
}
