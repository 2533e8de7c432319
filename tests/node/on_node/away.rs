//! Nothing of a pod's start asks the API server.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;

use crate::objects::{meshed, plain};
use crate::scenario::Bed;

/// With the API server gone static pods start, meshed and plain, and containers that die are started again, captured as before.
pub(crate) fn api_away(bed: &mut Bed) -> String {
    let (cluster, there) = (bed.cluster.clone(), bed.world.addresses());
    let image = &cluster.images.pod;
    cluster.run_pods(&[meshed("stays", image, &there)]);
    bed.node().stop_api();
    let refused = cluster.try_kubectl(&["get", "nodes"]);
    assert!(refused.is_err(), "it is away: {refused:?}");
    let node = bed.node();
    node.add_static(&meshed("static-meshed", image, &there));
    node.add_static(&plain("static-plain", image, &there));
    let mark = bed.world.mark();
    let seen = |who: &str| bed.world.since(mark, who).len() >= 10;
    let node = bed.node.as_ref().expect("this scenario has one");
    node.machine
        .until("static pods start without an API server", || seen("static-meshed") && seen("static-plain"));

    // The app and the proxy die; whoever starts them again asks nobody.
    for pid in of_pod(&node.machine.cgroups().join("kubepods"), "stays") {
        kill(pid, Signal::SIGKILL).expect("it runs");
    }
    let mark = bed.world.mark();
    node.machine.until("a pod's containers start again without an API server", || {
        bed.world.since(mark, "stays").len() >= 20
    });
    let mut bare: Vec<String> =
        bed.world.bare("static-meshed").iter().map(|note| format!("{note:?}")).collect();
    bare.extend(bed.world.bare("stays").iter().map(|note| format!("{note:?}")));
    assert!(
        bed.world.notes("static-plain").iter().all(|note| !note.by_proxy()),
        "the plain one is left alone"
    );
    let node = bed.node();
    node.remove_static("static-meshed");
    node.remove_static("static-plain");
    node.start_api();
    node.wait_ready(&cluster);
    cluster.ready(&["stays"]);
    cluster.delete(&["stays"]);
    bed.judge(2, &bare, &[]);
    "static pods started, a pod's containers started again".to_owned()
}

/// Processes of the pods' cgroups that were started for a pod of this name.
fn of_pod(dir: &std::path::Path, name: &str) -> Vec<Pid> {
    let mut found = Vec::new();
    let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    for pid in procs.lines().filter_map(|pid| pid.parse().ok()) {
        let arguments = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if arguments.contains(&format!("/{name}\0")) || arguments.contains("pod\0proxy\0") {
            found.push(Pid::from_raw(pid));
        }
    }
    for entry in
        fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok).filter(|entry| entry.path().is_dir())
    {
        found.extend(of_pod(&entry.path(), name));
    }
    found
}
