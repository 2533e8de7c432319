//! `shuntctl` on the node, about real pods.

use serde_json::Value;
use shunt_tests::schema;

use crate::cluster::NAMESPACE;
use crate::objects::{APP_PORT, plain};
use crate::scenario::Bed;

/// It knows the pods that run here by the names Kubernetes gives them.
pub(crate) fn answers(bed: &mut Bed) -> String {
    let image = bed.cluster.images.pod.clone();
    bed.cluster.run_pods(&[plain("plain", &image, &[])]);
    let there = bed.world.addresses();
    let own = bed.cluster.addresses("meshed");
    let node = bed.node();
    let about = |pod: &str| format!("{NAMESPACE}/{pod}");

    let pods = node.shuntctl(&["pods", "--all"]);
    schema::hold(&schema::of("pods"), &pods);
    let state = |name: &str| {
        let all = pods["pods"].as_array().cloned().unwrap_or_default();
        let found = all.into_iter().find(|pod| pod["name"] == name && pod["namespace"] == NAMESPACE);
        found.unwrap_or_else(|| panic!("{name} is not among {pods:#}"))
    };
    assert_eq!(state("meshed")["state"], "captured", "{pods:#}");
    assert_eq!(state("meshed")["backend"], "ebpf", "this kernel can: {pods:#}");
    assert_eq!(state("plain")["state"], "skipped", "{pods:#}");

    let explained = |arguments: &[&str]| {
        let told = node.shuntctl(&[&["explain"], arguments].concat());
        schema::hold(&schema::of("explain"), &told);
        told
    };
    assert_eq!(explained(&[&about("meshed")])["state"], "captured");
    assert_eq!(explained(&[&about("plain")])["state"], "skipped");
    for address in &there {
        let told = explained(&[&about("meshed"), "--to", address]);
        assert_eq!(verdict(&told), "captured", "{told:#}");
        let told = explained(&[&about("meshed"), "--to", address, "--from-uid", "1337"]);
        assert_eq!(verdict(&told), "passes", "{told:#}");
    }
    for ip in own {
        let to = std::net::SocketAddr::new(ip, APP_PORT).to_string();
        let told = explained(&[&about("meshed"), "--inbound", &to, "--from", &there[0]]);
        assert_eq!(verdict(&told), "captured", "{told:#}");
    }
    let found = node.shuntctl(&["check"]);
    schema::hold(&schema::of("check"), &found);
    let worst = |level: &str| {
        let all = found["findings"].as_array().cloned().unwrap_or_default();
        all.into_iter().filter(|finding| finding["severity"] == level).collect::<Vec<_>>()
    };
    assert!(worst("error").is_empty() && worst("warning").is_empty(), "{found:#}");
    bed.cluster.delete(&["plain"]);
    "pods, explain and check agree with what was seen".to_owned()
}

fn verdict(told: &Value) -> &str {
    told["connection"]["verdict"].as_str().unwrap_or_default()
}
