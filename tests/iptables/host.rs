//! What of the host must not matter, and what must be said when it is missing.

use std::fs::File;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use shunt_tests::ask::Dial;
use shunt_tests::net::Shape;
use shunt_tests::node::{APP, Node, PROXY};
use shunt_tests::process::{self, Server};
use shunt_tests::{bin, need};

use crate::mesh::{Mesh, SERVICES, captured, everywhere, outcomes};
use crate::scene::{self, meddle};

/// Runs the plugin where `script` has changed the mounts for it alone.
pub(crate) fn run(mesh: &Mesh, verb: &str, script: &str) -> (bool, Value, Duration) {
    let script = format!("{script}\nexec {}", bin::shunt().display());
    let started = Instant::now();
    let mut child = Command::new("unshare")
        .args(["--mount", "--propagation", "slave", "sh", "-ec", &script])
        .env_clear()
        .envs(mesh.pod.environment("eth0"))
        .env("CNI_COMMAND", verb)
        .env("CNI_PATH", "/opt/cni/bin")
        .env("TMPDIR", mesh.node.directory())
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut config = mesh.node.config(&mesh.pod, true);
    if verb == "STATUS" {
        config["cniVersion"] = "1.1.0".into();
    }
    child.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    (done.status.success(), serde_json::from_slice(&done.stdout).unwrap_or_default(), started.elapsed())
}

const NO_TOOLS: &str = "mount -t tmpfs none /usr/sbin";

#[test]
fn no_tools() {
    let mesh = scene::before_add();
    for (verb, code) in [("ADD", 100), ("STATUS", 50)] {
        let (fine, said, _) = run(&mesh, verb, NO_TOOLS);
        assert!(!fine, "{verb}");
        assert_eq!(said["code"], code, "{said}");
        let details = said["details"].as_str().unwrap();
        assert!(
            details.contains("the host has no iptables-restore") && details.contains("install"),
            "{details}"
        );
    }
    assert_eq!(mesh.node.kept(), [].into(), "a refused ADD leaves nothing");
    let (fine, said, _) = run(&mesh, "STATUS", "true");
    assert!(fine, "{said}");
}

#[test]
fn the_tools_of_one_flavour_only() {
    let tmp = "d=$(mktemp -d); cp -a /usr/sbin/xtables-KEEP-multi /usr/sbin/ip*tables-KEEP* $d; mount --bind $d /usr/sbin";
    for (keep, other) in [("nft", "legacy"), ("legacy", "nft")] {
        let mut mesh = scene::before_add();
        let script = tmp.replace("KEEP", keep);
        let (fine, said, _) = run(&mesh, "ADD", &script);
        assert!(fine, "{said}");
        assert!(!scene::rules(&mesh.pod.netns, keep).is_empty());
        mesh.start_proxy();
        mesh.app(SERVICES).iter().for_each(captured);
        // Rules of the flavour whose tools are missing: not beside them.
        let mesh = scene::before_add();
        meddle(&mesh.pod.netns, other, "*nat\n-A OUTPUT -p tcp --dport 25 -j RETURN\nCOMMIT\n");
        let (fine, said, _) = run(&mesh, "ADD", &script);
        assert!(!fine);
        assert!(
            said["details"].as_str().unwrap().contains(&format!("no iptables-{other}-restore")),
            "{said}"
        );
    }
}

/// One family's tool fails: the other's rules do not stay alone.
#[test]
fn one_family_only_is_none() {
    let mesh = scene::before_add();
    let broken = "d=$(mktemp -d); cp -a /usr/sbin/. $d; for f in nft legacy; do rm $d/ip6tables-$f-restore; \
                  printf '#!/bin/sh\\necho no such luck >&2\\nexit 3\\n' >$d/ip6tables-$f-restore; \
                  chmod +x $d/ip6tables-$f-restore; done; mount --bind $d /usr/sbin";
    let (fine, said, _) = run(&mesh, "ADD", broken);
    assert!(!fine);
    assert_eq!(said["code"], 103, "{said}");
    assert!(said["details"].as_str().unwrap().contains("no such luck"), "{said}");
    for flavour in ["nft", "legacy"] {
        assert_eq!(scene::rules(&mesh.pod.netns, flavour), Vec::<String>::new());
    }
    assert_eq!(mesh.node.kept(), [].into());
}

/// A tool that hangs is ended in time.
#[test]
fn a_tool_that_hangs() {
    let mesh = scene::before_add();
    let hanging = "d=$(mktemp -d); cp -a /usr/sbin/. $d; for f in nft legacy; do rm $d/iptables-$f-restore; \
                   printf '#!/bin/sh\\nsleep 77\\n' >$d/iptables-$f-restore; chmod +x $d/iptables-$f-restore; done; \
                   mount --bind $d /usr/sbin";
    let (fine, said, took) = run(&mesh, "ADD", hanging);
    assert!(!fine && took < Duration::from_secs(7), "{took:?} {said}");
    assert!(said["details"].as_str().unwrap().contains("did not end within"), "{said}");
}

/// A tool that does not stop talking is ended: when it has said more than any table can be, or when time is up.
#[test]
fn a_tool_that_floods() {
    for (yes, says) in [("yes", "it printed more than"), ("yes >&2", "did not end within")] {
        let mesh = scene::before_add();
        let flooding = "d=$(mktemp -d); cp -a /usr/sbin/. $d; for f in nft legacy; do rm $d/iptables-$f-save; \
                        printf '#!/bin/sh\\nexec YES\\n' >$d/iptables-$f-save; chmod +x $d/iptables-$f-save; done; \
                        mount --bind $d /usr/sbin";
        let (fine, said, took) = run(&mesh, "ADD", &flooding.replace("YES", yes));
        assert!(!fine && took < Duration::from_secs(12), "{took:?} {said}");
        assert!(said["details"].as_str().unwrap().contains(says), "{said}");
        // Rules that cannot be read are not undone, and keep the pod closed until DEL can.
        let (fine, said, _) = run(&mesh, "DEL", "true");
        assert!(fine, "{said}");
        for flavour in ["nft", "legacy"] {
            assert_eq!(scene::rules(&mesh.pod.netns, flavour), Vec::<String>::new());
        }
        assert_eq!(mesh.node.kept(), [].into());
    }
}

/// Somebody holds the host's lock, and name services hang: neither is asked.
#[test]
fn nothing_of_the_host_is_waited_for() {
    let lock = File::options().create(true).truncate(false).write(true).open("/run/xtables.lock").unwrap();
    lock.lock().unwrap();
    let mesh = scene::before_add();
    // A fifo in place of each: whoever reads waits for ever.
    let fifos = "d=$(mktemp -d); mkfifo $d/f; mount --bind $d/f /etc/nsswitch.conf";
    meddle(&mesh.pod.netns, "nft", "*nat\nCOMMIT\n");
    let (fine, said, took) = run(&mesh, "ADD", fifos);
    assert!(fine && took < Duration::from_secs(2), "{took:?} {said}");
    let (fine, said, took) = run(&mesh, "DEL", fifos);
    assert!(fine && took < Duration::from_secs(2), "{took:?} {said}");
    let mesh = scene::before_add();
    let legacy = "d=$(mktemp -d); mkfifo $d/f; mount --bind $d/f /etc/nsswitch.conf; mkdir $d/s; \
                  cp -a /usr/sbin/xtables-legacy-multi /usr/sbin/ip*tables-legacy* $d/s; mount --bind $d/s /usr/sbin";
    let (fine, said, took) = run(&mesh, "ADD", legacy);
    assert!(fine && took < Duration::from_secs(2), "{took:?} {said}");
    assert!(!scene::rules(&mesh.pod.netns, "legacy").is_empty());
}

/// The ids in the rules are the pod's own.
#[test]
fn a_pod_with_a_user_namespace() {
    const FIRST: u32 = 1_234_000;
    need::tool("unshare");
    for flavour in ["nft", "legacy"] {
        let node = Node::new();
        node.configure(|entry| entry["backend"] = "iptables".into());
        let world = node.world();
        let pod = node.pod_of_user_namespace(&world, Shape::dual(), FIRST);
        let mesh = Mesh::around(node, world, pod);
        meddle(&mesh.pod.netns, flavour, "*nat\n-A OUTPUT -p tcp --dport 25 -j RETURN\nCOMMIT\n");
        mesh.add();
        mesh.node.call("CHECK", &mesh.pod, "eth0").ok();
        let found = scene::rules(&mesh.pod.netns, flavour);
        assert!(found.iter().any(|rule| rule.contains("--uid-owner")), "{found:#?}");
        let proxy = mesh.pod.place(FIRST + PROXY, FIRST + PROXY);
        let serving = Server::start(&proxy, &everywhere());
        for (uid, who) in [(FIRST + APP, "outbound"), (FIRST + PROXY, "world"), (PROXY, "outbound")] {
            let seen = process::dial(&mesh.pod.place(uid, uid), &Dial::to(SERVICES));
            assert_eq!(outcomes(&seen), [who; 3], "{flavour}: uid {uid}: {seen:?}");
        }
        drop(serving);
        mesh.node.del(&mesh.pod);
        assert_eq!(scene::rules(&mesh.pod.netns, flavour), Vec::<String>::new());
    }
}
