//! Pods of other shapes, and several on one node.

use shunt_tests::ask::{Dial, Try, plain};
use shunt_tests::net::Shape;
use shunt_tests::process::{self, Server};

use crate::mesh::{Mesh, SERVICE4, SERVICE6, SERVICES, captured, everywhere, outcomes, outside, proxy_at};

#[test]
fn a_pod_with_ipv6_only() {
    let mut mesh = Mesh::before_add(Shape::only_v6());
    mesh.add();
    mesh.proxy = Some(Server::start(&mesh.pod.proxy(), &proxy_at(&["[::]"])));
    captured(&crate::mesh::only(mesh.app([SERVICE6])));
    assert_eq!(mesh.arriving(true, 8080).outcome(), "inbound");
    mesh.nothing_got_out();
    mesh.proxy = None;
    assert_eq!(mesh.outcome(SERVICE6), "ECONNREFUSED");
    mesh.nothing_got_out();
}

#[test]
fn a_pod_with_ipv4_only() {
    let mut mesh = Mesh::before_add(Shape::only_v4());
    mesh.add();
    mesh.proxy = Some(Server::start(&mesh.pod.proxy(), &proxy_at(&["0.0.0.0"])));
    captured(&crate::mesh::only(mesh.app([SERVICE4])));
    assert_eq!(mesh.arriving(false, 8080).outcome(), "inbound");
    mesh.nothing_got_out();
}

/// Addresses an app has are those the routes give it, whichever of its interfaces that is.
#[test]
fn two_interfaces_keep_the_source_each_destination_has_without_us() {
    let mut mesh = Mesh::of(Shape::two_interfaces());
    let bare = mesh.bare_twin();
    // Services by the default route, neighbours by each interface.
    let to =
        ["10.96.0.10:80", "[fd96::10]:80", "10.77.0.1:80", "10.78.0.1:80", "[fd77::1]:80", "[fd78::1]:80"];
    let with = mesh.app(to);
    let without = bare.dial(&Dial::to(to));
    with.iter().for_each(captured);
    let network =
        |seen: &Try| seen.local.map(|at| at.ip().to_string().replace(".0.3", ".0.2").replace("::3", "::2"));
    for (with, without) in with.iter().zip(&without) {
        assert_eq!(network(with), network(without), "source for {}, with us and without", with.to);
        assert_eq!(Some(with.greeted().peer()), with.local, "{with:?}");
    }
    mesh.beyond.seen();
    for to in ["10.77.0.2:8080", "10.78.0.2:8080", "[fd77::2]:8080", "[fd78::2]:8080"] {
        let seen = crate::mesh::only(process::dial(&outside(&mesh.world), &Dial::to([to])));
        assert_eq!(seen.outcome(), "inbound", "{seen:?}");
        assert_eq!(seen.greeted().original(), Some(plain(seen.to)), "{seen:?}");
    }
    mesh.nothing_got_out();
}

/// Bound to each address, dialled through each device.
#[test]
fn two_interfaces_and_a_source_of_choice() {
    let mesh = Mesh::of(Shape::two_interfaces());
    for (to, from) in [
        ("10.78.0.1:80", "10.77.0.2:0"),
        ("10.77.0.1:80", "10.78.0.2:0"),
        ("[fd78::1]:80", "[fd77::2]:0"),
        ("[fd77::1]:80", "[fd78::2]:0"),
    ] {
        let seen = crate::mesh::only(mesh.pod.dial(&Dial::to([to]).bind(from)));
        captured(&seen);
        assert_eq!(seen.local.map(|at| at.ip()), Some(shunt_tests::ask::address(from).ip()), "{seen:?}");
    }
    for (to, device) in [("10.78.0.1:80", "net1"), ("10.77.0.1:80", "eth0"), ("[fd78::1]:80", "net1")] {
        let dial = Dial { device: Some(device.to_owned()), ..Dial::to([to]) };
        captured(&crate::mesh::only(process::dial(&mesh.pod.place(0, 0), &dial)));
    }
}

/// Pods of two networks may have the same addresses; nothing of one shows in the other.
#[test]
fn two_pods_with_the_same_addresses_on_one_node() {
    let mut mesh = Mesh::new();
    let other_world = mesh.node.world();
    let other = mesh.node.pod(&other_world, Shape::dual());
    mesh.node.add(&other);
    assert_eq!(other.ip(false), mesh.pod.ip(false));

    assert_eq!(
        outcomes(&other.dial(&Dial::to(SERVICES))),
        ["ECONNREFUSED"; 3],
        "its own proxy is not there yet"
    );
    let mut others_proxy = Server::start(&other.proxy(), &everywhere());
    other.dial(&Dial::to(SERVICES)).iter().for_each(captured);
    assert_eq!(others_proxy.seen().len(), 3);
    mesh.app(SERVICES).iter().for_each(captured);
    assert!(others_proxy.seen().is_empty(), "connections of one pod came to the other's proxy");

    // One's proxy dies, the other's pod leaves: each only for itself.
    mesh.proxy = None;
    assert_eq!(outcomes(&mesh.app(SERVICES)), ["ECONNREFUSED"; 3]);
    other.dial(&Dial::to(SERVICES)).iter().for_each(captured);
    mesh.start_proxy();
    mesh.node.del(&other);
    mesh.app(SERVICES).iter().for_each(captured);
    assert_eq!(mesh.arriving(false, 8080).outcome(), "inbound");
    mesh.nothing_got_out();
}

#[test]
fn two_pods_talk_to_each_other_through_both_proxies() {
    let mesh = Mesh::new();
    let other = mesh.node.pod(&mesh.world, Shape::dual().numbered(9));
    mesh.node.add(&other);
    let _others_proxy = Server::start(&other.proxy(), &everywhere());
    for v6 in [false, true] {
        let there = shunt_tests::ask::at(other.ip(v6), 8080);
        captured(&crate::mesh::only(mesh.app([&there])));
        let handed_on = crate::mesh::only(process::dial(&mesh.pod.proxy(), &Dial::to([&there])));
        assert_eq!(handed_on.outcome(), "inbound", "{handed_on:?}");
        assert_eq!(handed_on.greeted().original(), Some(plain(handed_on.to)), "{handed_on:?}");
    }
}

/// An address that comes after ADD is the pod's own too.
#[test]
fn an_address_added_after_add_stays_reachable_from_outside_through_the_proxy() {
    let mesh = Mesh::new();
    mesh.pod.netns.ip("addr add 10.77.0.77/16 dev eth0\naddr add fd77::77/64 dev eth0 nodad\n");
    for to in ["10.77.0.77:8080", "[fd77::77]:8080"] {
        let seen = crate::mesh::only(process::dial(&outside(&mesh.world), &Dial::to([to])));
        assert_eq!(seen.outcome(), "inbound", "{seen:?}");
    }
}

/// A runtime may name a cgroup that is not there (yet); such a pod is served by what hangs above all pods, which must not
/// take anything from a pod that has its own.
#[test]
fn a_pod_whose_cgroup_is_not_there_beside_one_whose_is() {
    let mut mesh = Mesh::new();
    let mut other = mesh.node.pod(&mesh.world, Shape::dual().numbered(9));
    other.cgroup_path = other.cgroup_path.replace("/pod", "/podnot");
    mesh.node.add(&other);
    let _others_proxy = Server::start(&other.proxy(), &everywhere());
    other.dial(&Dial::to(SERVICES)).iter().for_each(captured);
    mesh.app(SERVICES).iter().for_each(captured);
    mesh.node.del(&other);
    mesh.app(SERVICES).iter().for_each(captured);
    mesh.nothing_got_out();
}
