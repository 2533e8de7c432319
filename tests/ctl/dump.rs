//! `shuntctl dump`: all of it, and no secrets.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use serde_json::{Value, json};
use shunt_tests::bin;
use shunt_tests::host::Host;

use crate::mesh::Mesh;

/// Nothing that begins so may come out.
const PLANTED: &str = "hunter2";

#[test]
fn what_a_bug_report_needs_and_no_secrets() {
    let mut mesh = Mesh::before_add(shunt_tests::net::Shape::dual());
    mesh.pod.annotations.insert("vault.example/token".to_owned(), format!("{PLANTED}-annotation"));
    mesh.add();
    let host = Host::new(&mesh.node);
    let token = format!("eyJhbGciOiJSUzI1NiJ9.{PLANTED}.c2ln");
    let pem = format!("-----BEGIN CERTIFICATE-----\n{PLANTED}\n-----END CERTIFICATE-----");
    let mut plugins = Host::plugins();
    plugins[0] = json!({
        "type": "calico", "etcd_key": "x", "policy": {"type": "k8s", "k8s_auth_token": format!("{PLANTED}-token")},
        "kubernetes": {"kubeconfig": "/etc/cni/net.d/calico-kubeconfig", "k8s_client_certificate": pem},
        "note": format!("call it with Bearer {PLANTED}"), "other": token, "endpoints": format!("https://me:{PLANTED}@etcd:2379"),
        "ca": pem
    });
    host.list("10-calico.conflist", &plugins);
    let log = mesh.node.directory().join("shunt.log");
    let mut text = fs::read_to_string(&log).expect("a log");
    let line = json!({"msg": "x", "details": format!("refused Bearer {PLANTED}"), "password": PLANTED});
    text.push_str(&line.to_string());
    text.push('\n');
    fs::write(&log, text).expect("written");
    let (code, bundle) = host.ctl_json(&mesh.node, &["dump"]);
    assert_eq!(code, 0);
    let text = bundle.to_string();
    assert!(!text.contains(PLANTED), "{bundle:#}");
    assert!(text.contains("/etc/cni/net.d/calico-kubeconfig"), "a path is no secret");
    assert_eq!(bundle["explain"][0]["state"], "captured", "{bundle:#}");
    assert_eq!(bundle["pods"]["pods"][0]["state"], "captured");
    assert_eq!(bundle["status"]["objects"][0]["own"], true);
    assert_eq!(bundle["check"]["version"], 1);
    assert!(bundle["log"].as_array().is_some_and(|lines| lines.len() > 1), "{bundle:#}");
    assert_eq!(bundle["lists"]["10-calico.conflist"]["plugins"][1]["type"], "shunt");

    // Into a file for root alone; the environment is in none.
    let file = mesh.node.directory().join("bundle.json");
    let done = Command::new(bin::shuntctl())
        .args(["dump", "--output"])
        .arg(&file)
        .arg("--state-dir")
        .arg(mesh.node.directory().join("state"))
        .arg("--bpf-dir")
        .arg(mesh.node.bpf_dir())
        .env("SECRET", format!("{PLANTED}-environment"))
        .output()
        .expect("shuntctl can be run");
    assert!(done.status.success(), "{done:?}");
    assert_eq!(fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&file).expect("a file");
    assert!(!text.contains(PLANTED), "{text}");
    let _whole: Value = serde_json::from_str(&text).expect("JSON");
}
