//! Reading and writing context fields.
//!
//! Left to itself the compiler merges neighbouring 32-bit fields into one 64-bit access, or chooses between two fields by pointer
//! arithmetic; the verifier allows neither on a context. Hence assembly for reads and volatile writes.

use aya_ebpf::bindings::{bpf_sock, bpf_sock_addr};
use shunt_abi::Address;

/// `AF_INET`
pub(crate) const AF_INET: u32 = 2;
/// `AF_INET6`
pub(crate) const AF_INET6: u32 = 10;

/// Reads one 32-bit field, or one word of an array field, as a `u32`.
///
/// In assembly, because that is the only form the compiler leaves alone: a volatile read still lets it turn "this field or that
/// one" into one read at a chosen address.
macro_rules! read {
    ($type:ty, $pointer:expr, $field:ident $([$index:literal])?) => {{
        let pointer: *const $type = $pointer;
        let value: u64;
        // SAFETY: a 4-byte read at a field's offset in a context the kernel handed us; the verifier checks both.
        unsafe {
            ::core::arch::asm!(
                "{0} = *(u32 *)({1} + {2})",
                lateout(reg) value,
                in(reg) pointer,
                const ::core::mem::offset_of!($type, $field) $(+ 4 * $index)?,
                options(nostack, readonly),
            );
        };
        value as u32
    }};
}

/// Writes one field.
macro_rules! write {
    ($pointer:expr, $field:ident $([$index:literal])?, $value:expr) => {
        // SAFETY: a writable field of a context the kernel handed us; the verifier checks offset and size.
        unsafe { ::core::ptr::write_volatile(&raw mut (*$pointer).$field $([$index])?, $value) }
    };
}

/// Reads an IPv6 address field as an address.
macro_rules! read6 {
    ($type:ty, $pointer:expr, $field:ident) => {
        ::shunt_abi::Address([
            $crate::context::read!($type, $pointer, $field[0]),
            $crate::context::read!($type, $pointer, $field[1]),
            $crate::context::read!($type, $pointer, $field[2]),
            $crate::context::read!($type, $pointer, $field[3]),
        ])
    };
}

pub(crate) use {read, read6, write};

/// The address a `sock_addr` program was called with, IPv4.
#[inline(always)]
pub(crate) fn user4(ctx: *const bpf_sock_addr) -> Address {
    Address::v4(read!(bpf_sock_addr, ctx, user_ip4))
}

/// The same, IPv6.
#[inline(always)]
pub(crate) fn user6(ctx: *const bpf_sock_addr) -> Address {
    read6!(bpf_sock_addr, ctx, user_ip6)
}

/// Its port, host order.
#[inline(always)]
pub(crate) fn user_port(ctx: *const bpf_sock_addr) -> u16 {
    u16::from_be(read!(bpf_sock_addr, ctx, user_port) as u16)
}

/// Replaces address and port, IPv4.
#[inline(always)]
pub(crate) fn set_user4(ctx: *mut bpf_sock_addr, address: Address, port: u16) {
    write!(ctx, user_ip4, address.0[3]);
    write!(ctx, user_port, u32::from(port.to_be()));
}

/// Replaces address and port, IPv6; an IPv4 address is written in its mapped form.
#[inline(always)]
pub(crate) fn set_user6(ctx: *mut bpf_sock_addr, address: Address, port: u16) {
    write!(ctx, user_ip6[0], address.0[0]);
    write!(ctx, user_ip6[1], address.0[1]);
    write!(ctx, user_ip6[2], address.0[2]);
    write!(ctx, user_ip6[3], address.0[3]);
    write!(ctx, user_port, u32::from(port.to_be()));
}

/// The source address UDP to an address is sent from, IPv4; 0.0.0.0 lets the route decide.
#[inline(always)]
pub(crate) fn source4(ctx: *const bpf_sock_addr) -> Address {
    Address::v4(read!(bpf_sock_addr, ctx, msg_src_ip4))
}

/// The same, IPv6.
#[inline(always)]
pub(crate) fn source6(ctx: *const bpf_sock_addr) -> Address {
    read6!(bpf_sock_addr, ctx, msg_src_ip6)
}

/// Replaces it, IPv4.
#[inline(always)]
pub(crate) fn set_source4(ctx: *mut bpf_sock_addr, address: Address) {
    write!(ctx, msg_src_ip4, address.0[3]);
}

/// The same, IPv6.
#[inline(always)]
pub(crate) fn set_source6(ctx: *mut bpf_sock_addr, address: Address) {
    write!(ctx, msg_src_ip6[0], address.0[0]);
    write!(ctx, msg_src_ip6[1], address.0[1]);
    write!(ctx, msg_src_ip6[2], address.0[2]);
    write!(ctx, msg_src_ip6[3], address.0[3]);
}

/// The socket of a `sock_addr` program.
#[inline(always)]
pub(crate) fn socket(ctx: *const bpf_sock_addr) -> *const bpf_sock {
    // SAFETY: `sk` is a field of the context; the verifier knows it as a socket.
    unsafe { (*ctx).__bindgen_anon_1.sk }
}

/// The port it is bound to, of its own or the kernel's choice, host order.
#[inline(always)]
pub(crate) fn local_port(sk: *const bpf_sock) -> u16 {
    read!(bpf_sock, sk, src_port) as u16
}

/// Remote address of a socket.
#[inline(always)]
pub(crate) fn remote_address(sk: *const bpf_sock) -> Address {
    if read!(bpf_sock, sk, family) == AF_INET {
        Address::v4(read!(bpf_sock, sk, dst_ip4))
    } else {
        read6!(bpf_sock, sk, dst_ip6)
    }
}

/// Local address of a socket.
#[inline(always)]
pub(crate) fn local_address(sk: *const bpf_sock) -> Address {
    if read!(bpf_sock, sk, family) == AF_INET {
        Address::v4(read!(bpf_sock, sk, src_ip4))
    } else {
        read6!(bpf_sock, sk, src_ip6)
    }
}
