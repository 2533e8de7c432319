//! What a captured socket's owner sees as its peer: the destination it asked for.

use aya_ebpf::programs::SockAddrContext;
use shunt_abi::{Address, SocketState, role};

use crate::connect::{Kind, kind};
use crate::context;
use crate::datagram;
use crate::maps::SOCKETS;

/// IPv4 sockets.
#[inline(always)]
pub(crate) fn peer4(ctx: &SockAddrContext) {
    if let Some((address, port)) = asked(ctx, context::user4(ctx.sock_addr)) {
        context::set_user4(ctx.sock_addr, address, port);
    }
}

/// IPv6 sockets, v4-mapped peers too.
#[inline(always)]
pub(crate) fn peer6(ctx: &SockAddrContext) {
    if let Some((address, port)) = asked(ctx, context::user6(ctx.sock_addr)) {
        context::set_user6(ctx.sock_addr, address, port);
    }
}

/// The destination that was asked for, if `peer` is what the socket was connected to instead: one that was connected elsewhere
/// since keeps its real peer.
#[inline(always)]
fn asked(ctx: &SockAddrContext, peer: Address) -> Option<(Address, u16)> {
    let port = u32::from(context::user_port(ctx.sock_addr));
    match kind(ctx.sock_addr) {
        Kind::Stream => captured(ctx, peer, port),
        Kind::Datagram => datagram::peer(ctx, peer, port),
        Kind::Other => None,
    }
}

#[inline(always)]
fn captured(ctx: &SockAddrContext, peer: Address, port: u32) -> Option<(Address, u16)> {
    // SAFETY: storage of the context's own socket; freed with the socket, which the context holds.
    let state: &SocketState = unsafe { SOCKETS.get_ptr_mut(ctx).as_ref() }?;
    (state.role & role::CLIENT != 0 && state.virtual_port == port && state.sent_to.same(peer))
        .then_some((state.destination, state.port as u16))
}
