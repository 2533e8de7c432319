//! A node is left: pods that run keep their capture, or give it back.

use serde_json::json;
use shunt_tests::net::Shape;

use crate::mesh::{Mesh, SERVICES, captured, outcomes};

#[test]
fn a_purge_leaves_a_pod_captured_and_one_that_detaches_sets_it_free() {
    let mut mesh = Mesh::before_add(Shape::dual());
    mesh.add();
    mesh.start_proxy();
    mesh.app(SERVICES).iter().for_each(captured);
    let binary = mesh.node.directory().join("the-plugin");
    std::fs::write(&binary, "").unwrap_or_else(|error| panic!("own directory: {error}"));
    let purge = ["purge", "--binary", &binary.display().to_string()];
    assert_eq!(mesh.node.ask(&purge), json!({ "removed": 0, "left": 1, "problems": [] }));
    mesh.app(SERVICES).iter().for_each(captured);
    mesh.node.call("CHECK", &mesh.pod, "eth0").ok();
    mesh.nothing_got_out();

    let detach = [purge[0], purge[1], purge[2], "--detach"];
    assert_eq!(mesh.node.ask(&detach), json!({ "removed": 1, "left": 0, "problems": [] }));
    assert_eq!(outcomes(&mesh.app(SERVICES)), ["world"; 3]);
    assert_eq!(mesh.node.call("CHECK", &mesh.pod, "eth0").refused().0, 104);
    assert_eq!(mesh.node.kept(), [].into());
    assert!(!binary.exists() && !mesh.node.bpf_dir().exists());
    mesh.node.del(&mesh.pod);
}

#[test]
fn what_was_decided_for_a_pod_outlives_it() {
    let mut mesh = Mesh::before_add(Shape::dual());
    mesh.add();
    mesh.start_proxy();
    mesh.app(SERVICES).iter().for_each(captured);
    let decisions = || mesh.node.ask(&["report"])["decisions"].clone();
    let living = decisions();
    let outbound = living["outbound"].as_u64();
    assert!(outbound.is_some_and(|count| count >= SERVICES.len() as u64), "{living}");
    mesh.node.del(&mesh.pod);
    assert_eq!(decisions(), living);
    // Another pod adds to it.
    let other = mesh.bare_twin();
    mesh.node.add(&other);
    assert_eq!(decisions()["outbound"].as_u64(), outbound);
    mesh.node.del(&other);
    assert_eq!(decisions()["outbound"].as_u64(), outbound);
}
