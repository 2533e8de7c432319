//! Istio's own table of rules, row by row, under its profile.

use super::differences::INVALID;
use super::packets;
use crate::case::{Backend, Case, From, SILENCE, To, WIRE, Who, case};
use crate::scene::{Group, PLAIN, annotated, istio};

pub(super) const GROUPS: &[Group] = &[
    Group { id: "istio", cases: ISTIO, plan: istio, ..PLAIN },
    Group {
        id: "istio, lists",
        cases: LISTS,
        plan: |node, pod| {
            istio(node, pod);
            pod.annotations.extend(annotated(&[
                ("traffic.sidecar.istio.io/excludeOutboundPorts", "443"),
                ("traffic.sidecar.istio.io/includeOutboundIPRanges", "10.96.0.0/20,fd96::/112"),
                ("traffic.sidecar.istio.io/excludeOutboundIPRanges", "10.96.5.0/24,fd96::50/124"),
                ("traffic.sidecar.istio.io/includeOutboundPorts", "9000"),
                ("traffic.sidecar.istio.io/excludeInboundPorts", "8081"),
            ]));
        },
        ..PLAIN
    },
    Group {
        id: "istio, listed inbound",
        cases: LISTED,
        plan: |node, pod| {
            istio(node, pod);
            pod.annotations.extend(annotated(&[
                ("traffic.sidecar.istio.io/includeInboundPorts", "8080,15020"),
                ("traffic.sidecar.istio.io/excludeInboundPorts", "8080"),
            ]));
        },
        ..PLAIN
    },
    Group {
        id: "istio, invalid dropped",
        cases: INVALID_DROPPED,
        plan: |node, pod| {
            istio(node, pod);
            let config = r#"{"proxyMetadata":{"INVALID_DROP":"true"}}"#;
            pod.annotations.extend(annotated(&[("proxy.istio.io/config", config)]));
        },
        ..PLAIN
    },
];

const INVALID_DROPPED: &[Case] = &[
    case("istio: an invalid packet where they are to be dropped", "istio: INVALID_DROP")
        .over(WIRE)
        .plays(packets::invalid)
        .gets("RST")
        .but_gets(Backend::Iptables, SILENCE, &INVALID),
    case("istio: inbound where invalid packets are dropped", "istio: INVALID_DROP")
        .who(Who::Outside)
        .to(To::Own(8080))
        .gets("inbound"),
    case("istio: outbound where invalid packets are dropped", "istio: INVALID_DROP"),
];

const ISTIO: &[Case] = &[
    case("istio: inbound", "istio 1, 4").who(Who::Outside).to(To::Own(8080)).gets("inbound"),
    case("istio: inbound HBONE", "istio 2").who(Who::Outside).to(To::Own(15008)).gets("app"),
    case("istio: inbound 15020", "istio 3").who(Who::Outside).to(To::Own(15020)).gets("app"),
    case("istio: inbound 15021", "istio 3").who(Who::Outside).to(To::Own(15021)).gets("app"),
    case("istio: inbound 15090", "istio 3").who(Who::Outside).to(To::Own(15090)).gets("app"),
    case("istio: outbound 15020", "istio 5, 6").to(To::Service(15020)).gets("world"),
    case("istio: pass-through", "istio 7")
        .who(Who::Proxy)
        .to(To::Own(8080))
        .from(From::Passthrough)
        .gets("app"),
    case("istio: app calls itself through its service", "istio 8")
        .who(Who::Proxy)
        .to(To::Own(8080))
        .gets("inbound"),
    case("istio: proxy to its own HBONE port", "istio 8").who(Who::Proxy).to(To::Own(15008)).gets("app"),
    case("istio: proxy to loopback", "istio 8").who(Who::Proxy).to(To::Loopback(8080)).gets("app"),
    case("istio: proxy's group calls its own pod", "istio 11")
        .who(Who::Ids(2000, 1337))
        .to(To::Own(8080))
        .gets("inbound"),
    case("istio: app to itself", "istio 9, 12").to(To::Own(8080)).gets("app"),
    case("istio: proxy out by user", "istio 10").who(Who::Proxy).gets("world"),
    case("istio: proxy out by group", "istio 13").who(Who::Ids(2000, 1337)).gets("world"),
    case("istio: any other group", "istio 14").who(Who::Ids(2000, 1338)),
    case("istio: app to loopback", "istio 16").to(To::Loopback(8080)).gets("app"),
    case("istio: everything else", "istio 19"),
    case("istio: HBONE elsewhere", "istio 19").to(To::Service(15008)),
    case("istio: the validation container meets itself", "istio: validation")
        .who(Who::Proxy)
        .to(To::Host("127.0.0.6", "::6", 15002))
        .from(From::Loopback)
        .over(WIRE)
        .gets("inbound"),
    case("istio: an invalid packet", "istio: INVALID_DROP").over(WIRE).plays(packets::invalid).gets("RST"),
];

const LISTS: &[Case] = &[
    case("istio: excluded outbound port", "istio 6").to(To::Service(443)).gets("world"),
    case("istio: the default exclusion is replaced", "istio 6").to(To::Service(15020)),
    case("istio: excluded range", "istio 17").to(To::Host("10.96.5.1", "fd96::51", 80)).gets("world"),
    case("istio: included port", "istio 18").to(To::Host("10.96.16.0", "fd96::1:0", 9000)),
    case("istio: included range", "istio 19"),
    case("istio: outside the included range", "istio 19")
        .to(To::Host("10.96.16.0", "fd96::1:0", 80))
        .gets("world"),
    case("istio: excluded inbound port", "istio 3").who(Who::Outside).to(To::Own(8081)).gets("app"),
    case("istio: 15021 beside an excluded port", "istio 3").who(Who::Outside).to(To::Own(15021)).gets("app"),
    case("istio: inbound beside an excluded port", "istio 4")
        .who(Who::Outside)
        .to(To::Own(8080))
        .gets("inbound"),
];

const LISTED: &[Case] = &[
    case("istio: listed inbound port, though excluded", "istio 3, 4")
        .who(Who::Outside)
        .to(To::Own(8080))
        .gets("inbound"),
    case("istio: listed inbound 15020", "istio 3, 4").who(Who::Outside).to(To::Own(15020)).gets("inbound"),
    case("istio: inbound port that is not listed", "istio 4").who(Who::Outside).to(To::Own(8081)).gets("app"),
];
