//! `shuntctl check`: each fault is made, found, mended, and gone.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use shunt_tests::ask::Serve;
use shunt_tests::host::Host;
use shunt_tests::net::Shape;
use shunt_tests::node::{APP, Node};
use shunt_tests::process::Server;

use crate::mesh::{Mesh, SERVICE4, captured, everywhere, only, proxy_at};
use crate::vanish;

/// What was found: code and severity.
fn found(host: &Host, node: &Node) -> BTreeSet<(String, String)> {
    let (code, answer) = host.ctl_json(node, &["check"]);
    let word = |finding: &Value, key: &str| finding[key].as_str().expect("a word").to_owned();
    let findings = answer["findings"].as_array().expect("a list");
    let faults = findings.iter().any(|finding| finding["severity"] != "note");
    assert_eq!(code, if faults { 3 } else { 0 }, "{answer:#}");
    findings.iter().map(|finding| (word(finding, "code"), word(finding, "severity"))).collect()
}

/// Faults only: programs of others on this machine are notes.
fn faults(host: &Host, node: &Node) -> Vec<String> {
    let found = found(host, node);
    found.into_iter().filter(|(_, severity)| severity != "note").map(|(code, _)| code).collect()
}

#[track_caller]
fn expect(host: &Host, node: &Node, codes: &[&str]) {
    let faults = faults(host, node);
    assert_eq!(faults, codes, "{}", host.ctl(node, &["check"]).out);
}

#[test]
fn the_lists_of_the_runtime() {
    let node = Node::new();
    node.call_bare("STATUS", |_| ()).ok();
    let host = Host::new(&node);
    let list = |plugins: &Value| host.list("10-calico.conflist", plugins);
    expect(&host, &node, &[]);

    // Another sorts before.
    host.list("05-flannel.conflist", &json!([{"type": "flannel"}]));
    expect(&host, &node, &["list-before"]);
    fs::write(host.lists.join("05-flannel.conflist"), "{\"name\": ").expect("half a file");
    expect(&host, &node, &["list-broken"]);
    fs::remove_file(host.lists.join("05-flannel.conflist")).expect("gone");
    expect(&host, &node, &[]);

    let plugins = Host::plugins();
    let (calico, ours) = (&plugins[0], &plugins[1]);
    for (plugins, code) in [
        (json!([calico]), "entry-missing"),
        (json!([calico, ours, ours]), "entry-twice"),
        (json!([calico, ours, {"type": "portmap"}]), "entry-not-last"),
        (json!([calico, {"type": "istio-cni"}, ours]), "second-mesh"),
    ] {
        list(&plugins);
        expect(&host, &node, &[code]);
    }
    let mut wrong = ours.clone();
    wrong["udp"] = json!("maybe");
    list(&json!([calico, wrong]));
    expect(&host, &node, &["entry-refused"]);
    let mut half = ours.clone();
    half["redirect"].as_object_mut().expect("an object").remove("proxyUids");
    list(&json!([calico, half]));
    expect(&host, &node, &["entry-incomplete"]);
    let mut silent = ours.clone();
    silent["capabilities"] = json!({"cgroupPath": true});
    list(&json!([calico, silent]));
    expect(&host, &node, &["no-annotations"]);
    list(&plugins);
    expect(&host, &node, &[]);

    // The plugin goes, the entry stays.
    let plugin = host.plugins_at.join("shunt");
    fs::remove_file(&plugin).expect("gone");
    expect(&host, &node, &["plugin-missing"]);
    symlink(shunt_tests::bin::shunt(), plugin).expect("back");
    expect(&host, &node, &[]);
    fs::remove_file(host.lists.join("10-calico.conflist")).expect("gone");
    expect(&host, &node, &["no-list"]);
}

#[test]
fn mounts_that_are_not_there() {
    let node = Node::new();
    let host = Host::new(&node);
    let nowhere = node.directory().join("no-bpffs/shunt");
    let run = |script: &str| {
        let words = ["--mount", "sh", "-c", script];
        let done = Command::new("unshare").args(words).output().expect("unshare can be run");
        String::from_utf8_lossy(&done.stdout).into_owned()
    };
    let check = |bpf: &std::path::Path| {
        format!(
            "{} check --state-dir {} --bpf-dir {} --conf-dir {} --bin-dir {} --netns-dir {}",
            shunt_tests::bin::shuntctl().display(),
            node.directory().join("state").display(),
            bpf.display(),
            host.lists.display(),
            host.plugins_at.display(),
            host.namespaces.display()
        )
    };
    let said = run(&check(&nowhere));
    assert!(said.contains("bpffs-missing") && !said.contains("cgroup2-missing"), "{said}");
    let hide = "for mount in $(awk '$0 ~ / - cgroup2 / { print $5 }' /proc/self/mountinfo); do umount -l $mount; done";
    let said = run(&format!("{hide}; {}", check(node.bpf_dir())));
    assert!(said.contains("cgroup2-missing") && !said.contains("bpffs-missing"), "{said}");
}

#[test]
fn the_proxy_of_a_pod() {
    let mut mesh = Mesh::before_add(Shape::dual());
    let host = Host::new(&mesh.node);
    // Before ADD nobody knows it.
    let early = Server::start(&mesh.pod.proxy(), &everywhere());
    mesh.add();
    expect(&host, &mesh.node, &["proxy-unknown"]);
    drop(early);
    expect(&host, &mesh.node, &["proxy-silent"]);
    let stranger = Server::start(&mesh.pod.place(APP, APP), &everywhere());
    expect(&host, &mesh.node, &["proxy-stranger"]);
    drop(stranger);
    let only_v4 = Server::start(&mesh.pod.proxy(), &proxy_at(&["0.0.0.0"]));
    expect(&host, &mesh.node, &["proxy-family"]);
    drop(only_v4);
    mesh.start_proxy();
    expect(&host, &mesh.node, &[]);
    // One pod is asked about alone.
    let (code, answer) = host.ctl_json(&mesh.node, &["check", &mesh.pod.called()]);
    assert_eq!((code, &answer["looked"]), (0, &json!(1)), "{answer:#}");
}

#[test]
fn the_proxy_at_a_wrong_address() {
    // By number alone under iptables: what arrives is sent to the address it came to.
    let mesh = Mesh::before_add(Shape::dual());
    mesh.node.configure(|entry| entry["backend"] = json!("iptables"));
    mesh.add();
    let host = Host::new(&mesh.node);
    let wrong = Server::start(&mesh.pod.proxy(), &proxy_at(&["127.0.0.1", "[::1]"]));
    expect(&host, &mesh.node, &["proxy-address"]);
    drop(wrong);
    let _right = Server::start(&mesh.pod.proxy(), &everywhere());
    expect(&host, &mesh.node, &[]);
}

#[test]
fn the_proxy_that_answers_dns() {
    let mut mesh = Mesh::before_add(Shape::dual());
    mesh.node.configure(|entry| entry["captureDns"] = json!(true));
    mesh.node.redirect("dnsPort", json!(15053));
    mesh.add();
    mesh.start_proxy();
    let host = Host::new(&mesh.node);
    expect(&host, &mesh.node, &["proxy-silent"]);
    let serve = |at: &str| Server::start(&mesh.pod.proxy(), &Serve::at([("dns", at)]));
    let wrong = serve(&format!("{}:15053", mesh.pod.ip(false)));
    expect(&host, &mesh.node, &["proxy-address"]);
    drop(wrong);
    let _right = serve("127.0.0.1:15053");
    expect(&host, &mesh.node, &[]);
}

#[test]
fn a_plugin_that_is_to_leave() {
    let mesh = Mesh::new();
    let host = Host::new(&mesh.node);
    expect(&host, &mesh.node, &[]);
    mesh.node.ask(&["purge"]);
    expect(&host, &mesh.node, &["leaving"]);
    fs::remove_file(mesh.node.directory().join("state/retired")).expect("gone");
    expect(&host, &mesh.node, &[]);
}

#[test]
fn what_add_did_and_somebody_undid() {
    let mesh = Mesh::new();
    let host = Host::new(&mesh.node);
    let netns = &mesh.pod.netns;
    expect(&host, &mesh.node, &[]);
    // Reserved ports.
    let reserved = netns.get("ipv4/ip_local_reserved_ports");
    netns.set("ipv4/ip_local_reserved_ports", "\n");
    expect(&host, &mesh.node, &["drift"]);
    netns.set("ipv4/ip_local_reserved_ports", reserved.trim());
    expect(&host, &mesh.node, &[]);
    // The pass-through address, and the interface it is on.
    netns.ip("addr del ::6/128 dev lo");
    expect(&host, &mesh.node, &["drift"]);
    netns.ip("addr add ::6/128 dev lo");
    expect(&host, &mesh.node, &[]);
    netns.ip("link set lo down");
    assert!(faults(&host, &mesh.node).contains(&"lo-down".to_owned()));
    netns.ip("link set lo up");
    netns.run("sh", &["-c", "ip addr add ::6/128 dev lo || true"], "");
    expect(&host, &mesh.node, &[]);
    // The link of its namespace.
    let pin = mesh.node.kept().into_iter().find(|path| path.ends_with("lookup")).expect("the pod's link");
    fs::remove_file(pin).expect("root may");
    expect(&host, &mesh.node, &["drift"]);
    mesh.add();
    expect(&host, &mesh.node, &[]);
    // A program of all pods.
    let pin = mesh.node.kept().into_iter().find(|path| path.ends_with("links/connect6")).expect("a link");
    fs::remove_file(pin).expect("root may");
    expect(&host, &mesh.node, &["drift", "programs-off"]);
    mesh.add();
    expect(&host, &mesh.node, &[]);
}

#[test]
fn rules_of_another_mesh() {
    for backend in ["ebpf", "iptables"] {
        let mut mesh = Mesh::before_add(Shape::dual());
        mesh.node.configure(|entry| entry["backend"] = json!(backend));
        mesh.add();
        mesh.start_proxy();
        let host = Host::new(&mesh.node);
        expect(&host, &mesh.node, &[]);
        let netns = &mesh.pod.netns;
        // As the mesh's init container does it.
        for chain in ["ISTIO_OUTPUT", "PROXY_INIT_REDIRECT", "KUMA_MESH_INBOUND", "CONSUL_PROXY_OUTPUT"] {
            netns.run("iptables-nft", &["-t", "nat", "-N", chain], "");
            expect(&host, &mesh.node, &["foreign-rules"]);
            netns.run("iptables-nft", &["-t", "nat", "-X", chain], "");
        }
        netns.run("nft", &["add", "table", "inet", "istio-proxy-nat"], "");
        expect(&host, &mesh.node, &["foreign-rules"]);
        netns.run("nft", &["delete", "table", "inet", "istio-proxy-nat"], "");
        expect(&host, &mesh.node, &[]);
    }
}

/// A pod that was under rules and is not any more: what they led somewhere goes on so until it ends.
#[test]
fn connections_from_before() {
    let mut mesh = Mesh::before_add(Shape::dual());
    mesh.node.configure(|entry| entry["backend"] = json!("iptables"));
    mesh.add();
    mesh.start_proxy();
    let host = Host::new(&mesh.node);
    mesh.pod.netns.run(
        "sh",
        &["-c", "echo 3 >/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_time_wait"],
        "",
    );
    captured(&only(mesh.app([SERVICE4])));
    expect(&host, &mesh.node, &[]);
    mesh.node.configure(|entry| entry["backend"] = json!("ebpf"));
    mesh.add();
    mesh.proxy = None;
    mesh.start_proxy();
    assert!(faults(&host, &mesh.node).contains(&"conntrack-left".to_owned()));
    let deadline = std::time::Instant::now() + std::time::Duration::from_mins(1);
    while faults(&host, &mesh.node).contains(&"conntrack-left".to_owned()) {
        assert!(std::time::Instant::now() < deadline, "it is never forgotten");
    }
    expect(&host, &mesh.node, &[]);
}

#[test]
fn pods_that_are_meshed_and_not_captured() {
    let mut mesh = Mesh::before_add(Shape::dual());
    let host = Host::new(&mesh.node);
    mesh.node.call_bare("STATUS", |_| ()).ok();
    symlink(mesh.pod.netns.path(), host.namespaces.join("cni-1")).expect("a link");
    expect(&host, &mesh.node, &[]);
    // From before the plugin was in the list.
    mesh.start_proxy();
    expect(&host, &mesh.node, &["not-captured"]);
    // The runtime did not hand the annotations over.
    let marker = std::mem::take(&mut mesh.pod.annotations);
    mesh.add();
    expect(&host, &mesh.node, &["proxy-unused"]);
    mesh.pod.annotations = marker;
    mesh.proxy = None;
    mesh.add();
    mesh.start_proxy();
    expect(&host, &mesh.node, &[]);
    mesh.node.del(&mesh.pod);
    mesh.proxy = None;
    // Its ADD fails.
    mesh.pod.annotations.insert("shunt-cni.io/outbound-port".to_owned(), "x".to_owned());
    assert_ne!(mesh.node.call("ADD", &mesh.pod, "eth0").code, 0);
    expect(&host, &mesh.node, &["add-failed"]);
    let (code, answer) = host.ctl_json(&mesh.node, &["check", &mesh.pod.called()]);
    assert_eq!((code, &answer["findings"][0]["code"]), (3, &json!("add-failed")), "{answer:#}");
    mesh.pod.annotations.remove("shunt-cni.io/outbound-port");
    mesh.add();
    mesh.start_proxy();
    expect(&host, &mesh.node, &[]);
    // It ends, and no DEL comes.
    mesh.proxy = None;
    vanish(&mesh.node, &mesh.pod);
    fs::remove_file(host.namespaces.join("cni-1")).expect("gone");
    expect(&host, &mesh.node, &["ended"]);
    mesh.node.ask(&["sweep"]);
    expect(&host, &mesh.node, &[]);
}

/// As the mesh is without its CNI mode: its own init container is to write the rules.
#[test]
fn a_pod_that_is_left_to_its_init_container() {
    let mut mesh = Mesh::before_add(Shape::dual());
    let host = Host::new(&mesh.node);
    mesh.node.call_bare("STATUS", |_| ()).ok();
    mesh.node.configure(|entry| {
        entry["mesh"] = json!("istio");
        entry.as_object_mut().expect("an entry").remove("redirect");
    });
    let status = json!({"initContainers": ["istio-init"], "containers": ["istio-proxy"]}).to_string();
    mesh.pod.annotations.insert("sidecar.istio.io/status".to_owned(), status);
    mesh.add();
    assert!(found(&host, &mesh.node).contains(&("left-alone".to_owned(), "note".to_owned())));
    expect(&host, &mesh.node, &[]);
}

/// Its programs go on; this version knows nothing of their maps, and says no more than that.
#[test]
fn a_pod_that_another_version_serves() {
    let mesh = Mesh::new();
    let host = Host::new(&mesh.node);
    let records = mesh.node.directory().join("state/attachments");
    let record = fs::read_dir(records).expect("records").next().expect("one").expect("it is there").path();
    let mut text: Value = serde_json::from_slice(&fs::read(&record).expect("a record")).expect("JSON");
    assert!(text["receipt"]["abi"].is_u64(), "{text:#}");
    text["receipt"]["abi"] = json!(999);
    fs::write(&record, text.to_string()).expect("root may");
    assert!(found(&host, &mesh.node).contains(&("other-version".to_owned(), "note".to_owned())));
    expect(&host, &mesh.node, &[]);
}

/// What a probe has found is asked, not probed again.
#[test]
fn a_node_that_cannot_do_what_its_entry_wants() {
    let node = Node::new();
    let host = Host::new(&node);
    node.call_bare("STATUS", |_| ()).ok();
    assert_eq!(host.ctl(&node, &["backend", "--probe"]).code, 0);
    expect(&host, &node, &[]);
    let kept = node.directory().join("state/backend.json");
    let mut text: Value = serde_json::from_slice(&fs::read(&kept).expect("an answer")).expect("JSON");
    text["steps"][3] = json!({"step": "load", "result": "fails", "why": "the kernel says no"});
    fs::write(&kept, text.to_string()).expect("root may");
    let severity = |backend: &str| {
        let mut plugins = Host::plugins();
        plugins[1]["backend"] = json!(backend);
        host.list("10-calico.conflist", &plugins);
        found(&host, &node).into_iter().find(|(code, _)| code == "no-ebpf").map(|(_, severity)| severity)
    };
    let severities = ["ebpf", "auto", "iptables"].map(severity);
    assert_eq!(severities.each_ref().map(Option::as_deref), [Some("error"), Some("warning"), None]);
}

#[test]
fn a_pod_that_runs_bare() {
    let mesh = Mesh::before_add(Shape::dual());
    let host = Host::new(&mesh.node);
    mesh.node.call_bare("STATUS", |_| ()).ok();
    let file = mesh.node.directory().join("no-directory");
    fs::write(&file, "").expect("a file");
    mesh.node.configure(|entry| {
        entry["failurePolicy"] = json!("open");
        entry["bpfDir"] = json!(file.join("pins"));
    });
    mesh.add();
    expect(&host, &mesh.node, &["runs-bare"]);
}

/// Programs of another plugin's directories on the same cgroups are not ours: whether they see a connection first, or after us.
#[test]
fn programs_of_others() {
    for (first, severity) in [(true, "warning"), (false, "note")] {
        let mesh = Mesh::before_add(Shape::dual());
        let host = Host::new(&mesh.node);
        let name = mesh.node.bpf_dir().file_name().and_then(|name| name.to_str()).expect("a name");
        let pins = mesh.node.bpf_dir().with_file_name(format!("{name}-other"));
        let places = [
            (mesh.node.directory().join("other"), pins.clone()),
            (mesh.node.directory().join("state"), mesh.node.bpf_dir().to_owned()),
        ];
        let add = |(state, pins): &(PathBuf, PathBuf)| {
            mesh.node.configure(|entry| (entry["stateDir"], entry["bpfDir"]) = (json!(state), json!(pins)));
            mesh.add();
        };
        let [others, ours] = &places;
        let order = if first { [others, ours] } else { [ours, others] };
        order.into_iter().for_each(add);
        let found = found(&host, &mesh.node);
        mesh.node
            .configure(|entry| (entry["stateDir"], entry["bpfDir"]) = (json!(others.0), json!(others.1)));
        mesh.node.del(&mesh.pod);
        fs::remove_dir_all(&pins).expect("gone");
        assert!(found.contains(&("foreign-program".to_owned(), severity.to_owned())), "{found:?}");
    }
}
