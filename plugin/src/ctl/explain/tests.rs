//! What is explained without a node: pods, plans, connections.

use std::fs;

use serde_json::{Value, json};
use shunt_abi::Reason;

use super::super::{FAILED, NOT_CAPTURED, Said, TOLD, run};
use super::verdict::sentence;

/// `shuntctl explain --config …`, with these files and words.
fn explain(entry: &str, annotations: &str, words: &[&str]) -> Said {
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let (config, annotations) = (file("entry.json", entry), file("pod.yaml", annotations));
    let fixed = ["explain", "--config", &config, "--annotations", &annotations];
    run(fixed.iter().chain(words).map(Into::into))
}

fn json_of(entry: &Value, annotations: &Value, words: &[&str]) -> (u8, Value) {
    let words: Vec<&str> = words.iter().copied().chain(["--output", "json"]).collect();
    let said = explain(&entry.to_string(), &annotations.to_string(), &words);
    assert_eq!(said.complaint, "", "{words:?}");
    (said.code, serde_json::from_str(&said.text).expect("JSON"))
}

const STATUS: &str = "sidecar.istio.io/status";

#[test]
fn a_pod_and_why() {
    let conflist = json!({"cniVersion": "1.0.0", "name": "n", "plugins": [
        {"type": "calico"}, {"type": "shunt", "capabilities": {}, "mesh": "istio", "captureDns": true}]});
    let (code, answer) =
        json_of(&conflist, &json!({STATUS: "{}"}), &["--namespace", "shop", "--name", "cart-0"]);
    assert_eq!((code, &answer["state"]), (TOLD, &json!("captured")));
    assert_eq!(answer["version"], 1);
    assert_eq!(
        answer["because"],
        json!({"code": "marked", "key": STATUS, "words": format!("annotation {STATUS} marks it")})
    );
    assert_eq!(answer["pod"]["namespace"], "shop");
    let dns = answer["plan"].as_array().expect("a list").iter().find(|value| value["key"] == "captureDns");
    assert_eq!(
        dns,
        Some(&json!({"key": "captureDns", "value": true, "from": [{"layer": "entry", "key": "captureDns"}]}))
    );

    let (code, answer) = json_of(&json!({}), &json!({}), &[]);
    assert_eq!(
        (code, &answer["state"], &answer["because"]["key"]),
        (NOT_CAPTURED, &json!("skipped"), &json!(STATUS))
    );
    let (code, answer) = json_of(&json!({}), &json!({STATUS: "{}"}), &["--namespace", "kube-system"]);
    assert_eq!((code, &answer["because"]["code"]), (NOT_CAPTURED, &json!("namespace-excluded")));
    // A manifest has no marker yet.
    let (code, answer) = json_of(&json!({}), &json!({}), &["--injected"]);
    assert_eq!((code, &answer["because"]["code"]), (TOLD, &json!("marked")));
    let (code, answer) = json_of(&json!({}), &json!({"sidecar.istio.io/inject": "false"}), &["--injected"]);
    assert_eq!((code, &answer["because"]["code"]), (NOT_CAPTURED, &json!("opted-out")));
}

#[test]
fn what_add_would_refuse() {
    let bad = json!({STATUS: "{}", "traffic.sidecar.istio.io/excludeOutboundPorts": "x"});
    let (code, answer) = json_of(&json!({}), &bad, &["--to", "10.0.0.1:80"]);
    assert_eq!(
        (code, &answer["state"], &answer["failure"]["code"]),
        (NOT_CAPTURED, &json!("failed"), &json!(7))
    );
    assert!(answer["failure"]["details"].to_string().contains("excludeOutboundPorts"));
    assert_eq!(answer["connection"], Value::Null);
    let (_, answer) = json_of(&json!({"mash": "istio"}), &json!({}), &[]);
    assert!(answer["failure"]["details"].to_string().contains("mash"), "{answer}");
    for (entry, annotations, word) in [
        ("{", "{}", "JSON"),
        (r#"{"plugins": []}"#, "{}", "shunt"),
        ("{}", "[1]", "map"),
        ("[]", "{}", "object"),
    ] {
        let said = explain(entry, annotations, &[]);
        assert!(said.code == FAILED && said.complaint.contains(word), "{said:?}");
    }
}

/// An entry and annotations with something on every list.
fn full() -> (Value, Value) {
    let entry = json!({"mesh": "istio", "captureDns": true, "udp": "block", "redirect": {
        "includeOutboundCidrs": ["10.0.0.0/8", "fd00::/8"], "excludeOutboundCidrs": ["10.1.0.0/16", "10.1.2.0/24"],
        "includeOutboundPorts": [3306], "excludeInboundCidrs": ["10.9.0.0/16"]}});
    let annotations = json!({
        STATUS: "{}",
        "shunt-cni.io/exclude-outbound-ports": "25,8000-8999",
        "traffic.sidecar.istio.io/excludeInboundPorts": "22",
    });
    (entry, annotations)
}

/// A connection, and what is said of it: verdict, reason, the key that decides, its item, and the layer that said so.
#[test]
fn connections_and_what_decides() {
    let (entry, annotations) = full();
    let none = Value::Null;
    for (words, wanted) in [
        (
            &["--to", "10.2.0.1:80"][..],
            json!(["captured", "outbound", "includeOutboundCidrs", "10.0.0.0/8", "entry"]),
        ),
        (
            &["--to", "[fd00::1]:80"],
            json!(["captured", "outbound", "includeOutboundCidrs", "fd00::/8", "entry"]),
        ),
        (
            &["--to", "[::ffff:10.2.0.1]:80"],
            json!(["captured", "outbound", "includeOutboundCidrs", "10.0.0.0/8", "entry"]),
        ),
        (
            &["--to", "10.1.2.3:80"],
            json!(["passes", "excluded-cidr", "excludeOutboundCidrs", "10.1.2.0/24", "entry"]),
        ),
        (
            &["--to", "10.2.0.1:8080"],
            json!(["passes", "excluded-port", "excludeOutboundPorts", "8000-8999", "annotation"]),
        ),
        (
            &["--to", "11.0.0.1:3306"],
            json!(["captured", "outbound-port", "includeOutboundPorts", 3306, "entry"]),
        ),
        (&["--to", "11.0.0.1:80"], json!(["passes", "not-included", "includeOutboundCidrs", none, "entry"])),
        (
            &["--to", "10.2.0.1:80", "--from-uid", "1337"],
            json!(["passes", "exempt", "proxyUids", 1337, "mesh"]),
        ),
        (
            &["--to", "10.2.0.1:80", "--from-uid", "5", "--from-gid", "1337"],
            json!(["passes", "exempt", "proxyGids", 1337, "mesh"]),
        ),
        (&["--to", "127.0.0.1:80"], json!(["passes", "loopback", none, none, none])),
        (&["--to", "192.0.2.1:80"], json!(["passes", "own-address", "ownAddresses", none, "mesh"])),
        (
            &["--to", "10.2.0.1:80", "--pod-ip", "10.2.0.1", "--from-uid", "1337"],
            json!(["captured", "self-call", "selfCalls", none, "mesh"]),
        ),
        (
            &["--to", "192.0.2.1:80", "--from-uid", "1337", "--from", "127.0.0.6"],
            json!(["passes", "passthrough", none, none, none]),
        ),
        (
            &["--to", "[fd00::1]:80", "--pod-ip", "10.2.0.9"],
            json!(["refused", "no-family", none, none, none]),
        ),
        (&["--to", "224.0.0.1:80"], json!(["passes", "multicast", none, none, none])),
        (&["--to", "255.255.255.255:80"], json!(["passes", "broadcast", none, none, none])),
        (&["--to", "11.0.0.1:53"], json!(["captured", "dns", "captureDns", none, "entry"])),
        (&["--to", "11.0.0.1:53", "--udp"], json!(["captured", "dns", "captureDns", none, "entry"])),
        (&["--to", "10.2.0.1:443", "--udp"], json!(["refused", "udp-blocked", "udp", none, "entry"])),
        (&["--to", "10.2.0.1:443", "--udp", "--bound"], json!(["passes", "served", "udp", none, "entry"])),
        (
            &["--inbound", "192.0.2.1:8080"],
            json!(["captured", "inbound", "includeInboundPorts", none, "mesh"]),
        ),
        (
            &["--inbound", "192.0.2.1:22"],
            json!(["passes", "excluded-port", "excludeInboundPorts", 22, "meshAnnotation"]),
        ),
        (
            &["--inbound", "192.0.2.1:15021"],
            json!(["passes", "excluded-port", "excludeInboundPorts", 15021, "mesh"]),
        ),
        (
            &["--inbound", "192.0.2.1:8080", "--from", "10.9.1.1:4000"],
            json!(["passes", "excluded-cidr", "excludeInboundCidrs", "10.9.0.0/16", "entry"]),
        ),
        (&["--inbound", "192.0.2.1:15008"], json!(["passes", "tunnel", "tunnelPort", none, "mesh"])),
        (
            &["--inbound", "192.0.2.1:8080", "--from", "192.0.2.1"],
            json!(["passes", "local", none, none, none]),
        ),
    ] {
        let (code, answer) = json_of(&entry, &annotations, words);
        let connection = &answer["connection"];
        let rule = &connection["rule"];
        let said = json!([
            connection["verdict"],
            connection["reason"],
            rule["key"],
            rule["item"],
            rule["from"][0]["layer"]
        ]);
        assert_eq!(said, wanted, "{words:?}: {connection}");
        let captured = connection["verdict"] == "captured";
        assert_eq!(code, if captured { TOLD } else { NOT_CAPTURED }, "{words:?}");
        assert_eq!(connection["proxyPort"].is_u64(), captured, "{words:?}");
        assert_eq!(connection["decidedBy"], "plan");
    }
    // Of a pod that is left alone.
    let (code, answer) = json_of(&entry, &json!({}), &["--to", "10.2.0.1:80"]);
    assert_eq!((code, &answer["connection"]["verdict"]), (NOT_CAPTURED, &json!("passes")));
}

#[test]
fn people_read_it() {
    let said = explain(
        r#"{"redirect": {"excludeOutboundCidrs": ["10.1.0.0/16"]}}"#,
        r#"{"sidecar.istio.io/status": "{}", "traffic.sidecar.istio.io/excludeInboundPorts": "22"}"#,
        &["--namespace", "shop", "--name", "cart-0", "--to", "10.1.2.3:80"],
    );
    let wanted = "\
pod        shop/cart-0
state      captured
because    annotation sidecar.istio.io/status marks it
mesh       istio
backend    auto: eBPF where the node can, else iptables

connection outbound tcp to 10.1.2.3:80 by uid 1000, gid 1000
verdict    passes (excluded-cidr): the network is excluded
rule       excludeOutboundCidrs 10.1.0.0/16 from entry, redirect.excludeOutboundCidrs
decided by the plan

VALUE                IS                   FROM
mesh                 istio                default of mesh
outboundPort         15001                mesh istio
inboundPort          15006                mesh istio
proxyUids            1337                 mesh istio
proxyGids            1337                 mesh istio
includeOutboundCidrs *                    mesh istio
excludeOutboundCidrs 10.1.0.0/16          entry, redirect.excludeOutboundCidrs
includeOutboundPorts none                 mesh istio
excludeOutboundPorts 15020                mesh istio
excludeUids          none                 mesh istio
ownAddresses         no                   mesh istio
includeInboundPorts  *                    mesh istio
excludeInboundPorts  22                   annotation traffic.sidecar.istio.io/excludeInboundPorts
                     15020, 15021, 15090  mesh istio
excludeInboundCidrs  none                 mesh istio
excludeInterfaces    none                 mesh istio
tunnelPort           15008                mesh istio
selfCalls            yes                  mesh istio
beforeProxy          closed               default of beforeProxy
captureDns           no                   default of captureDns
udp                  pass                 default of udp
dropInvalid          no                   mesh istio
";
    assert_eq!((said.code, said.text.as_str()), (NOT_CAPTURED, wanted), "{}", said.text);
}

#[test]
fn every_reason_has_a_sentence_of_its_own() {
    let mut sentences: Vec<&str> = Reason::ALL.iter().map(|reason| sentence(*reason)).collect();
    sentences.sort_unstable();
    sentences.dedup();
    assert_eq!(sentences.len(), Reason::ALL.len());
}

#[test]
fn what_does_not_go_together() {
    for (words, word) in [
        (&["explain"][..], "POD"),
        (&["explain", "a", "--config", "b"], "--config"),
        (&["explain", "a", "--to", "10.0.0.1"], "ADDR:PORT"),
        (&["explain", "a", "--to", "10.0.0.1:80", "--inbound", "10.0.0.2:80"], "--inbound"),
        (&["explain", "a", "--udp"], "--to"),
        (&["explain", "a", "--from-uid", "1"], "--to"),
        (&["explain", "a", "--annotations", "b"], "--annotations"),
        (&["explain", "--annotations", "b"], "--config"),
        (&["explain", "a", "--inbound", "10.0.0.1:80", "--from", "b"], "--from"),
    ] {
        let said = run(words.iter().map(Into::into));
        assert!(said.code == 2 && said.complaint.contains(word), "{words:?}: {said:?}");
    }
}
