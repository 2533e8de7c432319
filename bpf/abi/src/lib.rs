//! What Shunt's kernel programs and its plugin agree on: names, layouts and the decision about a connection.
//!
//! Rules of this crate:
//!
//! * Addresses are 16 bytes in network order, IPv4 in its v4-mapped form, so that a mapped and a native address are the
//!   same value and one code path serves both. Ports are in host order unless a field says otherwise.
//! * Every struct that goes into a map is `repr(C)`, without padding (asserted beside it) and without `bool` or enums: the
//!   kernel compares and copies bytes.
//! * A change to any name or layout here is a new [`VERSION`].
#![no_std]
#![expect(
    clippy::inline_always,
    reason = "kernel programs are small and their stack is 512 bytes: a call costs more than it saves"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "const functions have no try_from; each cast keeps the bits its line is about"
)]
#![cfg_attr(feature = "user", expect(unsafe_code, reason = "aya::Pod is an unsafe marker for plain data"))]

#[cfg(test)]
extern crate std;

mod address;
pub mod decide;
pub mod dns;
mod flow;
pub mod names;
mod pod;
mod reason;
mod rule;
pub mod trace;
pub mod virtual_port;

pub use address::Address;
pub use flow::{
    Arrival, DatagramState, LISTENERS_PER_SLOT, ListenerKey, Pair, PairKey, SocketState, role, slot, udp,
};
pub use pod::{Counters, PodConfig, PodKey, flag};
pub use reason::Reason;
pub use rule::{Rule, RuleKey, TrieKey, bit, kind};

/// Version of everything in this crate. A record or a pin directory of another version is not touched, only removed.
pub const VERSION: u32 = 4;

/// Asserts size and alignment, and that the fields fill the struct: padding would be uninitialised bytes in a map key.
macro_rules! layout {
    ($type:ty, size $size:expr, align $align:expr, fields $($field:ty),+) => {
        const _: () = {
            assert!(size_of::<$type>() == $size);
            assert!(align_of::<$type>() == $align);
            assert!(size_of::<$type>() == 0 $(+ size_of::<$field>())+);
        };
        #[cfg(feature = "user")]
        // SAFETY: repr(C), Copy, 'static, made of integers, and the assertions above leave no room for padding.
        unsafe impl aya::Pod for $type {}
    };
}
pub(crate) use layout;
