//! What is each mesh's own: its rules, under its profile, in a pod as its injector leaves it. Istio's are in `istio.rs`.

use shunt_tests::node::{Node, Pod};

use super::differences::MARKER;
use crate::case::{Answer, Backend, Case, From, To, V4, V6, WIRE, Way, Who, case, query};
use crate::scene::{EVERYWHERE, Group, PLAIN, Proxy, annotated, mesh};

const fn proxy(outbound: u16, inbound: u16, uid: u32) -> Proxy {
    Proxy { outbound, inbound, uid, ..EVERYWHERE }
}

/// As the injector of a mesh leaves a pod.
fn injected(node: &Node, pod: &mut Pod, name: &str, annotations: &[(&str, &str)]) {
    mesh(node, name);
    pod.annotations = annotated(annotations);
}

const KUMA: &str = r#"{"ipFamilyMode":"dualstack","kumaDPUser":"5678","redirect":{"dns":{"captureAll":true,"enabled":true,
    "port":15053},"inbound":{"enabled":true,"excludePorts":[9090],"port":15006},"outbound":{"enabled":true,"port":15001}}}"#;
/// What is excluded by address, port and user id; the only outbound ports that are captured beside another list.
const KUMA_LISTS: &str = r#"{"ipFamilyMode":"ipv4","redirect":{"dns":{"captureAll":true,"enabled":true,"port":15053},
    "outbound":{"enabled":true,"includePorts":[80,443],"excludePorts":[443],"excludePortsForIPs":["10.96.5.0/24"],
    "excludePortsForUIDs":["1500"]}}}"#;
const CONSUL: &str = r#"{"ConsulDNSIP":"127.0.0.1","ConsulDNSPort":8600,"ProxyUserID":"5995","ProxyInboundPort":20000,
    "ProxyOutboundPort":15001,"ExcludeInboundPorts":["9090"],"ExcludeOutboundCIDRs":["10.96.5.0/24","fd96::50/124"],
    "ExcludeUIDs":["5996"]}"#;

pub(super) const GROUPS: &[Group] = &[
    Group {
        id: "linkerd",
        cases: LINKERD,
        plan: |node, pod| {
            injected(
                node,
                pod,
                "linkerd",
                &[
                    ("linkerd.io/proxy-version", "edge-26.8.3"),
                    ("config.linkerd.io/skip-outbound-ports", "443,3000-3999"),
                    ("config.linkerd.io/skip-inbound-ports", "9090"),
                ],
            );
        },
        // Its outbound listener is on the loopback address alone; here both are on all.
        proxy: proxy(4140, 4143, 2102),
        ..PLAIN
    },
    Group {
        id: "kuma",
        cases: KUMAS,
        plan: |node, pod| {
            let annotations =
                [("kuma.io/sidecar-injected", "true"), ("traffic.kuma.io/transparent-proxy-config", KUMA)];
            injected(node, pod, "kuma", &annotations);
        },
        proxy: Proxy { dns: Some((15053, &["127.0.0.1", "[::1]"])), ..proxy(15001, 15006, 5678) },
        ..PLAIN
    },
    Group {
        id: "kuma, lists",
        cases: KUMA_LISTED,
        plan: |node, pod| {
            let annotations = [
                ("kuma.io/sidecar-injected", "true"),
                ("traffic.kuma.io/transparent-proxy-config", KUMA_LISTS),
            ];
            injected(node, pod, "kuma", &annotations);
        },
        proxy: Proxy { dns: Some((15053, &["127.0.0.1", "[::1]"])), ..proxy(15001, 15006, 5678) },
        ..PLAIN
    },
    Group {
        id: "consul",
        cases: CONSULS,
        plan: |node, pod| {
            injected(
                node,
                pod,
                "consul",
                &[
                    ("consul.hashicorp.com/connect-inject-status", "injected"),
                    ("consul.hashicorp.com/transparent-proxy-status", "enabled"),
                    ("consul.hashicorp.com/dual-stack", "true"),
                    ("consul.hashicorp.com/redirect-traffic-config", CONSUL),
                ],
            );
        },
        proxy: Proxy { dns: Some((8600, &["127.0.0.1", "[::1]"])), ..proxy(15001, 20000, 5995) },
        ..PLAIN
    },
    Group {
        id: "osm",
        cases: OSM,
        plan: |node, pod| injected(node, pod, "osm", &[("openservicemesh.io/sidecar-injection", "enabled")]),
        proxy: proxy(15001, 15003, 1500),
        ..PLAIN
    },
    Group {
        id: "fsm",
        cases: FSM,
        plan: |node, pod| injected(node, pod, "fsm", &[("flomesh.io/sidecar-injection", "enabled")]),
        proxy: proxy(15001, 15003, 1500),
        ..PLAIN
    },
    Group {
        id: "appmesh",
        cases: APPMESH,
        plan: |node, pod| {
            injected(
                node,
                pod,
                "appmesh",
                &[
                    ("appmesh.k8s.aws/sidecarInjectorWebhook", "enabled"),
                    ("appmesh.k8s.aws/ports", "8080,9090"),
                    ("appmesh.k8s.aws/egressIgnoredIPs", "10.96.5.1,fd96::51"),
                    ("appmesh.k8s.aws/egressIgnoredPorts", "443"),
                    ("appmesh.k8s.aws/proxyEgressPort", "15001"),
                    ("appmesh.k8s.aws/proxyIngressPort", "15000"),
                    ("appmesh.k8s.aws/ignoredUID", "1337"),
                ],
            );
        },
        proxy: proxy(15001, 15000, 1337),
        ..PLAIN
    },
];

const LINKERD: &[Case] = &[
    case("linkerd: out", "linkerd 9"),
    case("linkerd: in", "linkerd 3").who(Who::Outside).to(To::Own(8080)).gets("inbound"),
    case("linkerd: skipped outbound port", "linkerd 8").to(To::Service(443)).gets("world"),
    case("linkerd: skipped outbound range", "linkerd 8").to(To::Service(3306)).gets("world"),
    case("linkerd: skipped inbound port", "linkerd 1").who(Who::Outside).to(To::Own(9090)).gets("app"),
    case("linkerd: the proxy's admin port", "linkerd 1").who(Who::Outside).to(To::Own(4191)).gets("app"),
    case("linkerd: proxy out", "linkerd 5").who(Who::Proxy).gets("world"),
    case("linkerd: proxy to its own pod passes", "linkerd 5, 7")
        .who(Who::Proxy)
        .to(To::Own(8080))
        .gets("app"),
    case("linkerd: app to itself", "linkerd 7").to(To::Own(8080)).gets("app"),
    case("linkerd: no DNS capture", "linkerd: rules are for tcp").to(To::Service(53)),
    query("linkerd: UDP passes", "linkerd: rules are for tcp", Way::To).gets("world"),
];

const KUMAS: &[Case] = &[
    case("kuma: out", "kuma 6, 13"),
    case("kuma: in", "kuma 15, 17").who(Who::Outside).to(To::Own(8080)).gets("inbound"),
    case("kuma: excluded inbound port", "kuma 17").who(Who::Outside).to(To::Own(9090)).gets("app"),
    case("kuma: DNS over TCP passes", "kuma 5").to(To::Service(53)).gets("world"),
    query("kuma: a query", "kuma 4", Way::Connected).gets("dns"),
    query("kuma: a query, unconnected", "kuma 4", Way::To).but(
        Backend::Ebpf,
        Answer { source: "marker", ..query("", "", Way::To).expected(Backend::Ebpf) },
        &MARKER,
    ),
    query("kuma: the proxy's own query", "kuma 3", Way::To).who(Who::Proxy).gets("world"),
    case("kuma: pass-through", "kuma 8")
        .who(Who::Proxy)
        .to(To::Own(8080))
        .from(From::Passthrough)
        .gets("app"),
    case("kuma: app calls itself through its service", "kuma 9")
        .who(Who::Proxy)
        .to(To::Own(8080))
        .gets("inbound"),
    case("kuma: app to itself", "kuma 10").to(To::Own(8080)).gets("app"),
    case("kuma: proxy out", "kuma 11").who(Who::Proxy).gets("world"),
    case("kuma: loopback", "kuma 12").to(To::Loopback(8080)).gets("app"),
];

const KUMA_LISTED: &[Case] = &[
    case("kuma: an included outbound port", "kuma 13").over(V4),
    case("kuma: an included outbound port that is excluded too", "kuma 13").to(To::Service(443)).over(V4),
    case("kuma: an outbound port that is not included", "kuma 13").to(To::Service(8080)).gets("world"),
    case("kuma: an excluded address", "kuma 2").to(To::Host("10.96.5.1", "fd96::51", 80)).gets("world"),
    case("kuma: an excluded user", "kuma 2").who(Who::Ids(1500, 1500)).gets("world"),
    query("kuma: a query of an excluded user", "kuma 2", Way::To).who(Who::Ids(1500, 1500)).gets("world"),
    query("kuma: a query to an excluded address", "kuma 2, 4; differs: conf/meshes.md", Way::Connected)
        .to(To::Host("10.96.5.1", "fd96::51", 53)),
    case("kuma: IPv6 out with `ipv4`", "kuma: ipFamilyMode").over(V6).gets("world"),
    case("kuma: IPv6 in with `ipv4`", "kuma: ipFamilyMode")
        .who(Who::Outside)
        .to(To::Own(8080))
        .over(V6)
        .gets("app"),
    case("kuma: IPv4 in with `ipv4`", "kuma: ipFamilyMode")
        .who(Who::Outside)
        .to(To::Own(8080))
        .over(V4)
        .gets("inbound"),
    query("kuma: an IPv6 query with `ipv4`", "kuma: ipFamilyMode; differs: conf/meshes.md", Way::Connected)
        .over(V6),
];

const CONSULS: &[Case] = &[
    case("consul: out", "consul 6"),
    case("consul: in", "consul 10, 11").who(Who::Outside).to(To::Own(8080)).gets("inbound"),
    case("consul: excluded inbound port", "consul 9").who(Who::Outside).to(To::Own(9090)).gets("app"),
    case("consul: an excluded user", "consul 1").who(Who::Ids(5996, 1000)).gets("world"),
    case("consul: excluded network", "consul 2").to(To::Host("10.96.5.1", "fd96::51", 80)).gets("world"),
    case("consul: proxy out", "consul 4").who(Who::Proxy).gets("world"),
    case("consul: proxy to its own pod passes", "consul 4").who(Who::Proxy).to(To::Own(8080)).gets("app"),
    case("consul: app to its own address is captured", "consul 5, 6").to(To::Own(8080)),
    case("consul: app to loopback", "consul 5").to(To::Loopback(8080)).gets("app"),
    query("consul: a query to its resolver", "consul 7", Way::To).to(To::Loopback(53)).source("").over(V4),
    query("consul: a query to its resolver, bound", "consul 7", Way::Connected)
        .to(To::Loopback(53))
        .from(From::Any(21041))
        .source("loopback")
        .over(V4),
    query("consul: a query to another server", "consul 7", Way::To).gets("world"),
    case("consul: DNS over TCP to its resolver", "consul 7, 8").to(To::Loopback(53)).over(V4).gets("dns"),
    case("consul: DNS over TCP to another server", "consul 8").to(To::Service(53)),
];

const OSM: &[Case] = &[
    case("osm: out", "peers 8.1"),
    case("osm: in", "peers 8.1").who(Who::Outside).to(To::Own(8080)).gets("inbound"),
    case("osm: proxy out", "peers 8.1").who(Who::Proxy).gets("world"),
    case("osm: app calls itself through its service", "peers 8.1")
        .who(Who::Proxy)
        .to(To::Own(8080))
        .gets("inbound"),
];

const FSM: &[Case] = &[
    case("fsm: out", "peers 8.1"),
    case("fsm: in", "peers 8.1").who(Who::Outside).to(To::Own(8080)).gets("inbound"),
    case("fsm: proxy out", "peers 8.1").who(Who::Proxy).gets("world"),
];

const APPMESH: &[Case] = &[
    case("appmesh: out", "peers 10"),
    case("appmesh: listed inbound port", "peers 10").who(Who::Outside).to(To::Own(8080)).gets("inbound"),
    case("appmesh: other inbound port", "peers 10").who(Who::Outside).to(To::Own(8081)).gets("app"),
    case("appmesh: ignored address", "peers 10").to(To::Host("10.96.5.1", "fd96::51", 80)).gets("world"),
    case("appmesh: ignored port", "peers 10").to(To::Service(443)).gets("world"),
    case("appmesh: proxy out", "peers 10").who(Who::Proxy).gets("world"),
    case("appmesh: proxy to its own pod passes", "peers 10")
        .who(Who::Proxy)
        .to(To::Own(8080))
        .gets("app")
        .over(WIRE),
];
