//! The rule trie: one longest-prefix trie per pod holds every list of its plan.

use crate::Address;

/// What kind of thing a trie entry is about: the first 32 bits of its key, always matched exactly.
pub mod kind {
    /// Own and broadcast addresses, 128 bits.
    pub const ADDRESS: u32 = 1;
    /// Routes: which own address a destination is reached from.
    pub const ROUTE: u32 = 2;
    /// Outbound destinations.
    pub const OUTBOUND_CIDR: u32 = 3;
    /// Outbound ports, 16 bits.
    pub const OUTBOUND_PORT: u32 = 4;
    /// Inbound sources.
    pub const INBOUND_CIDR: u32 = 5;
    /// Inbound ports, 16 bits.
    pub const INBOUND_PORT: u32 = 6;
    /// Exempt uids as the initial user namespace sees them, 32 bits.
    pub const UID: u32 = 7;
    /// Exempt gids, likewise.
    pub const GID: u32 = 8;
}

/// Bits of [`Rule::bits`]. An entry carries the bits of every shorter prefix that covers it, so that the longest match alone
/// tells whether an exclusion of any length applies.
pub mod bit {
    /// Named by an include list.
    pub const INCLUDE: u32 = 1;
    /// Named by an exclude list.
    pub const EXCLUDE: u32 = 2;
    /// The pod's own address.
    pub const OWN: u32 = 4;
    /// A broadcast address of one of its subnets.
    pub const BROADCAST: u32 = 8;
    /// On, or routed over, an excluded interface.
    pub const EXCLUDED_INTERFACE: u32 = 16;
    /// An exempt id.
    pub const EXEMPT: u32 = 32;
}

/// Key of the trie, after the prefix length.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleKey {
    /// [`kind`].
    pub kind: u32,
    /// The value, left-aligned in network order.
    pub data: Address,
}

crate::layout!(RuleKey, size 20, align 4, fields u32, Address);

/// Bits of the kind, which every prefix includes.
const KIND_BITS: u32 = 32;

impl RuleKey {
    /// Bits to match for an address prefix of `length` bits (of the 128).
    pub const fn address_bits(length: u32) -> u32 {
        KIND_BITS + length
    }

    /// Bits to match for a port prefix of `length` bits (of the 16).
    pub const fn port_bits(length: u32) -> u32 {
        KIND_BITS + length
    }

    /// Bits to match for an id.
    pub const ID_BITS: u32 = KIND_BITS + 32;

    /// Key of an address.
    #[inline(always)]
    pub const fn address(kind: u32, address: Address) -> Self {
        Self { kind, data: address }
    }

    /// Key of a port, in host order.
    #[inline(always)]
    pub const fn port(kind: u32, port: u16) -> Self {
        Self { kind, data: Address([((port as u32) << 16).to_be(), 0, 0, 0]) }
    }

    /// Key of a uid or gid.
    #[inline(always)]
    pub const fn id(kind: u32, id: u32) -> Self {
        Self { kind, data: Address([id.to_be(), 0, 0, 0]) }
    }
}

/// Value of the trie.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Own address a [`kind::ROUTE`] is reached from; `::` elsewhere.
    pub source: Address,
    /// [`bit`].
    pub bits: u32,
}

crate::layout!(Rule, size 20, align 4, fields Address, u32);
