//! What the running kernel can do: which programs it takes, what the probe says of each hook, what `backend: auto` makes of it.
//!
//! On a development machine a quick suite among the others. `make test-kernel` runs it on other kernels, where lines that begin
//! with `@` go into its table. `SHUNT_TESTS_AUTO` says what `auto` must choose: `ebpf`, unless it says `iptables`.

#![expect(clippy::panic, clippy::expect_used, reason = "a test that cannot be judged must fail")]

#[path = "../netns/mesh.rs"]
#[expect(dead_code, reason = "made for another suite, which needs more of it")]
mod mesh;
mod verifier;

use std::path::Path;

use serde_json::Value;
use shunt::bpf::pins::Layout;
use shunt_abi::names;
use shunt_tests::net::Shape;
use shunt_tests::node::Node;

use mesh::{Mesh, SERVICES, captured, outcomes};

/// Names what `auto` must choose on this kernel.
const AUTO: &str = "SHUNT_TESTS_AUTO";

fn runs_ebpf() -> bool {
    match std::env::var(AUTO).as_deref() {
        Err(_) | Ok("ebpf") => true,
        Ok("iptables") => false,
        Ok(other) => panic!("{AUTO} is {other:?}: a backend it is not"),
    }
}

/// What was found, for whoever made the run.
#[expect(clippy::print_stdout, reason = "a test says it; the function is none to the lint")]
fn tell(what: &str) {
    println!("\n@ {what}");
}

fn file_names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("the plugin made it").filter_map(Result::ok);
    let mut found: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    found.sort();
    found
}

#[test]
fn the_verifier_takes_every_program() {
    let mesh = Mesh::around_node(Node::on("ebpf"), Shape::dual());
    let status = mesh.node.call_bare("STATUS", |_| ());
    if !runs_ebpf() {
        let (code, why) = status.refused();
        assert!(matches!(code, 50 | 100 | 101), "{code}: {why}");
        tell(&format!("ebpf: {why}"));
        return;
    }
    status.ok();
    // `sk_lookup` is loaded for each pod.
    mesh.add();
    let layouts = Layout::all(mesh.node.bpf_dir()).expect("it can be listed");
    let [layout] = layouts.as_slice() else { panic!("one object was loaded: {layouts:?}") };
    let loaded = file_names(&layout.root().join("programs"));
    for name in names::SHARED_PROGRAMS.iter().chain([&names::GETSOCKOPT]) {
        assert!(loaded.iter().any(|one| one == name), "{name} is not among {loaded:?}");
    }
    let most = loaded.iter().map(|name| (verifier::verified(&layout.program(name)), name.as_str()));
    let most: Vec<String> = most.map(|(count, name)| format!("{name} {count}")).collect();
    tell(&format!("instructions the verifier went through: {}", most.join(", ")));
    tell(&format!("loaded: {} and {}, {}", loaded.join(" "), names::SK_LOOKUP, names::TELL));
    mesh.node.del(&mesh.pod);
}

#[test]
fn the_probe_tries_every_hook() {
    let node = Node::on("auto");
    let answer = node.probed();
    let steps = answer.get("steps").and_then(Value::as_array).expect("a probe has steps");
    for step in steps {
        tell(&format!("probe: {step}"));
    }
    let worked = |step: &Value| step.get("result").and_then(Value::as_str) == Some("works");
    assert_eq!(steps.iter().all(worked), runs_ebpf(), "{answer:#}");
    let backend = answer.get("backend").and_then(Value::as_str);
    assert_eq!(backend, Some(if runs_ebpf() { "ebpf" } else { "iptables" }), "{answer:#}");
}

#[test]
fn auto_captures_either_way() {
    let mut mesh = Mesh::around_node(Node::on("auto"), Shape::dual());
    let _kept = mesh.node.probed();
    mesh.add();
    mesh.start_proxy();
    let log = mesh.node.log();
    let chosen = log.rsplit_once("intercepted: ").map_or("nothing", |(_, rest)| rest);
    let chosen = chosen.split_once('"').map_or(chosen, |(words, _)| words);
    let (backend, why) = chosen.split_once(": ").unwrap_or((chosen, ""));
    tell(&format!("auto: {backend}"));
    tell(&format!("why: {why}"));
    assert_eq!(backend, if runs_ebpf() { "ebpf" } else { "iptables" }, "{log}");
    for seen in mesh.app(SERVICES) {
        captured(&seen);
    }
    for v6 in [false, true] {
        assert_eq!(mesh.arriving(v6, 8080).outcome(), "inbound");
    }
    mesh.nothing_got_out();
    mesh.proxy = None;
    assert_eq!(outcomes(&mesh.app(SERVICES)), ["ECONNREFUSED"; 3], "no proxy, no connection");
    let check = mesh.node.call("CHECK", &mesh.pod, "eth0");
    assert_eq!(check.code, 0, "{check:?}");
    mesh.node.del(&mesh.pod);
}
