//! What arrives.

use serde_json::json;

use super::differences::{ACCEPTED, OWN_PORT};
use super::plays;
use crate::case::{Backend, Case, From, To, WIRE, Who, case};
use crate::scene::{Group, PLAIN, redirect};

pub(super) const GROUPS: &[Group] = &[
    Group { id: "inbound", cases: ARRIVING, ..PLAIN },
    Group {
        id: "inbound, listed",
        cases: LISTED,
        plan: |node, _| redirect(node, json!({"includeInboundPorts": [8080, "9000-9999"]})),
        ..PLAIN
    },
    Group {
        id: "inbound, excluded",
        cases: EXCLUDED,
        plan: |node, _| redirect(node, json!({"excludeInboundPorts": [8081, "9000-9999"]})),
        ..PLAIN
    },
    Group {
        id: "inbound, excluded callers",
        cases: CALLERS,
        plan: |node, _| redirect(node, json!({"excludeInboundCidrs": ["10.77.0.1/32", "fd77::/64"]})),
        ..PLAIN
    },
];

const ARRIVING: &[Case] = &[
    case("from outside to the app", "ebpf 5; istio 1, 4").who(Who::Outside).to(To::Own(8080)).gets("inbound"),
    case("from outside where no app listens", "ebpf 5; istio 4")
        .who(Who::Outside)
        .to(To::Own(7777))
        .gets("inbound"),
    case("from outside to the outbound port", "ebpf 6")
        .who(Who::Outside)
        .to(To::Own(15001))
        .gets("inbound")
        .but_tells(Backend::Ebpf, "none", &OWN_PORT),
    case("from outside to the inbound port", "ebpf 6; istio 4")
        .who(Who::Outside)
        .to(To::Own(15006))
        .gets("inbound")
        .but_tells(Backend::Ebpf, "none", &OWN_PORT),
    case("from outside to the tunnel port of another mesh", "istio 2")
        .who(Who::Outside)
        .to(To::Own(15008))
        .gets("inbound"),
    case("the local address of what is accepted", "ebpf 3.8")
        .over(WIRE)
        .plays(plays::accepted_address)
        .gets("dialled")
        .but_gets(Backend::Iptables, "own address, inbound port", &ACCEPTED),
];

const LISTED: &[Case] = &[
    case("a listed inbound port", "istio 4: only listed ports")
        .who(Who::Outside)
        .to(To::Own(8080))
        .gets("inbound"),
    case("an inbound port of a listed range", "istio 4").who(Who::Outside).to(To::Own(9090)).gets("inbound"),
    case("an inbound port that is not listed", "istio 4").who(Who::Outside).to(To::Own(8081)).gets("app"),
    case("an unlisted inbound port without an app", "istio 4")
        .who(Who::Outside)
        .to(To::Own(7777))
        .gets("ECONNREFUSED"),
    case("the unlisted outbound port from outside", "ebpf 6")
        .who(Who::Outside)
        .to(To::Own(15001))
        .gets("outbound")
        .but_tells(Backend::Ebpf, "none", &OWN_PORT),
    case("proxy to an unlisted port of its own", "ebpf 3; istio 8")
        .who(Who::Proxy)
        .to(To::Own(8081))
        .gets("inbound"),
];

const EXCLUDED: &[Case] = &[
    case("an excluded inbound port", "ebpf 5; istio 3").who(Who::Outside).to(To::Own(8081)).gets("app"),
    case("an inbound port of an excluded range", "istio 3").who(Who::Outside).to(To::Own(9090)).gets("app"),
    case("an inbound port beside an excluded one", "istio 4")
        .who(Who::Outside)
        .to(To::Own(8080))
        .gets("inbound"),
    case("app to an excluded inbound port of its own", "istio 9").to(To::Own(8081)).gets("app"),
    case("proxy to an excluded inbound port of its own", "istio 8")
        .who(Who::Proxy)
        .to(To::Own(8081))
        .gets("inbound"),
];

const CALLERS: &[Case] = &[
    case("an excluded caller", "kuma 16; linkerd 2").who(Who::Outside).to(To::Own(8080)).gets("app"),
    case("an excluded caller where no app listens", "kuma 16")
        .who(Who::Outside)
        .to(To::Own(7777))
        .gets("ECONNREFUSED"),
    case("an app's own call beside excluded callers", "istio 9")
        .to(To::Own(8080))
        .from(From::Own(0))
        .gets("app"),
];
