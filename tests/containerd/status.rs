//! A node that cannot intercept says so, and the runtime with it; and takes it back.

use crate::host::Host;
use crate::pods::Spec;

pub(crate) fn run(host: &mut Host) -> String {
    let host = &*host;
    host.machine.until("the network is ready", || host.network_ready());
    let pod = host.pod(&Spec::meshed("before"), true);
    assert_eq!(pod.captured(), Ok(()));
    pod.remove();
    let (broken, mended) = match host.backend.as_str() {
        // No programs, and no place to pin them.
        "ebpf" => {
            ("rm -rf /sys/fs/bpf/shunt && mount -o remount,ro /sys/fs/bpf", "mount -o remount,rw /sys/fs/bpf")
        }
        // No tool that can be run.
        _ => (
            "for one in nft legacy; do mount --bind /dev/null /usr/sbin/xtables-$one-multi; done",
            "for one in nft legacy; do umount /usr/sbin/xtables-$one-multi; done",
        ),
    };
    host.machine.run("/bin/sh", &["-euc", broken]);
    host.machine.until("the network is not ready", || !host.network_ready());
    let why = host.cri.ok("Status", &serde_json::json!({}))["status"]["conditions"].to_string();
    let refused = host.sandbox(&Spec::meshed("meanwhile")).map(|pod| pod.sandbox);
    assert!(refused.is_err(), "a pod on a node that cannot intercept: {refused:?}");
    host.clear(&Spec::meshed("meanwhile"));
    assert!(why.contains("NetworkPluginNotReady"), "{why}");
    host.machine.run("/bin/sh", &["-euc", mended]);
    host.machine.until("the network is ready again", || host.network_ready());
    let pod = host.pod(&Spec { attempt: 1, ..Spec::meshed("meanwhile") }, true);
    assert_eq!(pod.captured(), Ok(()));
    pod.remove();
    let left = crate::killed::settle(host);
    format!("ready, NetworkReady=false, ready; namespaces left: {left}")
}
