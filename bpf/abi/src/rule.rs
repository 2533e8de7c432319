//! The rule trie: one longest-prefix trie of the node holds every list of every pod's plan.
//!
//! One trie, not one for each pod in a map of maps: the kernel waits for a grace period (10–20 ms) on every change of such a
//! map (`maybe_wait_bpf_programs`, kernel/bpf/syscall.c).

use crate::{Address, PodKey};

/// What kind of thing a trie entry is about: the first 32 bits of its key, always matched exactly.
pub mod kind {
    /// Not a rule: the entry that a pod's other entries are found from, see [`TrieKey::first`](crate::TrieKey::first).
    pub const FIRST: u32 = 0;
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
    /// Exempt and excluded uids as the initial user namespace sees them, 32 bits.
    pub const UID: u32 = 7;
    /// Exempt gids, likewise.
    pub const GID: u32 = 8;
    /// DNS servers.
    pub const DNS_SERVER: u32 = 9;
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

/// What a rule is about, within one pod.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleKey {
    /// [`kind`].
    pub kind: u32,
    /// The value, left-aligned in network order.
    pub data: Address,
}

crate::layout!(RuleKey, size 20, align 4, fields u32, Address);

/// Key of the trie, after the prefix length.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TrieKey {
    /// The netns cookie as two words: a `u64` would pad the key.
    pub pod: [u32; 2],
    /// The rule.
    pub rule: RuleKey,
}

crate::layout!(TrieKey, size 28, align 4, fields [u32; 2], RuleKey);

impl TrieKey {
    /// Bits of a whole key.
    pub const BITS: u32 = 8 * size_of::<Self>() as u32;

    /// Key of a pod's rule.
    #[inline(always)]
    pub const fn new(pod: PodKey, rule: RuleKey) -> Self {
        Self { pod: [pod as u32, (pod >> 32) as u32], rule }
    }

    /// Key of the entry that comes first among a pod's when the kernel lists the trie: it lists a node's zero branch, then its
    /// one branch, then the node, and this key is zeros after the cookie. Listing from it gives the pod's entries and then
    /// another pod's, so that a pod's entries are found without its plan and without reading everybody's.
    pub const fn first(pod: PodKey) -> Self {
        Self::new(pod, RuleKey { kind: kind::FIRST, data: Address::UNSPECIFIED })
    }

    /// Whose it is.
    pub const fn pod(self) -> PodKey {
        self.pod[0] as u64 | (self.pod[1] as u64) << 32
    }
}

/// Bits of cookie and kind, which every prefix includes.
const KIND_BITS: u32 = 96;

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

    /// True if the first `length` bits of a trie key with this rule are those of one with `other`, for the same pod.
    pub fn covers(self, length: u32, other: Self) -> bool {
        if self.kind != other.kind {
            return false;
        }
        let mut left = length.saturating_sub(KIND_BITS);
        for (a, b) in self.data.0.into_iter().zip(other.data.0) {
            let compared = left.min(32);
            if compared > 0 && (u32::from_be(a) ^ u32::from_be(b)).leading_zeros() < compared {
                return false;
            }
            left -= compared;
        }
        true
    }

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
