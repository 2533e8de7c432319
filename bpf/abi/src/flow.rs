//! Per-connection and per-socket state.

use crate::{Address, dns};

/// Proxy listeners remembered per pod and slot, the first half IPv4, the second IPv6: workers with `SO_REUSEPORT`, or listeners
/// on several addresses. One is enough to reach its whole reuseport group; the rest are there for when that one closes.
pub const LISTENERS_PER_SLOT: u32 = 8;

/// Which of the proxy's listeners.
pub mod slot {
    /// Outbound.
    pub const OUTBOUND: u32 = 0;
    /// Inbound.
    pub const INBOUND: u32 = 1;
    /// DNS over TCP.
    pub const DNS: u32 = 2;
}

/// Key of a proxy listener.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerKey {
    /// Netns cookie.
    pub pod: u64,
    /// [`slot`].
    pub slot: u32,
    /// Below [`LISTENERS_PER_SLOT`].
    pub index: u32,
}

crate::layout!(ListenerKey, size 16, align 8, fields u64, u32, u32);

/// Key of a connection on its way from the app to the proxy.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairKey {
    /// Netns cookie.
    pub pod: u64,
    /// Source address of the connection.
    pub client: Address,
    /// Source port.
    pub client_port: u32,
    /// Destination port it was given.
    pub virtual_port: u32,
}

crate::layout!(PairKey, size 32, align 8, fields u64, Address, u32, u32);

/// Where such a connection was really going.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Original destination address.
    pub destination: Address,
    /// Original destination port.
    pub port: u32,
    /// [`slot`] of the listener that takes it.
    pub slot: u32,
}

crate::layout!(Pair, size 24, align 4, fields Address, u32, u32);

/// A connection that comes in: what a pod's own program leaves for the shared one.
///
/// There is one for each CPU, and another pod's connection may come in between on a kernel that preempts its network work
/// (`PREEMPT_RT`, or a question of a process, such as that of `ss`). Hence the connection itself, written before the pod and
/// compared after it was read: what fits was left for this connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Netns cookie.
    pub pod: u64,
    /// Who connects.
    pub source: Address,
    /// To which address of the pod.
    pub destination: Address,
    /// Source port, as the kernel gives it.
    pub source_port: u32,
    /// Destination port.
    pub port: u32,
    /// [`place::SELECT`](crate::names::place::SELECT), and always that. A place that the verifier knows it makes a jump of its own for,
    /// and mends that on all CPUs for each pod's program; one that is read from memory is looked up.
    pub place: u32,
    /// Fills up.
    pub unused: u32,
}

crate::layout!(Arrival, size 56, align 8, fields u64, Address, Address, u32, u32, u32, u32);

/// Kept with a socket, freed with it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketState {
    /// When it was captured, at the app's end: nanoseconds of the monotonic clock.
    pub since: u64,
    /// Original destination address.
    pub destination: Address,
    /// The address it was sent to instead.
    pub sent_to: Address,
    /// Original destination port.
    pub port: u32,
    /// The port it was sent to instead.
    pub virtual_port: u32,
    /// [`slot`].
    pub slot: u32,
    /// [`role`] bits.
    pub role: u32,
}

crate::layout!(SocketState, size 56, align 8, fields u64, Address, Address, u32, u32, u32, u32);

/// Bits of [`SocketState::role`].
pub mod role {
    /// A captured connection, the app's end.
    pub const CLIENT: u32 = 1;
    /// A captured connection, the proxy's end.
    pub const ACCEPTED: u32 = 2;
    /// Bound by the proxy's identity: may become its listener.
    pub const PROXY: u32 = 4;
}

/// Kept with a UDP socket, freed with it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DatagramState {
    /// The DNS servers it asked, by place (see [`dns::marker`]); `::` where there is none.
    pub servers: [Address; dns::RESOLVERS as usize],
    /// The one it asked last: whose an answer without a marker is.
    pub last: Address,
    /// With [`udp::CONNECTED`]: the address it was connected to.
    pub peer: Address,
    /// The address it is connected to instead.
    pub sent_to: Address,
    /// The port it was connected to.
    pub peer_port: u32,
    /// The port it is connected to instead.
    pub sent_port: u32,
    /// Port of the proxy's DNS listener when it last asked; 0: it never has.
    pub dns_port: u32,
    /// How many places have been given to servers.
    pub places: u32,
    /// [`udp`] bits.
    pub bits: u32,
}

crate::layout!(DatagramState, size 132, align 4,
    fields [Address; dns::RESOLVERS as usize], Address, Address, Address, u32, u32, u32, u32, u32);

/// Bits of [`DatagramState::bits`], and what else is special about UDP.
pub mod udp {
    /// Connected elsewhere than the app asked.
    pub const CONNECTED: u32 = 1;
    /// Bound to a port it chose.
    pub const BOUND: u32 = 2;
    /// Where a socket ends up that is connected to a destination it may not reach: this port of its own address. Nobody listens
    /// there, and what it sends is answered by the kernel with ECONNREFUSED. The connect itself succeeds, from the address it
    /// would have without us: `getaddrinfo` connects UDP sockets to the port asked for only to learn that address, sends
    /// nothing, and would take a destination whose connect fails for unreachable and put it last.
    pub const NOBODY: u16 = 1;
}
