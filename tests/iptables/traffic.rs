//! What the rules do to connections.

use serde_json::json;
use shunt_tests::ask::{Dial, at};
use shunt_tests::process::{self, Talking};

use crate::mesh::{SERVICES, captured, outcome, outcomes};
use crate::scene::{self, meddle};

#[test]
fn both_ways_both_families_and_both_flavours() {
    for flavour in ["nft", "legacy"] {
        let mut mesh = scene::before_add();
        meddle(&mesh.pod.netns, flavour, "*nat\n-A OUTPUT -p tcp --dport 25 -j RETURN\nCOMMIT\n");
        mesh.add();
        mesh.start_proxy();
        for seen in mesh.app(SERVICES) {
            captured(&seen);
            assert_eq!(seen.peer, Some(shunt_tests::ask::plain(seen.to)), "{seen:?}");
        }
        for v6 in [false, true] {
            assert_eq!(mesh.arriving(v6, 8080).outcome(), "inbound", "{flavour}");
        }
        mesh.nothing_got_out();
    }
}

#[test]
fn the_proxy_passes_but_meets_itself_inside_the_pod() {
    let mesh = scene::added();
    let as_proxy = |to: &str| outcome(&process::dial(&mesh.pod.proxy(), &Dial::to([to])));
    for service in SERVICES {
        assert_eq!(as_proxy(service), "world", "{service}");
    }
    for v6 in [false, true] {
        assert_eq!(as_proxy(&at(mesh.pod.ip(v6), 8080)), "inbound");
        let passthrough = if v6 { "[::6]:0" } else { "127.0.0.6:0" };
        let handed_on = Dial {
            bind: Some(shunt_tests::ask::address(passthrough)),
            ..Dial::to([at(mesh.pod.ip(v6), 8080)])
        };
        assert_ne!(outcome(&process::dial(&mesh.pod.proxy(), &handed_on)), "inbound");
    }
    assert_eq!(as_proxy("127.0.0.9:8080"), "inbound");
    assert_ne!(as_proxy("127.0.0.1:8080"), "inbound");
}

#[test]
fn lists_are_kept() {
    let mut mesh = scene::before_add();
    mesh.node.redirect("excludeOutboundPorts", json!(["8000-8999"]));
    mesh.node.redirect("excludeOutboundCidrs", json!(["10.96.5.0/24", "fd96::5:0/112"]));
    mesh.node.redirect("excludeInboundPorts", json!([9000]));
    mesh.add();
    mesh.start_proxy();
    for (to, who) in [
        ("10.96.0.10:8080", "world"),
        ("[fd96::10]:8500", "world"),
        ("10.96.5.1:80", "world"),
        ("[fd96::5:1]:80", "world"),
        ("10.96.6.1:80", "outbound"),
        ("[fd96::6:1]:80", "outbound"),
    ] {
        assert_eq!(mesh.outcome(to), who, "{to}");
    }
    for v6 in [false, true] {
        assert_eq!(mesh.arriving(v6, 9001).outcome(), "inbound");
        assert_ne!(mesh.arriving(v6, 9000).outcome(), "inbound");
    }
}

/// Also those that connection tracking sees for the first time in their middle.
#[test]
fn connections_from_before_go_on() {
    let mut mesh = scene::before_add();
    let mut talking = Talking::start(&mesh.pod.app(), &Dial::to(SERVICES));
    assert_eq!(outcomes(&talking.tries), ["world"; 3]);
    mesh.add();
    mesh.start_proxy();
    assert_eq!(talking.echo(), ["same"; 3]);
    mesh.app(SERVICES).iter().for_each(captured);
    mesh.add();
    assert_eq!(talking.echo(), ["same"; 3]);
}

#[test]
fn without_a_proxy_nothing_gets_out() {
    let mut mesh = scene::before_add();
    mesh.add();
    for seen in mesh.app(SERVICES) {
        assert_eq!(seen.outcome(), "ECONNREFUSED", "{seen:?}");
    }
    mesh.nothing_got_out();
}
