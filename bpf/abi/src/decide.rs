//! The decision about one connection: may it pass, is it captured, and why.
//!
//! Pure functions of plain values, compiled for the kernel programs and for the plugin's `explain`. The only thing they ask for
//! is a lookup in the pod's rule trie, behind [`Rules`].

use crate::{Address, PodConfig, Reason, Rule, RuleKey, bit, dns, flag, kind, slot};

/// The pod's rule trie: the longest match for a key.
pub trait Rules {
    /// Bits and source of the longest prefix that covers `key`, if any does.
    fn lookup(&self, key: RuleKey) -> Option<Rule>;
}

/// A rule trie as a list of entries (length in bits of the pod's part of the key as [`RuleKey`] counts them, key, value): for
/// asking on the host what the kernel would answer.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a>(pub &'a [(u32, RuleKey, Rule)]);

impl Rules for Table<'_> {
    fn lookup(&self, key: RuleKey) -> Option<Rule> {
        let matching = self.0.iter().filter(|(length, prefix, _)| prefix.covers(*length, key));
        matching.max_by_key(|(length, _, _)| *length).map(|(_, _, rule)| *rule)
    }
}

/// An outbound connection, as `connect` sees it; or UDP, as `connect` or `sendmsg` sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outbound {
    /// Real uid of the caller, as the initial user namespace sees it.
    pub uid: u32,
    /// Real gid, likewise.
    pub gid: u32,
    /// Destination address.
    pub destination: Address,
    /// Destination port, host order.
    pub port: u16,
    /// Address the socket is bound to; unspecified when it is not.
    pub source: Address,
    /// The proxy has never listened for outbound connections. Matters only under [`flag::BYPASS_BEFORE_PROXY`].
    pub before_proxy: bool,
}

/// An inbound connection, as `sk_lookup` sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inbound {
    /// Who connects.
    pub source: Address,
    /// The pod's address it connects to.
    pub destination: Address,
    /// Destination port, host order.
    pub port: u16,
}

/// What happens to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Left alone.
    Pass(Reason),
    /// An error for the caller.
    Refuse(Reason),
    /// Given to the proxy: to the listener of `slot`; an outbound one is sent to `address` and a virtual port, UDP to `address`
    /// and the listener's own port.
    Capture {
        /// Which listener.
        slot: u32,
        /// Own address that stands in for the destination.
        address: Address,
        /// Why.
        reason: Reason,
    },
}

impl Verdict {
    /// Why.
    #[inline(always)]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Pass(reason) | Self::Refuse(reason) | Self::Capture { reason, .. } => reason,
        }
    }
}

/// Bits of the longest match, looked up only if the pod has any entry of that kind.
#[inline(always)]
fn bits(pod: &PodConfig, rules: &impl Rules, has: u32, key: RuleKey) -> u32 {
    if pod.flags & has == 0 {
        return 0;
    }
    match rules.lookup(key) {
        Some(rule) => rule.bits,
        None => 0,
    }
}

/// True for the proxy's own identity: real uid or gid. The one place a stronger identity would go.
#[inline(always)]
pub fn exempt(pod: &PodConfig, rules: &impl Rules, uid: u32, gid: u32) -> bool {
    bits(pod, rules, flag::HAS_UID, RuleKey::id(kind::UID, uid)) & bit::EXEMPT != 0
        || bits(pod, rules, flag::HAS_GID, RuleKey::id(kind::GID, gid)) & bit::EXEMPT != 0
}

/// Decides an outbound TCP connection. The order is that of Istio's rule table.
#[inline(always)]
pub fn outbound(pod: &PodConfig, rules: &impl Rules, connection: &Outbound) -> Verdict {
    if exempt(pod, rules, connection.uid, connection.gid) {
        return of_proxy(pod, rules, connection);
    }
    if let Some(reason) = left_alone(pod, rules, connection) {
        return Verdict::Pass(reason);
    }
    let destination = connection.destination;
    let inside = destination.is_loopback() || destination.is_unspecified();
    let dns = is_dns(pod, rules, connection);
    if inside && !dns {
        return Verdict::Pass(Reason::Loopback);
    }
    let own = own_bits(rules, destination);
    if own & bit::OWN != 0 && !dns && pod.flags & flag::OWN_ADDRESSES == 0 {
        return Verdict::Pass(Reason::OwnAddress);
    }
    if own & bit::BROADCAST != 0 {
        return Verdict::Pass(Reason::Broadcast);
    }
    let address = if inside || own & bit::OWN != 0 {
        Ok(delivered(destination))
    } else {
        stand_in(pod, rules, destination)
    };
    if address == Err(Reason::ExcludedInterface) {
        return Verdict::Pass(Reason::ExcludedInterface);
    }
    let (slot, reason) = if dns && outbound_port(pod, rules, connection.port) & bit::EXCLUDE == 0 {
        if pod.flags & flag::DNS_TCP_PASSES != 0 {
            return Verdict::Pass(Reason::DnsTcp);
        }
        (slot::DNS, Reason::Dns)
    } else if inside {
        return Verdict::Pass(Reason::Loopback);
    } else {
        match outbound_lists(pod, rules, connection) {
            Ok(reason) => (slot::OUTBOUND, reason),
            Err(reason) => return Verdict::Pass(reason),
        }
    };
    // Without an address of the family nothing stands in for the destination. It is out of reach then, and stays so if the pod gets
    // an address later: nothing that is to be captured goes out because ADD was too early to see it.
    match address {
        Ok(address) => Verdict::Capture { slot, address, reason },
        Err(reason) => Verdict::Refuse(reason),
    }
}

/// Decides UDP that is sent or connected. `bound`: the socket was bound to a port it chose, as a server's is.
#[inline(always)]
pub fn datagram(pod: &PodConfig, rules: &impl Rules, connection: &Outbound, bound: bool) -> Verdict {
    if exempt(pod, rules, connection.uid, connection.gid) {
        return Verdict::Pass(Reason::Exempt);
    }
    if let Some(reason) = left_alone(pod, rules, connection) {
        return Verdict::Pass(reason);
    }
    let destination = connection.destination;
    let dns = is_dns(pod, rules, connection);
    // DNS that is not captured is no more blocked than any: without it nothing else would work.
    if !dns && (pod.flags & flag::UDP_BLOCK == 0 || connection.port == dns::PORT) {
        return Verdict::Pass(Reason::Datagram);
    }
    let own = own_bits(rules, destination);
    if own & bit::BROADCAST != 0 {
        return Verdict::Pass(Reason::Broadcast);
    }
    let inside = destination.is_loopback() || destination.is_unspecified() || own & bit::OWN != 0;
    if !inside && let Err(reason) = stand_in(pod, rules, destination) {
        return Verdict::Pass(reason);
    }
    if dns && outbound_port(pod, rules, connection.port) & bit::EXCLUDE == 0 {
        let address = if destination.is_v4() { Address::LOOPBACK4 } else { Address::LOOPBACK6 };
        return Verdict::Capture { slot: slot::DNS, address, reason: Reason::Dns };
    }
    if inside {
        return Verdict::Pass(Reason::Loopback);
    }
    if pod.flags & flag::UDP_BLOCK == 0 {
        return Verdict::Pass(Reason::Datagram);
    }
    match outbound_lists(pod, rules, connection) {
        Ok(_) if bound => Verdict::Pass(Reason::Served),
        Ok(_) => Verdict::Refuse(Reason::UdpBlocked),
        Err(reason) => Verdict::Pass(reason),
    }
}

/// What is left alone whatever the lists say.
#[inline(always)]
fn left_alone(pod: &PodConfig, rules: &impl Rules, connection: &Outbound) -> Option<Reason> {
    if connection.before_proxy && pod.flags & flag::BYPASS_BEFORE_PROXY != 0 {
        return Some(Reason::BeforeProxy);
    }
    if bits(pod, rules, flag::HAS_EXCLUDED_UID, RuleKey::id(kind::UID, connection.uid)) & bit::EXCLUDE != 0 {
        return Some(Reason::ExcludedUid);
    }
    if connection.destination.is_multicast() {
        return Some(Reason::Multicast);
    }
    connection.destination.is_limited_broadcast().then_some(Reason::Broadcast)
}

/// True for DNS that the plan captures, over whatever protocol.
#[inline(always)]
fn is_dns(pod: &PodConfig, rules: &impl Rules, connection: &Outbound) -> bool {
    connection.port == dns::PORT
        && pod.flags & flag::DNS != 0
        && (pod.flags & flag::DNS_SERVERS == 0
            || bits(
                pod,
                rules,
                flag::DNS_SERVERS,
                RuleKey::address(kind::DNS_SERVER, delivered(connection.destination)),
            ) & bit::INCLUDE
                != 0)
}

/// The own address to send a connection to whose destination is the pod itself.
#[inline(always)]
pub const fn delivered(destination: Address) -> Address {
    if !destination.is_unspecified() {
        destination
    } else if destination.is_v4() {
        Address::LOOPBACK4
    } else {
        Address::LOOPBACK6
    }
}

/// The own address that the kernel would choose as the source of a connection that leaves. A pod with no address of the family
/// may still have a link-local one, from which it reaches its link's neighbours.
#[inline(always)]
fn stand_in(pod: &PodConfig, rules: &impl Rules, destination: Address) -> Result<Address, Reason> {
    if pod.flags & flag::HAS_ROUTE != 0
        && let Some(route) = rules.lookup(RuleKey::address(kind::ROUTE, destination))
    {
        if route.bits & bit::EXCLUDED_INTERFACE != 0 {
            return Err(Reason::ExcludedInterface);
        }
        if !route.source.is_unspecified() {
            return Ok(route.source);
        }
    }
    let address = if destination.is_v4() { pod.own4 } else { pod.own6 };
    if address.is_unspecified() { Err(Reason::NoFamily) } else { Ok(address) }
}

/// The own address that UDP to `destination` leaves from; unspecified where nothing but the kernel's own choice would do.
#[inline(always)]
pub fn source(pod: &PodConfig, rules: &impl Rules, destination: Address) -> Address {
    if destination.is_loopback() || destination.is_unspecified() {
        Address::UNSPECIFIED
    } else if own_bits(rules, destination) & bit::OWN != 0 {
        destination
    } else {
        match stand_in(pod, rules, destination) {
            Ok(address) => address,
            Err(_) => Address::UNSPECIFIED,
        }
    }
}

/// True for one of the pod's own addresses.
#[inline(always)]
pub fn is_own(rules: &impl Rules, address: Address) -> bool {
    own_bits(rules, address) & bit::OWN != 0
}

#[inline(always)]
fn outbound_port(pod: &PodConfig, rules: &impl Rules, port: u16) -> u32 {
    bits(pod, rules, flag::HAS_OUTBOUND_PORT, RuleKey::port(kind::OUTBOUND_PORT, port))
}

/// Ok when the include and exclude lists say capture.
#[inline(always)]
fn outbound_lists(pod: &PodConfig, rules: &impl Rules, connection: &Outbound) -> Result<Reason, Reason> {
    let port = outbound_port(pod, rules, connection.port);
    if port & bit::EXCLUDE != 0 {
        return Err(Reason::ExcludedPort);
    }
    let cidr = bits(
        pod,
        rules,
        flag::HAS_OUTBOUND_CIDR,
        RuleKey::address(kind::OUTBOUND_CIDR, connection.destination),
    );
    if cidr & bit::EXCLUDE != 0 {
        Err(Reason::ExcludedCidr)
    } else if port & bit::INCLUDE != 0 {
        Ok(Reason::OutboundPort)
    } else if pod.flags & flag::OUTBOUND_ALL != 0 || cidr & bit::INCLUDE != 0 {
        Ok(Reason::Outbound)
    } else {
        Err(Reason::NotIncluded)
    }
}

/// The proxy's own connections pass, but for those delivered inside the pod: an app that calls itself through its service
/// meets the proxy's inbound side, with the destination kept (Istio's rule 8). 127.0.0.1 and `::1` are the proxy's own business.
#[inline(always)]
fn of_proxy(pod: &PodConfig, rules: &impl Rules, connection: &Outbound) -> Verdict {
    let destination = connection.destination;
    if pod.flags & flag::SELF_CALLS == 0
        || destination.is_unspecified()
        || destination.same(Address::LOOPBACK4)
        || destination.same(Address::LOOPBACK6)
    {
        return Verdict::Pass(Reason::Exempt);
    }
    let delivered = destination.is_loopback() || own_bits(rules, destination) & bit::OWN != 0;
    if !delivered || connection.port == pod.tunnel_port {
        return Verdict::Pass(Reason::Exempt);
    }
    // A server of names inside the pod that the proxy asks.
    if connection.port == dns::PORT && pod.flags & flag::DNS != 0 {
        return Verdict::Pass(Reason::Exempt);
    }
    if connection.source.same(Address::PASSTHROUGH4) || connection.source.same(Address::PASSTHROUGH6) {
        return Verdict::Pass(Reason::Passthrough);
    }
    if outbound_port(pod, rules, connection.port) & bit::EXCLUDE != 0 {
        return Verdict::Pass(Reason::ExcludedPort);
    }
    Verdict::Capture { slot: slot::INBOUND, address: destination, reason: Reason::SelfCall }
}

/// Where a connection is sent that has nowhere to go: the kernel connects TCP to no multicast address, and says ENETUNREACH as for
/// a family it has no route in.
#[inline(always)]
pub const fn nowhere(like: Address) -> Address {
    if like.is_v4() {
        Address::v4(0xe000_0000_u32.to_be())
    } else {
        Address([0xff00_0000_u32.to_be(), 0, 0, 0])
    }
}

#[inline(always)]
fn own_bits(rules: &impl Rules, address: Address) -> u32 {
    match rules.lookup(RuleKey::address(kind::ADDRESS, address)) {
        Some(rule) => rule.bits,
        None => 0,
    }
}

/// Decides an inbound TCP connection. Local or remote is told by address, never by interface: the kernel reports the index of
/// eth0 for a connection to the pod's own address over loopback.
#[inline(always)]
pub fn inbound(pod: &PodConfig, rules: &impl Rules, connection: &Inbound) -> Verdict {
    // The pass-through address may be given to the loopback interface after ADD, and be unknown as an own one.
    let within = connection.source.is_loopback() || connection.source.same(Address::PASSTHROUGH6);
    if within || own_bits(rules, connection.source) & bit::OWN != 0 {
        return Verdict::Pass(Reason::Local);
    }
    if connection.port == pod.tunnel_port && pod.tunnel_port != 0 {
        return Verdict::Pass(Reason::Tunnel);
    }
    if own_bits(rules, connection.destination) & bit::EXCLUDED_INTERFACE != 0 {
        return Verdict::Pass(Reason::ExcludedInterface);
    }
    let port = bits(pod, rules, flag::HAS_INBOUND_PORT, RuleKey::port(kind::INBOUND_PORT, connection.port));
    if port & bit::EXCLUDE != 0 {
        return Verdict::Pass(Reason::ExcludedPort);
    }
    let cidr =
        bits(pod, rules, flag::HAS_INBOUND_CIDR, RuleKey::address(kind::INBOUND_CIDR, connection.source));
    if cidr & bit::EXCLUDE != 0 {
        return Verdict::Pass(Reason::ExcludedCidr);
    }
    if pod.flags & flag::INBOUND_ALL == 0 && port & bit::INCLUDE == 0 {
        return Verdict::Pass(Reason::NotIncluded);
    }
    Verdict::Capture { slot: slot::INBOUND, address: connection.destination, reason: Reason::Inbound }
}
