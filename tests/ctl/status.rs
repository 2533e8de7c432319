//! `shuntctl status` and `shuntctl pods`: what is there is what is said.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shunt_tests::host::Host;
use shunt_tests::net::Shape;
use shunt_tests::node::Node;

use crate::explain::field;
use crate::mesh::Mesh;
use crate::{ctl, ctl_json, vanish};

#[test]
fn a_node_without_anything_is_told_and_left_as_it_is() {
    let node = Node::new();
    let host = Host::new(&node);
    let (code, answer) = host.ctl_json(&node, &["status"]);
    assert_eq!(code, 0);
    assert_eq!((&answer["objects"], &answer["problems"]), (&json!([]), &json!([])), "{answer:#}");
    assert_eq!(field(&answer, "/lists/taken"), "10-calico.conflist");
    assert_eq!(field(&answer, "/plugin/version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(field(&answer, "/plugin/sameObject"), true);
    assert!(
        !node.directory().join("state").exists() && !node.bpf_dir().exists(),
        "status has changed something"
    );
}

#[test]
fn a_node_with_a_pod() {
    let mesh = Mesh::new();
    let host = Host::new(&mesh.node);
    let (_, answer) = host.ctl_json(&mesh.node, &["status"]);
    let object = field(&answer, "/objects/0");
    assert_eq!((&object["own"], &object["pods"]), (&json!(true), &json!(1)), "{answer:#}");
    let links = object["links"].as_array().expect("a list");
    let kubepods = mesh.pod.cgroup.parent().expect("it is below").display().to_string();
    assert!(links.len() >= 10, "{answer:#}");
    for link in links {
        assert_eq!((&link["state"], &link["cgroup"]), (&json!("attached"), &json!(kubepods)), "{answer:#}");
    }
    assert_eq!(field(&answer, "/attachments/ebpf"), 1);
    let added = json!({"command": "ADD", "outcome": "intercepted", "backend": "ebpf", "count": 1});
    let call = &field(&answer, "/tally/calls").as_array().expect("calls")[0];
    for (key, value) in added.as_object().expect("object") {
        assert_eq!(&call[key], value, "{answer:#}");
    }
    // One link is gone.
    let pin = mesh.node.kept().into_iter().find(|path| path.ends_with("links/connect4")).expect("a link");
    fs::remove_file(pin).expect("root may");
    let (_, answer) = host.ctl_json(&mesh.node, &["status"]);
    assert!(answer["problems"].to_string().contains("connect4"), "{answer:#}");
    let said = host.ctl(&mesh.node, &["status", "--probe"]);
    assert!(said.out.contains("now ok: ebpf") || said.out.contains("now ok: iptables"), "{said:?}");
    let said = host.ctl(&mesh.node, &["status"]);
    for line in ["kernel ", "objects ", "lists ", "* 10-calico.conflist: calico → shunt", "once, last"] {
        assert!(said.out.contains(line), "{line:?} in\n{}", said.out);
    }
}

#[test]
fn what_the_installer_says() {
    let node = Node::new();
    let host = Host::new(&node);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = listener.local_addr().expect("an address").to_string();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("somebody asks");
        let mut asked = [0; 512];
        let length = stream.read(&mut asked).expect("a question");
        stream.write_all(b"HTTP/1.1 503 no\r\n\r\nthe list is not there\n").expect("an answer");
        String::from_utf8_lossy(&asked[..length]).into_owned()
    });
    let claim = node.directory().join("state/installer");
    fs::create_dir_all(&claim).expect("a directory");
    fs::write(claim.join("claim"), "some-id install\n").expect("a claim");
    fs::rename(host.lists.join("10-calico.conflist"), host.lists.join("00-shunt.conflist")).expect("renamed");
    let (_, answer) = host.ctl_json(&node, &["status", "--installer", &at]);
    assert_eq!(
        answer["installer"],
        json!({"ownedList": "00-shunt.conflist", "turn": "install", "ready": {"ok": false, "words": "the list is not there"}})
    );
    assert!(server.join().expect("it has answered").starts_with("GET /readyz "));
}

#[test]
fn every_attachment_and_every_other_pod() {
    for backend in ["ebpf", "iptables"] {
        let mut mesh = Mesh::before_add(Shape::dual());
        mesh.node.configure(|entry| entry["backend"] = json!(backend));
        mesh.add();
        let skipped = mesh.bare_twin();
        let row = |all: bool| -> Vec<Value> {
            let words: &[&str] = if all { &["pods", "--all"] } else { &["pods"] };
            ctl_json(&mesh.node, words).1["pods"].as_array().expect("a list").clone()
        };
        let rows = row(false);
        assert_eq!(rows.len(), 1, "{rows:#?}");
        let pod = &rows[0];
        assert_eq!((&pod["state"], &pod["backend"]), (&json!("captured"), &json!(backend)), "{pod:#}");
        assert_eq!(pod["families"], json!(["ipv4", "ipv6"]), "{pod:#}");
        assert_eq!(pod["ports"], json!({"outbound": 15001, "inbound": 15006, "dns": null}));
        assert_eq!((&pod["proxy"], &pod["why"], &pod["alive"]), (&json!("no"), &json!([]), &json!(true)));
        let mut marked = skipped;
        marked.annotations.clear();
        mesh.node.add(&marked);
        assert_eq!(row(false).len(), 1);
        let rows = row(true);
        assert!(rows.iter().any(|row| row["state"] == "skipped" && row["why"][0].is_string()), "{rows:#?}");
        mesh.start_proxy();
        mesh.app(["10.96.0.10:80", "127.0.0.1:9"]);
        let rows = ctl_json(&mesh.node, &["pods"]).1;
        let pod = field(&rows, "/pods/0");
        assert_eq!(pod["proxy"], "yes", "{pod:#}");
        if backend == "ebpf" {
            assert!(pod["counted"]["captured"].as_u64() >= Some(1), "{pod:#}");
            assert!(pod["counted"]["passed"].as_u64() >= Some(1), "{pod:#}");
        }
        let said = ctl(&mesh.node, &["pods"]);
        assert!(said.out.starts_with("POD ") && said.out.contains(" captured "), "{said:?}");
        // The namespace goes without a DEL.
        mesh.proxy = None;
        let name = mesh.pod.called();
        vanish(&mesh.node, &mesh.pod);
        let rows = ctl_json(&mesh.node, &["pods"]).1;
        assert_eq!(field(&rows, "/pods/0/state"), "ended", "{name} {rows:#}");
    }
}

/// 500 records, as 500 pods leave them; their namespaces are one, so that the links are those of one pod.
#[test]
fn five_hundred_pods_take_milliseconds() {
    let mesh = Mesh::new();
    let host = Host::new(&mesh.node);
    let records = mesh.node.directory().join("state/attachments");
    let first = fs::read_dir(&records).expect("records").next().expect("one").expect("readable").path();
    let record: Value = serde_json::from_slice(&fs::read(first).expect("a record")).expect("JSON");
    for number in 0..499 {
        let mut record = record.clone();
        let container = format!("f{number:063}");
        record["attachment"]["container_id"] = json!(container);
        record["pod"] = json!(format!("shop/cart-{number} u-{number}"));
        fs::write(records.join(format!("{container}@eth0.json")), record.to_string()).expect("a record");
    }
    let time = |words: &[&str]| {
        let mut times: Vec<Duration> = (0..5)
            .map(|_| {
                let start = Instant::now();
                assert_eq!(host.ctl(&mesh.node, words).code, 0, "{words:?}");
                start.elapsed()
            })
            .collect();
        times.sort();
        times[2]
    };
    let status = time(&["status"]);
    let start = Instant::now();
    let rows = ctl_json(&mesh.node, &["pods"]).1;
    let pods = start.elapsed();
    assert_eq!(rows["pods"].as_array().map(Vec::len), Some(500));
    println!("500 records: status {status:?}, pods {pods:?}");
    // Not a figure, but far from what would be wrong: a busy machine runs this too.
    assert!(status < Duration::from_secs(1) && pods < Duration::from_secs(10), "{status:?} {pods:?}");
}
