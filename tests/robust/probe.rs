//! `backend: auto`: what the node can do is found out once, kept for the boot, and said; a node where eBPF does not work captures
//! with iptables.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};
use shunt_tests::bin;

use crate::bed::{Bed, Place, with_own_mounts};

fn kept(place: &Place) -> PathBuf {
    place.state.join("backend.json")
}

fn read(place: &Place) -> Value {
    let text = fs::read_to_string(kept(place)).expect("a probe has been made");
    serde_json::from_str(&text).expect("JSON")
}

fn write(place: &Place, change: impl FnOnce(&mut Value)) {
    let mut answer = read(place);
    change(&mut answer);
    fs::write(kept(place), answer.to_string()).expect("own file");
}

/// How often the plugin said that it probed.
fn probes(place: &Place) -> usize {
    let log = fs::read_to_string(&place.log).unwrap_or_default();
    log.matches("probed this node").count()
}

fn shuntctl(place: &Place, more: &[&str]) -> Command {
    let mut command = Command::new(bin::shuntctl());
    command.arg("backend").arg("--state-dir").arg(&place.state).arg("--bpf-dir").arg(&place.bpf).args(more);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Cgroups of the probe of the process with this id.
fn cgroups_of(pid: u32) -> Vec<PathBuf> {
    let root = shunt_tests::cgroup::mount_point().expect("a cgroup2 mount");
    let prefix = format!("shunt-probe-{pid}-");
    let entries = fs::read_dir(root).expect("it can be listed").filter_map(Result::ok);
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect()
}

/// What is mounted, but for the namespaces of pods elsewhere: those come and go.
fn mounts(bed: &Bed) -> Vec<String> {
    let own = bed.dir().display().to_string();
    let table = fs::read_to_string("/proc/self/mountinfo").expect("readable");
    table
        .lines()
        .filter(|line| !line.contains(" - nsfs ") || line.contains(&own))
        .map(str::to_owned)
        .collect()
}

fn pins(place: &Place) -> BTreeSet<PathBuf> {
    fs::read_dir(&place.bpf).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path()).collect()
}

#[test]
fn it_is_found_out_once_and_kept() {
    let bed = Bed::new();
    let (place, pod) = (bed.place_on_auto(), bed.pod());
    place.ready();
    let answer = read(&place);
    assert_eq!(answer["backend"], "ebpf", "{answer}");
    assert!(
        answer["steps"].as_array().is_some_and(|steps| steps.iter().all(|step| step["result"] == "works"))
    );
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("every kernel has one");
    assert_eq!(answer["bootId"], boot.trim());
    let mode = fs::metadata(kept(&place)).expect("made").permissions().mode() & 0o7777;
    assert_eq!(mode, 0o600);
    place.ready();
    place.add(&pod);
    assert_eq!(probes(&place), 1, "{}", place.log());
    assert!(place.log().contains("intercepted: ebpf"), "{}", place.log());
    // Another boot, another object, and whatever else may stand there: found out anew.
    let changes: [fn(&Place); 5] = [
        |place| write(place, |answer| answer["bootId"] = json!("11111111-2222-3333-4444-555555555555")),
        |place| write(place, |answer| answer["object"] = json!("0123456789abcdef")),
        |place| fs::write(kept(place), b"{\xff").expect("own file"),
        |place| {
            fs::remove_file(kept(place)).expect("own file");
            fs::create_dir(kept(place)).expect("own directory");
        },
        |place| fs::remove_dir(kept(place)).expect("own directory"),
    ];
    for (round, change) in changes.into_iter().enumerate() {
        change(&place);
        place.ready();
        assert_eq!(probes(&place), round + 2, "{round}: {}", place.log());
    }
    assert_eq!(read(&place)["backend"], "ebpf");
    place.del(&pod);
}

#[test]
fn a_configured_backend_asks_nobody() {
    let bed = Bed::new();
    let (place, pod) = (bed.place_on_auto(), bed.pod());
    for backend in ["ebpf", "iptables"] {
        let configured = |command: &str| {
            place.call(command, &pod).configured(|config| config["backend"] = json!(backend)).run()
        };
        configured("ADD").ok();
        configured("CHECK").silent();
        configured("DEL").silent();
        assert!(!kept(&place).exists());
    }
    place.nothing_of(&pod);
}

#[test]
fn shuntctl_tells_and_probes() {
    let bed = Bed::new();
    let place = bed.place_on_auto();
    let unknown = shuntctl(&place, &[]).output().expect("it runs");
    assert_eq!(unknown.status.code(), Some(3), "{}", said(&unknown));
    let child = shuntctl(&place, &["--probe"]).spawn().expect("it runs");
    let pid = child.id();
    let before = mounts(&bed);
    let probed = child.wait_with_output().expect("it ends");
    assert_eq!(probed.status.code(), Some(0), "{}", said(&probed));
    assert!(said(&probed).starts_with("backend  ebpf\n"), "{}", said(&probed));
    // Nothing is left of it.
    assert!(cgroups_of(pid).is_empty());
    assert_eq!(pins(&place), BTreeSet::new());
    assert_eq!(mounts(&bed), before);
    let told = shuntctl(&place, &["--output", "json"]).output().expect("it runs");
    assert_eq!(told.status.code(), Some(0), "{}", said(&told));
    let told: Value = serde_json::from_slice(&told.stdout).expect("JSON");
    assert_eq!(told, read(&place));
}

#[test]
fn several_at_once_wait_for_each_other() {
    let bed = Bed::new();
    let place = bed.place_on_auto();
    let running: Vec<_> = (0..4).map(|_| shuntctl(&place, &["--probe"]).spawn().expect("it runs")).collect();
    let pids: Vec<u32> = running.iter().map(std::process::Child::id).collect();
    for child in running {
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    }
    assert!(pids.into_iter().all(|pid| cgroups_of(pid).is_empty()));
    assert_eq!(pins(&place), BTreeSet::new());
}

/// Killed at any moment, its process goes with it, and the next probe removes what is left.
#[test]
fn one_that_is_killed_is_cleared_away() {
    const ROUNDS: u32 = 40;
    let bed = Bed::new();
    let place = bed.place_on_auto();
    let started = Instant::now();
    assert!(shuntctl(&place, &["--probe"]).output().expect("it runs").status.success());
    let whole = started.elapsed();
    let (mut pids, mut left) = (Vec::new(), 0);
    for round in 0..ROUNDS {
        let mut child = shuntctl(&place, &["--probe"]).spawn().expect("it runs");
        wait(whole * round / ROUNDS);
        child.kill().expect("own child");
        child.wait().expect("own child");
        for cgroup in cgroups_of(child.id()) {
            left += 1;
            let events = || fs::read_to_string(cgroup.join("cgroup.events")).unwrap_or_default();
            let since = Instant::now();
            while events().contains("populated 1") {
                assert!(since.elapsed() < Duration::from_secs(5), "the guest outlives its parent");
                wait(Duration::from_millis(1));
            }
        }
        pids.push(child.id());
    }
    assert!(left > 0, "not one was killed half-way");
    let last = shuntctl(&place, &["--probe"]).output().expect("it runs");
    assert_eq!(last.status.code(), Some(0), "{}", said(&last));
    for pid in pids {
        assert!(cgroups_of(pid).is_empty());
    }
    assert_eq!(pins(&place), BTreeSet::new());
}

/// Waits for nothing but the time: for moments to be killed at.
fn wait(time: Duration) {
    let _nothing_comes = nix::poll::poll(&mut [], nix::poll::PollTimeout::try_from(time).expect("short"));
}

/// A node where eBPF does not work, and why it says so: the pod is captured with iptables, or not at all where the configuration
/// insists.
fn cannot(bed: &Bed, denied: &[i64], prepare: impl Fn(&Place) + Sync, words: &str) {
    let (place, pod) = (bed.place_on_auto(), bed.pod());
    with_own_mounts(|| {
        prepare(&place);
        let call = |command: &str| {
            let mut call = place.call(command, &pod);
            call.denied = denied.to_vec();
            call
        };
        let mut status = place.bare("STATUS");
        status.denied = denied.to_vec();
        status.run().silent();
        let answer = read(&place);
        assert_eq!(answer["backend"], "iptables", "{answer}");
        let reason = answer["reason"].as_str().expect("a reason");
        assert!(reason.contains(words), "{reason}");
        assert!(place.log().contains(&format!("ready: iptables: {reason}")), "{}", place.log());
        call("ADD").run().ok();
        assert!(place.log().contains(&format!("intercepted: iptables: {reason}")), "{}", place.log());
        call("CHECK").run().silent();
        // It keeps what it has, whatever the node says later.
        write(&place, |answer| {
            for step in answer["steps"].as_array_mut().expect("steps") {
                *step = json!({ "step": step["step"], "result": "works" });
            }
        });
        call("ADD").run().ok();
        assert!(place.log().contains("intercepted: iptables: as at the ADD before"), "{}", place.log());
        call("CHECK").run().silent();
        call("DEL").run().silent();
        let insists = call("ADD").configured(|config| config["backend"] = json!("ebpf")).run();
        let (code, said) = insists.refused();
        assert!([100, 101, 102].contains(&code) && said.contains(words), "{insists}");
        place.nothing_of(&pod);
        assert_eq!(probes(&place), 1, "{}", place.log());
    });
}

#[test]
fn a_node_whose_kernel_refuses_bpf() {
    cannot(&Bed::new(), &[libc::SYS_bpf], |_| {}, "Operation not permitted (os error 1)");
}

#[test]
fn a_node_whose_bpf_file_system_is_read_only() {
    let read_only = |place: &Place| {
        let parent = place.bpf.parent().expect("below a BPF file system");
        mount(Some("bpf"), parent, Some("bpf"), MsFlags::MS_RDONLY, None::<&str>).expect("root may mount");
    };
    cannot(&Bed::new(), &[], read_only, "Read-only file system (os error 30)");
}

#[test]
fn a_node_without_cgroup2() {
    let unmounted = |place: &Place| {
        let mounted = shunt_tests::cgroup::mount_point().expect("a cgroup2 mount");
        while umount2(&mounted, MntFlags::MNT_DETACH).is_ok() {}
        // And none can be mounted where ours would be.
        fs::create_dir_all(&place.state).expect("own directory");
        fs::write(place.state.join("cgroup2"), "").expect("own directory");
    };
    cannot(&Bed::new(), &[], unmounted, "/cgroup2: File exists (os error 17)");
}

/// Neither backend: both reasons.
#[test]
fn a_node_that_can_do_nothing() {
    let bed = Bed::new();
    let (place, pod) = (bed.place_on_auto(), bed.pod());
    for mut call in [place.bare("STATUS"), place.call("ADD", &pod)] {
        call.denied = vec![libc::SYS_bpf, libc::SYS_mount];
        let answer = call.run();
        let (_, said) = answer.refused();
        let both = said.contains("ebpf: ") && said.contains("os error 1") && said.contains("iptables: ");
        assert!(both, "{answer}");
    }
    // What an ADD that may not even look cannot take back, DEL does.
    place.del(&pod);
}

/// The answer was yes, and the load that serves pods fails all the same: the next ADD finds out anew.
#[test]
fn an_answer_that_does_not_hold_is_forgotten() {
    let bed = Bed::new();
    let (place, pod) = (bed.place_on_auto(), bed.pod());
    assert!(shuntctl(&place, &["--probe"]).output().expect("it runs").status.success());
    let mut refused = place.call("ADD", &pod);
    refused.denied = vec![libc::SYS_bpf];
    refused.run().refused();
    assert!(!kept(&place).exists());
    place.nothing_of(&pod);
    refused.run().ok();
    assert!(place.log().contains("intercepted: iptables"), "{}", place.log());
    refused = place.call("DEL", &pod);
    refused.run().silent();
    place.nothing_of(&pod);
}

/// A failure of the moment is nothing to keep.
#[test]
fn what_may_pass_is_not_kept() {
    let bed = Bed::new();
    let place = bed.place_on_auto();
    fs::create_dir_all(place.state.join("locks")).expect("own directory");
    // Somebody holds the lock for longer than anybody waits.
    let lock = fs::File::create(place.state.join("locks/load")).expect("own file");
    lock.lock().expect("nobody has it");
    let output = shuntctl(&place, &["--probe"]).output().expect("it runs");
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("lock"), "{}", said(&output));
    assert!(!kept(&place).exists());
    drop(lock);
    assert!(shuntctl(&place, &["--probe"]).output().expect("it runs").status.success());
}
