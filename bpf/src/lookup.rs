//! Which socket a new connection to the pod belongs to. Runs once for each connection, never for a packet of an established one.

use core::arch::asm;

use aya_ebpf::bindings::{bpf_sk_lookup, sk_action};
use aya_ebpf::programs::SkLookupContext;
use shunt_abi::decide::{self, Inbound, Verdict};
use shunt_abi::trace::{Event, Note, call, verdict::REFUSED};
use shunt_abi::{Address, LISTENERS_PER_SLOT, ListenerKey, Pair, PairKey, Reason, names, virtual_port};

use crate::context::{read, read6};
use crate::maps::{self, ARRIVALS, LISTENERS, LOOKUPS, NOTES, PAIRS, PodRules};
use crate::trace::{self, Told};

const IPPROTO_TCP: u32 = 6;

/// This pod's key. Each pod has its own copy of this program, with its cookie in place of the placeholder; the assembly keeps it
/// one instruction that the plugin finds and the compiler cannot fold into others.
#[inline(always)]
fn own_cookie() -> u64 {
    let cookie: u64;
    // SAFETY: loads a constant into a register.
    unsafe { asm!("{0} = {1} ll", out(reg) cookie, const names::COOKIE_PLACEHOLDER) };
    cookie
}

/// A pod's own program: says whose the connection is, and goes on in the one for all. Short, because each ADD loads it. If there is
/// nothing to go on in, the connection is refused: it may be the proxy's.
#[inline(always)]
pub(crate) fn arrive(ctx: &SkLookupContext) -> u32 {
    let lookup = ctx.lookup;
    if read!(bpf_sk_lookup, lookup, protocol) != IPPROTO_TCP {
        return sk_action::SK_PASS;
    }
    let Some(arrival) = ARRIVALS.get_ptr_mut(0) else {
        return sk_action::SK_DROP;
    };
    let (source, destination) = addresses(lookup);
    let (source_port, port) = ports(lookup);
    // SAFETY: this CPU's own copy. Volatile, and the pod last: see `Arrival`.
    let place = unsafe {
        (&raw mut (*arrival).source).write_volatile(source);
        (&raw mut (*arrival).destination).write_volatile(destination);
        (&raw mut (*arrival).source_port).write_volatile(source_port);
        (&raw mut (*arrival).port).write_volatile(port);
        (&raw mut (*arrival).pod).write_volatile(own_cookie());
        (&raw const (*arrival).place).read_volatile()
    };
    // SAFETY: nothing is held that would have to be given back.
    unsafe { LOOKUPS.tail_call(ctx, place) };
    sk_action::SK_DROP
}

/// Whose connection this is, if it is the one that was left.
#[inline(always)]
fn whose(lookup: *const bpf_sk_lookup, (source, destination): (Address, Address)) -> Option<u64> {
    let arrival = ARRIVALS.get_ptr(0)?;
    let (source_port, port) = ports(lookup);
    // SAFETY: this CPU's own copy. Volatile, and the pod first: see `Arrival`.
    unsafe {
        let pod = (&raw const (*arrival).pod).read_volatile();
        let fits = (&raw const (*arrival).source).read_volatile().same(source)
            && (&raw const (*arrival).destination).read_volatile().same(destination)
            && (&raw const (*arrival).source_port).read_volatile() == source_port
            && (&raw const (*arrival).port).read_volatile() == port;
        fits.then_some(pod)
    }
}

/// Gives the connection to the proxy, or leaves it to the kernel.
#[inline(always)]
pub(crate) fn select(ctx: &SkLookupContext) -> u32 {
    let lookup = ctx.lookup;
    let (source, destination) = addresses(lookup);
    let Some(cookie) = whose(lookup, (source, destination)) else {
        return sk_action::SK_DROP;
    };
    let Some(pod) = maps::pod(cookie) else {
        return sk_action::SK_PASS;
    };
    let port = read!(bpf_sk_lookup, lookup, local_port);
    let (slot, told) = if let Some(pair) = paired(cookie, source, port, lookup) {
        (pair.slot, None)
    } else {
        let connection = Inbound { source, destination, port: port as u16 };
        let verdict = decide::inbound(pod, &PodRules(cookie), &connection);
        maps::count(cookie, verdict.reason());
        let told = Told::of(verdict);
        match verdict {
            Verdict::Pass(_) | Verdict::Refuse(_) => (NONE, Some(told)),
            Verdict::Capture { slot, .. } => (slot, Some(told)),
        }
    };
    // One place, whatever led here: the verifier walks this loop for each.
    let taken = slot == NONE || assign(ctx, cookie, slot);
    if !taken {
        maps::count(cookie, Reason::NoListener);
    }
    if trace::on() {
        let told = if taken { told } else { Some(Told::refused(Reason::NoListener)) };
        if let Some(told) = told {
            hand_over(ctx, cookie, told);
        }
    }
    if taken { sk_action::SK_PASS } else { sk_action::SK_DROP }
}

/// No slot: the connection is left to the kernel.
const NONE: u32 = u32::MAX;

/// Leaves it to [`tell`] to tell of a decision and to return it. Comes back if there is no such program.
#[inline(always)]
fn hand_over(ctx: &SkLookupContext, pod: u64, told: Told) {
    let Some(note) = NOTES.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: this CPU's own copy; connections arrive where nothing comes in between.
    unsafe { *note = Note { pod, reason: told.reason.code(), verdict: u32::from(told.verdict) } };
    // SAFETY: nothing is held that would have to be given back.
    unsafe { LOOKUPS.tail_call(ctx, names::place::TELL) };
}

/// Tells of a connection. One that comes by a virtual port was told of when the app connected, and is again if nobody takes it.
#[inline(always)]
pub(crate) fn tell(ctx: &SkLookupContext) -> u32 {
    let lookup = ctx.lookup;
    let Some(note) = NOTES.get_ptr_mut(0) else {
        return sk_action::SK_DROP;
    };
    // SAFETY: as above.
    let Note { pod, reason, verdict } = unsafe { *note };
    let (source, destination) = addresses(lookup);
    let port = read!(bpf_sk_lookup, lookup, local_port);
    let arrived = (destination, port as u16);
    let (call, (destination, port), (sent_to, sent_port)) = match paired(pod, source, port, lookup) {
        Some(pair) => (call::HAND_OVER, (pair.destination, pair.port as u16), arrived),
        None => (call::ARRIVE, arrived, (Address::UNSPECIFIED, 0)),
    };
    let mut event = Event {
        time: 0,
        pod,
        source,
        destination,
        sent_to,
        command: [0; 16],
        pid: 0,
        uid: 0,
        reason,
        source_port: u16::from_be(read!(bpf_sk_lookup, lookup, remote_port) as u16),
        port,
        sent_port,
        verdict: verdict as u16,
        call,
        family: read!(bpf_sk_lookup, lookup, family) as u16,
    };
    trace::tell(&mut event);
    if verdict == u32::from(REFUSED) { sk_action::SK_DROP } else { sk_action::SK_PASS }
}

/// What is known of a connection that comes by a virtual port.
#[inline(always)]
fn paired(
    pod: u64,
    client: Address,
    virtual_port: u32,
    lookup: *const bpf_sk_lookup,
) -> Option<&'static Pair> {
    if !virtual_port::contains(virtual_port) {
        return None;
    }
    let client_port = u32::from(u16::from_be(read!(bpf_sk_lookup, lookup, remote_port) as u16));
    let key = PairKey { pod, client, client_port, virtual_port };
    // SAFETY: an LRU entry may be reused while it is read; the key is that of this one connection.
    unsafe { PAIRS.get(&key) }
}

/// Both addresses, without a branch: the verifier would walk everything that follows once for each family, and a pod's own program is
/// loaded with each ADD. The kernel gives zeros for the fields of the other family.
#[inline(always)]
fn addresses(lookup: *const bpf_sk_lookup) -> (Address, Address) {
    // AF_INET is 2 and AF_INET6 is 10: the bit they differ in, as a mask for IPv4.
    let is_v4 = (read!(bpf_sk_lookup, lookup, family) >> 3 & 1).wrapping_sub(1);
    let source = (read6!(bpf_sk_lookup, lookup, remote_ip6), read!(bpf_sk_lookup, lookup, remote_ip4));
    let destination = (read6!(bpf_sk_lookup, lookup, local_ip6), read!(bpf_sk_lookup, lookup, local_ip4));
    (joined(source, is_v4), joined(destination, is_v4))
}

/// Both ports as the kernel gives them: the remote one in network order, the local one in the host's.
#[inline(always)]
fn ports(lookup: *const bpf_sk_lookup) -> (u32, u32) {
    (read!(bpf_sk_lookup, lookup, remote_port), read!(bpf_sk_lookup, lookup, local_port))
}

#[inline(always)]
fn joined((v6, v4): (Address, u32), is_v4: u32) -> Address {
    let [a, b, c, d] = v6.0;
    Address([a, b, c | (Address::v4(0).0[2] & is_v4), d | v4])
}

/// The first listener of the slot that can take this connection; the kernel then picks one of its reuseport group. None: a reset,
/// never the app.
#[inline(always)]
fn assign(ctx: &SkLookupContext, pod: u64, slot: u32) -> bool {
    let mut index = 0;
    while index < LISTENERS_PER_SLOT {
        // Fails for an empty place and for a listener of the other family.
        if LISTENERS.redirect_sk_lookup(ctx, ListenerKey { pod, slot, index }, 0).is_ok() {
            return true;
        }
        index += 1;
    }
    false
}
