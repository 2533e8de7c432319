//! What is decided about one connection, and what in the plan decides it. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnetwork::IpNetwork;
use serde_json::{Value, json};
use shunt_abi::decide::{self, Inbound, Outbound, Table, Verdict as Decided};
use shunt_abi::{Address, PodConfig, Reason, Rule, RuleKey, slot};

use super::answer::{Connection, Decisive, Verdict};
use crate::bpf::rules::Ids;
use crate::plan::{Include, Plan, PortRange};
use crate::policy::source::{Source, Sourced};

/// A connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    Outbound { to: SocketAddr, udp: bool, bound: bool, source: Option<IpAddr>, caller: Caller },
    Inbound { at: SocketAddr, from: Option<IpAddr> },
}

/// Who makes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    /// The process that was asked about, else somebody who is neither the proxy nor excluded.
    App,
    /// With ids as the pod sees them.
    OfPod { uid: u32, gid: u32 },
}

/// What there is to decide by.
pub(super) struct Ground<'a> {
    pub(super) config: PodConfig,
    pub(super) rules: &'a [(u32, RuleKey, Rule)],
    /// `kernel` or `plan`.
    pub(super) by: &'static str,
    pub(super) plan: &'a Plan,
    pub(super) values: &'a [Sourced],
    /// The plan's ids as the kernel sees them.
    pub(super) ids: &'a Ids,
    /// The proxy has never listened.
    pub(super) before_proxy: bool,
    /// Whether the proxy listens for a slot, for IPv4 or IPv6, and how to say that it does not.
    pub(super) listens: &'a dyn Fn(u32, bool) -> Listens,
}

/// Whether a listener is there to take what is captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Listens {
    /// Or nobody knows better.
    Yes,
    /// What is there instead, in words.
    No(String),
}

/// An id that neither exempts nor excludes: of a made-up app.
pub(super) fn app(ids: &Ids) -> (u32, u32) {
    let uid = (1000..u32::MAX).find(|id| !ids.uids.contains(id) && !ids.excluded_uids.contains(id));
    let gid = (1000..u32::MAX).find(|id| !ids.gids.contains(id));
    (uid.unwrap_or(1000), gid.unwrap_or(1000))
}

impl Ground<'_> {
    /// Decides. `ids`: the caller's, as the kernel sees them; not looked at for an inbound connection.
    pub(super) fn decide(&self, question: Question, (uid, gid): (u32, u32)) -> Connection {
        let rules = Table(self.rules);
        match question {
            Question::Outbound { to, udp, bound, source, .. } => {
                let connection = Outbound {
                    uid,
                    gid,
                    destination: Address::from_ip(to.ip()),
                    port: to.port(),
                    source: source.map_or(Address::UNSPECIFIED, Address::from_ip),
                    before_proxy: self.before_proxy,
                };
                let decided = if udp {
                    decide::datagram(&self.config, &rules, &connection, bound)
                } else {
                    decide::outbound(&self.config, &rules, &connection)
                };
                let rule = self.rule_outbound(decided.reason(), to, uid, gid);
                Connection {
                    direction: "outbound",
                    protocol: if udp { "udp" } else { "tcp" },
                    destination: to,
                    source,
                    uid: Some(uid),
                    gid: Some(gid),
                    ..self.said(decided, to.is_ipv4(), udp, rule)
                }
            }
            Question::Inbound { at, from } => {
                let from = from.unwrap_or_else(|| stranger(at.ip()));
                let connection = Inbound {
                    source: Address::from_ip(from),
                    destination: Address::from_ip(at.ip()),
                    port: at.port(),
                };
                let decided = decide::inbound(&self.config, &rules, &connection);
                let rule = self.rule_inbound(decided.reason(), from, at.port());
                Connection {
                    direction: "inbound",
                    destination: at,
                    source: Some(from),
                    ..self.said(decided, at.is_ipv4(), false, rule)
                }
            }
        }
    }

    fn said(
        &self,
        decided: Decided,
        v4: bool,
        udp: bool,
        rule: Option<(&'static str, Option<Value>)>,
    ) -> Connection {
        let reason = decided.reason();
        let (mut verdict, mut why, mut because, mut proxy_port) =
            (Verdict::Passes, reason, sentence(reason).to_owned(), None);
        match decided {
            Decided::Pass(_) => {}
            Decided::Refuse(_) => verdict = Verdict::Refused,
            Decided::Capture { slot, .. } => {
                verdict = Verdict::Captured;
                proxy_port = Some(match slot {
                    slot::INBOUND => self.config.inbound_port,
                    slot::DNS => self.config.dns_port,
                    _ => self.config.outbound_port,
                });
                // UDP has no listeners to be known.
                if !udp && let Listens::No(instead) = (self.listens)(slot, v4) {
                    (verdict, why) = (Verdict::Refused, Reason::NoListener);
                    because = format!("{because}; but {instead}");
                }
            }
        }
        Connection {
            direction: "",
            protocol: "tcp",
            destination: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
            source: None,
            uid: None,
            gid: None,
            verdict,
            reason: Some(why.label()),
            code: Some(why.code()),
            because,
            proxy_port,
            rule: rule.map(|(key, item)| self.decisive(key, item)),
            decided_by: self.by,
        }
    }

    fn decisive(&self, key: &'static str, item: Option<Value>) -> Decisive {
        let value = self.values.iter().find(|value| value.key == key);
        let from: Vec<Source> = match (value, &item) {
            (None, _) => Vec::new(),
            (Some(value), Some(item)) => value.of_item(item),
            (Some(value), None) => value.from.iter().map(|origin| origin.source.clone()).collect(),
        };
        Decisive { key, item, from }
    }

    /// Key of the plan and item of its list that give an outbound connection its reason.
    fn rule_outbound(
        &self,
        reason: Reason,
        to: SocketAddr,
        uid: u32,
        gid: u32,
    ) -> Option<(&'static str, Option<Value>)> {
        let Self { plan, ids, .. } = self;
        let lists = &plan.outbound;
        let ip = to.ip().to_canonical();
        Some(match reason {
            Reason::Outbound => ("includeOutboundCidrs", included(&lists.cidrs, |list| network(list, ip))),
            Reason::OutboundPort => ("includeOutboundPorts", port(&lists.extra_ports, to.port())),
            Reason::ExcludedPort => ("excludeOutboundPorts", port(&lists.exclude_ports, to.port())),
            Reason::ExcludedCidr => ("excludeOutboundCidrs", network(&lists.exclude_cidrs, ip)),
            Reason::NotIncluded => ("includeOutboundCidrs", None),
            Reason::Exempt => match named(&plan.exempt_uids, &ids.uids, uid) {
                Some(id) => ("proxyUids", Some(id)),
                None => ("proxyGids", named(&plan.exempt_gids, &ids.gids, gid)),
            },
            Reason::ExcludedUid => ("excludeUids", named(&lists.exclude_uids, &ids.excluded_uids, uid)),
            Reason::SelfCall => ("selfCalls", None),
            Reason::OwnAddress => ("ownAddresses", None),
            Reason::ExcludedInterface => ("excludeInterfaces", None),
            Reason::Dns => ("captureDns", None),
            Reason::DnsTcp => ("dnsTcp", None),
            Reason::Datagram | Reason::UdpBlocked | Reason::Served => ("udp", None),
            Reason::BeforeProxy => ("beforeProxy", None),
            _ => return None,
        })
    }

    /// The same of an inbound one.
    fn rule_inbound(&self, reason: Reason, from: IpAddr, to: u16) -> Option<(&'static str, Option<Value>)> {
        let lists = &self.plan.inbound;
        Some(match reason {
            Reason::Inbound => ("includeInboundPorts", included(&lists.ports, |list| port(list, to))),
            Reason::ExcludedPort => ("excludeInboundPorts", port(&lists.exclude_ports, to)),
            Reason::ExcludedCidr => {
                ("excludeInboundCidrs", network(&lists.exclude_cidrs, from.to_canonical()))
            }
            Reason::NotIncluded => ("includeInboundPorts", None),
            Reason::Tunnel => ("tunnelPort", None),
            Reason::ExcludedInterface => ("excludeInterfaces", None),
            _ => return None,
        })
    }
}

/// Somebody elsewhere.
fn stranger(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::new(198, 51, 100, 1).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0xffff).into(),
    }
}

fn included<T>(list: &Include<T>, of: impl FnOnce(&[T]) -> Option<Value>) -> Option<Value> {
    match list {
        Include::All => None,
        Include::Only(list) => of(list),
    }
}

/// The longest of the networks that hold an address.
fn network(list: &[IpNetwork], ip: IpAddr) -> Option<Value> {
    let holding = list.iter().filter(|network| network.contains(ip));
    holding.max_by_key(|network| network.prefix()).map(|network| json!(network))
}

fn port(list: &[PortRange], port: u16) -> Option<Value> {
    list.iter().find(|range| (range.first()..=range.last()).contains(&port)).map(|range| json!(range))
}

/// The id of the plan that is this one to the kernel.
fn named(plan: &[u32], kernel: &[u32], id: u32) -> Option<Value> {
    plan.iter().zip(kernel).find(|(_, kernel)| **kernel == id).map(|(id, _)| json!(id))
}

/// A reason as a plain sentence.
pub(super) const fn sentence(reason: Reason) -> &'static str {
    match reason {
        Reason::Outbound => "its destination is included and not excluded",
        Reason::OutboundPort => "its port is included whatever the destination",
        Reason::Inbound => "the port is included and neither it nor the source is excluded",
        Reason::SelfCall => {
            "the proxy connects to what is delivered inside the pod: that meets its inbound side"
        }
        Reason::Exempt => "the proxy makes it",
        Reason::Loopback => "its destination is on the loopback interface",
        Reason::OwnAddress => "its destination is an address of the pod itself",
        Reason::Multicast => "its destination is a multicast address",
        Reason::Broadcast => "its destination is a broadcast address",
        Reason::NoFamily => "the pod had no address of this family when it was added",
        Reason::ExcludedInterface => "it goes over an excluded interface",
        Reason::ExcludedPort => "the port is excluded",
        Reason::ExcludedCidr => "the network is excluded",
        Reason::NotIncluded => "it is not on the list of what is included",
        Reason::Tunnel => "the mesh's tunnel arrives on this port, at the proxy itself",
        Reason::Local => "it comes from inside the pod",
        Reason::NoListener => "the proxy does not listen",
        Reason::NoState => "the kernel could not store what capture needs",
        Reason::SelfConnect => "it met itself: its source port is its virtual port",
        Reason::Accepted => "the proxy accepted it",
        Reason::AlreadyCaptured => "another program of ours had captured it",
        Reason::ListenerAdded => "the proxy began to listen",
        Reason::Passthrough => "the proxy hands it on to the app",
        Reason::Dns => "it is DNS, which is captured",
        Reason::DnsTcp => "it is DNS over TCP, which this mesh leaves alone",
        Reason::Datagram => "UDP is left alone",
        Reason::UdpBlocked => "UDP is blocked",
        Reason::Served => "it is UDP from a socket that was bound to a port it chose, as answers are",
        Reason::BeforeProxy => "the proxy has never listened yet, and until then connections pass",
        Reason::ExcludedUid => "its user is excluded",
    }
}
