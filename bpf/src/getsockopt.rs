//! `SO_ORIGINAL_DST` for the proxy.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{bpf_sock, bpf_sockopt};
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_sk_storage_get};
use aya_ebpf::programs::SockoptContext;
use shunt_abi::{Address, SocketState, role, virtual_port};

use crate::context::{AF_INET, AF_INET6, local_address, read, remote_address, write};
use crate::maps::{self, SOCKETS};

/// `SO_ORIGINAL_DST` and `IP6T_SO_ORIGINAL_DST`.
const ORIGINAL_DST: u32 = 80;
const SOL_IP: u32 = 0;
const SOL_IPV6: u32 = 41;
const TCP_ESTABLISHED: u32 = 1;

/// The kernel hands programs no more of a result than this; what is longer it takes back from them only if they say "as it was".
const PAGE: u32 = 4096;

/// Answers the option, and leaves every other call's result as it is. `optlen` 0 would say that to the kernel, but it also wipes
/// what another program on the way (another version of ours, on a parent cgroup) has answered: only where it must be said.
#[inline(always)]
pub(crate) fn option(ctx: &SockoptContext) {
    if !answer(ctx) && read!(bpf_sockopt, ctx.sockopt, optlen) > PAGE {
        write!(ctx.sockopt, optlen, 0);
    }
}

#[inline(always)]
fn answer(ctx: &SockoptContext) -> bool {
    if read!(bpf_sockopt, ctx.sockopt, optname) != ORIGINAL_DST {
        return false;
    }
    let level = read!(bpf_sockopt, ctx.sockopt, level);
    if level != SOL_IP && level != SOL_IPV6 {
        return false;
    }
    // SAFETY: `sk` is a field of the context; the verifier knows it as a socket.
    let sk = unsafe { (*ctx.sockopt).__bindgen_anon_1.sk };
    if sk.is_null() {
        return false;
    }
    let Some((destination, port)) = original(ctx, sk) else {
        return false;
    };
    match (level, destination.is_v4()) {
        (SOL_IP, true) => write4(ctx.sockopt, destination, port),
        (SOL_IPV6, false) if read!(bpf_sock, sk, family) == AF_INET6 => {
            write6(ctx.sockopt, destination, port)
        }
        _ => false,
    }
}

/// Original destination and port of a connection: remembered for one that came by a virtual port; for one that came from
/// outside its local address, which `sk_lookup` leaves as it was.
#[inline(always)]
fn original(ctx: &SockoptContext, sk: *mut bpf_sock) -> Option<(Address, u16)> {
    // SAFETY: the context's own socket; null or a value that lives as long as the socket.
    let state = unsafe {
        bpf_sk_storage_get(
            core::ptr::from_ref(&SOCKETS).cast_mut().cast(),
            sk.cast(),
            core::ptr::null_mut(),
            0,
        )
        .cast::<SocketState>()
        .as_ref()
    };
    if let Some(state) = state
        && state.role & (role::CLIENT | role::ACCEPTED) != 0
    {
        return Some((state.destination, state.port as u16));
    }
    // SAFETY: the helper takes the context it is called with.
    let pod = maps::pod(unsafe { bpf_get_netns_cookie(ctx.as_ptr()) })?;
    let port = read!(bpf_sock, sk, src_port);
    if read!(bpf_sock, sk, state) != TCP_ESTABLISHED
        || port == u32::from(pod.outbound_port)
        || port == u32::from(pod.inbound_port)
        // Came by a virtual port and what was remembered of it is lost: better no answer than that port.
        || virtual_port::contains(port) && local_address(sk).same(remote_address(sk))
    {
        return None;
    }
    Some((local_address(sk), port as u16))
}

/// Writes a `sockaddr_in`, 16 bytes, if the caller has room for it.
#[inline(always)]
fn write4(ctx: *mut bpf_sockopt, address: Address, port: u16) -> bool {
    let words = [AF_INET | u32::from(port.to_be()) << 16, address.0[3], 0, 0];
    put(ctx, words)
}

/// Writes a `sockaddr_in6`, 28 bytes, if the caller has room for it.
#[inline(always)]
fn write6(ctx: *mut bpf_sockopt, address: Address, port: u16) -> bool {
    let [a, b, c, d] = address.0;
    put(ctx, [AF_INET6 | u32::from(port.to_be()) << 16, 0, a, b, c, d, 0])
}

#[inline(always)]
fn put<const N: usize>(ctx: *mut bpf_sockopt, words: [u32; N]) -> bool {
    // SAFETY: fields of the context; the verifier knows them as a packet-like range.
    let (value, end) = unsafe { ((*ctx).__bindgen_anon_2.optval, (*ctx).__bindgen_anon_3.optval_end) };
    let value = value.cast::<u32>();
    if value.wrapping_add(N).cast() > end {
        return false;
    }
    let mut i = 0;
    while i < N {
        // SAFETY: inside the range just checked.
        unsafe { *value.add(i) = words[i] };
        i += 1;
    }
    write!(ctx, retval, 0);
    write!(ctx, optlen, (size_of::<[u32; N]>() as u32).cast_signed());
    true
}
