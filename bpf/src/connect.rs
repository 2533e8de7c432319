//! Outbound connections: sends a captured one to the pod's own address and a virtual port.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_ktime_get_ns};
use aya_ebpf::programs::SockAddrContext;
use shunt_abi::decide::{self, Outbound, Verdict};
use shunt_abi::trace::call;
use shunt_abi::{Address, PodConfig, Reason, SocketState, role, virtual_port};

use crate::context::{self, read};
use crate::datagram;
use crate::maps::{self, PodRules, ROTATION, SOCKETS};
use crate::trace::{self, Told};

const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;
const IPPROTO_MPTCP: u32 = 262;

/// Lets the connection go on, changed or not.
const ALLOW: i32 = 1;
/// EPERM for the caller.
const REFUSE: i32 = 0;

/// What we have to do with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// TCP in any guise.
    Stream,
    /// UDP, but not UDP-Lite and not ICMP's datagrams.
    Datagram,
    /// Not ours.
    Other,
}

/// The kind of a socket.
#[inline(always)]
pub(crate) fn kind(ctx: *const bpf_sock_addr) -> Kind {
    let protocol = read!(bpf_sock_addr, ctx, protocol);
    match read!(bpf_sock_addr, ctx, type_) {
        SOCK_STREAM if protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP => Kind::Stream,
        SOCK_DGRAM if protocol == IPPROTO_UDP => Kind::Datagram,
        _ => Kind::Other,
    }
}

/// IPv4 sockets; UDP of an IPv6 socket too, when it is given an IPv4 address.
#[inline(always)]
pub(crate) fn over4(ctx: &SockAddrContext) -> i32 {
    let sent = routed(ctx, || context::user4(ctx.sock_addr));
    apply(sent, |address, port| context::set_user4(ctx.sock_addr, address, port))
}

/// IPv6 sockets, v4-mapped destinations too.
#[inline(always)]
pub(crate) fn over6(ctx: &SockAddrContext) -> i32 {
    let sent = routed(ctx, || context::user6(ctx.sock_addr));
    apply(sent, |address, port| context::set_user6(ctx.sock_addr, address, port))
}

#[inline(always)]
fn routed(ctx: &SockAddrContext, destination: impl FnOnce() -> Address) -> Sent {
    let kind = kind(ctx.sock_addr);
    if kind == Kind::Other {
        return Sent::AsAsked;
    }
    let Some((cookie, pod)) = meshed(ctx) else {
        return Sent::AsAsked;
    };
    if kind == Kind::Stream {
        connect(ctx, cookie, pod, destination())
    } else if datagram::concerns(pod) {
        datagram::connect(ctx, cookie, pod, destination())
    } else {
        Sent::AsAsked
    }
}

/// The pod of a socket.
#[inline(always)]
pub(crate) fn meshed(ctx: &SockAddrContext) -> Option<(u64, &'static PodConfig)> {
    // SAFETY: the helper takes the context it is called with; the cookie is that of the socket's namespace.
    let cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    Some((cookie, maps::pod(cookie)?))
}

/// What a program makes of an address.
pub(crate) enum Sent {
    /// Leaves it.
    AsAsked,
    /// Gives the caller an error.
    Refused,
    /// Puts another in its place.
    To(Address, u16),
}

/// Does it.
#[inline(always)]
pub(crate) fn apply(sent: Sent, rewrite: impl FnOnce(Address, u16)) -> i32 {
    match sent {
        Sent::AsAsked => ALLOW,
        Sent::Refused => REFUSE,
        Sent::To(address, port) => {
            rewrite(address, port);
            ALLOW
        }
    }
}

#[inline(always)]
fn connect(ctx: &SockAddrContext, cookie: u64, pod: &PodConfig, destination: Address) -> Sent {
    let port = context::user_port(ctx.sock_addr);
    let (sent, told) = decided(ctx, cookie, pod, destination, port);
    if trace::on() {
        trace::asked(ctx, call::CONNECT, cookie, (destination, port), told, &sent);
    }
    sent
}

#[inline(always)]
fn decided(
    ctx: &SockAddrContext,
    cookie: u64,
    pod: &PodConfig,
    destination: Address,
    port: u16,
) -> (Sent, Told) {
    let sk = context::socket(ctx.sock_addr);
    // SAFETY: storage of the context's own socket.
    let known = unsafe { SOCKETS.get_ptr_mut(ctx) };
    if !known.is_null() && forget(known, destination, port) {
        maps::count(cookie, Reason::AlreadyCaptured);
        return (Sent::AsAsked, Told::passed(Reason::AlreadyCaptured));
    }
    let source_port = context::local_port(sk);
    let connection = Outbound {
        uid: ctx.uid(),
        gid: ctx.gid(),
        destination,
        port,
        source: context::local_address(sk),
        before_proxy: maps::before_proxy(cookie, pod),
    };
    let verdict = decide::outbound(pod, &PodRules(cookie), &connection);
    maps::count(cookie, verdict.reason());
    let told = Told::of(verdict);
    let (slot, address) = match verdict {
        Verdict::Pass(_) => return (Sent::AsAsked, told),
        Verdict::Refuse(_) => return (Sent::To(decide::nowhere(destination), port), told),
        Verdict::Capture { slot, address, .. } => (slot, address),
    };
    let rotation = if source_port == 0 { rotation() } else { 0 };
    let virtual_port = virtual_port::pick(destination, port, rotation, source_port);
    let mut state = SocketState {
        // SAFETY: takes no argument.
        since: unsafe { bpf_ktime_get_ns() },
        // DNS to 0.0.0.0 or `::` is to this host, and the app and the proxy are told so.
        destination: decide::delivered(destination),
        sent_to: address,
        port: u32::from(port),
        virtual_port: u32::from(virtual_port),
        slot,
        role: role::CLIENT,
    };
    // SAFETY: as above.
    let stored = unsafe { SOCKETS.get_or_insert_ptr_mut(ctx, Some(&mut state)) };
    if stored.is_null() {
        maps::count(cookie, Reason::NoState);
        return (Sent::Refused, Told::refused(Reason::NoState));
    }
    // SAFETY: not null; the value is freed with the socket, which the context holds. A value that was there is overwritten
    // but for the mark that the proxy bound this socket.
    unsafe {
        state.role |= (*stored).role & role::PROXY;
        *stored = state;
    }
    (Sent::To(address, virtual_port), told)
}

/// Drops what an earlier connect of this socket left. True when that was the same connect: a second attachment of our programs
/// (one on `kubepods`, one above it, for the moment it takes to move) must not capture what the first has captured.
#[inline(always)]
fn forget(known: *mut SocketState, destination: Address, port: u16) -> bool {
    // SAFETY: storage the helper returned, checked for null by the caller.
    unsafe {
        if (*known).role & role::CLIENT == 0 {
            return false;
        }
        if (*known).virtual_port == u32::from(port) && (*known).sent_to.same(destination) {
            return true;
        }
        (*known).role &= !role::CLIENT;
    }
    false
}

/// A number that is different for each connection of this node, near enough.
#[inline(always)]
fn rotation() -> u32 {
    let Some(counter) = ROTATION.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: this CPU's own copy of the only element; a lost increment would only repeat a port.
    let count = unsafe {
        *counter = (*counter).wrapping_add(1);
        *counter
    };
    // SAFETY: takes no argument.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
    virtual_port::rotation(count, cpu)
}
