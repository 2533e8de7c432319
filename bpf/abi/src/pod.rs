//! What the kernel knows of one pod.

use crate::{Address, Reason};

/// Key of everything that belongs to a pod: the cookie of its network namespace, unique until reboot.
pub type PodKey = u64;

/// One pod's configuration; the lists are in its rule trie.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodConfig {
    /// Own IPv4 address captured connections are sent to; `::` when the pod has none.
    pub own4: Address,
    /// Own IPv6 address, likewise.
    pub own6: Address,
    /// [`flag`] bits.
    pub flags: u32,
    /// Counts the ADDs of this attachment; CHECK compares it with the record.
    pub generation: u32,
    /// Port of the proxy's outbound listener.
    pub outbound_port: u16,
    /// Port of the proxy's inbound listener.
    pub inbound_port: u16,
    /// Port the mesh's tunnel arrives on (HBONE, 15008); 0 for none.
    pub tunnel_port: u16,
    /// Port of the proxy's DNS listener; meaningless without [`flag::DNS`].
    pub dns_port: u16,
}

crate::layout!(PodConfig, size 48, align 4, fields Address, Address, u32, u32, u16, u16, u16, u16);

/// Bits of [`PodConfig::flags`]. The `HAS_` bits spare a lookup in a trie that has nothing of the kind.
pub mod flag {
    /// Every outbound destination is included.
    pub const OUTBOUND_ALL: u32 = 1;
    /// Every inbound port is included.
    pub const INBOUND_ALL: u32 = 1 << 1;
    /// The trie has outbound CIDRs.
    pub const HAS_OUTBOUND_CIDR: u32 = 1 << 2;
    /// The trie has outbound ports.
    pub const HAS_OUTBOUND_PORT: u32 = 1 << 3;
    /// The trie has inbound source CIDRs.
    pub const HAS_INBOUND_CIDR: u32 = 1 << 4;
    /// The trie has inbound ports.
    pub const HAS_INBOUND_PORT: u32 = 1 << 5;
    /// The trie has exempt uids.
    pub const HAS_UID: u32 = 1 << 6;
    /// The trie has exempt gids.
    pub const HAS_GID: u32 = 1 << 7;
    /// The trie has routes: more than one source address, or an excluded interface.
    pub const HAS_ROUTE: u32 = 1 << 8;
    /// The trie has uids whose connections are not captured.
    pub const HAS_EXCLUDED_UID: u32 = 1 << 9;
    /// What the proxy connects to inside the pod goes to its inbound side.
    pub const SELF_CALLS: u32 = 1 << 10;
    /// The app's connections to the pod's own addresses are captured like others.
    pub const OWN_ADDRESSES: u32 = 1 << 11;
    /// DNS is captured.
    pub const DNS: u32 = 1 << 12;
    /// With [`DNS`]: only to the servers in the trie.
    pub const DNS_SERVERS: u32 = 1 << 13;
    /// With [`DNS`]: over TCP it passes.
    pub const DNS_TCP_PASSES: u32 = 1 << 14;
    /// UDP other than DNS does not leave the pod.
    pub const UDP_BLOCK: u32 = 1 << 15;
    /// Connections of the app pass until the proxy has listened for the first time.
    pub const BYPASS_BEFORE_PROXY: u32 = 1 << 16;
}

/// How often each [`Reason`] was given, on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters(pub [u64; Reason::SLOTS]);

crate::layout!(Counters, size 8 * Reason::SLOTS, align 8, fields [u64; Reason::SLOTS]);

impl Default for Counters {
    fn default() -> Self {
        Self([0; Reason::SLOTS])
    }
}
