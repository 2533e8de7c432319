//! A node boots: what lies in memory is gone, what lies on disk is there, and everybody starts at once. No pod of the mesh ever runs
//! without us.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::host::{Host, owned};
use crate::live::Live;
use crate::pods::{Made, PRIMARY, PRIMARY_FILE, Runtime};

/// Whatever does not outlive a boot.
fn reboots(host: &Host) {
    for entry in fs::read_dir(host.path("run")).expect("there").filter_map(Result::ok) {
        fs::remove_dir_all(entry.path()).expect("removed");
    }
    let bpf = host.path("sys/fs/bpf");
    umount2(&bpf, MntFlags::MNT_DETACH).expect("mounted");
    mount(Some("bpf"), &bpf, Some("bpf"), MsFlags::empty(), None::<&str>).expect("as root");
}

/// What happens at a boot, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// The neighbour writes its file anew, in place.
    Neighbour,
    /// The runtime makes a pod.
    Pod,
    /// The installer starts.
    Installer,
}

const ORDERS: [[Event; 3]; 6] = {
    use Event::{Installer, Neighbour, Pod};
    [
        [Neighbour, Pod, Installer],
        [Neighbour, Installer, Pod],
        [Pod, Neighbour, Installer],
        [Pod, Installer, Neighbour],
        [Installer, Neighbour, Pod],
        [Installer, Pod, Neighbour],
    ]
};

#[test]
fn no_pod_is_bare_after_a_boot_in_any_order() {
    let host = Host::new();
    let runtime = Runtime::new(&host);
    owned(&host.conf(PRIMARY_FILE), PRIMARY, 0o600, 0);
    host.once();
    let mut bare = 0;
    for order in ORDERS {
        // With and without the plugin, which some hosts keep in memory too.
        for keeps_plugin in [true, false] {
            let what = format!("{order:?}, plugin kept: {keeps_plugin}");
            reboots(&host);
            if !keeps_plugin {
                fs::remove_file(host.binary()).expect("there");
            }
            let mut live = None;
            let mut waiting = Vec::new();
            let mut tried = |waiting: &mut Vec<_>| {
                let pod = runtime.pod();
                match runtime.add(&host, &pod) {
                    Made::Bare => bare += 1,
                    Made::Waits(_) => waiting.push(pod),
                    Made::Captured => {}
                }
            };
            for event in order {
                match event {
                    Event::Neighbour => {
                        // Nothing, then half of it, then all: and pods are made at each moment.
                        fs::write(host.conf(PRIMARY_FILE), "").expect("own file");
                        tried(&mut waiting);
                        fs::write(host.conf(PRIMARY_FILE), &PRIMARY[..PRIMARY.len() / 2]).expect("own file");
                        tried(&mut waiting);
                        fs::write(host.conf(PRIMARY_FILE), PRIMARY).expect("own file");
                    }
                    Event::Pod => {}
                    Event::Installer => live = Some(Live::start(&host)),
                }
                tried(&mut waiting);
            }
            let live = live.expect("it was started");
            live.ready();
            for pod in waiting {
                assert_eq!(runtime.add(&host, &pod), Made::Captured, "{what}: it need not wait any more");
            }
            assert_eq!(runtime.add(&host, &runtime.pod()), Made::Captured, "{what}");
            live.stop();
        }
    }
    assert_eq!(bare, 0, "pods without us");
    host.run(&["uninstall", "--detach"]).ok();
}

/// A node that was upgraded to an image without our plugin, or lost it otherwise: pods wait until it is back.
#[test]
fn without_the_plugin_pods_wait_until_it_is_back() {
    let host = Host::new();
    let runtime = Runtime::new(&host);
    owned(&host.conf(PRIMARY_FILE), PRIMARY, 0o600, 0);
    host.once();
    let pod = runtime.pod();
    for how in [
        |host: &Host| fs::remove_file(host.binary()).expect("there"),
        |host: &Host| fs::set_permissions(host.binary(), fs::Permissions::from_mode(0o644)).expect("there"),
        |host: &Host| fs::write(host.binary(), [0x7f, b'E', b'L', b'F']).expect("there"),
    ] {
        how(&host);
        assert!(matches!(runtime.add(&host, &pod), Made::Waits(_)));
        host.once();
        assert_eq!(runtime.add(&host, &pod), Made::Captured);
        let list = host.ours();
        runtime.del(&host, &list, &pod);
    }
    host.uninstall();
}
