//! What the programs tell of their decisions, while somebody listens.
//!
//! Each listener (`shuntctl trace`) has a place: a ring buffer of its own in [`names::RINGS`](crate::names::RINGS) and an element in
//! [`Trace::listeners`]. Nobody is told who is gone, so everything runs out by itself: a listener that is killed says nothing
//! more, and [`Trace::until`] passes.

use crate::{Address, PodKey};

/// How many can listen at once.
pub const LISTENERS: u32 = 8;

/// The switch, and who listens: one for all programs, mapped into the memory of each listener.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Until when anybody listens: nanoseconds of the monotonic clock. 0: nobody does, which is all that a program reads then.
    pub until: u64,
    /// By place.
    pub listeners: [Listener; LISTENERS as usize],
}

crate::layout!(Trace, size 8 + 24 * LISTENERS as usize, align 8, fields u64, [Listener; LISTENERS as usize]);

/// One listener.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listener {
    /// Until when it listens; 0: nobody has this place.
    pub until: u64,
    /// The one pod it listens to; 0: to all.
    pub pod: PodKey,
    /// Events it was not told because its ring buffer was full.
    pub lost: u64,
}

crate::layout!(Listener, size 24, align 8, fields u64, u64, u64);

/// What the program that decided about a connection leaves for the one that tells of it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    /// Whose.
    pub pod: PodKey,
    /// [`Reason::code`](crate::Reason::code).
    pub reason: u32,
    /// [`verdict`].
    pub verdict: u32,
}

crate::layout!(Note, size 16, align 8, fields u64, u32, u32);

/// A decision.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// When: nanoseconds of the monotonic clock.
    pub time: u64,
    /// Whose.
    pub pod: PodKey,
    /// Who connects or sends; `::` where it is not known yet.
    pub source: Address,
    /// Where to.
    pub destination: Address,
    /// Where it was sent instead; `::` if it was not.
    pub sent_to: Address,
    /// Name of the calling thread; zeros where nobody calls.
    pub command: [u8; 16],
    /// The calling process, as the initial namespace numbers it; 0 where nobody calls.
    pub pid: u32,
    /// Its real user id, likewise.
    pub uid: u32,
    /// [`Reason::code`](crate::Reason::code).
    pub reason: u32,
    /// Port of `source`; 0 where it is not known yet.
    pub source_port: u16,
    /// Port of `destination`.
    pub port: u16,
    /// Port of `sent_to`.
    pub sent_port: u16,
    /// [`verdict`].
    pub verdict: u16,
    /// [`call`].
    pub call: u16,
    /// `AF_INET` or `AF_INET6`: the socket's, which for a v4-mapped address is not the address's.
    pub family: u16,
}

crate::layout!(Event, size 104, align 8, fields
    u64, u64, Address, Address, Address, [u8; 16], u32, u32, u32, u16, u16, u16, u16, u16, u16);

/// Values of [`Event::verdict`].
pub mod verdict {
    /// Left alone.
    pub const PASSED: u16 = 0;
    /// Given to the proxy.
    pub const CAPTURED: u16 = 1;
    /// An error for whoever asked.
    pub const REFUSED: u16 = 2;
}

/// Values of [`Event::call`]: what was decided about.
pub mod call {
    /// A TCP socket is connected.
    pub const CONNECT: u16 = 0;
    /// A TCP connection arrives.
    pub const ARRIVE: u16 = 1;
    /// A connection on its way from the app to the proxy.
    pub const HAND_OVER: u16 = 2;
    /// A UDP socket is connected.
    pub const CONNECT_UDP: u16 = 3;
    /// UDP is sent to an address.
    pub const SEND: u16 = 4;
}
