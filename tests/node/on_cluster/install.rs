//! The chart comes and goes.

use shunt_tests::sidecar::went_through;

use crate::cluster::{RELEASE, SYSTEM};
use crate::objects::meshed;
use crate::scenario::Bed;
use crate::wait::{PATIENCE, until_true};

/// The `DaemonSet` the chart renders runs the image this project builds, and becomes ready.
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

/// `helm uninstall` with `uninstall.pods: detach` and a pod that runs: it is freed at once, and nothing of the release stays.
pub(crate) fn uninstall(bed: &mut Bed) -> String {
    let (cluster, world) = (&bed.cluster, bed.world.addresses());
    let image = &cluster.images.pod;
    cluster.release(&cluster.images.installer, &["uninstall.pods=detach"]);
    cluster.run_pods(&[meshed("freed", image, &[])]);
    let visit = cluster.ask("freed", &world[0]);
    assert!(visit.seen_by_server.is_some_and(went_through), "before: {visit:?}");
    cluster.helm(&["uninstall", RELEASE, "--timeout=5m", "--wait"]);
    for address in &world {
        let visit = cluster.ask("freed", address);
        assert!(
            visit.seen_by_server.is_some() && visit.seen_by_server == visit.local,
            "it is free: {visit:?}"
        );
    }
    cluster.run_pods(&[meshed("after", image, &[])]);
    let visit = cluster.ask("after", &world[0]);
    assert!(
        visit.seen_by_server.is_some() && visit.seen_by_server == visit.local,
        "nobody captures it: {visit:?}"
    );
    cluster.delete(&["freed", "after"]);
    until_true("nothing of the release is left", PATIENCE, || {
        let kinds = "daemonsets,jobs,pods,configmaps,serviceaccounts,roles,rolebindings";
        cluster
            .kubectl(&["-n", SYSTEM, "get", kinds, "-l", "app.kubernetes.io/instance=shunt", "-o", "name"])
            .is_empty()
    });
    assert_eq!(cluster.helm(&["list", "--all", "--short"]), "", "the release is gone");
    "a pod that runs is freed, a new one is direct, nothing of the release stays".to_owned()
}
