//! The harness sees capture where there is some, and none where there is none.

use shunt_tests::net::Shape;
use shunt_tests::redirect;

use crate::mesh::{Mesh, SERVICES, captured, outcomes};

#[test]
fn a_pod_without_us_reaches_the_world() {
    let mut mesh = Mesh::before_add(Shape::dual());
    let seen = mesh.app(SERVICES);
    assert_eq!(outcomes(&seen), ["world"; 3], "{seen:?}");
    assert_eq!(mesh.beyond.seen().len(), 3, "the server counts what it accepts");
}

#[test]
fn capture_by_redirect_rules_is_seen_as_such() {
    shunt_tests::need::tool("iptables-restore");
    let mut mesh = Mesh::before_add(Shape::dual());
    redirect::apply(&mesh.pod.netns);
    mesh.start_proxy();
    for seen in mesh.app(SERVICES) {
        captured(&seen);
        assert_eq!(seen.peer, Some(shunt_tests::ask::plain(seen.to)), "{seen:?}");
    }
    for v6 in [false, true] {
        assert_eq!(mesh.arriving(v6, 8080).outcome(), "inbound");
    }
    mesh.nothing_got_out();
}
