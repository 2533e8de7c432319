//! Random plans and random connections, small universes for both: most connections are near the edge of some list.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::{select, subsequence};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shunt_tests::node::{APP, INBOUND_PORT, OUTBOUND_PORT, PROXY};

/// One plan and what is tried under it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Case {
    /// Keys of the entry.
    pub(crate) entry: Value,
    /// The pod's annotations.
    pub(crate) annotations: BTreeMap<String, String>,
    /// The connections.
    pub(crate) connections: Vec<Connection>,
}

/// How something is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Way {
    Tcp,
    /// UDP, `sendto`.
    Udp,
    /// UDP, `connect` and `send`.
    Connected,
}

/// Somebody connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Connection {
    /// Who; none for somebody beyond the pod.
    pub(crate) ids: Option<(u32, u32)>,
    pub(crate) way: Way,
    /// From an IPv6 socket, though the address is IPv4.
    pub(crate) mapped: bool,
    /// Bound to this first.
    pub(crate) source: Option<IpAddr>,
    pub(crate) to: SocketAddr,
}

/// Where the proxy listens for DNS.
pub(crate) const DNS_PORT: u16 = 15053;

/// Everybody a process of the pod can be: the app, the proxy, the proxy by group, and others.
pub(crate) const IDS: [(u32, u32); 5] =
    [(APP, APP), (PROXY, PROXY), (2000, PROXY), (2000, 2000), (1500, 1500)];

/// The pod's addresses.
pub(crate) const OWN: [&str; 4] = ["10.77.0.2", "10.78.0.2", "fd77::2", "fd78::2"];

/// Ports that lists are about and connections go to.
pub(crate) const PORTS: [u16; 14] =
    [1, 53, 80, 443, 3306, 8000, 8080, 8443, 9000, OUTBOUND_PORT, INBOUND_PORT, 15008, 15020, 65535];

/// Ports at which everybody answers UDP.
pub(crate) const UDP_PORTS: [u16; 3] = [53, 443, 8080];

const SERVICES_V4: [&str; 10] = [
    "10.96.0.0",
    "10.96.0.1",
    "10.96.0.10",
    "10.96.1.255",
    "10.96.5.0",
    "10.96.5.1",
    "10.96.5.255",
    "10.96.15.255",
    "10.96.16.0",
    "10.96.255.255",
];
const SERVICES_V6: [&str; 9] = [
    "fd96::2",
    "fd96::1",
    "fd96::10",
    "fd96::4f",
    "fd96::50",
    "fd96::5f",
    "fd96::ffff",
    "fd96::1:0",
    "fd96::5:0:0:1",
];
const NEIGHBOURS: [&str; 4] = ["10.77.0.1", "10.78.0.1", "fd77::1", "fd78::1"];
const INSIDE: [&str; 5] = ["127.0.0.1", "127.0.0.2", "0.0.0.0", "::1", "::"];
/// Addresses that lists may name and that are not services.
const ODD: [&str; 10] = [
    "127.0.0.0",
    "10.77.0.0",
    "10.77.0.2",
    "10.78.0.0",
    "0.0.0.0",
    "::",
    "::1",
    "fd77::",
    "fd78::2",
    "fd00::",
];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn any_of(texts: &'static [&'static str]) -> impl Strategy<Value = IpAddr> {
    select(texts).prop_map(ip)
}

fn service() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any_of(&SERVICES_V4), any_of(&SERVICES_V6)]
}

fn network() -> impl Strategy<Value = Value> {
    let base = prop_oneof![6 => service(), 2 => any_of(&NEIGHBOURS), 1 => any_of(&ODD)];
    let shorter = prop_oneof![
        4 => Just(0_u8), 2 => Just(1), 2 => Just(4), 3 => Just(8), 2 => Just(12), 2 => Just(16), 1 => Just(31), 1 => Just(32),
        1 => Just(64), 1 => Just(127), 1 => Just(128),
    ];
    (base, shorter).prop_map(|(ip, shorter)| {
        let whole: u8 = if ip.is_ipv4() { 32 } else { 128 };
        json!(format!("{ip}/{}", whole.saturating_sub(shorter)))
    })
}

fn networks() -> impl Strategy<Value = Value> {
    vec(network(), 0..5).prop_map(Value::Array)
}

fn port() -> impl Strategy<Value = u16> {
    select(&PORTS[..])
}

fn ports() -> impl Strategy<Value = Value> {
    let range = (port(), port()).prop_map(|(a, b)| json!(format!("{}-{}", a.min(b), a.max(b))));
    let beside = port().prop_map(|port| json!(port.saturating_add(1)));
    let one = port().prop_map(|port| json!(port));
    vec(prop_oneof![4 => one, 2 => range, 1 => beside], 0..4).prop_map(Value::Array)
}

/// All, or what is listed.
fn include(list: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    prop_oneof![1 => Just(json!("*")), 1 => list]
}

/// A list in half of the plans.
fn sometimes(list: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    prop_oneof![1 => Just(json!([])), 1 => list]
}

/// Who is exempt. Always the user or the group the proxy runs as.
fn exempt() -> impl Strategy<Value = (Value, Value)> {
    prop_oneof![
        4 => Just((json!([PROXY]), json!([]))),
        1 => Just((json!([PROXY, 1500]), json!([]))),
        1 => Just((json!([PROXY]), json!([PROXY]))),
        1 => Just((json!([]), json!([PROXY]))),
        1 => Just((json!([PROXY, 1500]), json!([1234, 2000]))),
    ]
}

fn redirect() -> impl Strategy<Value = Value> {
    let outbound = (include(networks()), sometimes(networks()), sometimes(ports()), sometimes(ports()));
    let inbound = (include(ports()), sometimes(ports()), sometimes(networks()));
    let interfaces = prop_oneof![3 => Just(json!([])), 1 => Just(json!(["net1"]))];
    (outbound, inbound, interfaces, exempt()).prop_map(
        |((cidrs, no_cidrs, more, no_ports), (into, not_into, callers), interfaces, (uids, gids))| {
            json!({
                "outboundPort": OUTBOUND_PORT,
                "inboundPort": INBOUND_PORT,
                "dnsPort": DNS_PORT,
                "proxyUids": uids,
                "proxyGids": gids,
                "includeOutboundCidrs": cidrs,
                "excludeOutboundCidrs": no_cidrs,
                "includeOutboundPorts": more,
                "excludeOutboundPorts": no_ports,
                "includeInboundPorts": into,
                "excludeInboundPorts": not_into,
                "excludeInboundCidrs": callers,
                "excludeInterfaces": interfaces,
            })
        },
    )
}

/// Meshes differ in what no key says: tunnel ports, calls to oneself, own addresses, DNS over TCP.
const MESHES: [&str; 6] = ["custom", "istio", "linkerd", "osm", "consul", "kuma"];

/// What the webhook of Consul leaves in a pod: a user that is not captured, and one DNS server that is. Kuma wants a document;
/// in this one the entry counts.
fn annotations(mesh: &str) -> BTreeMap<String, String> {
    let config = json!({
        "ConsulDNSIP": "127.0.0.1",
        "ConsulDNSPort": DNS_PORT,
        "ProxyUserID": PROXY.to_string(),
        "ProxyInboundPort": INBOUND_PORT,
        "ProxyOutboundPort": OUTBOUND_PORT,
        "ExcludeUIDs": ["1500"],
    });
    if mesh == "kuma" {
        return [
            ("kuma.io/sidecar-injected", "true".to_owned()),
            ("traffic.kuma.io/transparent-proxy-config", json!({ "ipFamilyMode": "dualstack" }).to_string()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into();
    }
    if mesh != "consul" {
        return BTreeMap::new();
    }
    [
        ("consul.hashicorp.com/connect-inject-status", "injected".to_owned()),
        ("consul.hashicorp.com/transparent-proxy-status", "enabled".to_owned()),
        ("consul.hashicorp.com/dual-stack", "true".to_owned()),
        ("consul.hashicorp.com/redirect-traffic-config", config.to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

fn entry() -> impl Strategy<Value = Value> {
    // Every key may also be left to the profile.
    let keys = subsequence(
        vec_of(&[
            "includeOutboundCidrs",
            "excludeOutboundCidrs",
            "includeOutboundPorts",
            "excludeOutboundPorts",
            "includeInboundPorts",
            "excludeInboundPorts",
            "excludeInboundCidrs",
            "excludeInterfaces",
        ]),
        3..=8,
    );
    let udp = select(&["pass", "block"][..]);
    (select(&MESHES[..]), redirect(), keys, any::<bool>(), udp).prop_map(
        |(mesh, mut redirect, keys, dns, udp)| {
            if let Value::Object(redirect) = &mut redirect {
                let listed = |key: &str| key.starts_with("include") || key.starts_with("exclude");
                redirect.retain(|key, _| !listed(key) || keys.contains(&key.as_str()));
            }
            json!({ "mesh": mesh, "select": "all", "captureDns": dns, "udp": udp, "redirect": redirect })
        },
    )
}

fn vec_of(texts: &[&'static str]) -> Vec<&'static str> {
    texts.to_vec()
}

fn outbound() -> impl Strategy<Value = Connection> {
    let to = prop_oneof![8 => service(), 2 => any_of(&NEIGHBOURS), 3 => any_of(&OWN), 2 => any_of(&INSIDE)];
    let who = prop_oneof![3 => Just(IDS[0]), 4 => select(&IDS[..])];
    (who, to, port(), any::<bool>(), 0..4_u8).prop_map(|(ids, to, port, mapped, passthrough)| {
        let inside = OWN.contains(&to.to_string().as_str());
        let source = (inside && passthrough == 0).then(|| ip(if to.is_ipv4() { "127.0.0.6" } else { "::6" }));
        Connection {
            ids: Some(ids),
            way: Way::Tcp,
            mapped: mapped && to.is_ipv4(),
            source,
            to: (to, port).into(),
        }
    })
}

/// UDP to where somebody answers.
fn datagram() -> impl Strategy<Value = Connection> {
    let ways = select(&[Way::Udp, Way::Connected][..]);
    (outbound(), select(&UDP_PORTS[..]), ways).prop_map(|(connection, port, way)| Connection {
        way,
        source: None,
        to: (connection.to.ip(), port).into(),
        ..connection
    })
}

/// From one of the world's own addresses or from a service's, to one of the pod's.
fn inbound() -> impl Strategy<Value = Connection> {
    let source = prop_oneof![any_of(&NEIGHBOURS), service()];
    (source, any::<bool>(), port()).prop_map(|(source, second, port)| {
        let to = match (source.is_ipv4(), second) {
            (true, false) => OWN[0],
            (true, true) => OWN[1],
            (false, false) => OWN[2],
            (false, true) => OWN[3],
        };
        // An address of the world's other network would be answered by another way than it came.
        let near = match (source.is_ipv4(), second) {
            (true, false) => NEIGHBOURS[0],
            (true, true) => NEIGHBOURS[1],
            (false, false) => NEIGHBOURS[2],
            (false, true) => NEIGHBOURS[3],
        };
        let source = if NEIGHBOURS.contains(&source.to_string().as_str()) { ip(near) } else { source };
        Connection {
            ids: None,
            way: Way::Tcp,
            mapped: false,
            source: Some(source),
            to: (ip(to), port).into(),
        }
    })
}

/// A plan with connections.
pub(crate) fn case() -> impl Strategy<Value = Case> {
    let connections = vec(prop_oneof![6 => outbound(), 2 => inbound(), 3 => datagram()], 1..=64);
    (entry(), connections).prop_map(|(entry, connections)| {
        let annotations = annotations(entry["mesh"].as_str().unwrap_or_default());
        Case { entry, annotations, connections }
    })
}
