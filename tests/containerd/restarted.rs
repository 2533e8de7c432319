//! containerd ends and comes back while pods run, and the whole machine does.

use nix::sys::signal::Signal;
use shunt_tests::machine::containerd::{self, DAEMON};

use crate::host::Host;
use crate::pods::{MESHED_SERVICES, SERVICES, Spec};

pub(crate) fn run(host: &mut Host) -> String {
    let host = &*host;
    let plain = host.pod(&Spec::plain("plain"), false);
    let meshed = host.pod(&Spec::meshed("meshed"), true);
    let proxied: Vec<_> = MESHED_SERVICES.map(|at| format!("outbound for {at}")).into();
    let check = |when: &str| {
        assert_eq!(meshed.dial_without_runtime(&MESHED_SERVICES), proxied, "{when}");
        assert_eq!(plain.dial_without_runtime(&SERVICES), ["world", "world"], "{when}");
    };
    check("before");
    // Stopped, not ended: nobody starts it again until it has been looked at without it.
    let daemon = host.machine.daemon(DAEMON);
    assert!(daemon.signal(Signal::SIGSTOP), "containerd runs");
    check("while containerd stands still");
    host.kill_daemon();
    check("after it was killed and started again");
    assert_eq!(meshed.captured(), Ok(()));
    assert_eq!(plain.direct(), Ok(()));
    let later = host.pod(&Spec::meshed("later"), true);
    assert_eq!(later.captured(), Ok(()));
    for pod in [meshed, plain, later] {
        pod.remove();
    }
    host.nothing_left();
    "pods go on, are removed without a trace".to_owned()
}

/// The power goes while pods run. Nothing of Shunt but its list and its file is on the disk, and no installer runs.
pub(crate) fn power_cut(host: &mut Host) -> String {
    let specs = [Spec::plain("plain"), Spec::meshed("one"), Spec::meshed("two")];
    for spec in &specs {
        host.pod(spec, spec.is_meshed());
    }
    host.machine.reboot();
    host.cri = containerd::start(&mut host.machine);
    let host = &*host;
    assert_eq!(host.ours(), [].into(), "what is in memory goes with the power");
    // The kubelet makes the new ones before it has cleared all the old ones away.
    let again: Vec<_> = specs
        .iter()
        .map(|spec| {
            let known = host.clear(spec);
            assert_eq!(known, (1, 0), "the sandbox from before: known, and not ready");
            host.pod(&Spec { attempt: 1, ..spec.clone() }, spec.is_meshed())
        })
        .collect();
    for pod in &again {
        assert_eq!(if pod.spec.is_meshed() { pod.captured() } else { pod.direct() }, Ok(()));
    }
    for pod in again {
        pod.remove();
    }
    host.nothing_left();
    "captured from the first moment, by the list on the disk".to_owned()
}
