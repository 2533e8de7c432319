//! `shuntctl check` and `explain` of pods with a real Envoy: no false alarm while it runs, the truth when it is dead.

use serde_json::Value;
use shunt_tests::ask::at;
use shunt_tests::host::Host;
use shunt_tests::node::{Node, Pod};

use crate::peers::port;
use crate::proxy::Envoy;
use crate::scene::{SERVICE, ip, istio_node, istio_pod};

/// What is wrong with a pod; programs of others on this machine are notes.
#[track_caller]
fn faults(host: &Host, node: &Node, pod: &Pod) -> Vec<String> {
    let (code, answer) = host.ctl_json(node, &["check", &pod.called()]);
    let findings = answer["findings"].as_array().expect("a list");
    let faults = findings.iter().filter(|finding| finding["severity"] != "note");
    let word = |finding: &Value, key: &str| finding[key].as_str().expect("a word").to_owned();
    let faults: Vec<String> =
        faults.map(|finding| format!("{} {}", word(finding, "severity"), word(finding, "code"))).collect();
    assert_eq!(code, if faults.is_empty() { 0 } else { 3 }, "{answer:#}");
    faults
}

/// What becomes of a connection, as `explain` has it.
fn verdict(host: &Host, node: &Node, pod: &Pod, words: &[&str]) -> String {
    let (_, answer) = host.ctl_json(node, &[&["explain", &pod.called()], words].concat());
    answer["connection"]["verdict"].as_str().unwrap_or_else(|| panic!("no verdict: {answer:#}")).to_owned()
}

/// What `explain` says of a connection each way.
fn verdicts(host: &Host, node: &Node, pod: &Pod) -> [String; 4] {
    let service = |address: &str| at(ip(address), port::HTTP);
    let own = |v6| at(pod.ip(v6), port::HTTP);
    let [v4, v6] = SERVICE;
    [
        verdict(host, node, pod, &["--to", &service(v4)]),
        verdict(host, node, pod, &["--to", &service(v6)]),
        verdict(host, node, pod, &["--inbound", &own(false), "--from", "10.77.0.1"]),
        verdict(host, node, pod, &["--inbound", &own(true), "--from", "fd77::1"]),
    ]
}

#[test]
fn the_node_tool_tells_the_truth_about_a_real_proxy() {
    for backend in ["ebpf", "iptables"] {
        let node = istio_node(backend);
        let world = node.world();
        let pod = istio_pod(&node, &world, 2);
        node.add(&pod);
        let host = Host::new(&node);
        let silent = ["error proxy-silent"; 3];
        assert_eq!(faults(&host, &node, &pod), silent, "{backend}: it has not started");
        assert_eq!(verdicts(&host, &node, &pod), ["refused"; 4], "{backend}: it has not started");

        let mut envoy = Envoy::start(&node, &pod);
        let nothing: [&str; 0] = [];
        assert_eq!(faults(&host, &node, &pod), nothing, "{backend}: it runs");
        assert_eq!(verdicts(&host, &node, &pod), ["captured"; 4], "{backend}: it runs");

        // While two epochs of it run, and when one has gone.
        envoy.hot_restart(&pod, 3);
        assert_eq!(faults(&host, &node, &pod), nothing, "{backend}: it restarts");
        envoy.wait_alone();
        assert_eq!(faults(&host, &node, &pod), nothing, "{backend}: it has restarted");
        assert_eq!(verdicts(&host, &node, &pod), ["captured"; 4], "{backend}: it has restarted");

        envoy.kill();
        assert_eq!(faults(&host, &node, &pod), silent, "{backend}: it is dead");
        assert_eq!(verdicts(&host, &node, &pod), ["refused"; 4], "{backend}: it is dead");
    }
}
