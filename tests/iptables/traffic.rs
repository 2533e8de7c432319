//! What the rules do to connections.

use crate::mesh::{SERVICES, captured};
use crate::scene;

#[test]
fn both_ways_and_both_families() {
    let mut mesh = scene::added();
    for seen in mesh.app(SERVICES) {
        captured(&seen);
        assert_eq!(seen.peer, Some(shunt_tests::ask::plain(seen.to)), "{seen:?}");
    }
    for v6 in [false, true] {
        assert_eq!(mesh.arriving(v6, 8080).outcome(), "inbound");
    }
    mesh.nothing_got_out();
}
