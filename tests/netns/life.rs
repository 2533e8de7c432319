//! ADD, DEL and what lies between: what was before goes on, what is gone leaves nothing.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::json;
use shunt_tests::ask::{Dial, Serve};
use shunt_tests::net::Shape;
use shunt_tests::process::Talking;

use crate::mesh::{Mesh, SERVICE4, SERVICES, captured, outcomes, outside};

#[test]
fn connections_from_before_add_go_on() {
    let mut mesh = Mesh::before_add(Shape::dual());
    let _app = mesh.pod.serve(&Serve::at([("app", "0.0.0.0:8080"), ("app", "[::]:8080")]));
    let mut going_out = Talking::start(&mesh.pod.app(), &Dial::to(SERVICES));
    let mut coming_in =
        Talking::start(&outside(&mesh.world), &Dial::to(["10.77.0.2:8080", "[fd77::2]:8080"]));
    assert_eq!(outcomes(&going_out.tries), ["world"; 3]);
    assert_eq!(outcomes(&coming_in.tries), ["app"; 2]);
    mesh.add();
    for _round in 0..2 {
        mesh.proxy = None;
        assert_eq!(going_out.echo(), ["same"; 3]);
        assert_eq!(coming_in.echo(), ["same"; 2]);
        mesh.start_proxy();
    }
    mesh.app(SERVICES).iter().for_each(captured);
}

#[test]
fn a_second_add_keeps_the_proxy() {
    let mut mesh = Mesh::new();
    mesh.app(SERVICES).iter().for_each(captured);
    for _again in 0..3 {
        mesh.add();
        mesh.app(SERVICES).iter().for_each(captured);
        assert_eq!(mesh.arriving(false, 8080).outcome(), "inbound");
    }
    mesh.nothing_got_out();
}

#[test]
fn a_second_add_takes_the_new_rules() {
    let mut mesh = Mesh::new();
    mesh.node.redirect("excludeOutboundPorts", json!([443]));
    mesh.add();
    assert_eq!(mesh.outcome("10.96.0.10:443"), "world");
    captured(&crate::mesh::only(mesh.app([SERVICE4])));
    mesh.node.redirect("excludeOutboundPorts", json!([]));
    mesh.add();
    mesh.beyond.seen();
    captured(&crate::mesh::only(mesh.app(["10.96.0.10:443"])));
    mesh.nothing_got_out();
}

#[test]
fn after_del_it_is_as_if_we_had_never_been() {
    let mut mesh = Mesh::before_add(Shape::dual());
    let before = after_another(&mesh);
    mesh.add();
    assert_ne!(mesh.node.kept(), before, "an attachment is recorded");
    mesh.start_proxy();
    mesh.app(SERVICES).iter().for_each(captured);
    mesh.nothing_got_out();

    for _again in 0..2 {
        mesh.node.del(&mesh.pod);
        assert_eq!(mesh.node.kept(), before, "something is left");
        assert_eq!(outcomes(&mesh.app(SERVICES)), ["world"; 3]);
        let seen = mesh.arriving(false, 8080);
        assert_eq!(seen.outcome(), "ECONNREFUSED", "nobody listens there: {seen:?}");
    }
    let _app = mesh.pod.serve(&Serve::at([("app", "0.0.0.0:8080")]));
    assert_eq!(mesh.arriving(false, 8080).outcome(), "app");
}

#[test]
fn a_pod_may_come_back() {
    let mut mesh = Mesh::new();
    for _round in 0..3 {
        mesh.node.del(&mesh.pod);
        assert_eq!(outcomes(&mesh.app(SERVICES)), ["world"; 3]);
        mesh.add();
        mesh.proxy = None;
        mesh.start_proxy();
        mesh.beyond.seen();
        mesh.app(SERVICES).iter().for_each(captured);
        mesh.nothing_got_out();
    }
}

/// A proxy that was there before the pod was: it must be found, or connections refused, but never let past.
#[test]
fn a_proxy_from_before_add() {
    let mut mesh = Mesh::before_add(Shape::dual());
    mesh.start_proxy();
    mesh.add();
    for seen in mesh.app(SERVICES) {
        assert!(["outbound", "ECONNREFUSED"].contains(&seen.outcome()), "{seen:?}");
    }
    mesh.nothing_got_out();
}

#[test]
fn two_interface_names_are_two_attachments() {
    let mut mesh = Mesh::before_add(Shape::two_interfaces());
    let before = after_another(&mesh);
    for interface in ["eth0", "net1"] {
        mesh.node.call("ADD", &mesh.pod, interface).ok();
    }
    mesh.start_proxy();
    mesh.app(SERVICES).iter().for_each(captured);
    for interface in ["eth0", "net1"] {
        mesh.node.call("CHECK", &mesh.pod, interface).ok();
    }
    mesh.node.call("DEL", &mesh.pod, "net1").ok();
    mesh.app(SERVICES).iter().for_each(captured);
    mesh.node.call("CHECK", &mesh.pod, "eth0").ok();
    mesh.nothing_got_out();
    mesh.node.call("DEL", &mesh.pod, "eth0").ok();
    assert_eq!(mesh.node.kept(), before, "something is left");
    assert_eq!(outcomes(&mesh.app(SERVICES)), ["world"; 3]);
}

#[test]
fn check_passes_right_after_add_and_as_long_as_all_is_there() {
    let mut mesh = Mesh::before_add(Shape::dual());
    mesh.add();
    mesh.node.call("CHECK", &mesh.pod, "eth0").ok();
    mesh.start_proxy();
    mesh.node.call("CHECK", &mesh.pod, "eth0").ok();
    mesh.node.del(&mesh.pod);
    mesh.node.call("CHECK", &mesh.pod, "eth0").refused();
}

#[test]
fn every_version_of_the_protocol_adds_and_deletes() {
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let mut mesh = Mesh::before_add(Shape::dual());
        mesh.node.version.replace(version.to_owned());
        mesh.add();
        mesh.start_proxy();
        mesh.app(SERVICES).iter().for_each(captured);
        mesh.node.del(&mesh.pod);
        assert_eq!(outcomes(&mesh.app(SERVICES)), ["world"; 3], "{version}");
    }
}

/// Connections through the proxy live on when we go.
#[test]
fn open_connections_survive_del() {
    let mesh = Mesh::new();
    let mut talking = Talking::start(&mesh.pod.app(), &Dial::to(SERVICES));
    talking.tries.iter().for_each(captured);
    mesh.node.del(&mesh.pod);
    assert_eq!(talking.echo(), ["same"; 3]);
}

/// The pod is gone, its namespace with it, when the runtime gets to say so.
#[test]
fn del_after_the_namespace_is_gone() {
    let mesh = Mesh::before_add(Shape::dual());
    let before = after_another(&mesh);
    mesh.add();
    drop_namespace(&mesh);
    mesh.node.del(&mesh.pod);
    assert_eq!(mesh.node.kept(), before, "something is left");
}

fn drop_namespace(mesh: &Mesh) {
    let gone = nix::mount::umount2(mesh.pod.netns.path(), nix::mount::MntFlags::MNT_DETACH);
    assert_eq!(gone, Ok(()), "the test's own mount");
}

/// What a node keeps when it has had a pod and has none now: what is shared, and nothing of the pod.
fn after_another(mesh: &Mesh) -> BTreeSet<PathBuf> {
    let other = mesh.bare_twin();
    mesh.node.add(&other);
    mesh.node.del(&other);
    mesh.node.kept()
}
