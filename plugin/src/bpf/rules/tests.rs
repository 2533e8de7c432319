//! From plan and namespace to the trie, and from the trie to the decision the kernel makes with it.

use std::net::IpAddr;

use proptest::prelude::*;
use shunt_abi::decide::{Inbound as In, Outbound as Out, Table, Verdict, inbound, outbound};
use shunt_abi::{Reason, slot};
use shunt_api::{BeforeProxy, Mesh, Udp};

mod udp;

use super::*;
use crate::link::Route;
use crate::plan::{Inbound, Outbound};

const APP: u32 = 1000;
const PROXY: u32 = 1337;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn net(text: &str) -> IpNetwork {
    let network: IpNetwork = text.parse().expect("a network");
    IpNetwork::new(network.network(), network.prefix()).expect("a network")
}

fn range(first: u16, last: u16) -> PortRange {
    PortRange::new(first, last).expect("a range")
}

fn address(interface: &str, text: &str, broadcast: Option<&str>) -> OwnAddress {
    OwnAddress { interface: interface.to_owned(), ip: ip(text), broadcast: broadcast.map(ip) }
}

fn pod() -> Interfaces {
    Interfaces {
        names: vec!["lo".into(), "eth0".into()],
        index_of_loopback: 1,
        addresses: vec![
            address("lo", "127.0.0.1", None),
            address("lo", "::1", None),
            address("eth0", "10.1.0.2", Some("10.1.0.255")),
            address("eth0", "fd01::2", None),
        ],
        routes: vec![],
    }
}

fn plan() -> Plan {
    Plan {
        mesh: Mesh::Istio,
        outbound_port: 15001,
        inbound_port: 15006,
        exempt_uids: vec![PROXY],
        exempt_gids: vec![PROXY],
        outbound: Outbound {
            cidrs: Include::All,
            exclude_cidrs: vec![],
            extra_ports: vec![],
            exclude_ports: vec![range(15020, 15020)],
            exclude_uids: vec![],
            own_addresses: false,
        },
        inbound: Inbound {
            ports: Include::All,
            exclude_ports: vec![range(15020, 15021), range(15090, 15090)],
            exclude_cidrs: vec![],
        },
        exclude_interfaces: vec![],
        tunnel_port: Some(15008),
        self_calls: true,
        before_proxy: BeforeProxy::Closed,
        dns: None,
        udp: Udp::Pass,
        drop_invalid: false,
    }
}

fn encode(plan: &Plan, interfaces: &Interfaces) -> Encoded {
    let ids = Ids {
        uids: plan.exempt_uids.clone(),
        gids: plan.exempt_gids.clone(),
        excluded_uids: plan.outbound.exclude_uids.clone(),
    };
    encoded(plan, interfaces, "eth0", &ids, 1)
}

fn goes(encoded: &Encoded, uid: u32, source: &str, to: &str, port: u16) -> Verdict {
    let connection = Out {
        uid,
        gid: uid,
        destination: Address::from_ip(ip(to)),
        port,
        source: if source.is_empty() { Address::UNSPECIFIED } else { Address::from_ip(ip(source)) },
        before_proxy: false,
    };
    outbound(&encoded.config, &Table(&encoded.rules), &connection)
}

fn comes(encoded: &Encoded, source: &str, to: &str, port: u16) -> Verdict {
    let connection = In { source: Address::from_ip(ip(source)), destination: Address::from_ip(ip(to)), port };
    inbound(&encoded.config, &Table(&encoded.rules), &connection)
}

/// Rows 2 to 19 of Istio's table (`peers-cni.md` 4.3) that are about TCP, in its order.
#[test]
fn every_row_of_istios_table() {
    let mut plan = plan();
    plan.outbound.cidrs = Include::Only(vec![net("172.16.0.0/12"), net("fd99::/16")]);
    plan.outbound.exclude_cidrs = vec![net("172.16.5.0/24")];
    plan.outbound.extra_ports = vec![range(9000, 9099)];
    let all = encode(&plan, &pod());
    let rows: &[(&str, Verdict, Reason)] = &[
        ("2 tunnel port", comes(&all, "10.9.9.9", "10.1.0.2", 15008), Reason::Tunnel),
        ("3 excluded inbound", comes(&all, "10.9.9.9", "10.1.0.2", 15021), Reason::ExcludedPort),
        ("4 inbound", comes(&all, "10.9.9.9", "10.1.0.2", 8080), Reason::Inbound),
        ("4 inbound v6", comes(&all, "fd09::9", "fd01::2", 8080), Reason::Inbound),
        ("6 excluded outbound port", goes(&all, APP, "", "172.16.0.1", 15020), Reason::ExcludedPort),
        ("6 of the proxy, to itself", goes(&all, PROXY, "", "10.1.0.2", 15020), Reason::ExcludedPort),
        ("7 pass-through source", goes(&all, PROXY, "127.0.0.6", "10.1.0.2", 8080), Reason::Passthrough),
        ("7 pass-through source v6", goes(&all, PROXY, "::6", "fd01::2", 8080), Reason::Passthrough),
        ("8 app calls itself", goes(&all, PROXY, "", "10.1.0.2", 8080), Reason::SelfCall),
        ("8 v6", goes(&all, PROXY, "", "fd01::2", 8080), Reason::SelfCall),
        ("8 loopback that is not 127.0.0.1", goes(&all, PROXY, "", "127.0.0.6", 15002), Reason::SelfCall),
        ("8 not the tunnel", goes(&all, PROXY, "", "10.1.0.2", 15008), Reason::Exempt),
        ("8 not 127.0.0.1", goes(&all, PROXY, "", "127.0.0.1", 8080), Reason::Exempt),
        ("9 app to itself", goes(&all, APP, "", "10.1.0.2", 8080), Reason::OwnAddress),
        ("10 proxy", goes(&all, PROXY, "", "172.16.0.1", 80), Reason::Exempt),
        ("16 loopback", goes(&all, APP, "", "127.0.0.1", 80), Reason::Loopback),
        ("16 all of it", goes(&all, APP, "", "127.8.8.8", 80), Reason::Loopback),
        ("16 ::1", goes(&all, APP, "", "::1", 80), Reason::Loopback),
        ("17 excluded CIDR", goes(&all, APP, "", "172.16.5.7", 80), Reason::ExcludedCidr),
        ("17 comes before 18", goes(&all, APP, "", "172.16.5.7", 9000), Reason::ExcludedCidr),
        ("18 included port", goes(&all, APP, "", "8.8.8.8", 9000), Reason::OutboundPort),
        ("19 included CIDR", goes(&all, APP, "", "172.31.0.1", 80), Reason::Outbound),
        ("19 included CIDR v6", goes(&all, APP, "", "fd99::1", 80), Reason::Outbound),
        ("19 the rest", goes(&all, APP, "", "8.8.8.8", 80), Reason::NotIncluded),
        ("19 the rest v6", goes(&all, APP, "", "2001::1", 80), Reason::NotIncluded),
    ];
    for (row, verdict, reason) in rows {
        assert_eq!(verdict.reason(), *reason, "row {row}");
    }
    assert!(matches!(goes(&all, PROXY, "", "10.1.0.2", 80), Verdict::Capture { slot: slot::INBOUND, .. }));
    assert!(matches!(goes(&all, APP, "", "172.16.0.1", 80), Verdict::Capture { slot: slot::OUTBOUND, .. }));
}

#[test]
fn gid_alone_exempts_as_rows_11_to_13() {
    let mut plan = plan();
    plan.exempt_uids.clear();
    let all = encode(&plan, &pod());
    assert_eq!(goes(&all, PROXY, "", "8.8.8.8", 80).reason(), Reason::Exempt);
    plan.exempt_gids.clear();
    assert_eq!(goes(&encode(&plan, &pod()), PROXY, "", "8.8.8.8", 80).reason(), Reason::Outbound);
}

#[test]
fn what_the_kernel_answers_itself_is_left_to_it() {
    let all = encode(&plan(), &pod());
    for (to, reason) in [
        ("0.0.0.0", Reason::Loopback),
        ("::", Reason::Loopback),
        ("224.0.0.1", Reason::Multicast),
        ("ff02::1", Reason::Multicast),
        ("255.255.255.255", Reason::Broadcast),
        ("10.1.0.255", Reason::Broadcast),
    ] {
        assert_eq!(goes(&all, APP, "", to, 80), Verdict::Pass(reason), "{to}");
    }
    let mut v4_only = pod();
    v4_only.addresses.retain(|a| a.ip.is_ipv4() || a.interface == "lo");
    v4_only.addresses.push(address("eth0", "fe80::1", None));
    let all = encode(&plan(), &v4_only);
    assert_eq!(goes(&all, APP, "", "2001::1", 80), Verdict::Refuse(Reason::NoFamily));
    assert_eq!(goes(&all, APP, "", "2001::1", 15020), Verdict::Pass(Reason::ExcludedPort));
    let stand_in = Address::from_ip(ip("fe80::1"));
    let reason = Reason::Outbound;
    let captured = Verdict::Capture { slot: slot::OUTBOUND, address: stand_in, reason };
    assert_eq!(goes(&all, APP, "", "fe80::9", 80), captured);
    assert_eq!(goes(&all, APP, "", "8.8.8.8", 80).reason(), Reason::Outbound);
}

#[test]
fn an_exclusion_holds_inside_and_outside_an_inclusion_and_families_stay_apart() {
    let mut plan = plan();
    plan.outbound.cidrs = Include::Only(vec![net("10.1.2.0/24"), net("::/0")]);
    plan.outbound.exclude_cidrs = vec![net("10.0.0.0/8"), net("fd00::/8")];
    let all = encode(&plan, &pod());
    for (to, reason) in [
        ("10.1.2.3", Reason::ExcludedCidr),
        ("10.9.9.9", Reason::ExcludedCidr),
        ("11.0.0.1", Reason::NotIncluded),
        ("fd22::1", Reason::ExcludedCidr),
        ("2001::1", Reason::Outbound),
    ] {
        assert_eq!(goes(&all, APP, "", to, 80).reason(), reason, "{to}");
    }
    plan.outbound.cidrs = Include::Only(vec![net("0.0.0.0/0")]);
    plan.outbound.exclude_cidrs = vec![net("::/0")];
    let all = encode(&plan, &pod());
    assert_eq!(goes(&all, APP, "", "8.8.8.8", 80).reason(), Reason::Outbound);
    assert_eq!(goes(&all, APP, "", "2001::1", 80).reason(), Reason::ExcludedCidr);
}

#[test]
fn the_stand_in_is_the_address_the_route_would_choose() {
    let mut two = pod();
    two.names.push("net1".into());
    two.addresses.push(address("net1", "192.168.7.2", Some("192.168.7.255")));
    let route = |to: &str, interface: &str, source: Option<&str>| Route {
        destination: net(to),
        interface: interface.to_owned(),
        source: source.map(ip),
    };
    two.routes = vec![
        route("192.168.7.0/24", "net1", Some("192.168.7.2")),
        route("0.0.0.0/0", "eth0", None),
        route("0.0.0.0/0", "net1", None),
    ];
    let all = encode(&plan(), &two);
    let stand_in = |to: &str| match goes(&all, APP, "", to, 80) {
        Verdict::Capture { address, .. } => Some(address.ip()),
        Verdict::Pass(_) | Verdict::Refuse(_) => None,
    };
    assert_eq!(stand_in("192.168.7.9"), Some(ip("192.168.7.2")));
    assert_eq!(stand_in("8.8.8.8"), Some(ip("10.1.0.2")), "the kernel's first route of a destination stands");

    let mut plan = plan();
    plan.exclude_interfaces = vec!["net1".into()];
    let all = encode(&plan, &two);
    assert_eq!(goes(&all, APP, "", "192.168.7.9", 80).reason(), Reason::ExcludedInterface);
    assert_eq!(goes(&all, APP, "", "8.8.8.8", 80).reason(), Reason::Outbound);
    assert_eq!(comes(&all, "192.168.7.9", "192.168.7.2", 80).reason(), Reason::ExcludedInterface);
    assert_eq!(comes(&all, "192.168.7.9", "10.1.0.2", 80).reason(), Reason::Inbound);
}

#[test]
fn a_neighbour_on_the_link_is_reached_from_the_link_local_address() {
    let mut pod = pod();
    pod.addresses.push(address("eth0", "fe80::1", None));
    let all = encode(&plan(), &pod);
    let stand_in = |to: &str| match goes(&all, APP, "", to, 80) {
        Verdict::Capture { address, .. } => Some(address.ip()),
        Verdict::Pass(_) | Verdict::Refuse(_) => None,
    };
    assert_eq!(stand_in("fe80::99"), Some(ip("fe80::1")));
    assert_eq!(stand_in("2001::99"), Some(ip("fd01::2")));
    assert_eq!(stand_in("8.8.8.8"), Some(ip("10.1.0.2")));
}

#[test]
fn inbound_lists() {
    let mut plan = plan();
    plan.inbound = Inbound {
        ports: Include::Only(vec![range(8000, 8999)]),
        exclude_ports: vec![range(8500, 8500)],
        exclude_cidrs: vec![net("10.9.0.0/16")],
    };
    let all = encode(&plan, &pod());
    for (from, port, reason) in [
        ("10.8.0.1", 8000, Reason::Inbound),
        ("10.8.0.1", 8999, Reason::Inbound),
        ("10.8.0.1", 9000, Reason::NotIncluded),
        ("10.8.0.1", 8500, Reason::ExcludedPort),
        ("10.9.0.1", 8000, Reason::ExcludedCidr),
        ("10.1.0.2", 8000, Reason::Local),
        ("127.0.0.1", 8000, Reason::Local),
    ] {
        assert_eq!(comes(&all, from, "10.1.0.2", port).reason(), reason, "{from} {port}");
    }
}

#[test]
fn a_range_is_few_prefixes_and_no_entry_comes_twice() {
    let mut plan = plan();
    plan.outbound.exclude_ports = vec![range(1, 65535)];
    let all = encode(&plan, &pod());
    let ports = all.rules.iter().filter(|(_, key, _)| key.kind == kind::OUTBOUND_PORT).count();
    assert_eq!(ports, 16);
    plan.outbound.exclude_cidrs = vec![net("10.0.0.0/8"), net("10.0.0.0/8")];
    plan.outbound.cidrs = Include::Only(vec![net("10.0.0.0/8")]);
    let all = encode(&plan, &pod());
    let mut keys: Vec<_> = all.rules.iter().map(|(length, key, _)| (*length, *key)).collect();
    keys.sort_unstable();
    let count = keys.len();
    keys.dedup();
    assert_eq!(keys.len(), count);
}

fn networks() -> impl Strategy<Value = Vec<IpNetwork>> {
    let v4 = (any::<u32>(), 0_u8..=32).prop_map(|(a, p)| (IpAddr::from(a.to_be_bytes()), p));
    let v6 = (0_u128..4, any::<u32>(), 0_u8..=128)
        .prop_map(|(top, low, p)| (IpAddr::from(((top << 125) | u128::from(low)).to_be_bytes()), p));
    let one = prop_oneof![v4, v6].prop_map(|(ip, prefix)| {
        let network = IpNetwork::new(ip, prefix).expect("a network");
        IpNetwork::new(network.network(), prefix).expect("a network")
    });
    prop::collection::vec(one, 0..12)
}

fn port_ranges() -> impl Strategy<Value = Vec<PortRange>> {
    let one = (1_u16.., 1_u16..).prop_map(|(a, b)| range(a.min(b), a.max(b)));
    prop::collection::vec(one, 0..4)
}

fn destinations() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|a| IpAddr::from(a.to_be_bytes())),
        (0_u128..4, any::<u32>())
            .prop_map(|(top, low)| IpAddr::from(((top << 125) | u128::from(low)).to_be_bytes()))
    ]
}

/// The plan read literally, list by list: what the trie has to agree with.
fn literally(plan: &Plan, to: IpAddr, port: u16) -> bool {
    let on = |list: &[IpNetwork]| list.iter().any(|network| network.contains(to));
    let ports = |list: &[PortRange]| list.iter().any(|range| range.contains(port));
    if ports(&plan.outbound.exclude_ports) || on(&plan.outbound.exclude_cidrs) {
        return false;
    }
    ports(&plan.outbound.extra_ports)
        || match &plan.outbound.cidrs {
            Include::All => true,
            Include::Only(list) => on(list),
        }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    /// A captured destination never passes, one that is not is never captured.
    #[test]
    fn the_trie_decides_as_the_lists_read(
        include in prop::option::of(networks()), exclude in networks(), extra in port_ranges(), not in port_ranges(),
        to in destinations(), port in 1_u16..,
    ) {
        let mut plan = plan();
        plan.outbound = Outbound {
            cidrs: include.map_or(Include::All, Include::Only), exclude_cidrs: exclude, extra_ports: extra, exclude_ports: not,
            exclude_uids: vec![], own_addresses: false,
        };
        let all = encode(&plan, &pod());
        let text = to.to_string();
        let verdict = goes(&all, APP, "", &text, port);
        let by_nature = matches!(
            verdict.reason(), Reason::Loopback | Reason::Multicast | Reason::OwnAddress | Reason::Broadcast
        );
        if !by_nature {
            prop_assert_eq!(matches!(verdict, Verdict::Capture { .. }), literally(&plan, to, port), "{:?}", verdict);
        }
    }

    /// IPv4 and its v4-mapped form are one destination.
    #[test]
    fn mapped_is_native(a in any::<u32>(), port in 1_u16.., exclude in networks()) {
        let mut plan = plan();
        plan.outbound.exclude_cidrs = exclude;
        let all = encode(&plan, &pod());
        let v4 = std::net::Ipv4Addr::from(a);
        prop_assert_eq!(
            goes(&all, APP, "", &v4.to_string(), port), goes(&all, APP, "", &v4.to_ipv6_mapped().to_string(), port)
        );
    }

    /// The proxy is never captured but by itself, for what is delivered inside the pod.
    #[test]
    fn the_proxy_is_never_sent_to_itself_on_the_way_out(to in destinations(), port in 1_u16.., include in networks()) {
        let mut plan = plan();
        plan.outbound.cidrs = Include::Only(include);
        let all = encode(&plan, &pod());
        let verdict = goes(&all, PROXY, "", &to.to_string(), port);
        if let Verdict::Capture { slot, reason, .. } = verdict {
            prop_assert!(slot == slot::INBOUND && reason == Reason::SelfCall);
            prop_assert!(to.is_loopback() || pod().addresses.iter().any(|a| a.ip == to));
        }
    }
}
