//! Tools that lie, and namespaces that hold what others wrote.

use std::time::Duration;

use serde_json::json;
use shunt_tests::need;
use shunt_tests::net::Shape;
use shunt_tests::node::{Node, PROXY};

use crate::host::run;
use crate::mesh::{Mesh, SERVICES, captured};
use crate::scene::{self, meddle, rules};

/// A copy of the host's tools in which `iptables-FLAVOUR-JOB`, of both families, is a script.
fn instead(job: &str, script: &str) -> String {
    format!(
        "d=$(mktemp -d); cp -a /usr/sbin/. $d; for f in nft legacy; do for w in iptables ip6tables; do rm $d/$w-$f-{job}; \
         printf '%s\\n' '#!/bin/sh' '{script}' >$d/$w-$f-{job}; chmod +x $d/$w-$f-{job}; done; done; mount --bind $d /usr/sbin"
    )
}

#[test]
fn saves_that_lie() {
    for script in ["exit 0", "echo hello", "printf \"*nat\\n\"", "exec cat /dev/zero", "exec yes"] {
        refused("save", script);
    }
}

#[test]
fn restores_that_lie() {
    for script in ["exit 0", "cat; exit 0", "exec yes", "kill -9 $$"] {
        refused("restore", script);
    }
}

/// It is ended when the time is up.
#[test]
fn a_restore_without_an_end() {
    refused("restore", "yes >&2");
}

fn refused(job: &str, script: &str) {
    let mesh = scene::before_add();
    let (fine, said, took) = run(&mesh, "ADD", &instead(job, script));
    assert!(!fine && took < Duration::from_secs(7), "{job} {script}: {took:?} {said}");
    assert!(matches!(said["code"].as_u64(), Some(103 | 104)), "{job} {script}: {said}");
    mesh.node.del(&mesh.pod);
    for flavour in ["nft", "legacy"] {
        // Where the tool says that nothing is there, nothing can be taken out.
        let blind = (job, script) == ("save", "exit 0");
        assert!(blind || rules(&mesh.pod.netns, flavour).is_empty(), "{job} {script}");
    }
    assert_eq!(mesh.node.kept(), [].into(), "{job} {script}");
    // The same beside rules that are there, and of a DEL.
    mesh.add();
    let (fine, said, took) = run(&mesh, "DEL", &instead(job, script));
    assert!(fine && took < Duration::from_secs(7), "{job} {script}: {took:?} {said}");
    mesh.add();
    mesh.node.call("CHECK", &mesh.pod, "eth0").ok();
}

/// Names that say nothing, each a script, as distributions have it that choose when they run.
#[test]
fn wrappers() {
    for flavour in ["nft", "legacy"] {
        let script = format!(
            "d=$(mktemp -d); r=$(mktemp -d); cp -a /usr/sbin/. $r; for w in iptables ip6tables; do for j in save restore; do \
             printf '#!/bin/sh\\nexec %s \"$@\"\\n' $r/$w-{flavour}-$j >$d/$w-$j; chmod +x $d/$w-$j; done; done; mount --bind $d /usr/sbin"
        );
        let mut mesh = scene::before_add();
        let (fine, said, _) = run(&mesh, "ADD", &script);
        assert!(fine, "{said}");
        assert!(!rules(&mesh.pod.netns, flavour).is_empty());
        mesh.start_proxy();
        mesh.app(SERVICES).iter().for_each(captured);
        let (fine, said, _) = run(&mesh, "DEL", &script);
        assert!(fine, "{said}");
        assert_eq!(rules(&mesh.pod.netns, flavour), Vec::<String>::new());
    }
}

/// What others have in the namespace stays as it is, and the pod is captured all the same.
#[test]
fn rules_of_others() {
    for (flavour, theirs) in [
        // kube-proxy's, with marks and chains of its own.
        (
            "nft",
            "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
             -A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\nCOMMIT\n",
        ),
        (
            "legacy",
            "*nat\n:DOCKER_OUTPUT - [0:0]\n-A OUTPUT -p udp --dport 5353 -j DOCKER_OUTPUT\n-A DOCKER_OUTPUT -p udp --dport 5353 -j REDIRECT --to-ports 40000\nCOMMIT\n",
        ),
        // Another interception in front.
        (
            "nft",
            "*nat\n:ISTIO_OUTPUT - [0:0]\n-A OUTPUT -p tcp -j ISTIO_OUTPUT\n-A ISTIO_OUTPUT -p tcp -j REDIRECT --to-ports 1\nCOMMIT\n",
        ),
        // A comment with words of ours.
        (
            "nft",
            "*nat\n:OTHER - [0:0]\n-A OUTPUT -p tcp --dport 7 -m comment --comment \"-j SHUNT_OUT\" -j OTHER\nCOMMIT\n",
        ),
    ] {
        let mut mesh = scene::before_add();
        meddle(&mesh.pod.netns, flavour, theirs);
        let own = || {
            let text = mesh.pod.netns.run(&format!("iptables-{flavour}-save"), &[], "");
            let others = |line: &&str| {
                !line.contains("-j SHUNT_") && !line.contains(":SHUNT_") && !line.contains("-A SHUNT_")
            };
            text.lines()
                .filter(|line| line.starts_with(['-']) || line.starts_with(":KUBE"))
                .filter(others)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let before = own();
        mesh.add();
        assert_eq!(own(), before);
        mesh.node.call("CHECK", &mesh.pod, "eth0").ok();
        mesh.node.redirect("excludeOutboundPorts", json!([9001]));
        mesh.add();
        mesh.node.call("CHECK", &mesh.pod, "eth0").ok();
        mesh.start_proxy();
        mesh.app(SERVICES).iter().for_each(captured);
        mesh.node.del(&mesh.pod);
        let text = mesh.pod.netns.run(&format!("iptables-{flavour}-save"), &[], "");
        assert!(!text.contains("-j SHUNT_IN") && !text.contains(":SHUNT_"), "{text}");
    }
}

/// A table `nat` that `nft` wrote is there and iptables shows nothing of it, with success.
#[test]
fn a_table_that_iptables_cannot_show() {
    need::tool("nft");
    let native = "table ip nat {\n chain OUTPUT {\n type nat hook output priority -100\n tcp dport { 25, 26 } redirect to :1\n }\n}\n";
    let mesh = scene::before_add();
    mesh.pod.netns.run("nft", &["-f", "-"], native);
    let listed = || mesh.pod.netns.run("nft", &["list", "ruleset"], "");
    let before = listed();
    let (code, said) = mesh.node.call("ADD", &mesh.pod, "eth0").refused();
    assert!(code == 103 && said.contains("iptables cannot show"), "{code} {said}");
    assert!(!listed().contains("SHUNT_") && listed().contains("table ip nat"), "{before} {}", listed());
    assert_eq!(mesh.node.kept(), [].into());
    // Tables of other names and families are nobody's business.
    mesh.pod.netns.run("nft", &["delete", "table", "ip", "nat"], "");
    mesh.pod.netns.run(
        "nft",
        &["-f", "-"],
        &native.replace("table ip nat", "table inet other").replace("-100", "-90"),
    );
    mesh.add();
    mesh.node.call("CHECK", &mesh.pod, "eth0").ok();
    // What nft adds later is seen by CHECK, and DEL does not say that it has removed what it cannot see.
    mesh.pod.netns.run("nft", &["-f", "-"], "add set ip nat others { type ipv4_addr; }\ninsert rule ip nat OUTPUT ip protocol tcp ip daddr @others redirect to :1\n");
    mesh.node.call("CHECK", &mesh.pod, "eth0").refused();
    mesh.node.call("ADD", &mesh.pod, "eth0").refused();
    mesh.node.call("DEL", &mesh.pod, "eth0").ok();
    assert_ne!(mesh.node.kept(), [].into());
    let text = mesh.pod.netns.run("nft", &["-a", "list", "chain", "ip", "nat", "OUTPUT"], "");
    let handle =
        text.lines().find(|line| line.contains("@others")).and_then(|line| line.rsplit(' ').next()).unwrap();
    mesh.pod.netns.run("nft", &["delete", "rule", "ip", "nat", "OUTPUT", "handle", handle], "");
    mesh.node.del(&mesh.pod);
    assert!(!listed().contains("SHUNT_"), "{}", listed());
}

/// Who may write rules in the pod puts a line of his own into what the tool prints: it is not written back.
#[test]
fn a_comment_with_the_end_of_a_line() {
    for flavour in ["nft", "legacy"] {
        let mesh = scene::before_add();
        meddle(&mesh.pod.netns, flavour, "*nat\n-A OUTPUT -p tcp --dport 25 -j RETURN\nCOMMIT\n");
        mesh.add();
        let comment = "a\n-A OUTPUT -p tcp --modprobe=/x -j SHUNT_Q\n-A OUTPUT -m comment --comment ";
        let tool = format!("iptables-{flavour}");
        mesh.pod.netns.run(&tool, &["-t", "nat", "-A", "OUTPUT", "-m", "comment", "--comment", comment], "");
        mesh.add();
        mesh.node.call("CHECK", &mesh.pod, "eth0").ok();
        mesh.node.del(&mesh.pod);
        let text = mesh.pod.netns.run(&format!("{tool}-save"), &[], "");
        assert!(!text.contains("SHUNT_OUT"), "{text}");
    }
}

/// The proxy's id is one that the pod's user namespace does not have.
#[test]
fn an_id_that_the_pod_does_not_have() {
    let node = Node::new();
    node.configure(|entry| entry["backend"] = "iptables".into());
    let world = node.world();
    let pod = node.pod_of_user_namespace(&world, Shape::dual(), 1_234_000);
    let mesh = Mesh::around(node, world, pod);
    mesh.node.redirect("proxyUids", json!([PROXY, 700_000]));
    let (code, said) = mesh.node.call("ADD", &mesh.pod, "eth0").refused();
    assert_eq!(code, 103, "{said}");
    assert_eq!(rules(&mesh.pod.netns, "nft"), Vec::<String>::new());
    assert_eq!(mesh.node.kept(), [].into());
}
