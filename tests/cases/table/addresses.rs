//! Destinations that are not captured, or need care: loopback, own addresses, several interfaces, no route, no family.

use serde_json::json;
use shunt_tests::net::Shape;

use super::differences::{ARRIVES_BY, LATE_INTERFACE, NO_ROUTE, OWN_PORT};
use super::plays;
use crate::case::{AS_BARE, Backend, Case, From, To, V4, V6, WIRE, Who, case};
use crate::scene::{EVERYWHERE, Group, PLAIN, Proxy};

pub(super) const GROUPS: &[Group] = &[
    Group { id: "inside", cases: INSIDE, ..PLAIN },
    Group { id: "two interfaces", cases: TWO, shape: Shape::two_interfaces, ..PLAIN },
    Group {
        id: "excluded interface",
        cases: EXCLUDED,
        shape: Shape::two_interfaces,
        plan: |node, _| node.redirect("excludeInterfaces", json!(["net1"])),
        ..PLAIN
    },
    Group {
        id: "excluded interface that comes later",
        cases: LATER,
        plan: |node, _| node.redirect("excludeInterfaces", json!(["net1"])),
        ..PLAIN
    },
    Group { id: "no default route", cases: NO_DEFAULT, shape: || Shape::dual().no_default_route(), ..PLAIN },
    Group {
        id: "only v4",
        cases: ONLY_V4,
        shape: Shape::only_v4,
        proxy: Proxy { ips: &["0.0.0.0"], ..EVERYWHERE },
        ..PLAIN
    },
    Group {
        id: "only v6",
        cases: ONLY_V6,
        shape: Shape::only_v6,
        proxy: Proxy { ips: &["[::]"], ..EVERYWHERE },
        ..PLAIN
    },
];

const INSIDE: &[Case] = &[
    case("loopback", "ebpf 1; istio 9, 16").to(To::Loopback(8080)).gets("app"),
    case("another loopback address", "ebpf 1; istio 9")
        .to(To::Host("127.0.0.7", "::1", 8080))
        .gets("app")
        .source("loopback"),
    case("the unspecified address", "ebpf matrix: connect 0.0.0.0:80; ebpf 1")
        .to(To::Unspecified(80))
        .gets("app"),
    case("own address", "ebpf 2; istio 9").to(To::Own(8080)).gets("app"),
    case("own address where nobody listens", "ebpf 2").to(To::Own(9999)).gets("ECONNREFUSED"),
    case("loopback where nobody listens", "ebpf 1").to(To::Loopback(9999)).gets("ECONNREFUSED"),
    case("own address and the outbound port", "ebpf 2: own IP and a proxy port")
        .to(To::Own(15001))
        .gets("outbound")
        .but_tells(Backend::Ebpf, "none", &OWN_PORT),
    case("own address and the inbound port", "ebpf 2: own IP and a proxy port")
        .to(To::Own(15006))
        .gets("inbound")
        .but_tells(Backend::Ebpf, "none", &OWN_PORT),
    case("the app's own pass-through source", "istio 7, 9")
        .to(To::Own(8080))
        .from(From::Passthrough)
        .gets("app"),
    case("proxy to own address", "ebpf 3; istio 8").who(Who::Proxy).to(To::Own(8080)).gets("inbound"),
    case("proxy to own address from the pass-through source", "ebpf 3; istio 7")
        .who(Who::Proxy)
        .to(To::Own(8080))
        .from(From::Passthrough)
        .gets("app"),
    case("proxy to loopback", "istio 8").who(Who::Proxy).to(To::Loopback(8080)).gets("app"),
    case("proxy to another loopback address", "istio 8")
        .who(Who::Proxy)
        .to(To::Host("127.0.0.2", "::1", 8080))
        .over(V4)
        .gets("inbound")
        .source("loopback"),
    case("multicast", "corner: multicast").to(To::Host("224.0.0.1", "ff02::1", 80)).gets(AS_BARE),
    case("limited broadcast", "corner: broadcast")
        .to(To::Host("255.255.255.255", "ff0e::1", 80))
        .gets(AS_BARE),
    case("broadcast of the subnet", "corner: broadcast")
        .to(To::Host("10.77.255.255", "ff05::2", 80))
        .gets(AS_BARE),
];

const TWO: &[Case] = &[
    case("a service by the default route", "corner: own addresses; source"),
    case("a neighbour on the second network", "corner: source does not change")
        .to(To::Host("10.78.0.1", "fd78::1", 80))
        .source("own, second"),
    case("a neighbour on the second network, bound to that address", "corner: source")
        .to(To::Host("10.78.0.1", "fd78::1", 80))
        .from(From::OwnSecond),
    case("own address on the second interface", "corner: own addresses").to(To::OwnSecond(8080)).gets("app"),
    case("proxy to own address on the second interface", "ebpf 3")
        .who(Who::Proxy)
        .to(To::OwnSecond(8080))
        .gets("inbound"),
    case("from outside by the second interface", "ebpf 5")
        .who(Who::Outside)
        .to(To::OwnSecond(8080))
        .gets("inbound"),
    case("an address that comes after ADD", "corner: own addresses")
        .over(WIRE)
        .plays(plays::late_address)
        .gets("inbound"),
];

const EXCLUDED: &[Case] = &[
    case("in by the excluded interface", "istio 0b").who(Who::Outside).to(To::OwnSecond(8080)).gets("app"),
    case("in by the other interface", "istio 0b").who(Who::Outside).to(To::Own(8080)).gets("inbound"),
    case("in by another interface than the excluded one that has the address", "istio 0b; README: limits")
        .over(WIRE)
        .plays(plays::in_by_another_interface)
        .gets("app")
        .but_gets(Backend::Iptables, "inbound", &ARRIVES_BY),
    case("out by the excluded interface", "istio 0b")
        .to(To::Host("10.78.0.1", "fd78::1", 80))
        .gets("world")
        .source("own, second"),
    case("out by the other interface", "istio 0b"),
];

const LATER: &[Case] = &[case("out by an excluded interface that comes after ADD", "istio 0b; Multus")
    .over(WIRE)
    .plays(plays::late_interface)
    .gets("left alone, left alone after its ADD")
    .but_gets(Backend::Ebpf, "outbound and a warning, left alone after its ADD", &LATE_INTERFACE)];

const NO_DEFAULT: &[Case] = &[
    case("a service without a route", "corner: without a route").but_gets(
        Backend::Iptables,
        "ENETUNREACH",
        &NO_ROUTE,
    ),
    case("a neighbour with a route", "corner: without a route").to(To::Host("10.77.0.1", "fd77::1", 80)),
];

const ONLY_V4: &[Case] = &[
    case("a v4 pod", "ebpf 1").over(&[crate::case::Family::V4, crate::case::Family::Mapped]),
    case("a v4 pod's inbound", "ebpf 5").who(Who::Outside).to(To::Own(8080)).over(V4).gets("inbound"),
    case("a v6 service from a v4 pod", "corner: a family without an address").over(V6).gets(AS_BARE),
];

const ONLY_V6: &[Case] = &[
    case("a v6 pod", "ebpf 1").over(V6),
    case("a v6 pod's inbound", "ebpf 5").who(Who::Outside).to(To::Own(8080)).over(V6).gets("inbound"),
    case("a v4 service from a v6 pod", "corner: a family without an address").over(V4).gets(AS_BARE),
];
