//! Binding: marks sockets of the proxy and servers of UDP, and lets an app bind a port that proxied connections hold.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::bpf_setsockopt;
use aya_ebpf::programs::SockAddrContext;
use shunt_abi::{Address, SocketState, decide, role};

use crate::connect::{Kind, kind, meshed};
use crate::context;
use crate::datagram;
use crate::maps::{self, PodRules, SOCKETS};

const SOL_SOCKET: i32 = 1;
const SO_REUSEADDR: i32 = 2;

/// Sets `SO_REUSEADDR` on the socket of `ctx`. A proxied inbound connection holds the app's port in the bind table, and a bind
/// then needs the option on both ends (`sockops` sets it on the proxy's listener, whose accepted sockets inherit it). Two
/// listeners on one port still conflict. Kernels before 6.1 refuse; then the app gets EADDRINUSE as with TPROXY.
#[inline(always)]
pub(crate) fn reuse_address(ctx: *mut core::ffi::c_void) {
    let mut one = 1_i32;
    // SAFETY: the context the program was called with, and a value of the length given.
    unsafe { bpf_setsockopt(ctx, SOL_SOCKET, SO_REUSEADDR, (&raw mut one).cast(), 4) };
}

/// Both families.
#[inline(always)]
pub(crate) fn bind(ctx: &SockAddrContext) {
    let kind = kind(ctx.sock_addr);
    if kind == Kind::Other {
        return;
    }
    let Some((cookie, pod)) = meshed(ctx) else {
        return;
    };
    if kind == Kind::Datagram {
        datagram::bind(ctx);
    } else if decide::exempt(pod, &PodRules(cookie), ctx.uid(), ctx.gid()) {
        mark(ctx);
        if context::user_port(ctx.sock_addr) == pod.outbound_port {
            // Not only once it listens: an app that has taken the proxy's port would else have all connections pass for good.
            maps::proxy_is_there(cookie);
        }
    } else if context::user_port(ctx.sock_addr) != 0 {
        reuse_address(ctx.as_ptr());
    }
}

/// Marks a socket as bound by the proxy. LISTEN has no task to ask for its uid, and a port number alone would let the app take
/// the proxy's place on an address the proxy did not bind.
#[inline(always)]
fn mark(ctx: &SockAddrContext) {
    let mut state = SocketState {
        since: 0,
        destination: Address::UNSPECIFIED,
        sent_to: Address::UNSPECIFIED,
        port: 0,
        virtual_port: 0,
        slot: 0,
        role: role::PROXY,
    };
    // SAFETY: storage of the context's own socket.
    let stored = unsafe { SOCKETS.get_or_insert_ptr_mut(ctx, Some(&mut state)) };
    if !stored.is_null() {
        // SAFETY: not null; freed with the socket, which the context holds.
        unsafe { (*stored).role |= role::PROXY };
    }
}
