//! What is not for the proxy: its own traffic, loopback, the pod's own addresses, and what no mesh can answer.

use shunt_tests::ask::{Dial, Serve, address, at};
use shunt_tests::net::Shape;
use shunt_tests::process::{self, Server};

use crate::mesh::{Mesh, SERVICES, captured, only, outcome, outcomes, proxy_at};

fn app_everywhere() -> Serve {
    Serve::at([
        ("app", "0.0.0.0:8080"),
        ("app", "[::]:8080"),
        ("app", "0.0.0.0:15008"),
        ("app", "[::]:15008"),
    ])
}

#[test]
fn the_proxy_itself_reaches_the_world() {
    let mesh = Mesh::new();
    let seen = process::dial(&mesh.pod.proxy(), &Dial::to(SERVICES));
    assert_eq!(outcomes(&seen), ["world"; 3], "{seen:?}");
}

#[test]
fn a_group_may_be_exempt_instead_of_a_user() {
    let mut mesh = Mesh::before_add(Shape::dual());
    mesh.node.redirect("proxyGids", serde_json::json!([1338]));
    mesh.add();
    mesh.start_proxy();
    let seen = process::dial(&mesh.pod.place(2000, 1338), &Dial::to(SERVICES));
    assert_eq!(outcomes(&seen), ["world"; 3], "{seen:?}");
    process::dial(&mesh.pod.place(2000, 2000), &Dial::to(SERVICES)).iter().for_each(captured);
}

#[test]
fn loopback_and_own_addresses_reach_the_app() {
    let mesh = Mesh::of(Shape::two_interfaces());
    let _app = mesh.pod.serve(&app_everywhere());
    let own = [
        "127.0.0.1:8080",
        "127.0.0.7:8080",
        "[::1]:8080",
        "[::ffff:127.0.0.1]:8080",
        "0.0.0.0:8080",
        "[::]:8080",
        "[::ffff:0.0.0.0]:8080",
        "10.77.0.2:8080",
        "10.78.0.2:8080",
        "[fd77::2]:8080",
        "[fd78::2]:8080",
        "[::ffff:10.77.0.2]:8080",
    ];
    for to in own {
        let seen = only(mesh.app([to]));
        assert_eq!(seen.outcome(), "app", "{to}: {seen:?}");
    }
}

#[test]
fn nobody_listening_on_loopback_is_refused_as_without_us() {
    let mesh = Mesh::new();
    for to in ["127.0.0.1:9999", "[::1]:9999", "0.0.0.0:9999", "10.77.0.2:9999", "[fd77::2]:9999"] {
        assert_eq!(mesh.outcome(to), "ECONNREFUSED", "{to}");
    }
}

/// Istio's rule 8, row by row: who dials what from where, and who answers.
#[test]
fn an_app_that_calls_itself_through_its_service() {
    let mut mesh = Mesh::before_add(Shape::two_interfaces());
    mesh.pod.netns.ip("addr add ::6/128 dev lo nodad");
    mesh.add();
    mesh.start_proxy();
    let _app = mesh.pod.serve(&app_everywhere());
    let rows = [
        ("10.77.0.2:8080", None, "inbound"),
        ("10.78.0.2:8080", None, "inbound"),
        ("[fd77::2]:8080", None, "inbound"),
        ("[fd78::2]:8080", None, "inbound"),
        ("[::ffff:10.77.0.2]:8080", None, "inbound"),
        ("127.0.0.2:8080", None, "inbound"),
        ("10.77.0.2:8080", Some("127.0.0.6:0"), "app"),
        ("10.78.0.2:8080", Some("127.0.0.6:0"), "app"),
        ("127.0.0.2:8080", Some("127.0.0.6:0"), "app"),
        ("[fd77::2]:8080", Some("[::6]:0"), "app"),
        ("10.77.0.2:15008", None, "app"),
        ("[fd77::2]:15008", None, "app"),
        ("127.0.0.1:8080", None, "app"),
        ("[::1]:8080", None, "app"),
    ];
    for (to, from, answers) in rows {
        let dial = Dial { bind: from.map(address), ..Dial::to([to]) };
        let seen = only(process::dial(&mesh.pod.proxy(), &dial));
        assert_eq!(seen.outcome(), answers, "the proxy dials {to} from {from:?}: {seen:?}");
        if answers == "inbound" {
            let dialled = Some(shunt_tests::ask::plain(seen.to));
            assert_eq!(seen.greeted().original(), dialled, "{seen:?}");
            assert_eq!(seen.peer, dialled, "the proxy sees whom it called: {seen:?}");
        }
    }
}

/// With the inbound side dead, the proxy's call to its own pod is refused too, never handed to the app.
#[test]
fn an_app_that_calls_itself_is_not_reached_past_a_dead_inbound_side() {
    let mut mesh = Mesh::new();
    let mut app = mesh.pod.serve(&app_everywhere());
    mesh.proxy = None;
    for to in ["10.77.0.2:8080", "[fd77::2]:8080"] {
        let seen = process::dial(&mesh.pod.proxy(), &Dial::to([to]));
        assert_eq!(outcome(&seen), "ECONNREFUSED", "{seen:?}");
    }
    assert!(app.seen().is_empty());
}

/// What Istio's validation container does at pod start, as the proxy's user.
#[test]
fn the_validation_container_meets_itself() {
    let mut mesh = Mesh::before_add(Shape::dual());
    mesh.pod.netns.ip("addr add ::6/128 dev lo nodad");
    mesh.add();
    mesh.proxy = Some(Server::start(&mesh.pod.proxy(), &proxy_at(&["127.0.0.1", "[::1]"])));
    for to in ["127.0.0.6:15002", "[::6]:15002"] {
        let seen = only(process::dial(&mesh.pod.proxy(), &Dial::to([to])));
        assert_eq!(seen.outcome(), "inbound", "{seen:?}");
        assert_eq!(seen.greeted().original(), Some(address(to)), "{seen:?}");
    }
}

#[test]
fn multicast_and_broadcast_fail_as_without_us() {
    let mut mesh = Mesh::new();
    let bare = mesh.bare_twin();
    let to = [
        "224.0.0.1:80",
        "239.1.2.3:80",
        "255.255.255.255:80",
        "10.77.255.255:80",
        "[ff02::1]:80",
        "[ff0e::1]:80",
        "[::ffff:224.0.0.1]:80",
        "[::ffff:255.255.255.255]:80",
    ];
    let with = mesh.app(to);
    let without = bare.dial(&Dial::to(to));
    for (with, without) in with.iter().zip(&without) {
        assert_eq!(with.error, without.error, "with us, without us: {}", with.to);
    }
    mesh.beyond.seen();
    mesh.nothing_got_out();
}

#[test]
fn a_family_the_pod_has_no_address_in_fails_as_without_us() {
    for (shape, to) in [(Shape::only_v4(), "[fd96::10]:80"), (Shape::only_v6(), "10.96.0.10:80")] {
        let mesh = Mesh::of(shape);
        let bare = mesh.bare_twin();
        let mapped = crate::mesh::mapped(to);
        for to in [to, mapped.as_str()] {
            let (with, without) = (mesh.outcome(to), outcome(&bare.dial(&Dial::to([to]))));
            assert_eq!(with, without, "{to}");
        }
    }
}

/// Nobody on the pod's networks knows the way there, but a mesh may.
#[test]
fn a_destination_without_a_route_is_captured() {
    let mut mesh = Mesh::of(Shape::dual().no_default_route());
    let bare = mesh.bare_twin();
    for to in SERVICES {
        captured(&only(mesh.app([to])));
        assert_eq!(outcome(&bare.dial(&Dial::to([to]))), "ENETUNREACH");
    }
    mesh.nothing_got_out();
}

/// A neighbour on the pod's own network is as far away as anybody.
#[test]
fn a_neighbour_is_captured() {
    let mut mesh = Mesh::new();
    for to in [at(address("10.77.0.1:1").ip(), 80), at(address("[fd77::1]:1").ip(), 80)] {
        captured(&only(mesh.app([to])));
    }
    mesh.nothing_got_out();
}
