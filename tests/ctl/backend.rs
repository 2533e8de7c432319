//! `shuntctl backend`: the form of what it says.

use serde_json::json;
use shunt_tests::node::Node;

use crate::{ctl, ctl_json};

#[test]
fn a_node_before_and_after_it_was_probed() {
    let node = Node::new();
    let said = ctl(&node, &["backend"]);
    assert!(said.code == 3 && said.out.is_empty(), "{said:?}");
    let (code, probed) = ctl_json(&node, &["backend", "--probe"]);
    assert_eq!((code, &probed["backend"]), (0, &json!("ebpf")), "{probed:#}");
    assert_eq!(ctl_json(&node, &["backend"]), (0, probed));
    // As it was called before there were tables.
    assert!(ctl(&node, &["backend", "--output", "text"]).out.starts_with("backend  ebpf\n"));
}
