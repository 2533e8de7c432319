//! The rules and the decision say the same, over generated plans and connections.
//!
//! Left out is what never becomes a packet of the kind (TCP to many, the unspecified address, a family the pod has not).

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop, prop_assert_eq, prop_oneof, proptest};
use shunt_abi::decide::{self, Table, Verdict};
use shunt_abi::{Address, Reason, slot};

use super::kernel::{End, Packet, walk};
use super::*;
use crate::bpf::rules::{Encoded, Ids, encoded};
use crate::link::{Interfaces, OwnAddress, Route};
use crate::plan::{Inbound, Mesh, Outbound};

/// Interface, address, broadcast address.
const OWN: [(&str, &str, Option<&str>); 7] = [
    ("lo", "127.0.0.1", None),
    ("lo", "::1", None),
    ("lo", "::6", None),
    ("eth0", "10.1.0.5", Some("10.1.0.255")),
    ("eth0", "fd01::5", None),
    ("net1", "10.2.0.5", Some("10.2.0.255")),
    ("net1", "fd02::5", None),
];
const ROUTES: [(&str, &str); 6] = [
    ("10.1.0.0/24", "eth0"),
    ("10.2.0.0/16", "net1"),
    ("fd01::/64", "eth0"),
    ("fd02::/64", "net1"),
    ("0.0.0.0/0", "eth0"),
    ("::/0", "eth0"),
];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn interfaces() -> Interfaces {
    let addresses = OWN.iter().map(|(interface, own, broadcast)| OwnAddress {
        interface: (*interface).to_owned(),
        ip: ip(own),
        broadcast: broadcast.map(ip),
    });
    let mut routes: Vec<Route> = ROUTES
        .iter()
        .map(|(to, by)| Route { destination: to.parse().unwrap(), interface: (*by).to_owned(), source: None })
        .collect();
    routes.reverse();
    Interfaces {
        names: ["eth0", "lo", "net1"].map(str::to_owned).to_vec(),
        index_of_loopback: 1,
        addresses: addresses.collect(),
        routes,
    }
}

fn own_interface(address: IpAddr) -> Option<&'static str> {
    OWN.iter().find(|(_, own, _)| ip(own) == address).map(|(interface, ..)| *interface)
}

fn is_local(address: IpAddr) -> bool {
    address.is_loopback() || own_interface(address).is_some()
}

/// Where the kernel sends it.
fn output(destination: IpAddr) -> &'static str {
    if is_local(destination) {
        return "lo";
    }
    let route = |(to, _): &&(&str, &str)| to.parse::<IpNetwork>().unwrap().contains(destination);
    ROUTES.iter().find(route).map_or("eth0", |(_, by)| *by)
}

fn kind(address: IpAddr) -> &'static str {
    let broadcast = OWN.iter().any(|(.., broadcast)| broadcast.is_some_and(|text| ip(text) == address));
    if is_local(address) {
        "LOCAL"
    } else if broadcast || address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        "BROADCAST"
    } else if address.is_multicast() {
        "MULTICAST"
    } else {
        "UNICAST"
    }
}

fn is_many(address: IpAddr) -> bool {
    matches!(kind(address), "BROADCAST" | "MULTICAST")
}

fn family(address: IpAddr) -> Family {
    if address.is_ipv4() { Family::V4 } else { Family::V6 }
}

fn an_ip() -> impl Strategy<Value = IpAddr> {
    let named = [
        "127.0.0.1",
        "127.0.0.6",
        "127.9.9.9",
        "::1",
        "::6",
        "10.1.0.5",
        "fd01::5",
        "10.2.0.5",
        "fd02::5",
        "10.1.0.9",
        "10.2.0.9",
        "fd01::9",
        "fd02::9",
        "10.96.0.10",
        "fd96::10",
        "127.0.0.53",
        "8.8.8.8",
        "10.1.0.255",
        "255.255.255.255",
        "224.0.0.251",
        "ff02::fb",
        "2001:db8::1",
    ];
    prop_oneof![
        6 => prop::sample::select(named.to_vec()).prop_map(ip),
        1 => any::<u32>().prop_map(|bits| IpAddr::V4((0x0a00_0000 | (bits & 0xff_ffff)).into())),
    ]
}

fn a_network() -> impl Strategy<Value = IpNetwork> {
    (an_ip(), prop::sample::select(vec![0_u8, 4, 8, 16, 24, 64, 128])).prop_map(|(ip, bits)| {
        let bits = bits.min(if ip.is_ipv4() { 32 } else { 128 });
        let network = IpNetwork::new(ip, bits).unwrap();
        IpNetwork::new(network.network(), bits).unwrap()
    })
}

/// Short lists, and some long enough to be cut into groups.
fn a_list() -> impl Strategy<Value = Vec<IpNetwork>> {
    let narrow = any::<u32>()
        .prop_map(|bits| IpNetwork::new(IpAddr::V4((0x0a00_0000 | (bits & 0xff_ff00)).into()), 24).unwrap());
    prop_oneof![
        2 => Just(vec![]),
        4 => prop::collection::vec(a_network(), 0..4),
        1 => (prop::collection::vec(narrow, 65..200), prop::collection::vec(a_network(), 0..3))
            .prop_map(|(long, short)| [long, short].concat()),
    ]
}

const PORTS: [u16; 8] = [53, 80, 443, 8080, 8500, 15008, 1, 65535];

fn a_range() -> impl Strategy<Value = PortRange> {
    let single = prop::sample::select(PORTS.to_vec()).prop_map(|port| PortRange::single(port).unwrap());
    let wide =
        (1_u16..9000, 0_u16..2000).prop_map(|(first, more)| PortRange::new(first, first + more).unwrap());
    prop_oneof![single, wide]
}

fn ranges() -> impl Strategy<Value = Vec<PortRange>> {
    prop::collection::vec(a_range(), 0..3)
}

fn include<T: std::fmt::Debug + Clone>(
    list: impl Strategy<Value = Vec<T>>,
) -> impl Strategy<Value = Include<T>> {
    prop_oneof![Just(Include::All), list.prop_map(Include::Only)]
}

fn ids() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(0_u32..5, 0..3)
}

fn a_dns() -> impl Strategy<Value = Option<Dns>> {
    let tcp = prop_oneof![Just(DnsTcp::Capture), Just(DnsTcp::Pass)];
    let dns = (tcp, include(prop::collection::vec(an_ip(), 0..4))).prop_map(|(tcp, servers)| Dns {
        port: 15053,
        tcp,
        servers,
    });
    prop::option::of(dns)
}

fn a_plan() -> impl Strategy<Value = Plan> {
    let outbound = (include(a_list()), a_list(), ranges(), ranges(), ids(), any::<bool>()).prop_map(
        |(cidrs, exclude_cidrs, extra_ports, exclude_ports, exclude_uids, own_addresses)| Outbound {
            cidrs,
            exclude_cidrs,
            extra_ports,
            exclude_ports,
            exclude_uids,
            own_addresses,
        },
    );
    let inbound = (include(ranges()), ranges(), a_list())
        .prop_map(|(ports, exclude_ports, exclude_cidrs)| Inbound { ports, exclude_ports, exclude_cidrs });
    let interfaces = prop::sample::subsequence(vec!["lo".to_owned(), "net1".to_owned()], 0..=2);
    let rest =
        (ids(), ids(), interfaces, prop::option::of(Just(15008)), any::<bool>(), a_dns(), any::<bool>());
    (outbound, inbound, rest).prop_map(|(outbound, inbound, rest)| {
        let (uids, gids, exclude_interfaces, tunnel_port, self_calls, dns, block) = rest;
        Plan {
            mesh: Mesh::Custom,
            outbound_port: 15001,
            inbound_port: 15006,
            exempt_uids: uids,
            exempt_gids: gids,
            outbound,
            inbound,
            exclude_interfaces,
            tunnel_port,
            self_calls,
            before_proxy: BeforeProxy::Closed,
            dns,
            udp: if block { Udp::Block } else { Udp::Pass },
            drop_invalid: true,
        }
    })
}

/// Who, from where, to where, at which port, and whether it is a reply.
type Call = ((u32, u32), (Option<IpAddr>, IpAddr), u16, bool);

fn a_call() -> impl Strategy<Value = Call> {
    let port = prop_oneof![prop::sample::select(PORTS.to_vec()), 1_u16..11000];
    let source = prop::option::of(an_ip());
    ((0_u32..5, 0_u32..5), (source, an_ip()), port, any::<bool>())
}

struct Both {
    plan: Plan,
    encoded: Encoded,
    rules: [Rules; 2],
}

impl Both {
    fn new(plan: Plan) -> Self {
        let ids = Ids {
            uids: plan.exempt_uids.clone(),
            gids: plan.exempt_gids.clone(),
            excluded_uids: plan.outbound.exclude_uids.clone(),
        };
        let encoded = encoded(&plan, &interfaces(), "eth0", &ids, 1);
        let rules = Family::ALL.map(|family| rendered(&plan, family).unwrap());
        Self { plan, encoded, rules }
    }

    fn end(&self, table: &str, base: &str, packet: &Packet) -> End {
        let rules = &self.rules[usize::from(family(packet.destination) == Family::V6)];
        walk(rules, table, base, packet)
    }

    fn wanted(&self, verdict: Verdict) -> End {
        match verdict {
            Verdict::Pass(_) => End::Accept,
            Verdict::Refuse(_) => End::Drop,
            Verdict::Capture { slot: slot::OUTBOUND, .. } => End::Redirect(self.plan.outbound_port),
            Verdict::Capture { slot: slot::INBOUND, .. } => End::Redirect(self.plan.inbound_port),
            Verdict::Capture { .. } => End::Redirect(self.plan.dns.as_ref().unwrap().port),
        }
    }

    fn tcp(&self, call: &Call) -> (End, End) {
        let (packet, connection) = leaving("tcp", call);
        let verdict = decide::outbound(&self.encoded.config, &Table(&self.encoded.rules), &connection);
        (self.end("nat", "OUTPUT", &packet), self.wanted(verdict))
    }

    fn udp(&self, call: &Call) -> (End, End) {
        let (mut packet, connection) = leaving("udp", call);
        let reply = call.3 && connection.port != DNS_PORT;
        packet.reply = reply;
        let verdict = decide::datagram(&self.encoded.config, &Table(&self.encoded.rules), &connection, reply);
        let of_nat = if reply { End::Accept } else { self.end("nat", "OUTPUT", &packet) };
        if of_nat != End::Accept {
            packet.destination = if packet.destination.is_ipv4() { ip("127.0.0.1") } else { ip("::1") };
            packet.kind = "LOCAL";
            packet.port = 15053;
        }
        let end = match self.end("filter", "OUTPUT", &packet) {
            End::Accept => of_nat,
            other => other,
        };
        (end, self.wanted(verdict))
    }

    /// Zone of a query, and whether it should have one.
    fn zone(&self, call: &Call) -> (End, End) {
        let (packet, connection) = leaving("udp", call);
        let verdict = decide::datagram(&self.encoded.config, &Table(&self.encoded.rules), &connection, false);
        let excluded = self.plan.outbound.exclude_ports.iter().any(|range| range.contains(DNS_PORT));
        let is_dns = connection.port == DNS_PORT && self.plan.dns.is_some() && !excluded;
        let own = matches!(verdict.reason(), Reason::Exempt | Reason::ExcludedUid);
        (self.end("raw", "OUTPUT", &packet), if is_dns && own { End::Zone(1) } else { End::Accept })
    }

    fn arriving(&self, source: IpAddr, destination: IpAddr, port: u16) -> (End, End) {
        let connection = decide::Inbound {
            source: Address::from_ip(source),
            destination: Address::from_ip(destination),
            port,
        };
        let input = if is_local(source) { Some("lo") } else { own_interface(destination).or(Some("eth0")) };
        let packet = Packet {
            input,
            output: None,
            source,
            ..leaving("tcp", &((0, 0), (None, destination), port, false)).0
        };
        let verdict = decide::inbound(&self.encoded.config, &Table(&self.encoded.rules), &connection);
        // What the pod only passes on is not a connection to it.
        let wanted = if is_local(destination) { self.wanted(verdict) } else { End::Accept };
        (self.end("nat", "PREROUTING", &packet), wanted)
    }
}

fn leaving(protocol: &'static str, call: &Call) -> (Packet, decide::Outbound) {
    let ((uid, gid), (source, destination), port, _) = *call;
    let source = source.filter(|source| source.is_ipv4() == destination.is_ipv4());
    let packet = Packet {
        protocol,
        syn: true,
        reply: false,
        invalid: false,
        input: None,
        output: Some(output(destination)),
        source: source.unwrap_or(if destination.is_ipv4() { ip("10.1.0.5") } else { ip("fd01::5") }),
        destination,
        port,
        uid,
        gid,
        kind: kind(destination),
    };
    let connection = decide::Outbound {
        uid,
        gid,
        destination: Address::from_ip(destination),
        port,
        source: source.map_or(Address::UNSPECIFIED, Address::from_ip),
        before_proxy: false,
    };
    (packet, connection)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn rules_and_decision_agree(plan in a_plan(), calls in prop::collection::vec(a_call(), 40)) {
        let both = Both::new(plan);
        for call in &calls {
            let ((_, (source, destination), port, _), shown) = (*call, format!("{call:?}"));
            if !is_many(destination) {
                let (rules, decision) = both.tcp(call);
                prop_assert_eq!(rules, decision, "tcp {}", shown);
            }
            let (rules, decision) = both.udp(call);
            prop_assert_eq!(rules, decision, "udp {}", shown);
            let (rules, decision) = both.zone(call);
            prop_assert_eq!(rules, decision, "zone {}", shown);
            let source = source.filter(|source| source.is_ipv4() == destination.is_ipv4() && !is_many(*source));
            if let Some(source) = source && !is_many(destination) && (output(destination) != "lo" || own_interface(destination).is_some_and(|name| name != "lo") || is_local(source)) {
                let (rules, decision) = both.arriving(source, destination, port);
                prop_assert_eq!(rules, decision, "inbound {}", shown);
            }
        }
    }
}

#[test]
fn what_is_no_first_packet_is_left_alone() {
    let both = Both::new(plain());
    let (mut packet, _) = leaving("tcp", &((0, 0), (None, ip("10.96.0.10")), 80, false));
    assert_eq!(both.end("nat", "OUTPUT", &packet), End::Redirect(15001));
    packet.syn = false;
    assert_eq!(both.end("nat", "OUTPUT", &packet), End::Accept);
}

#[test]
fn invalid_packets_are_dropped_where_asked() {
    let mut plan = plain();
    plan.exclude_interfaces = vec!["net1".to_owned()];
    for (asked, input, wanted) in
        [(false, "eth0", End::Accept), (true, "eth0", End::Drop), (true, "net1", End::Accept)]
    {
        plan.drop_invalid = asked;
        let both = Both::new(plan.clone());
        let (packet, _) = leaving("tcp", &((0, 0), (None, ip("10.1.0.5")), 80, false));
        let packet = Packet { invalid: true, input: Some(input), output: None, ..packet };
        assert_eq!(both.end("mangle", "PREROUTING", &packet), wanted);
        let valid = Packet { invalid: false, ..packet };
        assert_eq!(both.end("mangle", "PREROUTING", &valid), End::Accept);
    }
}
