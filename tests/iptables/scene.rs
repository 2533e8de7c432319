//! A pod whose plugin uses iptables, and looks at its rules.

use serde_json::json;
use shunt_tests::need;
use shunt_tests::net::{Netns, Shape};

use crate::mesh::Mesh;

/// A dual-stack pod the plugin has not seen, with backend iptables.
pub(crate) fn before_add() -> Mesh {
    of(Shape::dual())
}

/// The same for a pod of another shape.
pub(crate) fn of(shape: Shape) -> Mesh {
    for tool in ["iptables-nft-restore", "iptables-legacy-restore"] {
        need::tool(tool);
    }
    let mesh = Mesh::before_add(shape);
    mesh.node.configure(|entry| entry["backend"] = json!("iptables"));
    mesh
}

/// The same with ADD done and its proxy running.
pub(crate) fn added() -> Mesh {
    let mut mesh = before_add();
    mesh.add();
    mesh.start_proxy();
    mesh
}

/// Every rule and chain of ours, both families, in the words of a flavour's save.
pub(crate) fn rules(netns: &Netns, flavour: &str) -> Vec<String> {
    let mut found = Vec::new();
    for word in ["iptables", "ip6tables"] {
        let text = netns.run(&format!("{word}-{flavour}-save"), &[], "");
        found
            .extend(text.lines().filter(|line| line.contains("SHUNT_")).map(|line| format!("{word} {line}")));
    }
    found
}

/// A change somebody else makes, both families.
pub(crate) fn meddle(netns: &Netns, flavour: &str, commands: &str) {
    for word in ["iptables", "ip6tables"] {
        netns.run(&format!("{word}-{flavour}-restore"), &["--noflush"], commands);
    }
}
