//! Shunt's kernel programs.
//!
//! One ELF object, one set of maps. Each entry point below is thin; the bodies are in the module named after the hook, the
//! decision is in `shunt_abi::decide`. For the host this is an empty program, so that the whole workspace can be checked,
//! linted and tested without a BPF toolchain; on the host only the decision and the layouts have something to test.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]
#![cfg_attr(
    target_arch = "bpf",
    expect(unsafe_code, reason = "kernel contexts and helpers are raw pointers, checked by the verifier"),
    expect(clippy::inline_always, reason = "the stack is 512 bytes and a call costs more than it saves"),
    expect(clippy::cast_possible_truncation, reason = "context fields are 32 bits wide whatever they hold"),
    expect(clippy::indexing_slicing, reason = "checked by the verifier, and there is no panic to speak of"),
    expect(clippy::needless_pass_by_value, reason = "what the program macros call"),
    expect(
        clippy::needless_borrows_for_generic_args,
        reason = "a key is handed to a helper by address: no copy"
    )
)]

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
mod bind;
#[cfg(target_arch = "bpf")]
mod connect;
#[cfg(target_arch = "bpf")]
mod context;
#[cfg(target_arch = "bpf")]
mod datagram;
#[cfg(target_arch = "bpf")]
mod getpeername;
#[cfg(target_arch = "bpf")]
mod getsockopt;
#[cfg(target_arch = "bpf")]
mod lookup;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod sockops;
#[cfg(target_arch = "bpf")]
mod trace;

#[cfg(target_arch = "bpf")]
mod entry {
    use aya_ebpf::macros::{
        cgroup_sock_addr, cgroup_sockopt, sk_lookup as sk_lookup_program, sock_ops as sock_ops_program,
    };
    use aya_ebpf::programs::{SkLookupContext, SockAddrContext, SockOpsContext, SockoptContext};

    use crate::{bind, connect, datagram, getpeername, getsockopt, lookup as socket_lookup, sockops};

    /// Outbound IPv4.
    #[cgroup_sock_addr(connect4)]
    pub(crate) fn connect4(ctx: SockAddrContext) -> i32 {
        connect::over4(&ctx)
    }

    /// Outbound IPv6 and v4-mapped.
    #[cgroup_sock_addr(connect6)]
    pub(crate) fn connect6(ctx: SockAddrContext) -> i32 {
        connect::over6(&ctx)
    }

    /// UDP to an address, IPv4 and v4-mapped.
    #[cgroup_sock_addr(sendmsg4)]
    pub(crate) fn sendmsg4(ctx: SockAddrContext) -> i32 {
        datagram::send4(&ctx)
    }

    /// UDP to an address, IPv6.
    #[cgroup_sock_addr(sendmsg6)]
    pub(crate) fn sendmsg6(ctx: SockAddrContext) -> i32 {
        datagram::send6(&ctx)
    }

    /// Whom UDP comes from, for an IPv4 socket.
    #[cgroup_sock_addr(recvmsg4)]
    pub(crate) fn recvmsg4(ctx: SockAddrContext) -> i32 {
        datagram::receive4(&ctx);
        1
    }

    /// Whom UDP comes from, for an IPv6 socket.
    #[cgroup_sock_addr(recvmsg6)]
    pub(crate) fn recvmsg6(ctx: SockAddrContext) -> i32 {
        datagram::receive6(&ctx);
        1
    }

    /// The app's view of its peer, IPv4.
    #[cgroup_sock_addr(getpeername4)]
    pub(crate) fn getpeername4(ctx: SockAddrContext) -> i32 {
        getpeername::peer4(&ctx);
        1
    }

    /// The app's view of its peer, IPv6 and v4-mapped.
    #[cgroup_sock_addr(getpeername6)]
    pub(crate) fn getpeername6(ctx: SockAddrContext) -> i32 {
        getpeername::peer6(&ctx);
        1
    }

    /// Marks the proxy's sockets, lets the app's ports be reused, IPv4.
    #[cgroup_sock_addr(bind4)]
    pub(crate) fn bind4(ctx: SockAddrContext) -> i32 {
        bind::bind(&ctx);
        1
    }

    /// The same for IPv6.
    #[cgroup_sock_addr(bind6)]
    pub(crate) fn bind6(ctx: SockAddrContext) -> i32 {
        bind::bind(&ctx);
        1
    }

    /// Listener registration and hand-over of the original destination.
    #[sock_ops_program]
    pub(crate) fn sock_ops(ctx: SockOpsContext) -> u32 {
        sockops::event(&ctx);
        1
    }

    /// `SO_ORIGINAL_DST`.
    #[cgroup_sockopt(getsockopt)]
    pub(crate) fn getsockopt(ctx: SockoptContext) -> i32 {
        getsockopt::option(&ctx);
        1
    }

    /// Inbound and virtual ports: whose.
    #[sk_lookup_program]
    pub(crate) fn lookup(ctx: SkLookupContext) -> u32 {
        socket_lookup::arrive(&ctx)
    }

    /// The same: where to.
    #[sk_lookup_program]
    pub(crate) fn select(ctx: SkLookupContext) -> u32 {
        socket_lookup::select(&ctx)
    }

    /// What listeners are told of those.
    #[sk_lookup_program]
    pub(crate) fn tell(ctx: SkLookupContext) -> u32 {
        socket_lookup::tell(&ctx)
    }

    /// The kernel lends GPL-only helpers to this licence.
    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual BSD/GPL\0";

    #[panic_handler]
    fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }
}
