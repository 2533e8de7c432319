//! Names of programs, maps and pins: the only copy. Kernel object names are cut at 15 bytes, so they are shorter than that; a
//! program may not have the name of its ELF section (`sockops`, `sk_lookup`).

/// Map: netns cookie → [`crate::PodConfig`].
pub const PODS: &str = "PODS";
/// Map: the rule trie, [`crate::TrieKey`] → [`crate::Rule`].
pub const RULES: &str = "RULES";
/// Map: netns cookie → per-CPU [`crate::Counters`].
pub const COUNTERS: &str = "COUNTERS";
/// Map: [`crate::ListenerKey`] → a listening socket of the proxy.
pub const LISTENERS: &str = "LISTENERS";
/// Map: [`crate::PairKey`] → [`crate::Pair`], from SYN to accept.
pub const PAIRS: &str = "PAIRS";
/// Map: socket → [`crate::SocketState`].
pub const SOCKETS: &str = "SOCKETS";
/// Map: UDP socket → [`crate::DatagramState`].
pub const DATAGRAMS: &str = "DATAGRAMS";
/// Map: per-CPU count of connections, which spreads virtual ports.
pub const ROTATION: &str = "ROTATION";
/// Map: netns cookie → there once the pod's proxy has bound its outbound port, or tried to.
pub const SEEN: &str = "SEEN";
/// Map: one [`crate::trace::Trace`], whether and to whom decisions are told.
pub const TRACE: &str = "TRACE";
/// Map: place of a listener → its ring buffer of [`crate::trace::Event`].
pub const RINGS: &str = "RINGS";
/// Map: per-CPU [`crate::trace::Note`].
pub const NOTES: &str = "NOTES";
/// Map: per-CPU [`crate::Arrival`].
pub const ARRIVALS: &str = "ARRIVALS";
/// Map: the shared programs of incoming connections, by [`place`], where those of the pods find them.
pub const LOOKUPS: &str = "LOOKUPS";
/// Every map that is pinned.
pub const MAPS: [&str; 14] = [
    PODS, RULES, COUNTERS, LISTENERS, PAIRS, SOCKETS, DATAGRAMS, ROTATION, SEEN, TRACE, RINGS, NOTES,
    ARRIVALS, LOOKUPS,
];

/// Programs attached once per node to the cgroup all pods live under.
pub const SHARED_PROGRAMS: [&str; 11] = [
    SOCKOPS,
    GETPEERNAME4,
    GETPEERNAME6,
    BIND4,
    BIND6,
    RECVMSG4,
    RECVMSG6,
    CONNECT4,
    CONNECT6,
    SENDMSG4,
    SENDMSG6,
];
/// Outbound IPv4.
pub const CONNECT4: &str = "connect4";
/// Outbound IPv6 and v4-mapped.
pub const CONNECT6: &str = "connect6";
/// UDP to an address, IPv4 and v4-mapped.
pub const SENDMSG4: &str = "sendmsg4";
/// UDP to an address, IPv6.
pub const SENDMSG6: &str = "sendmsg6";
/// Whom the app sees UDP come from, on an IPv4 socket.
pub const RECVMSG4: &str = "recvmsg4";
/// Whom the app sees UDP come from, on an IPv6 socket, v4-mapped too.
pub const RECVMSG6: &str = "recvmsg6";
/// What the app sees as its peer, IPv4.
pub const GETPEERNAME4: &str = "getpeername4";
/// What the app sees as its peer, IPv6 and v4-mapped.
pub const GETPEERNAME6: &str = "getpeername6";
/// Port reuse and proxy marking, IPv4.
pub const BIND4: &str = "bind4";
/// Port reuse and proxy marking, IPv6.
pub const BIND6: &str = "bind6";
/// Listener registration and hand-over of the original destination.
pub const SOCKOPS: &str = "sock_ops";
/// `SO_ORIGINAL_DST`.
pub const GETSOCKOPT: &str = "getsockopt";
/// Inbound and virtual ports: the program each pod has a copy of. It says whose the connection is and goes on in [`SELECT`].
pub const SK_LOOKUP: &str = "lookup";
/// Decides about a connection that comes in. One for all pods: in each pod's copy it would be most of what an ADD costs, since
/// the kernel verifies what it loads.
pub const SELECT: &str = "select";
/// Tells listeners what [`SELECT`] decided. Out of its way while nobody listens.
pub const TELL: &str = "tell";

/// Places in [`LOOKUPS`].
pub mod place {
    /// [`SELECT`](super::SELECT)
    pub const SELECT: u32 = 0;
    /// [`TELL`](super::TELL)
    pub const TELL: u32 = 1;
    /// How many there are.
    pub const COUNT: u32 = 2;
}

/// Stands in [`SK_LOOKUP`] where each pod's copy has its netns cookie. That program type cannot ask for the cookie
/// (no helper), and neither an address nor an interface index tells two pods of a node apart.
pub const COOKIE_PLACEHOLDER: u64 = 0x5348_554e_5443_4f4b;
