//! Per-connection and per-socket state.

use crate::Address;

/// Proxy listeners remembered per pod and slot: workers with `SO_REUSEPORT`, or one listener for each family. One is enough
/// to reach its whole reuseport group; the rest are there for when that one closes.
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

/// Kept with a socket, freed with it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketState {
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

crate::layout!(SocketState, size 48, align 4, fields Address, Address, u32, u32, u32, u32);

/// Bits of [`SocketState::role`].
pub mod role {
    /// A captured connection, the app's end.
    pub const CLIENT: u32 = 1;
    /// A captured connection, the proxy's end.
    pub const ACCEPTED: u32 = 2;
    /// Bound by the proxy's identity: may become its listener.
    pub const PROXY: u32 = 4;
}
