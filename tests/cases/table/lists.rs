//! Lists of what is captured and what is not, on the way out; and pods that are not ours.

use serde_json::json;

use crate::case::{Case, To, Who, case};
use crate::scene::{Group, PLAIN, annotated, redirect};

pub(super) const GROUPS: &[Group] = &[
    Group {
        id: "excludes",
        cases: EXCLUDES,
        plan: |node, _| {
            redirect(
                node,
                json!({
                    "excludeOutboundCidrs": ["10.96.5.0/24", "10.96.6.6/32", "fd96::5:0/112", "fd96::6:6/128"],
                    "excludeOutboundPorts": [443, "8000-8499"],
                }),
            );
        },
        ..PLAIN
    },
    Group {
        id: "includes",
        cases: INCLUDES,
        plan: |node, _| {
            redirect(
                node,
                json!({
                    "includeOutboundCidrs": ["10.96.0.0/20", "fd96::/112"],
                    "excludeOutboundCidrs": ["10.96.5.0/24", "fd96::50/124"],
                    "includeOutboundPorts": [9000, "3000-3999"],
                    "excludeOutboundPorts": [443],
                }),
            );
        },
        ..PLAIN
    },
    Group {
        id: "annotation over entry",
        cases: ANNOTATION,
        plan: |node, pod| {
            redirect(node, json!({"excludeOutboundPorts": [443], "excludeInboundPorts": [8080]}));
            pod.annotations.extend(annotated(&[
                ("shunt-cni.io/exclude-outbound-ports", "8500"),
                ("shunt-cni.io/exclude-inbound-ports", "8081"),
            ]));
        },
        ..PLAIN
    },
    Group { id: "not meshed", cases: NOT_MESHED, plan: |_, pod| pod.annotations.clear(), ..PLAIN },
];

const EXCLUDES: &[Case] = &[
    case("an excluded port", "ebpf 1; istio 6").to(To::Service(443)).gets("world"),
    case("the first port of an excluded range", "istio 6").to(To::Service(8000)).gets("world"),
    case("a port inside an excluded range", "istio 6").to(To::Service(8080)).gets("world"),
    case("a port behind an excluded range", "istio 6").to(To::Service(8500)),
    case("an excluded network", "ebpf 1; istio 17").to(To::Host("10.96.5.1", "fd96::5:1", 80)).gets("world"),
    case("before an excluded network", "istio 17").to(To::Host("10.96.4.255", "fd96::4:ffff", 80)),
    case("behind an excluded network", "istio 17").to(To::Host("10.96.6.0", "fd96::6:0", 80)),
    case("an excluded address", "istio 17").to(To::Host("10.96.6.6", "fd96::6:6", 80)).gets("world"),
    case("proxy to an excluded port of its own", "istio 6").who(Who::Proxy).to(To::Own(8080)).gets("app"),
];

const INCLUDES: &[Case] = &[
    case("an included network", "ebpf 1; istio 19").to(To::Host("10.96.15.255", "fd96::ffff", 80)),
    case("outside every included network", "istio 19: the rest returns")
        .to(To::Host("10.96.16.0", "fd96::1:0", 80))
        .gets("world"),
    case("an exclude inside an include", "istio 17").to(To::Host("10.96.5.1", "fd96::51", 80)).gets("world"),
    case("an included port outside every included network", "istio 18").to(To::Host(
        "10.96.16.0",
        "fd96::1:0",
        9000,
    )),
    case("a port of an included range", "istio 18").to(To::Host("10.96.16.0", "fd96::1:0", 3306)),
    case("an included port in an excluded network", "istio 17, 18")
        .to(To::Host("10.96.5.1", "fd96::51", 9000))
        .gets("world"),
    case("an excluded port in an included network", "istio 6")
        .to(To::Host("10.96.0.10", "fd96::10", 443))
        .gets("world"),
    case("own address beside includes", "istio 9").to(To::Own(8080)).gets("app"),
];

const ANNOTATION: &[Case] = &[
    case("what the annotation excludes", "corner: an annotation's list replaces")
        .to(To::Service(8500))
        .gets("world"),
    case("what only the entry excludes", "corner: an annotation's list replaces").to(To::Service(443)),
    case("inbound that the annotation excludes", "corner: an annotation's list replaces")
        .who(Who::Outside)
        .to(To::Own(8081))
        .gets("app"),
    case("inbound that only the entry excludes", "corner: an annotation's list replaces")
        .who(Who::Outside)
        .to(To::Own(8080))
        .gets("inbound"),
];

const NOT_MESHED: &[Case] = &[
    case("a pod without the marker, out", "ebpf 1").gets("world"),
    case("a pod without the marker, in", "ebpf 5").who(Who::Outside).to(To::Own(8080)).gets("app"),
];
