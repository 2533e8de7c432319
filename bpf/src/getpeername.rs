//! What a captured socket's owner sees as its peer: the destination it asked for.

use aya_ebpf::programs::SockAddrContext;
use shunt_abi::{Address, SocketState, role};

use crate::context;
use crate::maps::SOCKETS;

/// IPv4 sockets.
#[inline(always)]
pub(crate) fn peer4(ctx: &SockAddrContext) {
    if let Some(state) = captured(ctx, context::user4(ctx.sock_addr)) {
        context::set_user4(ctx.sock_addr, state.destination, state.port as u16);
    }
}

/// IPv6 sockets, v4-mapped peers too.
#[inline(always)]
pub(crate) fn peer6(ctx: &SockAddrContext) {
    if let Some(state) = captured(ctx, context::user6(ctx.sock_addr)) {
        context::set_user6(ctx.sock_addr, state.destination, state.port as u16);
    }
}

/// The state of a captured connection, if `peer` is what it was really sent to: a socket that was connected elsewhere since
/// keeps its real peer.
#[inline(always)]
fn captured(ctx: &SockAddrContext, peer: Address) -> Option<&'static SocketState> {
    // SAFETY: storage of the context's own socket; freed with the socket, which the context holds.
    let state = unsafe { SOCKETS.get_ptr_mut(ctx).as_ref() }?;
    let port = u32::from(context::user_port(ctx.sock_addr));
    (state.role & role::CLIENT != 0 && state.virtual_port == port && state.sent_to.same(peer))
        .then_some(state)
}
