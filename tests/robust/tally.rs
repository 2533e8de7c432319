//! The tally: what it counts, that nobody's call suffers from it, and that it is whole whatever stands in its place.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;
use serde_json::json;
use shunt_api::report::{Calls, Report};
use shunt_tests::scratch::with_own_mounts;

use crate::bed::{Bed, Call, Place, Pod};
use crate::races::together;

fn count(report: &Report, command: &str, outcome: &str, backend: &str) -> u64 {
    let is = |calls: &&Calls| {
        (calls.command.as_str(), calls.outcome.as_str(), calls.backend.as_str())
            == (command, outcome, backend)
    };
    report.calls.iter().find(is).map_or(0, |calls| calls.count)
}

fn unmarked(place: &Place, command: &str, pod: &Pod) -> Call {
    place.call(command, pod).configured(|config| config["runtimeConfig"] = json!({}))
}

#[test]
fn what_came_of_calls_is_counted() {
    let bed = Bed::new();
    let (place, pod, other) = (bed.place(), bed.pod(), bed.pod());
    let bad = |command: &str| place.call(command, &other).configured(|config| config["udp"] = json!("maybe"));
    unmarked(&place, "ADD", &other).run().ok();
    let excluded =
        place.call("ADD", &other).configured(|config| config["excludeNamespaces"] = json!(["default"]));
    excluded.run().ok();
    assert_eq!(bad("ADD").run().refused().0, 7);
    place.add(&pod);
    place.check(&pod);
    unmarked(&place, "CHECK", &other).run().silent();
    assert_eq!(place.call("CHECK", &other).run().refused().0, 104);
    place.ready();
    place.bare("GC").run().silent();
    place.del(&pod);
    place.del(&pod);
    let open = place.call("ADD", &pod).configured(|config| {
        config["failurePolicy"] = json!("open");
        config["runtimeConfig"]["cgroupPath"] = json!("../x");
    });
    // A bad path is the call's fault, whatever the policy.
    assert_eq!(open.run().refused().0, 7);
    let report = place.report();
    for (command, outcome, backend, wanted) in [
        ("ADD", "skipped", "none", 2),
        ("ADD", "intercepted", "ebpf", 1),
        ("ADD", "failed", "none", 1),
        ("ADD", "failed", "ebpf", 1),
        ("CHECK", "ok", "ebpf", 1),
        ("CHECK", "ok", "none", 1),
        ("CHECK", "failed", "none", 1),
        ("STATUS", "ok", "ebpf", 1),
        ("GC", "ok", "none", 1),
        ("DEL", "removed", "ebpf", 1),
        ("DEL", "nothing", "none", 1),
    ] {
        assert_eq!(
            count(&report, command, outcome, backend),
            wanted,
            "{command} {outcome} {backend}: {report:?}"
        );
    }
    assert_eq!(report.calls.iter().map(|calls| calls.count).sum::<u64>(), 12);
    assert!(
        report.calls.iter().all(|calls| calls.sum_us > 0 && calls.buckets.iter().sum::<u64>() == calls.count)
    );
    assert_eq!(report.skipped, [("no-marker".to_owned(), 1), ("namespace-excluded".to_owned(), 1)].into());
    assert_eq!(report.failed, [("config".to_owned(), 2), ("verify".to_owned(), 1)].into());
    let found = fs::metadata(place.tally()).expect("made");
    assert_eq!(found.permissions().mode() & 0o7777, 0o600);
}

#[test]
fn the_other_backend_and_a_policy_that_lets_pass() {
    let bed = Bed::new();
    let (place, pod) = (bed.place(), bed.pod());
    let mut open = place.call("ADD", &pod).configured(|config| config["failurePolicy"] = json!("open"));
    open.denied.push(libc::SYS_bpf);
    open.run().ok();
    let report = place.report();
    assert_eq!((count(&report, "ADD", "passed", "ebpf"), report.failed.len()), (1, 0), "{report:?}");
    let place = bed.place_on_iptables();
    let path = |call: Call| call.with("PATH", Some("/usr/sbin:/usr/bin:/sbin:/bin"));
    path(place.call("ADD", &pod)).run().ok();
    path(place.call("CHECK", &pod)).run().silent();
    path(place.call("DEL", &pod)).run().silent();
    let report = place.report();
    for (command, outcome) in [("ADD", "intercepted"), ("CHECK", "ok"), ("DEL", "removed")] {
        assert_eq!(count(&report, command, outcome, "iptables"), 1, "{command} {outcome}: {report:?}");
    }
}

#[test]
fn many_at_once_are_all_answered_and_hardly_one_is_lost() {
    const AT_ONCE: usize = 16;
    let bed = Bed::new();
    let pods: Vec<Pod> = (0..AT_ONCE).map(|_| bed.pod()).collect();
    let place = bed.place();
    place.ready();
    let calls = |command: &str| pods.iter().map(|pod| place.call(command, pod)).collect::<Vec<_>>();
    for answer in together(&calls("ADD")) {
        answer.ok();
    }
    for answer in together(&calls("DEL")) {
        answer.silent();
    }
    let report = place.report();
    for (command, outcome) in [("ADD", "intercepted"), ("DEL", "removed")] {
        let counted = count(&report, command, outcome, "ebpf");
        // A run that does not get the lock in two milliseconds gives up: on two busy processors that may happen.
        assert!((12..=AT_ONCE as u64).contains(&counted), "{command}: {report:?}");
    }
}

type Damage = (&'static str, fn(&Path), bool);

/// What may stand in the tally's place, and whether it is put right.
const DAMAGES: [Damage; 7] = [
    ("garbage", |path| fs::write(path, [0xff; 7000]).expect("own directory"), true),
    ("one too short", |path| fs::write(path, b"shunt tally\0\0\0\0\x01").expect("own directory"), true),
    ("an empty file", |path| fs::write(path, "").expect("own directory"), true),
    ("a fifo", |path| nix::unistd::mkfifo(path, Mode::S_IRWXU).expect("own directory"), true),
    ("a link", |path| std::os::unix::fs::symlink("/etc/passwd", path).expect("own directory"), true),
    ("an empty directory", |path| fs::create_dir(path).expect("own directory"), true),
    ("a full directory", |path| fs::create_dir_all(path.join("x")).expect("own directory"), false),
];

#[test]
fn no_call_suffers_from_what_stands_in_its_place() {
    let bed = Bed::new();
    let (place, pod) = (bed.place(), bed.pod());
    place.ready();
    let passwd = fs::read("/etc/passwd").expect("every machine has one");
    for (what, damage, put_right) in DAMAGES {
        fs::remove_file(place.tally()).expect("counted");
        damage(&place.tally());
        assert_eq!(place.report().calls, [], "{what}");
        place.add(&pod);
        place.check(&pod);
        place.del(&pod);
        let counted = place.report().calls.len();
        assert_eq!(counted, if put_right { 3 } else { 0 }, "{what}");
        if !put_right {
            fs::remove_dir_all(place.tally()).expect("own directory");
            place.ready();
        }
    }
    assert_eq!(fs::read("/etc/passwd").expect("still there"), passwd);
}

#[test]
fn a_directory_that_cannot_be_written() {
    let bed = Bed::new();
    let (place, pod, other) = (bed.place(), bed.pod(), bed.pod());
    place.add(&pod);
    let before = place.report().calls;
    with_own_mounts(|| {
        let none = None::<&str>;
        mount(Some(&place.state), &place.state, none, MsFlags::MS_BIND, none)
            .expect("a directory can be bound");
        let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(none, &place.state, none, read_only, none).expect("as read-only");
        place.call("CHECK", &pod).run().silent();
        unmarked(&place, "ADD", &other).run().ok();
        assert_eq!(place.report().calls, before);
    });
    place.del(&pod);
}

/// Only an ADD makes the directory: what comes after us may ask for a pod that was never ours.
#[test]
fn other_calls_make_no_directory() {
    let bed = Bed::new();
    let (place, pod) = (bed.place(), bed.pod());
    for command in ["DEL", "CHECK"] {
        unmarked(&place, command, &pod).run().silent();
        assert!(!place.state.exists(), "{command}");
    }
    unmarked(&place, "ADD", &pod).run().ok();
    let kept = fs::read_dir(&place.state).expect("made").filter_map(Result::ok);
    let kept: BTreeSet<PathBuf> = kept.map(|entry| entry.path()).collect();
    assert_eq!(kept, [place.tally(), place.state.join("notes")].into());
}
