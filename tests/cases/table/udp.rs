//! DNS and other UDP.

use serde_json::json;
use shunt_tests::net::Shape;
use shunt_tests::node::{Node, Pod};

use super::differences::{BOUND_QUERY, LISTENER_FOR_ALL, MARKER, UDP_BOUND, UDP_CONNECT};
use super::plays;
use crate::case::{Answer, Backend, Case, Family, From, SILENCE, To, V4, V6, WIRE, Way, Who, case, query};
use crate::scene::{EVERYWHERE, Group, PLAIN, Proxy, annotated, istio, redirect};

const DNS_PORT: u16 = 15053;
/// Where istio-agent listens for DNS.
const RESOLVER: Proxy = Proxy { dns: Some((DNS_PORT, &["127.0.0.1", "[::1]"])), ..EVERYWHERE };

fn dns(node: &Node, _pod: &mut Pod) {
    node.configure(|entry| entry["captureDns"] = json!(true));
    node.redirect("dnsPort", json!(DNS_PORT));
}

fn block(node: &Node, pod: &mut Pod) {
    dns(node, pod);
    node.configure(|entry| entry["udp"] = json!("block"));
    redirect(
        node,
        json!({ "excludeOutboundPorts": [8080], "excludeOutboundCidrs": ["10.96.5.0/24", "fd96::50/124"] }),
    );
}

pub(super) const GROUPS: &[Group] = &[
    Group { id: "dns", cases: DNS, plan: dns, proxy: RESOLVER, ..PLAIN },
    Group {
        id: "dns, listener for all",
        cases: EVERYWHERE_DNS,
        plan: dns,
        proxy: Proxy { dns: Some((DNS_PORT, &["0.0.0.0", "[::]"])), ..EVERYWHERE },
        ..PLAIN
    },
    Group {
        id: "dns, excluded",
        cases: EXCLUDED,
        plan: |node, pod| {
            dns(node, pod);
            redirect(node, json!({ "excludeOutboundPorts": ["50-60"] }));
        },
        proxy: RESOLVER,
        ..PLAIN
    },
    Group { id: "dns, only v4", cases: ONLY_V4, plan: dns, shape: Shape::only_v4, proxy: RESOLVER, ..PLAIN },
    Group { id: "dns, only v6", cases: ONLY_V6, plan: dns, shape: Shape::only_v6, proxy: RESOLVER, ..PLAIN },
    Group { id: "udp without words", cases: PASS, ..PLAIN },
    Group { id: "udp block", cases: BLOCK, plan: block, proxy: RESOLVER, ..PLAIN },
    Group {
        id: "udp block without dns",
        cases: BLOCK_ONLY,
        plan: |node, _| node.configure(|entry| entry["udp"] = json!("block")),
        ..PLAIN
    },
    Group {
        id: "dns and udp, exempt group",
        cases: GID,
        plan: |node, pod| {
            block(node, pod);
            redirect(node, json!({ "proxyGids": [1338] }));
        },
        proxy: RESOLVER,
        ..PLAIN
    },
    Group {
        id: "dns and udp, excluded interface",
        cases: INTERFACE,
        shape: Shape::two_interfaces,
        plan: |node, pod| {
            block(node, pod);
            redirect(node, json!({ "excludeInterfaces": ["net1"] }));
        },
        proxy: RESOLVER,
        ..PLAIN
    },
    Group {
        id: "istio, dns",
        cases: ISTIO,
        plan: |node, pod| {
            istio(node, pod);
            node.configure(|entry| entry["captureDns"] = json!(true));
            pod.annotations.extend(annotated(&[("traffic.sidecar.istio.io/excludeOutboundPorts", "9999")]));
        },
        proxy: RESOLVER,
        ..PLAIN
    },
];

/// What a query over a socket that is not connected gets under eBPF: the proxy sees a marker.
const MARKED: Answer = Answer { source: "marker", ..QUERY };
const QUERY: Answer = query("", "", Way::To).expected(Backend::Ebpf);

const DNS: &[Case] = &[
    query("dns: a query", "ebpf 8; istio 15; kuma 4", Way::To).but(Backend::Ebpf, MARKED, &MARKER),
    query("dns: by sendmsg", "ebpf 3.3; issue 3", Way::Message).but(Backend::Ebpf, MARKED, &MARKER),
    query("dns: by sendmmsg", "ebpf 3.3; issue 3", Way::Many).but(Backend::Ebpf, MARKED, &MARKER),
    query("dns: over a connected socket", "ebpf 3.3; istio 15", Way::Connected),
    query("dns: from a bound port", "ebpf 3.3", Way::Connected).from(From::Any(21021)).but(
        Backend::Ebpf,
        Answer { source: "loopback", ..QUERY },
        &BOUND_QUERY,
    ),
    query("dns: from the pod's address and a port", "ebpf 3.3", Way::To).from(From::Own(21022)),
    query("dns: the proxy's own query", "istio: DNS extra; kuma 3", Way::To).who(Who::Proxy).gets("world"),
    query("dns: the proxy's own query, connected", "istio: DNS extra", Way::Connected)
        .who(Who::Proxy)
        .gets("world"),
    query("dns: to loopback", "consul 7", Way::To).to(To::Loopback(53)).source(""),
    query("dns: to the pod's own address", "istio 15", Way::To).to(To::Own(53)).source(""),
    query("dns: another port", "ebpf 8", Way::To).to(To::Service(9999)).gets("world"),
    query("dns: another port of the pod", "ebpf 8", Way::To).to(To::Own(9999)).gets("app"),
    query("dns: from outside to the app", "ebpf 8: inbound UDP is the app's", Way::To)
        .who(Who::Outside)
        .to(To::Own(53))
        .gets("app"),
    case("dns: over TCP", "istio 15: tcp 53").to(To::Service(53)).gets("dns"),
    case("dns: over TCP to loopback", "istio 9: except tcp 53, 15 before 16")
        .to(To::Loopback(53))
        .gets("dns"),
    case("dns: over TCP to the pod's own address", "istio 9: except tcp 53").to(To::Own(53)).gets("dns"),
    case("dns: the proxy's own over TCP", "istio 10").who(Who::Proxy).to(To::Service(53)).gets("world"),
    case("dns: the proxy to loopback over TCP", "istio 8").who(Who::Proxy).to(To::Loopback(53)).gets("app"),
    case("dns: the proxy to its own pod over TCP", "istio 8: nor 53 with DNS")
        .who(Who::Proxy)
        .to(To::Own(53))
        .gets("app"),
    case("dns: other TCP", "istio 19"),
    case("dns: a socket connected elsewhere after a query", "ebpf matrix: UDP socket re-connected after DNS")
        .plays(plays::connected_elsewhere)
        .gets("dns, then world from own"),
    case("dns: several servers asked at once", "corner: two resolvers")
        .plays(plays::several_servers)
        .gets("each for itself"),
];

const EVERYWHERE_DNS: &[Case] = &[
    query("dns: a query to a listener for all", "DESIGN 5: DNS", Way::To).source("").but(
        Backend::Iptables,
        Answer { source: "", peer: "own", ..QUERY },
        &LISTENER_FOR_ALL,
    ),
    query("dns: over a connected socket to a listener for all", "DESIGN 5: DNS", Way::Connected)
        .source("")
        .but_gets(Backend::Iptables, SILENCE, &LISTENER_FOR_ALL),
];

const EXCLUDED: &[Case] = &[
    query("dns: an excluded port 53", "istio 6: udp", Way::To).gets("world"),
    case("dns: an excluded port 53 over TCP", "istio 6").to(To::Service(53)).gets("world"),
];

const ONLY_V4: &[Case] = &[
    query("dns: in a v4 pod", "ebpf 8", Way::To).over(&[Family::V4, Family::Mapped]).source(""),
    query("dns: v6 in a v4 pod", "corner: a family without an address", Way::To).over(V6).gets("ENETUNREACH"),
];

const ONLY_V6: &[Case] = &[
    query("dns: in a v6 pod", "ebpf 8", Way::To).over(V6).source(""),
    query("dns: v4 in a v6 pod", "corner: a family without an address", Way::To).over(V4).gets("ENETUNREACH"),
];

const PASS: &[Case] = &[
    query("udp: a query without DNS capture", "ebpf 1: TCP only", Way::To).gets("world"),
    query("udp: anything", "ebpf 1: TCP only", Way::To).to(To::Service(443)).gets("world"),
    query("udp: inside the pod", "istio 9", Way::To).to(To::Own(9999)).gets("app"),
    query("udp: from outside", "istio 1: tcp", Way::To).who(Who::Outside).to(To::Own(9999)).gets("app"),
];

const BLOCK: &[Case] = &[
    query("block: sendto", "issue 3; DESIGN 4: udp", Way::To).to(To::Service(443)).gets("EPERM"),
    query("block: sendmsg", "issue 3", Way::Message).to(To::Service(443)).gets("EPERM"),
    query("block: connected", "issue 3", Way::Connected).to(To::Service(443)).gets("ECONNREFUSED").but_gets(
        Backend::Iptables,
        "EPERM",
        &UDP_CONNECT,
    ),
    query("block: from a port of its own", "corner: udp block", Way::To)
        .to(To::Service(443))
        .from(From::Any(21031))
        .gets("world")
        .but_gets(Backend::Iptables, "EPERM", &UDP_BOUND),
    query("block: a neighbour", "issue 3", Way::To).to(To::Host("10.77.0.1", "fd77::1", 443)).gets("EPERM"),
    query("block: the proxy's own", "issue 3", Way::To).who(Who::Proxy).to(To::Service(443)).gets("world"),
    query("block: DNS works", "issue 3", Way::Connected),
    query("block: loopback", "issue 3", Way::To).to(To::Loopback(9999)).gets("app").source("loopback"),
    query("block: own address", "issue 3", Way::To).to(To::Own(9999)).gets("app"),
    query("block: an excluded port", "issue 3; istio 6: udp", Way::To).to(To::Service(8080)).gets("world"),
    query("block: an excluded network", "issue 3", Way::To)
        .to(To::Host("10.96.5.1", "fd96::51", 443))
        .gets("world"),
    query("block: replies of a server", "corner: udp block", Way::To)
        .who(Who::Outside)
        .to(To::Own(9999))
        .gets("app"),
    case("block: TCP goes on", "issue 3").over(WIRE),
];

const GID: &[Case] = &[
    query("gid: a query of the proxy's group", "issue 3: gid exemption", Way::To)
        .who(Who::Ids(2000, 1338))
        .gets("world"),
    query("gid: a query of the proxy's group, connected", "issue 3: gid exemption", Way::Connected)
        .who(Who::Ids(2000, 1338))
        .gets("world"),
    case("gid: a query of the proxy's group over TCP", "issue 3: gid exemption")
        .who(Who::Ids(2000, 1338))
        .to(To::Service(53))
        .gets("world"),
    query("gid: other UDP of the proxy's group", "issue 3: gid exemption", Way::To)
        .who(Who::Ids(2000, 1338))
        .to(To::Service(443))
        .gets("world"),
    query("gid: a query of another group", "issue 3: gid exemption", Way::Connected)
        .who(Who::Ids(1338, 2000)),
    query("gid: other UDP of another group", "issue 3: gid exemption", Way::To)
        .who(Who::Ids(1338, 2000))
        .to(To::Service(443))
        .gets("EPERM"),
];

const INTERFACE: &[Case] = &[
    query("interface: a query by the excluded one", "issue 3: excludeInterfaces", Way::To)
        .to(To::Host("10.78.0.1", "fd78::1", 53))
        .source("own, second")
        .gets("world"),
    query("interface: a query by the excluded one, connected", "issue 3: excludeInterfaces", Way::Connected)
        .to(To::Host("10.78.0.1", "fd78::1", 53))
        .source("own, second")
        .gets("world"),
    case("interface: a query by the excluded one over TCP", "issue 3: excludeInterfaces")
        .to(To::Host("10.78.0.1", "fd78::1", 53))
        .source("own, second")
        .gets("world"),
    query("interface: other UDP by the excluded one", "issue 3: excludeInterfaces", Way::To)
        .to(To::Host("10.78.0.1", "fd78::1", 443))
        .source("own, second")
        .gets("world"),
    query("interface: a query by the other one", "issue 3: excludeInterfaces", Way::Connected),
    query("interface: other UDP by the other one", "issue 3: excludeInterfaces", Way::To)
        .to(To::Service(443))
        .gets("EPERM"),
];

const BLOCK_ONLY: &[Case] = &[
    query("block: DNS that nobody captures", "issue 3: DNS keeps working", Way::To).gets("world"),
    query("block: all else without DNS", "issue 3", Way::To).to(To::Service(443)).gets("EPERM"),
];

const ISTIO: &[Case] = &[
    query("istio: a query", "istio 15", Way::Connected),
    case("istio: DNS over TCP", "istio 15").to(To::Service(53)).gets("dns"),
    query("istio: excluded outbound port, UDP", "istio 6: udp", Way::To).to(To::Service(9999)).gets("world"),
];
