//! Real connections inside the scratch namespace, by one process that is app, stranger and proxy in turn.
//!
//! Only the real uid changes, which is what the programs look at: a change of the effective one would make the kernel forget that
//! this process is to be killed with its parent.

use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::{ReuseAddr, SocketError};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrLike as _, SockaddrStorage, accept4,
    bind, connect, getpeername, getsockopt, listen, setsockopt, socket,
};
use nix::unistd::{Uid, setresuid};

use super::report::Failure;
use crate::fault::{Fault, Outcome, Tried as _};

/// Whom the programs are told to take for the proxy, and somebody else.
pub(super) const PROXY: u32 = 1337;
const APP: u32 = 1000;
/// Where the proxy listens.
pub(super) const OUTBOUND_PORT: u16 = 15001;
pub(super) const INBOUND_PORT: u16 = 15006;
/// Where the app wants to go: addresses of documentation again, that nobody has.
const ELSEWHERE4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const ELSEWHERE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 7);
const SERVICE_PORT: u16 = 80;
const APP_PORT: u16 = 8080;

/// What every connection needs to know.
#[derive(Debug)]
pub(super) struct Traffic {
    /// When the time is up.
    pub(super) deadline: Instant,
}

/// An app connects to an address that nobody has: the proxy must get the connection and learn the address, and the app must see
/// that address as its peer.
pub(super) fn outbound(traffic: &Traffic, family: IpAddr) -> Result<(), Failure> {
    let elsewhere: IpAddr = if family.is_ipv4() { ELSEWHERE4.into() } else { ELSEWHERE6.into() };
    let destination = SocketAddr::new(elsewhere, SERVICE_PORT);
    captured(traffic, None, destination, OUTBOUND_PORT)
}

/// A stranger connects to a port of the app: the proxy must get the connection and learn the port.
pub(super) fn inbound(traffic: &Traffic, stranger: IpAddr, own: IpAddr) -> Result<(), Failure> {
    captured(traffic, Some(SocketAddr::new(stranger, 0)), SocketAddr::new(own, APP_PORT), INBOUND_PORT)
}

fn captured(
    traffic: &Traffic,
    from: Option<SocketAddr>,
    to: SocketAddr,
    proxy_port: u16,
) -> Result<(), Failure> {
    let loopback: IpAddr = if to.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    let at = SocketAddr::new(loopback, proxy_port);
    let listener = as_user(PROXY, || listener(at))?;
    let client = as_user(APP, || client(from, to))?;
    wait(traffic, &client, PollFlags::POLLOUT, || format!("connect to {to} as an app"))?;
    let error = getsockopt(&client, SocketError).tried(|| "ask how connecting went")?;
    if error != 0 {
        return Err(Fault::new(format!("connect to {to} as an app"), Errno::from_raw(error)).into());
    }
    wait(traffic, &listener, PollFlags::POLLIN, || {
        format!("wait for the connection to {to} as the proxy on {at}")
    })?;
    let accepted = accept(&listener).tried(|| format!("accept the connection to {to} as the proxy"))?;
    let told = original_destination(&accepted)
        .tried(|| format!("ask for the original destination of the connection to {to} (SO_ORIGINAL_DST)"))?;
    same("the original destination of a connection", to, told)?;
    let peer: SockaddrStorage = getpeername(client.as_raw_fd()).tried(|| "ask for the app's peer")?;
    same("the app's peer", to, plain(&peer))?;
    Ok(())
}

fn same(what: &str, wanted: SocketAddr, found: Option<SocketAddr>) -> Outcome<()> {
    match found {
        Some(found) if found == wanted => Ok(()),
        Some(found) => {
            Err(Fault::new(format!("compare {what}"), format!("it is {found} and should be {wanted}")))
        }
        None => {
            Err(Fault::new(format!("compare {what}"), format!("it is no address and should be {wanted}")))
        }
    }
}

/// Runs something under another real uid.
fn as_user<T>(uid: u32, work: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    let become_real = |uid| {
        setresuid(Uid::from_raw(uid), Uid::from_raw(0), Uid::from_raw(0)).tried(|| format!("take uid {uid}"))
    };
    become_real(uid)?;
    let done = work();
    become_real(0)?;
    done
}

fn stream(of: SocketAddr) -> Outcome<OwnedFd> {
    let family = if of.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(family, SockType::Stream, flags, SockProtocol::Tcp).tried(|| "open a socket")
}

fn listener(at: SocketAddr) -> Outcome<OwnedFd> {
    let socket = stream(at)?;
    setsockopt(&socket, ReuseAddr, &true).tried(|| "set SO_REUSEADDR")?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(at)).tried(|| format!("bind to {at} as the proxy"))?;
    let backlog = Backlog::new(8).tried(|| "listen")?;
    listen(&socket, backlog).tried(|| format!("listen on {at} as the proxy"))?;
    Ok(socket)
}

fn client(from: Option<SocketAddr>, to: SocketAddr) -> Outcome<OwnedFd> {
    let socket = stream(to)?;
    if let Some(from) = from {
        bind(socket.as_raw_fd(), &SockaddrStorage::from(from)).tried(|| format!("bind to {from}"))?;
    }
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(socket),
        Err(error) => Err(error).tried(|| format!("connect to {to} as an app")),
    }
}

fn wait(
    traffic: &Traffic,
    socket: &impl AsFd,
    event: PollFlags,
    what: impl Fn() -> String,
) -> Result<(), Failure> {
    let left = traffic.deadline.saturating_duration_since(Instant::now());
    // A connection inside one machine is made or refused at once. One that is not may be waiting for a processor: no answer.
    let left = PollTimeout::try_from(left.min(PATIENCE)).unwrap_or(PollTimeout::ZERO);
    match poll(&mut [PollFd::new(socket.as_fd(), event)], left).tried(&what)? {
        0 => Err(Failure::late(&what())),
        _ => Ok(()),
    }
}

const PATIENCE: std::time::Duration = std::time::Duration::from_millis(500);

#[expect(unsafe_code, reason = "accept4 gives a bare number")]
fn accept(listener: &OwnedFd) -> nix::Result<OwnedFd> {
    let fd = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
    // SAFETY: fresh, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The same number at both levels: `SO_ORIGINAL_DST`, `IP6T_SO_ORIGINAL_DST`.
const ORIGINAL_DESTINATION: libc::c_int = 80;

#[expect(unsafe_code, reason = "nix's own asks for a fixed length and panics on another")]
fn original_destination(socket: &OwnedFd) -> std::io::Result<Option<SocketAddr>> {
    let local: SockaddrStorage = nix::sys::socket::getsockname(socket.as_raw_fd())?;
    let level = if local.family() == Some(AddressFamily::Inet) { libc::SOL_IP } else { libc::SOL_IPV6 };
    let size =
        if level == libc::SOL_IP { size_of::<libc::sockaddr_in>() } else { size_of::<libc::sockaddr_in6>() };
    // SAFETY: plain numbers, for which zero is a value.
    let mut address: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let mut length = libc::socklen_t::try_from(size).map_err(std::io::Error::other)?;
    // SAFETY: an open socket, and a buffer of more than the length given.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            ORIGINAL_DESTINATION,
            std::ptr::from_mut(&mut address).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: a live address of the length the kernel gave, which from_raw checks against its family.
    let address = unsafe { SockaddrStorage::from_raw(std::ptr::from_ref(&address).cast(), Some(length)) };
    Ok(address.as_ref().and_then(plain))
}

/// An address without scope and flow label.
fn plain(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = || address.as_sockaddr_in().map(|v4| SocketAddr::new(v4.ip().into(), v4.port()));
    let v6 = || address.as_sockaddr_in6().map(|v6| SocketAddr::new(v6.ip().into(), v6.port()));
    v4().or_else(v6)
}
