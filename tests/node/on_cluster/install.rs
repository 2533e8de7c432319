//! The chart comes and goes.

use crate::cluster::{NAMESPACE, RELEASE, SYSTEM};
use crate::objects::{meshed, plain};
use crate::scenario::Bed;
use crate::wait::{PATIENCE, until_true};

/// The DaemonSet the chart renders runs the image this project builds, and becomes ready.
pub(crate) fn install(bed: &mut Bed) -> String {
    let cluster = &bed.cluster;
    cluster.namespace(SYSTEM);
    cluster.release(&cluster.images.installer, &[]);
    // The chart's own test: waits, by the release's service account, until every node is ready.
    let told = cluster.helm(&["test", RELEASE, "--timeout=2m"]);
    assert!(told.contains("Succeeded"), "{told}");
    let ready = cluster.kubectl(&[
        "-n",
        SYSTEM,
        "get",
        "daemonset",
        "shunt",
        "-o",
        "jsonpath={.status.numberReady}/{.status.desiredNumberScheduled}",
    ]);
    let (have, want) = ready.split_once('/').expect("two numbers");
    assert!(have == want && have != "0" && !have.is_empty(), "ready: {ready}");
    format!("{ready} nodes ready, `helm test` succeeded")
}

/// `helm uninstall`, with pods running that are kept: they stay captured, new ones are not; nothing of the release stays.
pub(crate) fn uninstall(bed: &mut Bed) -> String {
    let cluster = &bed.cluster;
    let (image, world) = (&cluster.images.pod, bed.world.addresses());
    cluster.run_pods(&[meshed("before", image, &[])]);
    cluster.helm(&["uninstall", RELEASE, "--timeout=5m", "--wait"]);
    for address in &world {
        let visit = cluster.ask("before", address);
        let from = visit.seen_by_server.unwrap_or_else(|| panic!("a pod that is kept: {visit:?}"));
        assert!(shunt_tests::sidecar::went_through(from), "a pod that is kept stays captured: {visit:?}");
    }
    cluster.run_pods(&[meshed("after", image, &[]), plain("plain-after", image, &[])]);
    for pod in ["after", "plain-after"] {
        let visit = cluster.ask(pod, &world[0]);
        assert_eq!(visit.seen_by_server, visit.local, "nobody captures it any more: {visit:?}");
    }
    cluster.delete(&["before", "after", "plain-after"]);
    until_true("nothing of the release is left", PATIENCE, || {
        let left = cluster.kubectl(&["-n", SYSTEM, "get", "daemonsets,jobs,pods,configmaps", "-l", "app.kubernetes.io/name=shunt", "-o", "name"]);
        left.is_empty()
    });
    let release = cluster.helm(&["list", "--all", "--short"]);
    assert_eq!(release, "", "the release is gone");
    let left = cluster.pods();
    assert!(left.keys().all(|name| name == "world"), "pods of {NAMESPACE} that were not deleted: {left:?}");
    "a kept pod stays captured, a new one is direct; nothing of the release stays".to_owned()
}
