//! ADD, CHECK, DEL, and what is left.

use std::io::Write as _;
use std::process::{Command, Stdio};

use nix::poll::poll;
use serde_json::json;
use shunt_tests::bin;

use crate::mesh::{Mesh, SERVICES, captured, outcomes};
use crate::scene::{self, meddle, rules};

fn nothing_left(mesh: &Mesh) {
    for flavour in ["nft", "legacy"] {
        assert_eq!(rules(&mesh.pod.netns, flavour), Vec::<String>::new(), "{flavour}");
    }
    assert_eq!(mesh.node.kept(), [].into());
}

fn check(mesh: &Mesh) -> String {
    let answer = mesh.node.call("CHECK", &mesh.pod, "eth0");
    if answer.code == 0 { "fine".to_owned() } else { answer.refused().1 }
}

#[test]
fn added_checked_removed() {
    let mesh = scene::added();
    assert_eq!(check(&mesh), "fine");
    assert!(!rules(&mesh.pod.netns, "nft").is_empty());
    let addresses = || mesh.pod.netns.run("ip", &["-6", "addr", "show", "dev", "lo"], "");
    assert!(addresses().contains("::6/128"));
    mesh.node.del(&mesh.pod);
    nothing_left(&mesh);
    assert!(!addresses().contains("::6/128"));
    assert_eq!(outcomes(&mesh.app(SERVICES)), ["world"; 3]);
    mesh.node.del(&mesh.pod);
}

#[test]
fn an_add_again_replaces() {
    let mesh = scene::added();
    let before = rules(&mesh.pod.netns, "nft");
    mesh.add();
    assert_eq!(rules(&mesh.pod.netns, "nft"), before);
    mesh.node.redirect("excludeOutboundPorts", json!(["8000-8999"]));
    mesh.node.configure(|entry| entry["log"]["level"] = json!("info"));
    mesh.add();
    let after = rules(&mesh.pod.netns, "nft");
    assert_ne!(after, before);
    assert_eq!(after.iter().filter(|rule| rule.contains("8000:8999")).count(), 4, "{after:#?}");
    assert_eq!(after.iter().filter(|rule| rule.contains("-A OUTPUT")).count(), 2, "{after:#?}");
    assert_eq!(check(&mesh), "fine");
    mesh.node.del(&mesh.pod);
    nothing_left(&mesh);
}

/// Meddling: what somebody does, and what CHECK says of it.
#[test]
fn check_sees_what_others_did() {
    for (commands, says) in [
        ("*nat\n-D SHUNT_OUT 1\nCOMMIT\n", "--uid-owner 1337"),
        ("*nat\n-I SHUNT_OUT -p tcp -j ACCEPT\nCOMMIT\n", "-j ACCEPT"),
        ("*nat\n-A SHUNT_IN -p tcp -j ACCEPT\nCOMMIT\n", "-j ACCEPT"),
        ("*nat\n-F SHUNT_IN\nCOMMIT\n", "rule missing: nat SHUNT_IN"),
        ("*nat\n-I OUTPUT -p tcp -j ACCEPT\nCOMMIT\n", "instead of rule \"nat OUTPUT"),
        ("*nat\n-F PREROUTING\nCOMMIT\n", "rule missing: nat PREROUTING"),
        ("*nat\n:SHUNT_OTHER - [0:0]\nCOMMIT\n", "SHUNT_OTHER"),
        // What comes after ours is nobody's loss, nor is another table.
        ("*nat\n-A OUTPUT -p tcp -j ACCEPT\nCOMMIT\n", "fine"),
        ("*filter\n-A OUTPUT -p tcp --dport 25 -j DROP\nCOMMIT\n", "fine"),
    ] {
        let mesh = scene::added();
        meddle(&mesh.pod.netns, "nft", commands);
        let said = check(&mesh);
        assert!(said.contains(says), "{commands}: {said}");
        // The next ADD puts it right.
        mesh.add();
        assert_eq!(check(&mesh), "fine", "{commands}");
        mesh.app(SERVICES).iter().for_each(captured);
        mesh.node.del(&mesh.pod);
        nothing_left(&mesh);
    }
}

/// Every table of ours, in both flavours: a rule that is gone, one that is foreign, a jump that is gone.
#[test]
fn check_sees_every_table() {
    for flavour in ["nft", "legacy"] {
        let mut mesh = scene::before_add();
        meddle(&mesh.pod.netns, flavour, "*nat\n-A OUTPUT -p tcp --dport 25 -j RETURN\nCOMMIT\n");
        mesh.node.configure(|entry| {
            entry["mesh"] = json!("istio");
            entry["redirect"] = json!({});
            entry["captureDns"] = json!(true);
            entry["udp"] = json!("block");
        });
        let annotations = [
            ("sidecar.istio.io/status", r#"{"containers":["istio-proxy"]}"#),
            ("proxy.istio.io/config", r#"{"proxyMetadata":{"INVALID_DROP":"true"}}"#),
        ];
        mesh.pod.annotations = annotations.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        mesh.add();
        let found = rules(&mesh.pod.netns, flavour);
        let jumps = |rule: &&String| rule.contains("-A OUTPUT ") || rule.contains("-A PREROUTING ");
        assert!(found.iter().filter(jumps).count() >= 12, "{found:#?}");
        for (commands, says) in [
            ("*raw\n-D SHUNT_ZONE 1\nCOMMIT\n", "SHUNT_ZONE"),
            ("*raw\n-F OUTPUT\nCOMMIT\n", "raw OUTPUT"),
            ("*mangle\n-D SHUNT_INVALID 1\nCOMMIT\n", "SHUNT_INVALID"),
            ("*mangle\n-F PREROUTING\nCOMMIT\n", "mangle PREROUTING"),
            ("*filter\n-I SHUNT_UDP -j ACCEPT\nCOMMIT\n", "-j ACCEPT"),
            ("*filter\n-F OUTPUT\nCOMMIT\n", "filter OUTPUT"),
            ("*nat\n-F SHUNT_DNS\nCOMMIT\n", "SHUNT_DNS"),
        ] {
            meddle(&mesh.pod.netns, flavour, commands);
            let said = check(&mesh);
            assert!(said.contains(says), "{flavour}: {commands}: {said}");
            mesh.add();
            assert_eq!(check(&mesh), "fine", "{flavour}: {commands}");
            assert_eq!(rules(&mesh.pod.netns, flavour), found, "{flavour}: {commands}");
        }
        mesh.node.del(&mesh.pod);
        nothing_left(&mesh);
    }
}

#[test]
fn the_flavour_that_is_there_is_used() {
    for (there, other) in [("legacy", "nft"), ("nft", "legacy")] {
        let mut mesh = scene::before_add();
        meddle(&mesh.pod.netns, there, "*nat\n-A OUTPUT -p tcp --dport 25 -j RETURN\nCOMMIT\n");
        mesh.add();
        mesh.start_proxy();
        assert!(!rules(&mesh.pod.netns, there).is_empty());
        assert_eq!(rules(&mesh.pod.netns, other), Vec::<String>::new());
        assert_eq!(check(&mesh), "fine");
        mesh.app(SERVICES).iter().for_each(captured);
        mesh.add();
        mesh.node.del(&mesh.pod);
        nothing_left(&mesh);
    }
}

#[test]
fn two_attachments_share_the_rules() {
    let mesh = scene::of(shunt_tests::net::Shape::two_interfaces());
    mesh.add();
    mesh.node.redirect("excludeInterfaces", json!(["net1"]));
    mesh.node.call("ADD", &mesh.pod, "net1").ok();
    for interface in ["eth0", "net1"] {
        mesh.node.call("CHECK", &mesh.pod, interface).ok();
    }
    mesh.node.call("DEL", &mesh.pod, "net1").ok();
    assert!(!rules(&mesh.pod.netns, "nft").is_empty(), "the first attachment still needs them");
    mesh.node.call("ADD", &mesh.pod, "net1").ok();
    mesh.node.del(&mesh.pod);
    assert!(!rules(&mesh.pod.netns, "nft").is_empty(), "the second attachment still needs them");
    mesh.node.call("CHECK", &mesh.pod, "net1").ok();
    mesh.node.call("DEL", &mesh.pod, "net1").ok();
    nothing_left(&mesh);
}

#[test]
fn the_other_backends_parts_go() {
    let mesh = scene::added();
    let reserved = || mesh.pod.netns.get("ipv4/ip_local_reserved_ports");
    let pins = || mesh.node.kept().iter().filter(|path| path.ends_with("sk_lookup")).count();
    let before = reserved();
    mesh.node.configure(|entry| entry["backend"] = json!("ebpf"));
    mesh.add();
    assert_eq!(rules(&mesh.pod.netns, "nft"), Vec::<String>::new());
    assert_eq!(check(&mesh), "fine");
    assert_ne!(reserved(), before);
    mesh.node.configure(|entry| entry["backend"] = json!("iptables"));
    mesh.add();
    assert!(!rules(&mesh.pod.netns, "nft").is_empty());
    assert_eq!((check(&mesh).as_str(), pins(), reserved()), ("fine", 0, before));
    mesh.app(SERVICES).iter().for_each(captured);
    mesh.node.del(&mesh.pod);
    assert_eq!(rules(&mesh.pod.netns, "nft"), Vec::<String>::new());
    assert!(!mesh.node.kept().iter().any(|path| path.ends_with("sk_lookup") || path.extension().is_some()));
}

#[test]
fn a_namespace_that_is_gone() {
    let mesh = scene::added();
    mesh.pod.netns.vanish();
    mesh.node.del(&mesh.pod);
    assert_eq!(mesh.node.kept(), [].into());
    mesh.node.del(&mesh.pod);
}

#[test]
fn gc_removes_rules_too() {
    let mesh = scene::added();
    mesh.node.call_bare("GC", |config| config["cni.dev/valid-attachments"] = json!([])).ok();
    nothing_left(&mesh);
}

/// A plugin that is killed after some time, then another ADD or a DEL, in either flavour.
#[test]
fn killed_at_any_time() {
    for flavour in ["nft", "legacy"] {
        let mesh = scene::before_add();
        meddle(&mesh.pod.netns, flavour, "*nat\n-A OUTPUT -p tcp --dport 25 -j RETURN\nCOMMIT\n");
        for step in 0_u16..40 {
            let mut child = Command::new(bin::shunt())
                .env_clear()
                .envs(mesh.pod.environment("eth0"))
                .env("CNI_COMMAND", "ADD")
                .env("CNI_PATH", "/opt/cni/bin")
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let config = mesh.node.config(&mesh.pod, true).to_string();
            child.stdin.take().unwrap().write_all(config.as_bytes()).unwrap();
            let _waited = poll(&mut [], step / 2);
            let _gone = child.kill();
            child.wait().unwrap();
            if step % 2 == 0 {
                mesh.add();
                assert_eq!(check(&mesh), "fine", "{flavour}, step {step}");
            }
            mesh.node.del(&mesh.pod);
            nothing_left(&mesh);
        }
    }
}
