//! Telling listeners of decisions. While nobody listens, a decision costs one look at [`on`] more; everything else is out of its way.

use core::arch::asm;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{BPF_RB_NO_WAKEUP, bpf_sock, bpf_sock_addr};
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::programs::SockAddrContext;
use shunt_abi::decide::Verdict;
use shunt_abi::trace::{Event, LISTENERS, verdict};
use shunt_abi::{Address, Reason};

use crate::connect::Sent;
use crate::context::{self, read};
use crate::maps::{RINGS, TRACE};

/// What became of something, and why.
#[derive(Clone, Copy)]
pub(crate) struct Told {
    pub(crate) verdict: u16,
    pub(crate) reason: Reason,
}

impl Told {
    #[inline(always)]
    pub(crate) const fn passed(reason: Reason) -> Self {
        Self { verdict: verdict::PASSED, reason }
    }

    #[inline(always)]
    pub(crate) const fn refused(reason: Reason) -> Self {
        Self { verdict: verdict::REFUSED, reason }
    }

    #[inline(always)]
    pub(crate) const fn of(decided: Verdict) -> Self {
        let verdict = match decided {
            Verdict::Pass(_) => verdict::PASSED,
            Verdict::Refuse(_) => verdict::REFUSED,
            Verdict::Capture { .. } => verdict::CAPTURED,
        };
        Self { verdict, reason: decided.reason() }
    }
}

/// True if somebody may be listening.
#[inline(always)]
pub(crate) fn on() -> bool {
    match TRACE.get_ptr(0) {
        // SAFETY: the map's only element. Volatile: listeners write it.
        Some(trace) => unsafe { (&raw const (*trace).until).read_volatile() != 0 },
        None => false,
    }
}

/// Tells of what a process asked for.
#[inline(always)]
pub(crate) fn asked(
    ctx: &SockAddrContext,
    call: u16,
    pod: u64,
    (destination, port): (Address, u16),
    told: Told,
    sent: &Sent,
) {
    let (sent_to, sent_port) = match *sent {
        Sent::To(address, port) if told.verdict == verdict::CAPTURED => (address, port),
        _ => (Address::UNSPECIFIED, 0),
    };
    let mut event = Event {
        pod,
        destination,
        sent_to,
        reason: told.reason.code(),
        port,
        sent_port,
        verdict: told.verdict,
        call,
        ..Event::default()
    };
    tell_of_caller(ctx.sock_addr, &mut event);
}

/// Adds who called, and tells. A function of its own: what leads here are many ways, and each would have it inside.
#[inline(never)]
fn tell_of_caller(ctx: *mut bpf_sock_addr, event: &mut Event) {
    let ctx = SockAddrContext::new(ctx);
    let sk = context::socket(ctx.sock_addr);
    event.source = context::local_address(sk);
    event.source_port = context::local_port(sk);
    event.family = read!(bpf_sock, sk, family) as u16;
    event.command = ctx.command().unwrap_or_default();
    event.pid = ctx.tgid();
    event.uid = ctx.uid();
    tell(event);
}

/// Tells everybody who listens. Wakes nobody: that would cost more than all else, and listeners look often enough. A function of its
/// own, so that it is there once, and out of the way.
#[inline(never)]
pub(crate) fn tell(event: &mut Event) {
    let Some(trace) = TRACE.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: takes no argument.
    event.time = unsafe { bpf_ktime_get_ns() };
    // SAFETY: the map's only element. Volatile: listeners write it. One that begins in this moment says so again before long.
    unsafe {
        let until = &raw mut (*trace).until;
        if until.read_volatile() < event.time {
            until.write_volatile(0);
            return;
        }
    }
    let mut place = 0;
    while place < LISTENERS {
        // SAFETY: as above.
        let (until, pod, lost) = unsafe {
            let listener = &raw mut (*trace).listeners[place as usize];
            (
                (&raw const (*listener).until).read_volatile(),
                (&raw const (*listener).pod).read_volatile(),
                &raw mut (*listener).lost,
            )
        };
        if until >= event.time
            && (pod == 0 || pod == event.pod)
            && let Some(ring) = RINGS.get(place)
            && ring.output(&*event, u64::from(BPF_RB_NO_WAKEUP)).is_err()
        {
            // SAFETY: as above. In assembly: the form of the instruction that every kernel has.
            unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) lost, in(reg) 1_u64, options(nostack)) };
        }
        place += 1;
    }
}
