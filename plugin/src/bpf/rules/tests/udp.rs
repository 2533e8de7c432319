//! DNS, other UDP, the time before the proxy, and what meshes other than Istio ask for.

use shunt_abi::decide::{datagram, source};

use super::*;
use crate::plan::{Dns, DnsTcp};

/// A uid that is excluded where a plan says so.
const EXCLUDED: u32 = 5000;

fn connection(uid: u32, to: &str, port: u16, before_proxy: bool) -> Out {
    let destination = Address::from_ip(ip(to));
    Out { uid, gid: uid, destination, port, source: Address::UNSPECIFIED, before_proxy }
}

/// UDP from a socket that is not bound.
fn sends(encoded: &Encoded, uid: u32, to: &str, port: u16) -> Verdict {
    datagram(&encoded.config, &Table(&encoded.rules), &connection(uid, to, port, false), false)
}

fn dns(tcp: DnsTcp, servers: &[&str]) -> Dns {
    let servers = if servers.is_empty() {
        Include::All
    } else {
        Include::Only(servers.iter().map(|at| ip(at)).collect())
    };
    Dns { port: 15053, tcp, servers }
}

fn with(change: impl FnOnce(&mut Plan)) -> Encoded {
    let mut plan = plan();
    change(&mut plan);
    encode(&plan, &pod())
}

/// Slot and address of a captured connection.
fn captured(verdict: Verdict) -> Option<(u32, IpAddr)> {
    match verdict {
        Verdict::Capture { slot, address, .. } => Some((slot, address.ip())),
        Verdict::Pass(_) | Verdict::Refuse(_) => None,
    }
}

#[test]
fn what_other_meshes_ask_for() {
    let consul = with(|plan| {
        (plan.self_calls, plan.outbound.own_addresses) = (false, true);
        plan.outbound.exclude_uids = vec![EXCLUDED, PROXY];
    });
    let rows: &[(&str, Verdict, Reason)] = &[
        ("the proxy to the pod", goes(&consul, PROXY, "", "10.1.0.2", 8080), Reason::Exempt),
        ("the proxy to the pod v6", goes(&consul, PROXY, "", "fd01::2", 8080), Reason::Exempt),
        ("the proxy to loopback", goes(&consul, PROXY, "", "127.0.0.6", 15002), Reason::Exempt),
        ("exempt before excluded", goes(&consul, PROXY, "", "8.8.8.8", 80), Reason::Exempt),
        ("the app to the pod", goes(&consul, APP, "", "10.1.0.2", 8080), Reason::Outbound),
        ("the app to the pod v6", goes(&consul, APP, "", "fd01::2", 8080), Reason::Outbound),
        ("the app to loopback", goes(&consul, APP, "", "127.0.0.1", 8080), Reason::Loopback),
        ("the app to ::1", goes(&consul, APP, "", "::1", 8080), Reason::Loopback),
        ("an excluded uid", goes(&consul, EXCLUDED, "", "8.8.8.8", 80), Reason::ExcludedUid),
        ("an excluded uid to the pod", goes(&consul, EXCLUDED, "", "10.1.0.2", 80), Reason::ExcludedUid),
    ];
    for (row, verdict, reason) in rows {
        assert_eq!(verdict.reason(), *reason, "{row}");
    }
    let own = captured(goes(&consul, APP, "", "10.1.0.2", 8080));
    assert_eq!(own, Some((slot::OUTBOUND, ip("10.1.0.2"))), "an own address stands in for itself");
    // An id that is excluded has a place in the trie; being somebody's gid does not make it excluded.
    let gid = Out { gid: EXCLUDED, ..connection(APP, "8.8.8.8", 80, false) };
    assert_eq!(outbound(&consul.config, &Table(&consul.rules), &gid).reason(), Reason::Outbound);
}

#[test]
fn dns_of_any_server() {
    let all = with(|plan| plan.dns = Some(dns(DnsTcp::Capture, &[])));
    for (to, over_tcp, over_udp) in [
        ("8.8.8.8", Some("10.1.0.2"), Some("127.0.0.1")),
        ("2001::8", Some("fd01::2"), Some("::1")),
        ("10.1.0.2", Some("10.1.0.2"), Some("127.0.0.1")),
        ("127.0.0.1", Some("127.0.0.1"), Some("127.0.0.1")),
        ("127.0.0.53", Some("127.0.0.53"), Some("127.0.0.1")),
        ("::1", Some("::1"), Some("::1")),
        ("0.0.0.0", Some("127.0.0.1"), Some("127.0.0.1")),
        ("::", Some("::1"), Some("::1")),
        ("224.0.0.251", None, None),
        ("255.255.255.255", None, None),
        ("10.1.0.255", None, None),
    ] {
        let at = |to: Option<&str>| to.map(|to| (slot::DNS, ip(to)));
        assert_eq!(captured(goes(&all, APP, "", to, 53)), at(over_tcp), "TCP to {to}");
        assert_eq!(captured(sends(&all, APP, to, 53)), at(over_udp), "UDP to {to}");
        assert_eq!(captured(sends(&all, APP, to, 5353)), None, "not DNS: {to}");
        assert_eq!(captured(sends(&all, PROXY, to, 53)), None, "the proxy's own: {to}");
    }
    assert_eq!(sends(&all, APP, "8.8.8.8", 443), Verdict::Pass(Reason::Datagram));
    assert_eq!(sends(&all, PROXY, "8.8.8.8", 53), Verdict::Pass(Reason::Exempt));
    assert_eq!(goes(&all, PROXY, "", "8.8.8.8", 53), Verdict::Pass(Reason::Exempt));
    assert_eq!(goes(&all, APP, "", "8.8.8.8", 54).reason(), Reason::Outbound);
    let none = with(|_| {});
    assert_eq!(goes(&none, APP, "", "8.8.8.8", 53).reason(), Reason::Outbound);
    assert_eq!(sends(&none, APP, "8.8.8.8", 53), Verdict::Pass(Reason::Datagram));
}

#[test]
fn dns_where_it_is_limited() {
    let some = with(|plan| plan.dns = Some(dns(DnsTcp::Capture, &["10.96.0.10", "127.0.0.1", "fd96::10"])));
    let passes = with(|plan| plan.dns = Some(dns(DnsTcp::Pass, &[])));
    let excluded = with(|plan| {
        plan.dns = Some(dns(DnsTcp::Capture, &[]));
        plan.outbound.exclude_ports = vec![range(50, 60)];
    });
    // Lists of addresses are about connections that are not DNS.
    let elsewhere = with(|plan| {
        plan.dns = Some(dns(DnsTcp::Capture, &[]));
        plan.outbound.exclude_cidrs = vec![net("8.8.8.0/24")];
        plan.outbound.cidrs = Include::Only(vec![net("172.16.0.0/12")]);
    });
    let uid = with(|plan| {
        plan.dns = Some(dns(DnsTcp::Capture, &[]));
        plan.outbound.exclude_uids = vec![EXCLUDED];
    });
    let rows: &[(&str, Verdict, Reason)] = &[
        ("a named server", sends(&some, APP, "10.96.0.10", 53), Reason::Dns),
        ("a named server v6", sends(&some, APP, "fd96::10", 53), Reason::Dns),
        ("a named server mapped", sends(&some, APP, "::ffff:10.96.0.10", 53), Reason::Dns),
        ("a named server on loopback", sends(&some, APP, "127.0.0.1", 53), Reason::Dns),
        ("over TCP", goes(&some, APP, "", "127.0.0.1", 53), Reason::Dns),
        ("another server", sends(&some, APP, "8.8.8.8", 53), Reason::Datagram),
        ("another server over TCP", goes(&some, APP, "", "8.8.8.8", 53), Reason::Outbound),
        ("another loopback", goes(&some, APP, "", "127.0.0.53", 53), Reason::Loopback),
        ("TCP passes", goes(&passes, APP, "", "8.8.8.8", 53), Reason::DnsTcp),
        ("UDP does not", sends(&passes, APP, "8.8.8.8", 53), Reason::Dns),
        ("excluded port", sends(&excluded, APP, "8.8.8.8", 53), Reason::Datagram),
        ("excluded port over TCP", goes(&excluded, APP, "", "8.8.8.8", 53), Reason::ExcludedPort),
        ("excluded port on loopback", goes(&excluded, APP, "", "127.0.0.1", 53), Reason::Loopback),
        ("excluded address", sends(&elsewhere, APP, "8.8.8.8", 53), Reason::Dns),
        ("excluded address over TCP", goes(&elsewhere, APP, "", "8.8.8.8", 53), Reason::Dns),
        ("not included", sends(&elsewhere, APP, "9.9.9.9", 53), Reason::Dns),
        ("excluded uid", sends(&uid, EXCLUDED, "8.8.8.8", 53), Reason::ExcludedUid),
        ("excluded uid over TCP", goes(&uid, EXCLUDED, "", "8.8.8.8", 53), Reason::ExcludedUid),
    ];
    for (row, verdict, reason) in rows {
        assert_eq!(verdict.reason(), *reason, "{row}");
    }
}

#[test]
fn dns_of_a_family_or_interface_that_is_not_ours() {
    let mut v4_only = pod();
    v4_only.addresses.retain(|at| at.ip.is_ipv4() || at.interface == "lo");
    let mut plan = plan();
    plan.dns = Some(dns(DnsTcp::Capture, &[]));
    let all = encode(&plan, &v4_only);
    assert_eq!(sends(&all, APP, "2001::8", 53), Verdict::Pass(Reason::NoFamily));
    assert_eq!(goes(&all, APP, "", "2001::8", 53), Verdict::Refuse(Reason::NoFamily));
    assert_eq!(sends(&all, APP, "::1", 53).reason(), Reason::Dns);

    let mut two = pod();
    two.names.push("net1".into());
    two.addresses.push(address("net1", "192.168.7.2", None));
    two.routes = vec![Route { destination: net("192.168.7.0/24"), interface: "net1".into(), source: None }];
    plan.exclude_interfaces = vec!["net1".into()];
    plan.udp = Udp::Block;
    let all = encode(&plan, &two);
    for port in [53, 443] {
        assert_eq!(sends(&all, APP, "192.168.7.9", port), Verdict::Pass(Reason::ExcludedInterface));
    }
    assert_eq!(goes(&all, APP, "", "192.168.7.9", 53), Verdict::Pass(Reason::ExcludedInterface));
}

#[test]
fn udp_that_is_blocked() {
    let mut plan = plan();
    plan.udp = Udp::Block;
    plan.outbound.exclude_ports = vec![range(8000, 8999)];
    plan.outbound.exclude_cidrs = vec![net("10.9.0.0/16"), net("fd09::/16")];
    plan.outbound.exclude_uids = vec![EXCLUDED];
    let all = encode(&plan, &pod());
    plan.outbound.cidrs = Include::Only(vec![net("172.16.0.0/12")]);
    plan.outbound.extra_ports = vec![range(443, 443)];
    let some = encode(&plan, &pod());
    let bound = |to: &str, port: u16| {
        datagram(&all.config, &Table(&all.rules), &connection(APP, to, port, false), true)
    };
    let rows: &[(&str, Verdict, Reason)] = &[
        ("outside", sends(&all, APP, "8.8.8.8", 443), Reason::UdpBlocked),
        ("outside v6", sends(&all, APP, "2001::8", 443), Reason::UdpBlocked),
        ("outside mapped", sends(&all, APP, "::ffff:8.8.8.8", 443), Reason::UdpBlocked),
        ("port 0, as getaddrinfo has it", sends(&all, APP, "8.8.8.8", 0), Reason::UdpBlocked),
        ("DNS that is not captured", sends(&all, APP, "8.8.8.8", 53), Reason::Datagram),
        ("the proxy", sends(&all, PROXY, "8.8.8.8", 443), Reason::Exempt),
        ("an excluded uid", sends(&all, EXCLUDED, "8.8.8.8", 443), Reason::ExcludedUid),
        ("an excluded port", sends(&all, APP, "8.8.8.8", 8500), Reason::ExcludedPort),
        ("an excluded address", sends(&all, APP, "10.9.1.1", 443), Reason::ExcludedCidr),
        ("an excluded address v6", sends(&all, APP, "fd09::1", 443), Reason::ExcludedCidr),
        ("loopback", sends(&all, APP, "127.8.8.8", 443), Reason::Loopback),
        ("::1", sends(&all, APP, "::1", 443), Reason::Loopback),
        ("unspecified", sends(&all, APP, "0.0.0.0", 443), Reason::Loopback),
        ("own address", sends(&all, APP, "10.1.0.2", 443), Reason::Loopback),
        ("own address v6", sends(&all, APP, "fd01::2", 443), Reason::Loopback),
        ("multicast", sends(&all, APP, "224.0.0.251", 5353), Reason::Multicast),
        ("multicast v6", sends(&all, APP, "ff02::fb", 5353), Reason::Multicast),
        ("broadcast", sends(&all, APP, "255.255.255.255", 67), Reason::Broadcast),
        ("the subnet's broadcast", sends(&all, APP, "10.1.0.255", 67), Reason::Broadcast),
        ("a server's answer", bound("8.8.8.8", 5000), Reason::Served),
        ("a server's answer v6", bound("2001::8", 5000), Reason::Served),
        ("included", sends(&some, APP, "172.16.0.1", 80), Reason::UdpBlocked),
        ("included port", sends(&some, APP, "8.8.8.8", 443), Reason::UdpBlocked),
        ("not included", sends(&some, APP, "8.8.8.8", 80), Reason::NotIncluded),
    ];
    for (row, verdict, reason) in rows {
        assert_eq!(verdict.reason(), *reason, "{row}");
        assert_eq!(matches!(verdict, Verdict::Refuse(_)), *reason == Reason::UdpBlocked, "{row}");
    }
    assert!(!matches!(goes(&all, APP, "", "8.8.8.8", 443), Verdict::Refuse(_)), "TCP is never refused here");
}

#[test]
fn before_the_proxy_has_listened() {
    let decided = |encoded: &Encoded, uid: u32, to: &str, port: u16, before: bool| {
        let connection = connection(uid, to, port, before);
        let table = Table(&encoded.rules);
        [
            outbound(&encoded.config, &table, &connection),
            datagram(&encoded.config, &table, &connection, false),
        ]
        .map(Verdict::reason)
    };
    let full = |before_proxy| {
        with(|plan| {
            plan.before_proxy = before_proxy;
            plan.dns = Some(dns(DnsTcp::Capture, &[]));
            plan.udp = Udp::Block;
        })
    };
    let (bypass, closed) = (full(BeforeProxy::Bypass), full(BeforeProxy::Closed));
    for (to, port, seen) in [
        ("8.8.8.8", 443, [Reason::Outbound, Reason::UdpBlocked]),
        ("2001::8", 443, [Reason::Outbound, Reason::UdpBlocked]),
        ("8.8.8.8", 53, [Reason::Dns, Reason::Dns]),
        ("127.0.0.1", 53, [Reason::Dns, Reason::Dns]),
    ] {
        assert_eq!(decided(&bypass, APP, to, port, true), [Reason::BeforeProxy; 2], "{to} {port}");
        for (encoded, before) in [(&bypass, false), (&closed, false), (&closed, true)] {
            assert_eq!(decided(encoded, APP, to, port, before), seen, "{to} {port}");
        }
    }
    // The proxy may call itself, as Istio's validation does, before it listens for good.
    assert_eq!(decided(&bypass, PROXY, "127.0.0.6", 15002, true), [Reason::SelfCall, Reason::Exempt]);
}

#[test]
fn where_udp_leaves_from() {
    let mut pod = pod();
    pod.addresses.push(address("eth0", "fe80::1", None));
    let all = encode(&plan(), &pod);
    for (to, from) in [
        ("8.8.8.8", "10.1.0.2"),
        ("2001::8", "fd01::2"),
        ("fe80::99", "fe80::1"),
        ("10.1.0.2", "10.1.0.2"),
        ("127.0.0.1", "::"),
        ("::1", "::"),
        ("0.0.0.0", "::"),
    ] {
        let found = source(&all.config, &Table(&all.rules), Address::from_ip(ip(to)));
        assert_eq!(found.ip(), ip(from), "{to}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    /// Under `block`, UDP that is not DNS leaves exactly where a connection would not be captured.
    #[test]
    fn udp_is_blocked_where_tcp_is_captured(
        include in prop::option::of(networks()), exclude in networks(), extra in port_ranges(), not in port_ranges(),
        to in destinations(), port in 1_u16.., dns_too in any::<bool>(),
    ) {
        let mut plan = plan();
        plan.udp = Udp::Block;
        plan.dns = dns_too.then(|| dns(DnsTcp::Capture, &[]));
        plan.outbound.cidrs = include.map_or(Include::All, Include::Only);
        plan.outbound.exclude_cidrs = exclude;
        plan.outbound.extra_ports = extra;
        plan.outbound.exclude_ports = not;
        let all = encode(&plan, &pod());
        let text = to.to_string();
        let (tcp, udp) = (goes(&all, APP, "", &text, port), sends(&all, APP, &text, port));
        if port == 53 {
            prop_assert!(!matches!(udp, Verdict::Refuse(_)));
        } else {
            prop_assert_eq!(matches!(tcp, Verdict::Capture { .. }), matches!(udp, Verdict::Refuse(_)), "{:?} {:?}", tcp, udp);
            prop_assert_eq!(captured(udp), None);
        }
        prop_assert_eq!(sends(&all, PROXY, &text, port), Verdict::Pass(Reason::Exempt));
    }
}
