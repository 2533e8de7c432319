//! Which pods are ours, and whose word counts: the pod's own annotation, the mesh's, the entry's, the profile's.

use serde_json::json;

use crate::case::{Case, To, WIRE, Who, case};
use crate::scene::{Group, PLAIN, annotated, istio, redirect};

pub(super) const GROUPS: &[Group] = &[
    Group {
        id: "select all",
        cases: ALL_PODS,
        plan: |node, pod| {
            node.configure(|entry| entry["select"] = json!("all"));
            pod.annotations.clear();
        },
        ..PLAIN
    },
    Group {
        id: "select all, opting out",
        cases: NO_WAY_OUT,
        plan: |node, pod| {
            node.configure(|entry| entry["select"] = json!("all"));
            pod.annotations.extend(annotated(&[("shunt-cni.io/intercept", "false")]));
        },
        ..PLAIN
    },
    Group {
        id: "select all, opting out of istio",
        cases: NO_WAY_OUT_OF_ISTIO,
        plan: |node, pod| {
            istio(node, pod);
            node.configure(|entry| entry["select"] = json!("all"));
            pod.annotations.extend(annotated(&[("sidecar.istio.io/inject", "false")]));
        },
        ..PLAIN
    },
    Group {
        id: "select annotated, opting out",
        cases: WAY_OUT,
        plan: |_, pod| pod.annotations.extend(annotated(&[("shunt-cni.io/intercept", "false")])),
        ..PLAIN
    },
    Group {
        id: "select all, excluded namespace",
        cases: NAMESPACE,
        plan: |node, pod| {
            node.configure(|entry| {
                entry["select"] = json!("all");
                entry["excludeNamespaces"] = json!(["default"]);
            });
            pod.annotations.clear();
        },
        ..PLAIN
    },
    Group {
        id: "precedence",
        cases: PRECEDENCE,
        plan: |node, pod| {
            istio(node, pod);
            redirect(
                node,
                json!({
                    "excludeOutboundPorts": [443],
                    "excludeInboundPorts": [8081],
                    "excludeOutboundCidrs": ["10.96.5.0/24", "fd96::50/124"],
                }),
            );
            pod.annotations.extend(annotated(&[
                ("traffic.sidecar.istio.io/excludeOutboundPorts", "8500"),
                ("traffic.sidecar.istio.io/excludeInboundPorts", "9090"),
                ("shunt-cni.io/exclude-outbound-ports", "9000"),
            ]));
        },
        ..PLAIN
    },
];

const SOURCE: &str = "issue 3: select; DESIGN 4";

const ALL_PODS: &[Case] = &[
    case("a pod without annotations under `select: all`", SOURCE),
    case("what arrives at a pod without annotations under `select: all`", SOURCE)
        .who(Who::Outside)
        .to(To::Own(8080))
        .gets("inbound"),
];

const NO_WAY_OUT: &[Case] = &[
    case("a pod that opts out under `select: all`", SOURCE),
    case("what arrives at a pod that opts out under `select: all`", SOURCE)
        .who(Who::Outside)
        .to(To::Own(8080))
        .gets("inbound"),
];

const NO_WAY_OUT_OF_ISTIO: &[Case] = &[case("a pod that opts out of istio under `select: all`", SOURCE)];

const WAY_OUT: &[Case] = &[case("a pod that opts out under `select: annotated`", SOURCE).gets("world")];

const NAMESPACE: &[Case] = &[
    case("a pod of an excluded namespace under `select: all`", SOURCE).gets("world"),
    case("what arrives at a pod of an excluded namespace", SOURCE)
        .who(Who::Outside)
        .to(To::Own(8080))
        .gets("app"),
];

const RULE: &str = "DESIGN 4: precedence";

const PRECEDENCE: &[Case] = &[
    case("precedence: the pod's own annotation counts", RULE).to(To::Service(9000)).gets("world"),
    case("precedence: the mesh's annotation below it does not", RULE).to(To::Service(8500)),
    case("precedence: nor does the entry below that", RULE).to(To::Service(443)),
    case("precedence: nor does the profile at the bottom", RULE).to(To::Service(15020)),
    case("precedence: the mesh's annotation where the pod's own says nothing", RULE)
        .who(Who::Outside)
        .to(To::Own(9090))
        .gets("app"),
    case("precedence: the entry below the mesh's annotation does not count", RULE)
        .who(Who::Outside)
        .to(To::Own(8081))
        .gets("inbound"),
    case("precedence: the entry where no annotation says anything", RULE)
        .to(To::Host("10.96.5.1", "fd96::51", 80))
        .gets("world"),
    case("precedence: the profile where nobody says anything", RULE)
        .who(Who::Outside)
        .to(To::Own(15008))
        .over(WIRE)
        .gets("app"),
];
