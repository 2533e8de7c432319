//! Socket events: the proxy's listeners, and the original destination on its way from the app's socket to the proxy's.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    BPF_ANY, BPF_NOEXIST, BPF_SK_STORAGE_GET_F_CREATE, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB,
    BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB,
    BPF_SOCK_OPS_TCP_LISTEN_CB, BPF_TCP_CLOSE, BPF_TCP_SYN_SENT, bpf_sock_ops,
};
use aya_ebpf::helpers::generated::{
    bpf_get_netns_cookie, bpf_get_prandom_u32, bpf_sk_storage_get, bpf_sock_hash_update,
};
use aya_ebpf::programs::SockOpsContext;
use shunt_abi::{
    Address, LISTENERS_PER_SLOT, ListenerKey, Pair, PairKey, Reason, SocketState, flag, role, slot,
    virtual_port,
};

use crate::bind::reuse_address;
use crate::context::{AF_INET, read, read6};
use crate::maps::{self, LISTENERS, PAIRS, SOCKETS};

/// Called about nine times for each loopback connection, so the switch comes first.
#[inline(always)]
pub(crate) fn event(ctx: &SockOpsContext) {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => connecting(ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => accepted(ctx),
        BPF_SOCK_OPS_TCP_LISTEN_CB => listening(ctx),
        BPF_SOCK_OPS_STATE_CB => changed(ctx),
        _ => {}
    }
}

#[inline(always)]
fn cookie(ctx: &SockOpsContext) -> u64 {
    // SAFETY: the helper takes the context it is called with.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

/// The state kept with the event's socket.
#[inline(always)]
fn state(ctx: &SockOpsContext, create: Option<&mut SocketState>) -> Option<&'static mut SocketState> {
    // SAFETY: `sk` is a field of the context, null or a socket.
    let sk = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    if sk.is_null() {
        return None;
    }
    let (value, flags) = match create {
        Some(value) => (core::ptr::from_mut(value), u64::from(BPF_SK_STORAGE_GET_F_CREATE)),
        None => (core::ptr::null_mut(), 0),
    };
    // SAFETY: a socket and a value of the map's type; what comes back is null or lives as long as the socket.
    unsafe {
        let found = bpf_sk_storage_get(
            core::ptr::from_ref(&SOCKETS).cast_mut().cast(),
            sk.cast(),
            value.cast(),
            flags,
        );
        found.cast::<SocketState>().as_mut()
    }
}

#[inline(always)]
fn local(ops: *const bpf_sock_ops) -> Address {
    if read!(bpf_sock_ops, ops, family) == AF_INET {
        Address::v4(read!(bpf_sock_ops, ops, local_ip4))
    } else {
        read6!(bpf_sock_ops, ops, local_ip6)
    }
}

#[inline(always)]
fn remote(ops: *const bpf_sock_ops) -> Address {
    if read!(bpf_sock_ops, ops, family) == AF_INET {
        Address::v4(read!(bpf_sock_ops, ops, remote_ip4))
    } else {
        read6!(bpf_sock_ops, ops, remote_ip6)
    }
}

/// Before the SYN, with the source address and port chosen: leaves the original destination where `sk_lookup` and the accepted
/// socket find it. If it cannot be left the connection finds no pair and is refused: there is no listener on a virtual port.
#[inline(always)]
fn connecting(ctx: &SockOpsContext) {
    let Some(state) = state(ctx, None) else {
        return;
    };
    if state.role & role::CLIENT == 0 {
        return;
    }
    let pod = cookie(ctx);
    let client = local(ctx.ops);
    let client_port = read!(bpf_sock_ops, ctx.ops, local_port);
    if client_port == state.virtual_port && client.same(state.sent_to) {
        maps::count(pod, Reason::SelfConnect);
    }
    let key = PairKey { pod, client, client_port, virtual_port: state.virtual_port };
    let pair = Pair { destination: state.destination, port: state.port, slot: state.slot };
    if PAIRS.insert(&key, &pair, 0).is_err() {
        maps::count(pod, Reason::NoState);
        return;
    }
    let flags = (ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG).cast_signed();
    // A failure only leaves a stale pair to the LRU.
    let _unwatched = ctx.set_cb_flags(flags);
}

/// A captured connection that closes without having been established takes its pair along.
#[inline(always)]
fn changed(ctx: &SockOpsContext) {
    if ctx.arg(0) != BPF_TCP_SYN_SENT || ctx.arg(1) != BPF_TCP_CLOSE {
        return;
    }
    let Some(state) = state(ctx, None) else {
        return;
    };
    let key = PairKey {
        pod: cookie(ctx),
        client: local(ctx.ops),
        client_port: read!(bpf_sock_ops, ctx.ops, local_port),
        virtual_port: state.virtual_port,
    };
    // Not there is as good.
    let _gone = PAIRS.remove(&key);
}

/// The proxy's end is about to be accepted: moves the original destination into its socket.
#[inline(always)]
fn accepted(ctx: &SockOpsContext) {
    let virtual_port = read!(bpf_sock_ops, ctx.ops, local_port);
    if !virtual_port::contains(virtual_port) {
        return;
    }
    let pod = cookie(ctx);
    let client_port = u32::from_be(read!(bpf_sock_ops, ctx.ops, remote_port));
    let key = PairKey { pod, client: remote(ctx.ops), client_port, virtual_port };
    // SAFETY: an LRU entry may be reused while it is read; the key is that of this one connection, and nobody else writes it.
    let Some(pair) = (unsafe { PAIRS.get(&key) }) else {
        return;
    };
    let mut new = SocketState {
        since: 0,
        destination: pair.destination,
        sent_to: Address::UNSPECIFIED,
        port: pair.port,
        virtual_port,
        slot: pair.slot,
        role: role::ACCEPTED,
    };
    let reason = if state(ctx, Some(&mut new)).is_some() { Reason::Accepted } else { Reason::NoState };
    maps::count(pod, reason);
    // Not there is as good.
    let _gone = PAIRS.remove(&key);
}

/// A socket begins to listen: if it is the proxy's, on one of its ports, it is where captured connections go. Before the proxy has
/// listened, who else does so on its outbound port gets what leaves.
#[inline(always)]
fn listening(ctx: &SockOpsContext) {
    let pod = cookie(ctx);
    let Some(config) = maps::pod(pod) else {
        return;
    };
    let port = read!(bpf_sock_ops, ctx.ops, local_port);
    let slot = if port == u32::from(config.outbound_port) {
        slot::OUTBOUND
    } else if port == u32::from(config.inbound_port) {
        slot::INBOUND
    } else if config.flags & flag::DNS != 0 && port == u32::from(config.dns_port) {
        slot::DNS
    } else {
        return;
    };
    let is_ipv6 = u32::from(read!(bpf_sock_ops, ctx.ops, family) != AF_INET);
    match state(ctx, None) {
        Some(state) if state.role & role::PROXY != 0 => {}
        _ => {
            // Linkerd's validator is nobody, listens before the proxy does, and has to meet itself. The newest counts.
            if slot == slot::OUTBOUND && !maps::proxy_was_there(pod) {
                register(ctx, ListenerKey { pod, slot, index: LISTENERS_PER_SLOT + is_ipv6 }, BPF_ANY);
            }
            return;
        }
    }
    if slot == slot::OUTBOUND {
        // Before the listener is there to be found. Again, as in `bind`: an ADD may have come in between.
        maps::proxy_is_there(pod);
    }
    reuse_address(ctx.as_ptr());
    // Half of the places for each family: many workers of one must not leave the other without.
    let half = LISTENERS_PER_SLOT / 2;
    let first = half * is_ipv6;
    let mut index = 0;
    while index < half {
        if register(ctx, ListenerKey { pod, slot, index: first + index }, BPF_NOEXIST) {
            maps::count(pod, Reason::ListenerAdded);
            return;
        }
        index += 1;
    }
    // All taken: by workers of the same group, or by a process that this one takes over from. The oldest stays, in case it is
    // this one that goes first; another makes room, in case it is not.
    // SAFETY: takes no argument.
    let any = unsafe { bpf_get_prandom_u32() };
    if register(ctx, ListenerKey { pod, slot, index: first + 1 + any % (half - 1) }, BPF_ANY) {
        maps::count(pod, Reason::ListenerAdded);
    }
}

/// Puts the event's socket into the map of listeners.
#[inline(always)]
fn register(ctx: &SockOpsContext, mut key: ListenerKey, flags: u32) -> bool {
    // SAFETY: the context and map of this program, and a key of the map's type.
    let result = unsafe {
        bpf_sock_hash_update(
            ctx.ops,
            core::ptr::from_ref(&LISTENERS).cast_mut().cast(),
            (&raw mut key).cast(),
            u64::from(flags),
        )
    };
    result == 0
}
