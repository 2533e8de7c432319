//! The words a row is written in: who does what to what, and what everyone then sees.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use shunt_tests::ask::How;
use shunt_tests::net;
use shunt_tests::node::Pod;

use crate::scene::Scene;

/// How traffic is redirected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Backend {
    Ebpf,
    Iptables,
}

impl Backend {
    pub(crate) const ALL: [Self; 2] = [Self::Ebpf, Self::Iptables];

    /// Those with these names; all, if none is named.
    pub(crate) fn wanted(names: Option<&str>) -> Vec<Self> {
        let Some(names) = names else { return Self::ALL.to_vec() };
        let by_name = |name| {
            let found = Self::ALL.into_iter().find(|backend| backend.name() == name);
            found.unwrap_or_else(|| panic!("CASES_BACKENDS: {name:?} is no backend"))
        };
        let wanted: Vec<Self> = names.split_whitespace().map(by_name).collect();
        assert!(!wanted.is_empty(), "CASES_BACKENDS names none");
        wanted
    }

    /// As in the entry.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ebpf => "ebpf",
            Self::Iptables => "iptables",
        }
    }
}

/// Which kind of address a row runs over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
    /// An IPv6 socket that means an IPv4 address.
    Mapped,
}

impl Family {
    /// What the wire speaks.
    pub(crate) const fn is_v6(self) -> bool {
        matches!(self, Self::V6)
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::V4 => "v4",
            Self::V6 => "v6",
            Self::Mapped => "mapped",
        }
    }
}

pub(crate) const ALL: &[Family] = &[Family::V4, Family::V6, Family::Mapped];
/// For what arrives, and for what is not about sockets: there is no mapped form on the wire.
pub(crate) const WIRE: &[Family] = &[Family::V4, Family::V6];
pub(crate) const V4: &[Family] = &[Family::V4];
pub(crate) const V6: &[Family] = &[Family::V6];

/// Who connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    App,
    Proxy,
    /// A process of the pod with this uid and gid.
    Ids(u32, u32),
    /// A program of the app that runs with the proxy's effective uid.
    Setuid,
    /// A process of the app in a user namespace of its own, as the proxy's uid.
    Pretender,
    /// Somebody beyond the pod.
    Outside,
    /// A process of the node, in the pod's network and in no pod's cgroup.
    Visitor,
    /// The same app in a pod without us.
    Bare,
}

/// What is dialled.
#[derive(Debug, Clone, Copy)]
pub(crate) enum To {
    /// 10.96.0.10 or `fd96::10`, at this port.
    Service(u16),
    /// Any other address, one for each family; a mapped one is made from the first.
    Host(&'static str, &'static str, u16),
    /// The pod's own address on its first interface.
    Own(u16),
    /// The pod's own address on its second interface.
    OwnSecond(u16),
    /// 127.0.0.1 or `::1`.
    Loopback(u16),
    /// 0.0.0.0 or `::`.
    Unspecified(u16),
}

/// What the socket is bound to before it connects.
#[derive(Debug, Clone, Copy)]
pub(crate) enum From {
    Unbound,
    /// 0.0.0.0 or `::`, and this port.
    Any(u16),
    /// The pod's own address; port 0 is any.
    Own(u16),
    /// The pod's address on its second interface, any port.
    OwnSecond,
    /// 127.0.0.6 or `::6`.
    Passthrough,
    /// 127.0.0.1 or `::1`.
    Loopback,
    /// This interface (`SO_BINDTODEVICE`).
    Device(&'static str),
}

/// How a datagram is sent.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way {
    /// `connect`, then `send`.
    Connected,
    /// `sendto`.
    To,
    /// `sendmsg`.
    Message,
    /// `sendmmsg`.
    Many,
}

/// What is done.
#[derive(Clone, Copy)]
pub(crate) enum Does {
    /// Connects.
    Dial { to: To, from: From, how: How, times: usize },
    /// Sends a datagram and waits for the answer.
    Ask { to: To, from: From, way: Way },
    /// Something of its own; says how it went in the words of the answer.
    Play(fn(&mut Scene, Family) -> String),
}

/// What is expected. For an error only the first counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The listener that answers, or the error's name, or [`AS_BARE`]; for a play, what it says.
    pub(crate) by: &'static str,
    /// Whose address the client is told as its own, empty for any; the server must see the same.
    pub(crate) source: &'static str,
    /// What `getpeername` tells the client; of UDP, who the answer is from.
    pub(crate) peer: &'static str,
    /// What `SO_ORIGINAL_DST` tells the server; not asked of servers that are no proxy.
    pub(crate) original: &'static str,
}

/// Whatever the bare twin gets.
pub(crate) const AS_BARE: &str = "as without us";
/// Nothing came back in time.
pub(crate) const SILENCE: &str = "silence";

/// Why the backends differ: the user's documentation has this, under `title`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) title: &'static str,
    pub(crate) ebpf: &'static str,
    pub(crate) iptables: &'static str,
    pub(crate) why: &'static str,
}

/// A row.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) id: &'static str,
    /// Where it is from: `ebpf` is section 4 of the design's research on eBPF (`matrix` its table, a number its rule), `istio` the
    /// rules of Istio's table, `linkerd`, `kuma` and `consul` theirs, `corner` section 5 of the design.
    pub(crate) source: &'static str,
    pub(crate) who: Who,
    pub(crate) does: Does,
    pub(crate) families: &'static [Family],
    pub(crate) ebpf: Answer,
    pub(crate) iptables: Answer,
    pub(crate) why: Option<&'static Difference>,
}

/// The app connects to a service and is captured: the row most rows are made from.
pub(crate) const fn case(id: &'static str, source: &'static str) -> Case {
    let answer = Answer { by: "outbound", source: "own", peer: "dialled", original: "dialled" };
    Case {
        id,
        source,
        who: Who::App,
        does: Does::Dial { to: To::Service(80), from: From::Unbound, how: How::Plain, times: 1 },
        families: ALL,
        ebpf: answer,
        iptables: answer,
        why: None,
    }
}

/// The app asks a DNS server and is answered by the proxy.
pub(crate) const fn query(id: &'static str, source: &'static str, way: Way) -> Case {
    let mut case = case(id, source).gets("dns");
    case.does = Does::Ask { to: To::Service(53), from: From::Unbound, way };
    case
}

impl Case {
    pub(crate) const fn who(mut self, who: Who) -> Self {
        self.who = who;
        if matches!(who, Who::Outside) {
            self.families = WIRE;
            return self.source("gateway");
        }
        self
    }

    pub(crate) const fn to(mut self, new: To) -> Self {
        match self.does {
            Does::Dial { from, how, times, .. } => self.does = Does::Dial { to: new, from, how, times },
            Does::Ask { from, way, .. } => self.does = Does::Ask { to: new, from, way },
            Does::Play(_) => {}
        }
        match new {
            To::Loopback(_) | To::Unspecified(_) => self.source("loopback"),
            To::OwnSecond(_) if !matches!(self.who, Who::Outside) => self.source("own, second"),
            _ => self,
        }
    }

    pub(crate) const fn from(mut self, new: From) -> Self {
        match self.does {
            Does::Dial { to, how, times, .. } => self.does = Does::Dial { to, from: new, how, times },
            Does::Ask { to, way, .. } => self.does = Does::Ask { to, from: new, way },
            Does::Play(_) => {}
        }
        match new {
            From::Loopback => self.source("loopback"),
            From::Passthrough => self.source("passthrough"),
            From::OwnSecond => self.source("own, second"),
            From::Own(_) => self.source("own"),
            _ => self,
        }
    }

    pub(crate) const fn how(mut self, how: How, times: usize) -> Self {
        if let Does::Dial { to, from, .. } = self.does {
            self.does = Does::Dial { to, from, how, times };
        }
        self
    }

    pub(crate) const fn plays(mut self, play: fn(&mut Scene, Family) -> String) -> Self {
        self.does = Does::Play(play);
        self
    }

    pub(crate) const fn over(mut self, families: &'static [Family]) -> Self {
        self.families = families;
        self
    }

    /// Who answers, or the error.
    pub(crate) const fn gets(mut self, by: &'static str) -> Self {
        (self.ebpf.by, self.iptables.by) = (by, by);
        self
    }

    /// Whose address the client has.
    pub(crate) const fn source(mut self, source: &'static str) -> Self {
        (self.ebpf.source, self.iptables.source) = (source, source);
        self
    }

    /// What one backend answers otherwise, and why that is right.
    pub(crate) const fn but(mut self, backend: Backend, answer: Answer, why: &'static Difference) -> Self {
        match backend {
            Backend::Ebpf => self.ebpf = answer,
            Backend::Iptables => self.iptables = answer,
        }
        self.why = Some(why);
        self
    }

    /// The same where only who answers differs.
    pub(crate) const fn but_gets(self, backend: Backend, by: &'static str, why: &'static Difference) -> Self {
        let answer = Answer { by, ..self.expected(backend) };
        self.but(backend, answer, why)
    }

    /// The same where only what the proxy is told differs.
    pub(crate) const fn but_tells(
        self,
        backend: Backend,
        original: &'static str,
        why: &'static Difference,
    ) -> Self {
        let answer = Answer { original, ..self.expected(backend) };
        self.but(backend, answer, why)
    }

    pub(crate) const fn expected(&self, backend: Backend) -> Answer {
        match backend {
            Backend::Ebpf => self.ebpf,
            Backend::Iptables => self.iptables,
        }
    }
}

impl To {
    /// The address for a pod and a family.
    pub(crate) fn address(self, pod: &Pod, family: Family) -> SocketAddr {
        let v6 = family.is_v6();
        let named = |v4: &str, v6: &str| if family.is_v6() { ip(v6) } else { ip(v4) };
        let (ip, port) = match self {
            Self::Service(port) => (named("10.96.0.10", "fd96::10"), port),
            Self::Host(four, six, port) => (named(four, six), port),
            Self::Own(port) => (pod.ip(v6), port),
            Self::OwnSecond(port) => (second(pod, v6), port),
            Self::Loopback(port) => (named("127.0.0.1", "::1"), port),
            Self::Unspecified(port) => (named("0.0.0.0", "::"), port),
        };
        in_family(ip, port, family)
    }
}

impl From {
    /// The address to bind to.
    pub(crate) fn address(self, pod: &Pod, family: Family) -> Option<SocketAddr> {
        let v6 = family.is_v6();
        match self {
            Self::Unbound | Self::Device(_) => None,
            // Not the mapped form of 0.0.0.0: what a socket of both families is bound to is `::`.
            Self::Any(port) if family == Family::V4 => Some((Ipv4Addr::UNSPECIFIED, port).into()),
            Self::Any(port) => Some((Ipv6Addr::UNSPECIFIED, port).into()),
            Self::Own(port) => Some(in_family(pod.ip(v6), port, family)),
            Self::OwnSecond => Some(in_family(second(pod, v6), 0, family)),
            Self::Loopback => Some(in_family(ip(if v6 { "::1" } else { "127.0.0.1" }), 0, family)),
            Self::Passthrough => Some(in_family(ip(if v6 { "::6" } else { "127.0.0.6" }), 0, family)),
        }
    }

    /// The port the client must then have; 0 is any.
    pub(crate) const fn port(self) -> u16 {
        match self {
            Self::Any(port) | Self::Own(port) => port,
            _ => 0,
        }
    }
}

fn in_family(ip: IpAddr, port: u16, family: Family) -> SocketAddr {
    match (ip, family) {
        (IpAddr::V4(v4), Family::Mapped) => (v4.to_ipv6_mapped(), port).into(),
        _ => (ip, port).into(),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// The pod's address on its second interface.
pub(crate) fn second(pod: &Pod, v6: bool) -> IpAddr {
    let interface = pod.shape.interfaces.get(1);
    net::ip_of(interface.unwrap_or_else(|| panic!("this pod has one interface")), v6)
}
