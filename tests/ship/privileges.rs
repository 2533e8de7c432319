//! The chart's capabilities tried out: with exactly these and `no_new_privs` the plugin finds out what the node can do and the
//! installer's kind of work gets done; without any one of them some of it fails.

use std::process::Command;

use serde_json::Value;
use shunt_tests::{bin, need};

use crate::invariants::CAPABILITIES;
use crate::tools::output;

/// Runs a script as root with these capabilities at most, as the container has them. It has a root of its own for what the plugin
/// writes, and a network of its own.
fn confined(capabilities: &[&str], script: &str) -> (bool, String) {
    need::root();
    need::tool("setpriv");
    let set = [&["-all"], capabilities].concat().join(",+").to_lowercase();
    let prepare = "mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /var/log; mount -t bpf bpf /sys/fs/bpf; \
        mkdir /run/theirs; touch /run/theirs/file; chown -R 1000:1000 /run/theirs; chmod 755 /run/theirs; touch /run/ours; \
        exec setpriv --no-new-privs --inh-caps=-all --bounding-set=\"$1\" -- bash -euc \"$2\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--net", "--propagation", "private", "bash", "-euc", prepare, "bash"]);
    command.arg(set).arg(script).env("SHUNT", bin::shunt());
    command.env("NAMESPACES", format!("/proc/{}/ns", std::process::id()));
    let output = output(&mut command);
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said.into_owned())
}

fn status(backend: &str) -> String {
    format!(
        "printf '{{\"cniVersion\":\"1.1.0\",\"name\":\"n\",\"type\":\"shunt\",\"backend\":\"{backend}\"}}' \
         | CNI_COMMAND=STATUS CNI_PATH=/opt/cni/bin \"$SHUNT\""
    )
}

const AUTO: &str = "cat /run/shunt/backend.json | grep -q '\"backend\":\"ebpf\"'";
const NAMESPACES: &str = "nsenter --mount=\"$NAMESPACES/mnt\" --cgroup=\"$NAMESPACES/cgroup\" true";

#[test]
fn each_capability_is_needed_and_together_they_are_enough() {
    let auto = format!("{}; {AUTO}", status("auto"));
    let iptables = status("iptables");
    let works: [(&str, &str); 9] = [
        ("SYS_ADMIN", &status("ebpf")),
        ("SYS_CHROOT", NAMESPACES),
        ("SYS_PTRACE", NAMESPACES),
        ("NET_ADMIN", &iptables),
        ("NET_RAW", "iptables-legacy-save -t nat"),
        ("SETUID", &auto),
        ("DAC_OVERRIDE", "touch /run/theirs/new"),
        ("CHOWN", "chown 1000:1000 /run/ours"),
        ("FOWNER", "chmod 600 /run/theirs/file"),
    ];
    assert_eq!(works.map(|(capability, _)| capability), CAPABILITIES);
    for (capability, script) in works {
        let (done, said) = confined(&CAPABILITIES, script);
        assert!(done, "with all of them: {script}\n{said}");
        let others: Vec<_> = CAPABILITIES.into_iter().filter(|other| *other != capability).collect();
        let (done, said) = confined(&others, script);
        assert!(!done, "{capability} is not needed for: {script}\n{said}");
    }
}

/// The plugin writes what it found out; a node must not be put on iptables because the installer asked.
#[test]
fn the_probe_finds_what_it_finds_without_limits() {
    let (done, said) = confined(&CAPABILITIES, &format!("{}; cat /run/shunt/backend.json", status("auto")));
    assert!(done, "{said}");
    let found: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert_eq!(found["backend"], "ebpf");
    let steps = found["steps"].as_array().expect("steps");
    assert!(steps.len() > 10 && steps.iter().all(|step| step["result"] == "works"), "{said}");
}
