//! Pods that end in other ways than the tidy one.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::host::{Host, PLUGIN};
use crate::killed::settle;
use crate::pods::{Pod, Spec};

/// The sandbox's process dies and the namespace is taken away, and only then the runtime is told.
pub(crate) fn namespace_gone(host: &mut Host) -> String {
    let host = &*host;
    let neighbour = host.pod(&Spec::meshed("neighbour"), true);
    let before = host.theirs();
    let pod = host.pod(&Spec::meshed("pod"), true);
    let after = host.theirs();
    let netns = after
        .difference(&before)
        .find_map(|one| one.strip_prefix("run/netns/"))
        .expect("a namespace was made");
    pod.stop_containers();
    for process in pod.processes() {
        kill(process, Signal::SIGKILL).expect("it is the sandbox's");
    }
    host.machine.run("ip", &["netns", "delete", netns]);
    pod.remove();
    assert_eq!(host.recorded(), 1, "{:#?}", host.ours());
    assert_eq!(neighbour.captured(), Ok(()));
    neighbour.remove();
    host.nothing_left();
    "DEL without a namespace leaves nothing".to_owned()
}

/// The plugin's file is gone for a while: nothing new, nothing bare, and what was captured stays so.
pub(crate) fn plugin_missing(host: &mut Host) -> String {
    let host = &*host;
    let stays = host.pod(&Spec::meshed("stays"), true);
    let goes = host.pod(&Spec::meshed("goes"), true);
    let (binary, aside) = (host.machine.path(PLUGIN), host.machine.path("opt/rig/aside"));
    fs::rename(&binary, &aside).expect("own disk");
    let missing = |why: String| assert!(why.contains("failed to find plugin"), "{why}");
    let new = Spec::meshed("new");
    missing(host.sandbox(&new).map(|pod| pod.sandbox).expect_err("no plugin").to_string());
    goes.stop_containers();
    missing(goes.call("StopPodSandbox").expect_err("no plugin").to_string());
    let ready = host.network_ready();
    assert_eq!(stays.captured(), Ok(()), "without the plugin");
    fs::rename(&aside, &binary).expect("own disk");
    host.clear(&new);
    goes.remove();
    let pod = host.pod(&Spec { attempt: 1, ..new }, true);
    for pod in [stays, pod] {
        assert_eq!(pod.captured(), Ok(()), "with the plugin");
        pod.remove();
    }
    assert_eq!(host.ours(), [].into(), "ours");
    let left = host.theirs();
    format!("refused, deletion waits, NetworkReady={ready} meanwhile; containerd left {left:?}")
}

/// Removed without having been stopped, with its containers running; and after its shim was killed.
pub(crate) fn by_force(host: &mut Host) -> String {
    let host = &*host;
    let plain = host.pod(&Spec::plain("plain"), false);
    let one = host.pod(&Spec::meshed("one"), true);
    let other = host.pod(&Spec::meshed("other"), true);
    one.call("RemovePodSandbox").unwrap_or_else(|why| panic!("{why}"));
    one.forget();
    assert_eq!(host.recorded(), 1, "{:#?}", host.ours());
    let shim = shim_of(&other);
    kill(shim, Signal::SIGKILL).expect("it is there");
    host.machine.until("the shim's sandbox is removed", || other.call("RemovePodSandbox").is_ok());
    assert_eq!(host.recorded(), 0, "{:#?}", host.ours());
    // What its shim ran nobody ends any more; without an interface it gets nowhere.
    let orphans = other.end_processes();
    other.forget();
    assert_eq!(plain.direct(), Ok(()));
    plain.remove();
    let left = settle(host);
    host.nothing_left();
    format!("running, and with its shim killed; containerd left {left} namespaces, {orphans} processes")
}

/// The parent of the sandbox's process.
fn shim_of(pod: &Pod<'_>) -> Pid {
    let first = *pod.processes().first().expect("the sandbox runs");
    let stat = fs::read_to_string(format!("/proc/{first}/stat")).expect("it runs");
    let (_, rest) = stat.rsplit_once(')').expect("a name in brackets");
    Pid::from_raw(rest.split_whitespace().nth(1).expect("a parent").parse().expect("a number"))
}
