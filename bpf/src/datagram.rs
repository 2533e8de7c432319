//! UDP: DNS goes to the proxy and its answers come from the server that was asked; the rest is refused where the plan says so.
//!
//! What is sent to an address is decided here each time; what is sent over a connected socket passes no hook, and was decided when
//! it was connected.

use core::arch::asm;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{bpf_sock, sockaddr};
use aya_ebpf::helpers::generated::bpf_bind;
use aya_ebpf::programs::SockAddrContext;
use shunt_abi::decide::{self, Outbound, Verdict};
use shunt_abi::trace::call;
use shunt_abi::{Address, DatagramState, PodConfig, Reason, dns, flag, udp};

use crate::connect::{Kind, Sent, apply, kind, meshed};
use crate::context::{self, AF_INET, AF_INET6, read};
use crate::maps::{self, DATAGRAMS, PodRules};
use crate::trace::{self, Told};

/// True if the plan has anything to say about UDP: the early way out of pods where it has not.
#[inline(always)]
pub(crate) const fn concerns(pod: &PodConfig) -> bool {
    pod.flags & (flag::DNS | flag::UDP_BLOCK) != 0
}

/// Sending to an IPv4 address.
#[inline(always)]
pub(crate) fn send4(ctx: &SockAddrContext) -> i32 {
    let sent = match of_ours(ctx) {
        Some((cookie, pod)) => {
            let to = context::user4(ctx.sock_addr);
            send(ctx, cookie, pod, to, context::source4(ctx.sock_addr), |source| {
                context::set_source4(ctx.sock_addr, source);
            })
        }
        None => Sent::AsAsked,
    };
    apply(sent, |address, port| context::set_user4(ctx.sock_addr, address, port))
}

/// Sending to an IPv6 address; a v4-mapped one is [`send4`]'s.
#[inline(always)]
pub(crate) fn send6(ctx: &SockAddrContext) -> i32 {
    let sent = match of_ours(ctx) {
        Some((cookie, pod)) => {
            let to = context::user6(ctx.sock_addr);
            send(ctx, cookie, pod, to, context::source6(ctx.sock_addr), |source| {
                context::set_source6(ctx.sock_addr, source);
            })
        }
        None => Sent::AsAsked,
    };
    apply(sent, |address, port| context::set_user6(ctx.sock_addr, address, port))
}

#[inline(always)]
fn of_ours(ctx: &SockAddrContext) -> Option<(u64, &'static PodConfig)> {
    if kind(ctx.sock_addr) != Kind::Datagram {
        return None;
    }
    meshed(ctx).filter(|(_, pod)| concerns(pod))
}

/// A query leaves with the server's marker as its source, unless the app has a source of its own.
#[inline(always)]
fn send(
    ctx: &SockAddrContext,
    cookie: u64,
    pod: &PodConfig,
    destination: Address,
    source: Address,
    leave_from: impl FnOnce(Address),
) -> Sent {
    let rules = PodRules(cookie);
    let sk = context::socket(ctx.sock_addr);
    if pod.flags & flag::DNS != 0
        && context::local_port(sk) == pod.dns_port
        && let Some(answering) = answers_from(&rules, destination, source)
    {
        leave_from(answering);
        return Sent::AsAsked;
    }
    let verdict = decided(ctx, cookie, pod, destination, known(ctx));
    let (sent, told) = sent(ctx, cookie, pod, destination, verdict, |place, address| {
        if source.is_unspecified() {
            leave_from(dns::marker(place, address.is_v4()));
        }
    });
    if trace::on() {
        let port = context::user_port(ctx.sock_addr);
        trace::asked(ctx, call::SEND, cookie, (destination, port), told, &sent);
    }
    sent
}

#[inline(always)]
fn sent(
    ctx: &SockAddrContext,
    cookie: u64,
    pod: &PodConfig,
    destination: Address,
    verdict: Verdict,
    leave_from: impl FnOnce(u32, Address),
) -> (Sent, Told) {
    let told = Told::of(verdict);
    let address = match verdict {
        Verdict::Pass(_) => return (Sent::AsAsked, told),
        Verdict::Refuse(_) => return (Sent::Refused, told),
        // What is sent to a link-local address leaves by the interface it names, whatever the address becomes.
        Verdict::Capture { reason, .. } if destination.is_link_local() || bound_elsewhere(ctx) => {
            return (Sent::Refused, Told::refused(reason));
        }
        Verdict::Capture { address, .. } => address,
    };
    let Some(state) = kept(ctx) else {
        maps::count(cookie, Reason::NoState);
        return (Sent::Refused, Told::refused(Reason::NoState));
    };
    leave_from(asks(state, pod, decide::delivered(destination)), address);
    (Sent::To(address, pod.dns_port), told)
}

/// True for a socket bound to an interface that is not the loopback one: a query for the proxy's loopback address would leave by
/// it, to be dropped by whoever gets it.
#[inline(always)]
fn bound_elsewhere(ctx: &SockAddrContext) -> bool {
    /// Index of `lo` in every namespace.
    const LOOPBACK: u32 = 1;
    let interface = read!(bpf_sock, context::socket(ctx.sock_addr), bound_dev_if);
    interface != 0 && interface != LOOPBACK
}

/// The source of what the proxy's DNS listener sends, where it is not its own to choose. To a marker: the same marker. To an own
/// address, from a listener bound to none: the loopback address, which is what a connected app has for its peer.
#[inline(always)]
fn answers_from(rules: &PodRules, asker: Address, source: Address) -> Option<Address> {
    if dns::marked(asker).is_some() {
        Some(asker)
    } else if source.is_unspecified() && decide::is_own(rules, asker) {
        Some(loopback(asker))
    } else {
        None
    }
}

#[inline(always)]
const fn loopback(like: Address) -> Address {
    if like.is_v4() { Address::LOOPBACK4 } else { Address::LOOPBACK6 }
}

#[inline(always)]
fn decided(
    ctx: &SockAddrContext,
    cookie: u64,
    pod: &PodConfig,
    destination: Address,
    state: Option<&'static mut DatagramState>,
) -> Verdict {
    let connection = Outbound {
        uid: ctx.uid(),
        gid: ctx.gid(),
        destination,
        port: context::user_port(ctx.sock_addr),
        source: Address::UNSPECIFIED,
        before_proxy: maps::before_proxy(cookie, pod),
    };
    let bound = state.is_some_and(|state| state.bits & udp::BOUND != 0);
    let verdict = decide::datagram(pod, &PodRules(cookie), &connection, bound);
    maps::count(cookie, verdict.reason());
    verdict
}

/// Remembers that a server is asked; returns its place. A fifth server takes the place of the first.
#[inline(always)]
fn asks(state: &mut DatagramState, pod: &PodConfig, server: Address) -> u32 {
    state.last = server;
    state.dns_port = u32::from(pod.dns_port);
    let mut place = 0;
    while place < dns::RESOLVERS {
        if state.servers[place as usize].same(server) {
            return place;
        }
        place += 1;
    }
    let place = state.places % dns::RESOLVERS;
    state.places = state.places.wrapping_add(1);
    if let Some(known) = state.servers.get_mut(bounded(place)) {
        *known = server;
    }
    place
}

/// A place as an index. In assembly, because the compiler drops a mask it can prove needless, and the verifier cannot follow it.
#[inline(always)]
fn bounded(place: u32) -> usize {
    let mut index = u64::from(place);
    // SAFETY: arithmetic on a register.
    unsafe { asm!("{0} &= {1}", inout(reg) index, const dns::RESOLVERS - 1, options(nostack, nomem, pure)) };
    index as usize
}

const _: () = assert!(dns::RESOLVERS.is_power_of_two());

/// Connecting. The socket is bound to the address it would leave from first: with the proxy's loopback address as its peer it
/// would get a loopback address for good, and could not be connected elsewhere later.
#[inline(always)]
pub(crate) fn connect(ctx: &SockAddrContext, cookie: u64, pod: &PodConfig, destination: Address) -> Sent {
    let port = context::user_port(ctx.sock_addr);
    let (sent, told) = connected(ctx, cookie, pod, destination, port);
    if trace::on() {
        trace::asked(ctx, call::CONNECT_UDP, cookie, (destination, port), told, &sent);
    }
    sent
}

#[inline(always)]
fn connected(
    ctx: &SockAddrContext,
    cookie: u64,
    pod: &PodConfig,
    destination: Address,
    port: u16,
) -> (Sent, Told) {
    let state = known(ctx);
    let mut again = false;
    let state = match state {
        Some(state) if state.bits & udp::CONNECTED != 0 => {
            again = state.sent_port == u32::from(port) && state.sent_to.same(destination);
            if !again {
                state.bits &= !udp::CONNECTED;
            }
            Some(state)
        }
        other => other,
    };
    if again {
        maps::count(cookie, Reason::AlreadyCaptured);
        return (Sent::AsAsked, Told::passed(Reason::AlreadyCaptured));
    }
    let verdict = decided(ctx, cookie, pod, destination, state);
    let told = Told::of(verdict);
    let (address, sent_port) = match verdict {
        Verdict::Pass(_) => return (Sent::AsAsked, told),
        Verdict::Refuse(_) => (decide::source(pod, &PodRules(cookie), destination), udp::NOBODY),
        Verdict::Capture { reason, .. } if bound_elsewhere(ctx) => {
            return (Sent::Refused, Told::refused(reason));
        }
        Verdict::Capture { address, .. } => {
            let source = decide::source(pod, &PodRules(cookie), destination);
            if !source.is_unspecified() {
                leave_from(ctx, source);
            }
            (address, pod.dns_port)
        }
    };
    let Some(state) = kept(ctx) else {
        maps::count(cookie, Reason::NoState);
        return (Sent::Refused, Told::refused(Reason::NoState));
    };
    let peer = decide::delivered(destination);
    if sent_port != udp::NOBODY {
        asks(state, pod, peer);
    }
    state.peer = peer;
    state.peer_port = u32::from(port);
    state.sent_to = address;
    state.sent_port = u32::from(sent_port);
    state.bits |= udp::CONNECTED;
    (Sent::To(address, sent_port), told)
}

/// `struct sockaddr_in`
#[repr(C)]
struct Internet4 {
    family: u16,
    port: u16,
    address: u32,
    zero: [u8; 8],
}

/// `struct sockaddr_in6`
#[repr(C)]
struct Internet6 {
    family: u16,
    port: u16,
    flow: u32,
    address: Address,
    scope: u32,
}

impl Internet4 {
    const LENGTH: i32 = 16;
}

impl Internet6 {
    const LENGTH: i32 = 28;
}

const _: () = assert!(size_of::<Internet4>() == 16 && size_of::<Internet6>() == 28);

/// Binds the socket to an address, in the socket's own family. Fails for one that is bound: to an address, then it keeps that;
/// to a port only, then its address is a loopback one while it is connected, and until it is dissolved.
#[inline(always)]
fn leave_from(ctx: &SockAddrContext, source: Address) {
    if read!(bpf_sock, context::socket(ctx.sock_addr), family) == AF_INET {
        let mut at = Internet4 { family: AF_INET as u16, port: 0, address: source.0[3], zero: [0; 8] };
        // SAFETY: the context the program was called with, and an address of the length given.
        unsafe { bpf_bind(ctx.sock_addr, (&raw mut at).cast::<sockaddr>(), Internet4::LENGTH) };
    } else {
        let mut at = Internet6 { family: AF_INET6 as u16, port: 0, flow: 0, address: source, scope: 0 };
        // SAFETY: as above.
        unsafe { bpf_bind(ctx.sock_addr, (&raw mut at).cast::<sockaddr>(), Internet6::LENGTH) };
    }
}

/// Receiving on an IPv4 socket.
#[inline(always)]
pub(crate) fn receive4(ctx: &SockAddrContext) {
    if let Some(server) = answered(ctx, || context::user4(ctx.sock_addr)) {
        context::set_user4(ctx.sock_addr, server, dns::PORT);
    }
}

/// Receiving on an IPv6 socket, from IPv4 too.
#[inline(always)]
pub(crate) fn receive6(ctx: &SockAddrContext) {
    if let Some(server) = answered(ctx, || context::user6(ctx.sock_addr)) {
        context::set_user6(ctx.sock_addr, server, dns::PORT);
    }
}

/// The server an answer of the proxy is from. Sockets that never asked are the many: theirs is one look at the socket.
#[inline(always)]
fn answered(ctx: &SockAddrContext, source: impl FnOnce() -> Address) -> Option<Address> {
    let state = known(ctx)?;
    if state.dns_port == 0 || state.dns_port != u32::from(context::user_port(ctx.sock_addr)) {
        return None;
    }
    let source = source();
    match dns::marked(source) {
        Some(place) => {
            state.servers.get(bounded(place)).copied().filter(|server| !server.same(Address::UNSPECIFIED))
        }
        None => source.same(loopback(source)).then_some(state.last),
    }
}

/// The destination a socket was connected to, if `peer` is where it went instead.
#[inline(always)]
pub(crate) fn peer(ctx: &SockAddrContext, peer: Address, port: u32) -> Option<(Address, u16)> {
    let state = known(ctx)?;
    (state.bits & udp::CONNECTED != 0 && state.sent_port == port && state.sent_to.same(peer))
        .then_some((state.peer, state.peer_port as u16))
}

/// Marks a socket bound to a port of its choice: a server's, whose answers are not what `udp: block` is about. In every pod of
/// ours: a repeated ADD may bring `block` when the server has long been running.
#[inline(always)]
pub(crate) fn bind(ctx: &SockAddrContext) {
    if context::user_port(ctx.sock_addr) != 0
        && let Some(state) = kept(ctx)
    {
        state.bits |= udp::BOUND;
    }
}

/// What is kept with the socket, if anything is.
#[inline(always)]
fn known(ctx: &SockAddrContext) -> Option<&'static mut DatagramState> {
    // SAFETY: storage of the context's own socket; freed with the socket, which the context holds.
    unsafe { DATAGRAMS.get_ptr_mut(ctx).as_mut() }
}

/// The same, made of zeros if it is not there. `None`: the kernel has no memory for it.
#[inline(always)]
fn kept(ctx: &SockAddrContext) -> Option<&'static mut DatagramState> {
    // SAFETY: as above.
    unsafe { DATAGRAMS.get_or_insert_ptr_mut(ctx, None).as_mut() }
}
