//! A plan and what the namespace looks like → one pod's configuration and rule trie. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use shunt_abi::{Address, PodConfig, Rule, RuleKey, bit, flag, kind};

use crate::link::{Interfaces, OwnAddress};
use crate::plan::{BeforeProxy, DnsTcp, Include, Plan, PortRange, Udp};

/// What goes into the maps for one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Value of `PODS`.
    pub config: PodConfig,
    /// The trie: prefix length in bits of the key, key, value. No two entries have the same prefix.
    pub rules: Vec<(u32, RuleKey, Rule)>,
}

/// Ids of the plan as the initial user namespace sees them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ids {
    /// Uids.
    pub uids: Vec<u32>,
    /// Gids.
    pub gids: Vec<u32>,
    /// Uids that are not the proxy's and are not captured either.
    pub excluded_uids: Vec<u32>,
}

/// Encodes a plan. `ifname` names the attachment's interface: its addresses are preferred as stand-ins.
pub fn encoded(plan: &Plan, interfaces: &Interfaces, ifname: &str, ids: &Ids, generation: u32) -> Encoded {
    let mut trie = Trie::default();
    let mut flags = 0;
    add_addresses(&mut trie, plan, interfaces);
    if add_routes(&mut trie, plan, interfaces) {
        flags |= flag::HAS_ROUTE;
    }
    for uid in &ids.excluded_uids {
        flags |= flag::HAS_EXCLUDED_UID;
        trie.add(RuleKey::ID_BITS, RuleKey::id(kind::UID, *uid), bit::EXCLUDE);
    }
    for (list, kind, has) in [(&ids.uids, kind::UID, flag::HAS_UID), (&ids.gids, kind::GID, flag::HAS_GID)] {
        for id in list {
            flags |= has;
            trie.add(RuleKey::ID_BITS, RuleKey::id(kind, *id), bit::EXEMPT);
        }
    }
    flags |= add_lists(&mut trie, plan) | add_dns(&mut trie, plan);
    for (set, switch) in [
        (plan.self_calls, flag::SELF_CALLS),
        (plan.outbound.own_addresses, flag::OWN_ADDRESSES),
        (plan.udp == Udp::Block, flag::UDP_BLOCK),
        (plan.before_proxy == BeforeProxy::Bypass, flag::BYPASS_BEFORE_PROXY),
    ] {
        if set {
            flags |= switch;
        }
    }
    let config = PodConfig {
        own4: own(interfaces, ifname, IpAddr::is_ipv4),
        own6: own(interfaces, ifname, IpAddr::is_ipv6),
        flags,
        generation,
        outbound_port: plan.outbound_port,
        inbound_port: plan.inbound_port,
        tunnel_port: plan.tunnel_port.unwrap_or(0),
        dns_port: plan.dns.as_ref().map_or(0, |dns| dns.port),
    };
    Encoded { config, rules: trie.finished() }
}

/// The address that stands in for destinations no route of the pod covers: the first of the attachment's own interface, else of
/// any; never a link-local one, which every pod has and no connection elsewhere uses.
fn own(interfaces: &Interfaces, ifname: &str, family: impl Fn(&IpAddr) -> bool) -> Address {
    let usable = |a: &&OwnAddress| {
        family(&a.ip) && !a.ip.is_loopback() && !is_link_local(&a.ip) && a.interface != "lo"
    };
    let mut candidates = interfaces.addresses.iter().filter(usable);
    let preferred = candidates.clone().find(|a| a.interface == ifname);
    preferred.or_else(|| candidates.next()).map_or(Address::UNSPECIFIED, |a| Address::from_ip(a.ip))
}

fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn add_addresses(trie: &mut Trie, plan: &Plan, interfaces: &Interfaces) {
    for address in &interfaces.addresses {
        let mut bits = bit::OWN;
        if plan.exclude_interfaces.contains(&address.interface) {
            bits |= bit::EXCLUDED_INTERFACE;
        }
        trie.add_address(kind::ADDRESS, address.ip, bits);
        if let Some(broadcast) = address.broadcast {
            trie.add_address(kind::ADDRESS, broadcast, bit::BROADCAST);
        }
    }
}

/// Adds the routes where they matter: to tell which of several own addresses a destination is reached from, or that it is
/// reached over an excluded interface. True if any was added.
fn add_routes(trie: &mut Trie, plan: &Plan, interfaces: &Interfaces) -> bool {
    if !interfaces.has_choice_of_source() && plan.exclude_interfaces.is_empty() {
        return add_link_local(trie, interfaces);
    }
    for route in &interfaces.routes {
        let excluded = plan.exclude_interfaces.contains(&route.interface);
        let bits = if excluded { bit::EXCLUDED_INTERFACE } else { 0 };
        let source = route.source.or_else(|| source_of(interfaces, &route.interface, &route.destination));
        trie.add_route(&route.destination, bits, source.map_or(Address::UNSPECIFIED, Address::from_ip));
    }
    !interfaces.routes.is_empty()
}

/// A pod with one address of each family still has a second IPv6 one, from which it reaches its link's neighbours. So has a pod
/// that is of IPv4 otherwise.
fn add_link_local(trie: &mut Trie, interfaces: &Interfaces) -> bool {
    let own = interfaces.addresses.iter().find(|address| is_link_local(&address.ip));
    let Some(own) = own else {
        return false;
    };
    let key = RuleKey::address(kind::ROUTE, Address([0xfe80_0000_u32.to_be(), 0, 0, 0]));
    trie.entries.insert(
        (ordered(key), RuleKey::address_bits(10)),
        Rule { source: Address::from_ip(own.ip), bits: 0 },
    );
    true
}

/// The address the kernel would choose on an interface: of the destination's family, link-local to reach link-local.
fn source_of(interfaces: &Interfaces, interface: &str, destination: &IpNetwork) -> Option<IpAddr> {
    let wanted = is_link_local(&destination.ip());
    interfaces
        .addresses
        .iter()
        .find(|a| {
            a.interface == interface
                && a.ip.is_ipv4() == destination.is_ipv4()
                && is_link_local(&a.ip) == wanted
        })
        .map(|a| a.ip)
}

fn add_lists(trie: &mut Trie, plan: &Plan) -> u32 {
    let mut flags = 0;
    let mut cidrs = |kind: u32, has: u32, include: &[IpNetwork], exclude: &[IpNetwork]| {
        for (list, bits) in [(include, bit::INCLUDE), (exclude, bit::EXCLUDE)] {
            for network in list {
                flags |= has;
                trie.add_network(kind, network, bits);
            }
        }
    };
    let outbound = &plan.outbound;
    cidrs(kind::OUTBOUND_CIDR, flag::HAS_OUTBOUND_CIDR, only(&outbound.cidrs), &outbound.exclude_cidrs);
    cidrs(kind::INBOUND_CIDR, flag::HAS_INBOUND_CIDR, &[], &plan.inbound.exclude_cidrs);
    let mut ports = |kind: u32, has: u32, include: &[PortRange], exclude: &[PortRange]| {
        for (list, bits) in [(include, bit::INCLUDE), (exclude, bit::EXCLUDE)] {
            for range in list {
                flags |= has;
                trie.add_ports(kind, *range, bits);
            }
        }
    };
    ports(kind::OUTBOUND_PORT, flag::HAS_OUTBOUND_PORT, &outbound.extra_ports, &outbound.exclude_ports);
    ports(kind::INBOUND_PORT, flag::HAS_INBOUND_PORT, only(&plan.inbound.ports), &plan.inbound.exclude_ports);
    if matches!(outbound.cidrs, Include::All) {
        flags |= flag::OUTBOUND_ALL;
    }
    if matches!(plan.inbound.ports, Include::All) {
        flags |= flag::INBOUND_ALL;
    }
    flags
}

fn add_dns(trie: &mut Trie, plan: &Plan) -> u32 {
    let Some(dns) = &plan.dns else {
        return 0;
    };
    let mut flags = flag::DNS;
    if dns.tcp == DnsTcp::Pass {
        flags |= flag::DNS_TCP_PASSES;
    }
    if let Include::Only(servers) = &dns.servers {
        flags |= flag::DNS_SERVERS;
        for server in servers {
            trie.add_address(kind::DNS_SERVER, *server, bit::INCLUDE);
        }
    }
    flags
}

fn only<T>(include: &Include<T>) -> &[T] {
    match include {
        Include::All => &[],
        Include::Only(list) => list,
    }
}

/// Bits of the v4-mapped prefix `::ffff:0:0/96`.
const MAPPED_BITS: u32 = 96;

/// Entries being collected, ordered so that a prefix comes right before what it covers.
#[derive(Debug, Default)]
struct Trie {
    entries: BTreeMap<(RuleKey, u32), Rule>,
}

impl Trie {
    fn add(&mut self, length: u32, key: RuleKey, bits: u32) {
        self.entries.entry((ordered(key), length)).or_default().bits |= bits;
    }

    fn add_address(&mut self, kind: u32, ip: IpAddr, bits: u32) {
        self.add(RuleKey::address_bits(128), RuleKey::address(kind, Address::from_ip(ip)), bits);
    }

    fn add_network(&mut self, kind: u32, network: &IpNetwork, bits: u32) {
        let (length, key) = network_key(kind, network);
        self.add(length, key, bits);
        self.keep_families_apart(kind, network);
    }

    fn add_route(&mut self, destination: &IpNetwork, bits: u32, source: Address) {
        let (length, key) = network_key(kind::ROUTE, destination);
        // Routes come in the kernel's order of preference: the first of a destination stands.
        let rule = self.entries.entry((ordered(key), length)).or_default();
        if *rule == Rule::default() {
            *rule = Rule { source, bits };
        }
        self.keep_families_apart(kind::ROUTE, destination);
    }

    /// IPv4 is stored inside IPv6, so that `::/0` would cover it. An entry for all of IPv4 stops that.
    fn keep_families_apart(&mut self, kind: u32, network: &IpNetwork) {
        let IpNetwork::V6(v6) = network else {
            return;
        };
        if v6.contains(std::net::Ipv4Addr::UNSPECIFIED.to_ipv6_mapped())
            && u32::from(v6.prefix()) <= MAPPED_BITS
        {
            let length = RuleKey::address_bits(MAPPED_BITS);
            self.add(length, RuleKey::address(kind, Address::v4(0)), 0);
        }
    }

    fn add_ports(&mut self, kind: u32, range: PortRange, bits: u32) {
        let (mut first, last) = (u32::from(range.first()), u32::from(range.last()));
        while first <= last {
            // The largest aligned block that starts here and does not go past the end.
            let mut size = 1_u32;
            while size < 0x1_0000 && first.is_multiple_of(size * 2) && first + size * 2 - 1 <= last {
                size *= 2;
            }
            let port = u16::try_from(first).unwrap_or(u16::MAX);
            self.add(RuleKey::port_bits(16 - size.ilog2()), RuleKey::port(kind, port), bits);
            first += size;
        }
    }

    /// Gives every entry the bits of the prefixes that cover it: the kernel sees only the longest match, and an exclusion holds
    /// whatever the length of an inclusion inside it.
    fn finished(self) -> Vec<(u32, RuleKey, Rule)> {
        let mut covering: Vec<(u32, RuleKey, u32)> = Vec::new();
        let mut finished = Vec::with_capacity(self.entries.len());
        for ((key, length), mut rule) in self.entries {
            while covering.last().is_some_and(|(outer, prefix, _)| !prefix.covers(*outer, ordered(key))) {
                covering.pop();
            }
            let is_family_barrier = length == RuleKey::address_bits(MAPPED_BITS) && is_mapped_prefix(key);
            if let Some((_, _, bits)) = covering.last()
                && key.kind != kind::ROUTE
                && !is_family_barrier
            {
                rule.bits |= bits;
            }
            covering.push((length, ordered(key), rule.bits));
            finished.push((length, ordered(key), rule));
        }
        finished
    }
}

fn is_mapped_prefix(key: RuleKey) -> bool {
    matches!(key.kind, kind::OUTBOUND_CIDR | kind::INBOUND_CIDR | kind::ROUTE) && ordered(key).data.is_v4()
}

fn network_key(kind: u32, network: &IpNetwork) -> (u32, RuleKey) {
    let length = u32::from(network.prefix()) + if network.is_ipv4() { MAPPED_BITS } else { 0 };
    (RuleKey::address_bits(length), RuleKey::address(kind, Address::from_ip(network.network())))
}

/// The key with its words in host order, and back: in that form comparing keys compares prefixes.
fn ordered(key: RuleKey) -> RuleKey {
    RuleKey { kind: key.kind, data: Address(key.data.0.map(u32::from_be)) }
}

#[cfg(test)]
mod tests;
