//! What stays when pods go, and when the release does.

use std::fs;

use shunt_tests::sidecar::went_through;

use crate::cluster::{RELEASE, SYSTEM};
use crate::node::{Node, Whole};
use crate::objects::{meshed, plain};
use crate::on_cluster;
use crate::scenario::Bed;
use crate::wait::{PATIENCE, until_true};

/// What a node has of pods' attachments: records, notes, pins.
fn of_pods(node: &Node) -> Vec<String> {
    let names = |path: &str| {
        let dir = node.machine.inside(path);
        let entries = fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
        entries.map(|entry| format!("{path}/{}", entry.file_name().to_string_lossy())).collect::<Vec<_>>()
    };
    let mut left = names("run/shunt/attachments");
    left.extend(names("run/shunt/iptables"));
    for object in names("sys/fs/bpf/shunt") {
        left.extend(names(&format!("{object}/pods")));
    }
    left
}

/// Network namespaces and pods' cgroups.
fn of_kubernetes(node: &Node) -> Vec<String> {
    let mut left = Vec::new();
    let netns = fs::read_dir(node.machine.inside("run/netns")).into_iter().flatten().filter_map(Result::ok);
    left.extend(netns.map(|entry| format!("netns {}", entry.file_name().to_string_lossy())));
    for class in ["besteffort", "burstable"] {
        let dir = node.machine.cgroups().join("kubepods").join(class);
        let pods = fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
        let names = pods.map(|entry| entry.file_name().to_string_lossy().into_owned());
        left.extend(names.filter(|name| name.starts_with("pod")));
    }
    left
}

/// The scenarios' pods go, twenty at once: no record, pin, rule, cgroup and namespace of theirs stays.
pub(crate) fn nothing_of_pods(bed: &mut Bed) -> String {
    let (cluster, there) = (bed.cluster.clone(), bed.world.addresses());
    let mut pods: Vec<_> =
        (0..15).map(|n| meshed(&format!("goes-{n}"), &cluster.images.pod, &there)).collect();
    pods.extend((0..5).map(|n| plain(&format!("goes-too-{n}"), &cluster.images.pod, &there)));
    cluster.run_pods(&pods);
    let node = bed.node();
    let before = of_pods(node).len();
    assert!(before >= 15 * 2, "a record and pins for each: {before}");
    let all = cluster.pods();
    cluster.delete(&all.keys().map(String::as_str).collect::<Vec<_>>());
    let node = bed.node();
    node.machine
        .until("nothing of pods is left", || of_pods(node).is_empty() && of_kubernetes(node).is_empty());
    let bare: Vec<String> = bed
        .world
        .bare("goes-")
        .iter()
        .filter(|note| !note.path.contains("too"))
        .map(|note| format!("{note:?}"))
        .collect();
    bed.judge(15, &bare, &[]);
    format!("20 pods went, {before} records and pins with them")
}

/// Before the release, then after it: the same to the byte.
pub(super) fn assert_as_before(bed: &mut Bed, before: &Whole) -> String {
    let node = bed.node();
    let mut differences = Vec::new();
    // The runtime forgets what pods had a moment after they are gone.
    let mut look = || {
        differences = before.differences(&Whole::of(node));
        differences.is_empty()
    };
    let end = std::time::Instant::now() + PATIENCE;
    while !look() && std::time::Instant::now() < end {
        let _waited = nix::poll::poll(&mut [], 200_u8);
    }
    assert!(differences.is_empty(), "the node is not as it was:\n{}", differences.join("\n"));
    format!("{} files, programs and rules as before", before.len())
}

/// `uninstall.enabled`, for releases that no hook is run for, with `uninstall.pods: keep` and a pod that runs: it stays captured. When it has gone nothing stays, and the release
/// can be deleted.
pub(crate) fn uninstall_keep(bed: &mut Bed) -> String {
    let (cluster, there) = (bed.cluster.clone(), bed.world.addresses());
    let before = bed.before();
    let image = &cluster.images.pod;
    cluster.run_pods(&[meshed("kept", image, &[])]);
    cluster.release(&cluster.images.installer, &["uninstall.enabled=true", "uninstall.pods=keep"]);
    assert!(!of_pods(bed.node()).is_empty(), "the pod's record stays with the pod");
    for address in &there {
        let visit = cluster.ask("kept", address);
        assert!(
            visit.seen_by_server.is_some_and(went_through),
            "a pod that is kept stays captured: {visit:?}"
        );
    }
    cluster.run_pods(&[meshed("newer", image, &[])]);
    let visit = cluster.ask("newer", &there[0]);
    assert!(
        visit.seen_by_server.is_some() && visit.seen_by_server == visit.local,
        "a new one is not: {visit:?}"
    );
    cluster.delete(&["kept", "newer"]);
    let node = bed.node();
    let plugin = node.machine.inside("opt/cni/bin/shunt");
    node.machine.until("the plugin goes after the last pod it served", || !plugin.exists());
    cluster.helm(&["uninstall", RELEASE, "--timeout=5m", "--wait"]);
    until_true("the release's pods are gone", PATIENCE, || {
        cluster.kubectl(&["-n", SYSTEM, "get", "pods", "-o", "name"]).is_empty()
    });
    assert_as_before(bed, &before)
}

/// `helm uninstall` with `uninstall.pods: detach`, as on any cluster; and what is left of it on the node.
pub(crate) fn uninstall_detach(bed: &mut Bed) -> String {
    let before = bed.before();
    on_cluster::uninstall(bed);
    assert_as_before(bed, &before)
}
