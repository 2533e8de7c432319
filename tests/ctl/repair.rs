//! `shuntctl repair` and `shuntctl detach`.

use std::fs;

use serde_json::{Value, json};
use shunt_tests::net::Shape;

use crate::explain::field;
use crate::mesh::Mesh;
use crate::{ctl, ctl_json, vanish};

/// Breaks it, sees that it is found and not mended by a dry run, mends it, and sees that the app is captured.
#[track_caller]
fn broken_and_mended(mesh: &Mesh, what: &str, word: &str, fault: impl Fn(&Mesh)) {
    let name = mesh.pod.called();
    fault(mesh);
    let (code, answer) = ctl_json(&mesh.node, &["repair", &name, "--dry-run"]);
    let first = |answer: &Value| {
        (field(answer, "/pods/0/result").clone(), field(answer, "/pods/0/differed").to_string())
    };
    let (result, differed) = first(&answer);
    assert_eq!((code, result), (0, json!("differs")), "{what}: {answer:#}");
    assert!(differed.contains(word), "{what}: {answer:#}");
    assert_eq!(first(&ctl_json(&mesh.node, &["repair", "--all", "--dry-run"]).1).0, "differs", "{what}");
    let (code, answer) = ctl_json(&mesh.node, &["repair", &name]);
    let (result, differed) = first(&answer);
    assert_eq!((code, result), (0, json!("repaired")), "{what}: {answer:#}");
    assert!(differed.contains(word), "{what}: {answer:#}");
    assert!(field(&answer, "/pods/0/words").to_string().contains("past the proxy"), "{answer:#}");
    let (_, answer) = ctl_json(&mesh.node, &["repair", "--all"]);
    assert_eq!(field(&answer, "/pods/0/result"), "fine", "{what}: {answer:#}");
    // The runtime agrees, and so does the traffic, without the proxy having been restarted.
    mesh.node.call("CHECK", &mesh.pod, "eth0").ok();
    assert_eq!(mesh.outcome("10.96.0.10:80"), "outbound", "{what}");
    assert_eq!(mesh.arriving(false, 8080).outcome(), "inbound", "{what}");
}

fn pin(mesh: &Mesh, end: &str) {
    let pin =
        mesh.node.kept().into_iter().find(|path| path.ends_with(end)).unwrap_or_else(|| panic!("{end}"));
    fs::remove_file(pin).expect("root may");
}

/// Deletes the pod's entries of a pinned map.
fn forget(mesh: &Mesh, map: &str) {
    for layout in shunt::bpf::pins::Layout::all(mesh.node.bpf_dir()).expect("pins") {
        for name in layout.attachments().expect("attachments") {
            for cookie in layout.cookies(&name).expect("cookies") {
                shunt_tests::kernel::forget(layout.root(), map, cookie);
            }
        }
    }
}

#[test]
fn everything_that_ebpf_needs() {
    let mesh = Mesh::new();
    broken_and_mended(&mesh, "the pod's link", "sk_lookup link", |mesh| pin(mesh, "lookup"));
    broken_and_mended(&mesh, "what answers for the original destination", "getsockopt", |mesh| {
        pin(mesh, "getsockopt");
    });
    broken_and_mended(&mesh, "a shared link", "connect4", |mesh| pin(mesh, "links/connect4"));
    broken_and_mended(&mesh, "the entry of the pod", "no configuration", |mesh| {
        forget(mesh, "PODS");
    });
    broken_and_mended(&mesh, "the pod's rules", "no rules", |mesh| forget(mesh, "RULES"));
    broken_and_mended(&mesh, "the reserved ports", "reserved", |mesh| {
        mesh.pod.netns.set("ipv4/ip_local_reserved_ports", "\n");
    });
    broken_and_mended(&mesh, "the pass-through address", "::6", |mesh| {
        mesh.pod.netns.ip("addr del ::6/128 dev lo");
    });
    broken_and_mended(&mesh, "an address that came later", "rules of the pod", |mesh| {
        mesh.pod.netns.ip("addr add 10.99.9.9/32 dev eth0");
    });
}

#[test]
fn everything_that_iptables_needs() {
    let mut mesh = Mesh::before_add(Shape::dual());
    mesh.node.configure(|entry| entry["backend"] = json!("iptables"));
    mesh.add();
    mesh.start_proxy();
    let tool = if mesh.pod.netns.run("iptables-nft-save", &[], "").contains("SHUNT_") {
        ["iptables-nft", "ip6tables-nft"]
    } else {
        ["iptables-legacy", "ip6tables-legacy"]
    };
    broken_and_mended(&mesh, "a chain that was flushed", "IPv4: ", |mesh| {
        let saved = mesh.pod.netns.run(&format!("{}-save", tool[0]), &["-t", "nat"], "");
        let chain = saved.lines().find_map(|line| line.strip_prefix(":SHUNT_")).expect("a chain of ours");
        let chain = format!("SHUNT_{}", chain.split(' ').next().expect("a name"));
        mesh.pod.netns.run(tool[0], &["-t", "nat", "-F", &chain], "");
    });
    broken_and_mended(&mesh, "jumps that were flushed", "IPv6: ", |mesh| {
        mesh.pod.netns.run(tool[1], &["-t", "nat", "-F", "OUTPUT"], "");
    });
}

#[test]
fn who_is_not_to_be_repaired() {
    let mut mesh = Mesh::new();
    let name = mesh.pod.called();
    let said = ctl(&mesh.node, &["repair"]);
    assert_eq!(said.code, 2, "{said:?}");
    let said = ctl(&mesh.node, &["repair", "shop/nobody"]);
    assert!(said.code == 1 && said.err.contains("shop/nobody"), "{said:?}");
    // Its record is lost.
    let record = mesh
        .node
        .kept()
        .into_iter()
        .find(|path| path.to_string_lossy().contains("attachments/"))
        .expect("one");
    let text = fs::read(&record).expect("readable");
    fs::write(&record, "{").expect("broken");
    let (code, answer) = ctl_json(&mesh.node, &["repair", "--all"]);
    assert_eq!((code, field(&answer, "/pods/0/result")), (1, &json!("failed")), "{name} {answer:#}");
    fs::write(&record, text).expect("mended");
    mesh.proxy = None;
    vanish(&mesh.node, &mesh.pod);
    let (code, answer) = ctl_json(&mesh.node, &["repair", "--all"]);
    assert_eq!((code, field(&answer, "/pods/0/result")), (0, &json!("leftAlone")), "{answer:#}");
}

#[test]
fn a_pod_is_set_free() {
    for backend in ["ebpf", "iptables"] {
        let mut mesh = Mesh::before_add(Shape::dual());
        mesh.node.configure(|entry| entry["backend"] = json!(backend));
        let reserved = mesh.pod.netns.get("ipv4/ip_local_reserved_ports");
        mesh.add();
        mesh.start_proxy();
        let name = mesh.pod.called();
        let said = ctl(&mesh.node, &["detach", &name]);
        assert!(said.code == 2 && said.err.contains("--yes") && said.out.is_empty(), "{said:?}");
        assert_eq!(mesh.outcome("10.96.0.10:80"), "outbound", "{backend}");
        let said = ctl(&mesh.node, &["detach", &name, "--yes"]);
        assert!(said.code == 0 && said.out.contains("past the proxy"), "{said:?}");
        assert_eq!(mesh.outcome("10.96.0.10:80"), "world", "{backend}");
        let left = mesh.node.kept();
        let of_pod = |path: &std::path::PathBuf| path.display().to_string().contains(mesh.pod.container());
        assert!(!left.iter().any(of_pod), "{backend}: {left:?}");
        assert_eq!(mesh.pod.netns.get("ipv4/ip_local_reserved_ports"), reserved, "{backend}");
        assert_eq!(ctl(&mesh.node, &["detach", &name, "--yes"]).code, 1, "{backend}");
        // DEL finds nothing to do, ADD captures it again.
        mesh.node.del(&mesh.pod);
        mesh.add();
        mesh.proxy = None;
        mesh.start_proxy();
        assert_eq!(mesh.outcome("10.96.0.10:80"), "outbound", "{backend}");
    }
}
