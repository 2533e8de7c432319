//! Disks that are full, read-only, or not ours to write to.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;

use nix::mount::{MsFlags, mount};

use crate::host::{Host, difference, owned};
use crate::live::{self, Live};
use crate::neighbours::{ALL, Neighbour};
use crate::runtime::Loaded;

const CALICO: Neighbour = ALL[0];

/// A small disk in place of a directory.
fn small(path: &Path, size: &str) {
    let options = format!("size={size},mode=755");
    mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).expect("as root");
}

fn grown(path: &Path, size: &str) {
    let options = format!("size={size}");
    mount(None::<&str>, path, None::<&str>, MsFlags::MS_REMOUNT, Some(options.as_str())).expect("as root");
}

/// A directory whose contents cannot be changed.
fn read_only(path: &Path) {
    mount(Some(path), path, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("as root");
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mount(None::<&str>, path, None::<&str>, flags, None::<&str>).expect("as root");
}

fn bare(host: &Host) {
    assert_eq!(host.loaded(), Loaded::List(theirs(host)), "pods get what they got before");
}

fn theirs(host: &Host) -> crate::runtime::List {
    let Some(list) = crate::runtime::crio(&host.net_d()) else { panic!("no list") };
    assert_eq!((list.ours(), list.text.as_str()), (0, CALICO.primary.text));
    list
}

fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).expect("it can be listed").filter_map(Result::ok);
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names
}

#[test]
fn no_room_for_the_plugin() {
    let host = Host::new();
    CALICO.settle(&host);
    let bin = host.path("opt/cni/bin");
    small(&bin, "64k");
    let live = Live::start(&host);
    live.wait("it says why", || live.readyz().1.contains("No space left on device"));
    live.wait("and takes its half away", || names(&bin).is_empty());
    bare(&host);
    grown(&bin, "16m");
    live.ready();
    live.stop();
    host.uninstall();
    assert!(names(&bin).is_empty());
}

#[test]
fn no_room_for_a_second_plugin() {
    let mut host = Host::new();
    CALICO.settle(&host);
    let bin = host.path("opt/cni/bin");
    let size = fs::metadata(&host.plugin).expect("built").len();
    small(&bin, &format!("{}k", size / 1024 + 512));
    host.once();
    let mut bytes = fs::read(&host.plugin).expect("built");
    let old = bytes.clone();
    bytes.push(0);
    host.plugin = host.aside().join("newer");
    crate::host::replace(&host.plugin, &bytes, 0o755);
    let live = Live::start(&host);
    live.wait("it says why", || live.readyz().1.contains("No space left on device"));
    assert!(fs::read(host.binary()).expect("there") == old, "the old one stays, whole");
    let changed = CALICO.primary.text.replace("\"mtu\": 0", "\"mtu\": 9");
    owned(&host.conf("10-calico.conflist"), &changed, 0o600, 998);
    live.wait("the list is kept in step all the same", || host.follows(&changed));
    grown(&bin, "32m");
    live.ready();
    assert!(fs::read(host.binary()).expect("there") == bytes);
}

#[test]
fn no_room_for_a_list() {
    let host = Host::with_script();
    small(&host.net_d(), "64k");
    CALICO.settle(&host);
    let fill = |host: &Host| {
        let mut size = 64 * 1024;
        while size >= 1 {
            let junk = host.conf(&format!("junk{size}"));
            if fs::write(&junk, vec![b'x'; size]).is_err() {
                let _part = fs::remove_file(&junk);
            }
            size /= 2;
        }
    };
    let empty = |host: &Host| {
        for name in names(&host.net_d()).iter().filter(|name| name.starts_with("junk")) {
            fs::remove_file(host.conf(name)).expect("own file");
        }
    };
    fill(&host);
    let live = Live::start(&host);
    live.wait("it says why", || live.readyz().1.contains("No space left on device"));
    bare(&host);
    empty(&host);
    live.ready();
    let old = host.ours();
    fill(&host);
    fs::write(&host.entry, r#"{"type":"shunt","mesh":"linkerd"}"#).expect("own file");
    live.wait("it says why", || live.readyz().1.contains("No space left on device"));
    assert_eq!(host.ours(), old, "the old one stays, whole");
    empty(&host);
    live.wait("now it fits", || host.ours().text.contains("linkerd"));
    live.ready();
}

#[test]
fn a_read_only_directory_with_the_right_plugin() {
    let host = Host::with_script();
    CALICO.settle(&host);
    crate::host::replace(&host.binary(), &fs::read(&host.plugin).expect("own file"), 0o755);
    read_only(&host.path("opt/cni/bin"));
    host.once();
    assert!(host.follows(CALICO.primary.text));
    let live = Live::start(&host);
    live.ready();
}

#[test]
fn a_read_only_directory_with_another_plugin() {
    let mut host = Host::with_script();
    CALICO.settle(&host);
    host.once();
    read_only(&host.path("opt/cni/bin"));
    let old = fs::read_to_string(&host.plugin).expect("own file");
    host.plugin = host.aside().join("newer");
    crate::host::replace(&host.plugin, format!("{old}# newer\n").as_bytes(), 0o755);
    let live = Live::start(&host);
    live.wait("it says why", || live.readyz().1.contains("Read-only file system"));
    let changed = CALICO.primary.text.replace("\"mtu\": 0", "\"mtu\": 9");
    owned(&host.conf("10-calico.conflist"), &changed, 0o600, 998);
    live.wait("the list is kept in step all the same", || host.follows(&changed));
    assert_eq!(live.readyz().0, 503);
}

/// Root may not write where a policy of the host forbids it; without `CAP_DAC_OVERRIDE` it may not in what is another's.
fn denied(host: &Host) -> Live {
    let address = live::address();
    let inner = host.command(&["run"]);
    let mut command = Command::new("setpriv");
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .args(["--bounding-set", "-dac_override,-dac_read_search", "--inh-caps=-all", "--"])
        .arg(inner.get_program())
        .args(inner.get_args())
        .args(["--listen", &address.to_string()]);
    Live::spawn(host, command, address)
}

#[test]
fn a_directory_that_root_may_not_write_to() {
    shunt_tests::need::tool("setpriv");
    for (directory, first) in [("opt/cni/bin", true), ("etc/cni/net.d", true), ("etc/cni/net.d", false)] {
        let host = Host::with_script();
        owned(&host.conf("10-calico.conflist"), CALICO.primary.text, 0o644, 1000);
        if !first {
            host.once();
        }
        chown(host.path(directory), Some(1000), Some(1000)).expect("as root");
        let before = host.everything();
        let live = denied(&host);
        if first {
            live.wait("it says why", || live.readyz().1.contains("Permission denied"));
            bare(&host);
        } else {
            live.ready();
            let text = CALICO.primary.text.replace("\"mtu\": 0", "\"mtu\": 9");
            owned(&host.conf("10-calico.conflist"), &text, 0o644, 1000);
            live.wait("it says why", || live.readyz().1.contains("Permission denied"));
            assert!(host.follows(CALICO.primary.text), "what was there stays in use");
            owned(&host.conf("10-calico.conflist"), CALICO.primary.text, 0o644, 1000);
            live.ready();
        }
        let mut lines = difference(&before, &host.everything());
        lines.retain(|line| line.starts_with(directory));
        assert_eq!(lines, [""; 0]);
        assert!(live.readyz().1.contains(directory), "{}", live.readyz().1);
        fs::set_permissions(host.path(directory), fs::Permissions::from_mode(0o777)).expect("own directory");
        live.ready();
    }
}
