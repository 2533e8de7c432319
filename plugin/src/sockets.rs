//! A namespace's TCP sockets with the kernel's own accounts of them, and what our programs keep with each: asked by `sock_diag`
//! netlink. Nothing is kept for this while connections are made, and nothing runs for a packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, BorrowedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};
use shunt_abi::{Address, SocketState};

use crate::bytes::{at, taken};
use crate::fault::{Fault, Outcome, Tried as _};

/// A socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// As the kernel numbers them: see [`state`].
    pub state: u8,
    /// Its own address.
    pub local: SocketAddr,
    /// Its peer's.
    pub peer: SocketAddr,
    /// Its owner, as the initial user namespace sees it.
    pub uid: u32,
    /// What the kernel accounts; not for one that listens.
    pub account: Option<Account>,
    /// What our programs keep with it.
    pub kept: Option<SocketState>,
}

/// What the kernel accounts of a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Account {
    /// Bytes of the stream that were sent, each once.
    pub sent: u64,
    /// Bytes of the stream that arrived, each once.
    pub received: u64,
    /// Smoothed round trip time in microseconds.
    pub rtt: u32,
    /// Segments that were sent again.
    pub retransmits: u32,
}

/// States of a TCP socket.
pub mod state {
    /// Listens.
    pub const LISTEN: u8 = 10;
    /// Names, by the kernel's numbers.
    pub const NAMES: [&str; 13] = [
        "?",
        "established",
        "syn-sent",
        "syn-recv",
        "fin-wait-1",
        "fin-wait-2",
        "time-wait",
        "closed",
        "close-wait",
        "last-ack",
        "listen",
        "closing",
        "syn-recv",
    ];
    /// Those in which the peer has said that it sends no more: FIN counts for a byte.
    pub(super) const PEER_CLOSED: [u8; 3] = [8, 9, 11];
    /// Everything but what is over (`TIME_WAIT`, `CLOSE`) or not yet a socket (`NEW_SYN_RECV`).
    pub(super) const ASKED: u32 = !(1 << 6 | 1 << 7 | 1 << 12);
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const REQUEST_DUMP: u16 = 0x301;
const DONE: u16 = 3;
const ERROR: u16 = 2;
const IPPROTO_TCP: u8 = 6;
/// `INET_DIAG_INFO`, as a bit of what is asked for and as an attribute of the answer.
const INFO: u16 = 2;
/// `INET_DIAG_REQ_SK_BPF_STORAGES`
const ASK_STORAGES: u16 = 2;
/// `SK_DIAG_BPF_STORAGE_REQ_MAP_FD`
const OF_MAP: u16 = 1;
/// `INET_DIAG_SK_BPF_STORAGES`
const STORAGES: u16 = 20;
/// `SK_DIAG_BPF_STORAGE`
const STORAGE: u16 = 1;
/// `SK_DIAG_BPF_STORAGE_MAP_VALUE`
const VALUE: u16 = 3;
const NESTED: u16 = 0x8000;
const HEADER: usize = 16;
/// `struct inet_diag_msg`
const MESSAGE: usize = 72;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// The sockets of the calling thread's namespace, with what the map `storage` keeps of each.
pub fn of_this_namespace(storage: BorrowedFd<'_>) -> Outcome<Vec<Socket>> {
    let what = || "ask the kernel for the namespace's sockets";
    let netlink =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)
            .tried(what)?;
    let mut sockets = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    for family in [AF_INET, AF_INET6] {
        let asked = request(family, storage);
        sendto(netlink.as_raw_fd(), &asked, &NetlinkAddr::new(0, 0), MsgFlags::empty()).tried(what)?;
        loop {
            let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty()).tried(what)?;
            if messages(buffer.get(..length).unwrap_or_default(), &mut sockets)? {
                break;
            }
        }
    }
    Ok(sockets)
}

fn request(family: u8, storage: BorrowedFd<'_>) -> Vec<u8> {
    let mut body = vec![family, IPPROTO_TCP, 1 << (INFO - 1), 0];
    body.extend(state::ASKED.to_ne_bytes());
    body.extend([0; 48]);
    let map = attribute(OF_MAP, &storage.as_raw_fd().to_ne_bytes());
    body.extend(attribute(ASK_STORAGES | NESTED, &map));
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend(u32::try_from(HEADER + body.len()).unwrap_or_default().to_ne_bytes());
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend(REQUEST_DUMP.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut written = Vec::with_capacity(4 + value.len());
    written.extend(u16::try_from(4 + value.len()).unwrap_or_default().to_ne_bytes());
    written.extend(kind.to_ne_bytes());
    written.extend(value);
    written.resize(written.len().next_multiple_of(4), 0);
    written
}

/// Takes in what came at once; true if that was the end.
fn messages(mut bytes: &[u8], sockets: &mut Vec<Socket>) -> Outcome<bool> {
    while let (Some(length), Some(kind)) = (at(bytes, 0), at(bytes, 4)) {
        let length = usize::try_from(u32::from_ne_bytes(length)).unwrap_or_default();
        let body = bytes.get(HEADER..length).unwrap_or_default();
        match u16::from_ne_bytes(kind) {
            DONE => return Ok(true),
            ERROR => {
                let number = at(body, 0).map_or(0, i32::from_ne_bytes);
                let error = std::io::Error::from_raw_os_error(-number);
                return Err(Fault::new("ask the kernel for the namespace's sockets", error));
            }
            _ => sockets.extend(decoded(body)),
        }
        bytes = bytes.get(length.next_multiple_of(4).max(HEADER)..).unwrap_or_default();
    }
    Ok(false)
}

/// One `struct inet_diag_msg` and its attributes.
fn decoded(body: &[u8]) -> Option<Socket> {
    let [family, state]: [u8; 2] = at(body, 0)?;
    let port = |offset| at(body, offset).map(u16::from_be_bytes);
    let ip = |offset| -> Option<IpAddr> {
        match family {
            AF_INET => Some(Ipv4Addr::from(at::<4>(body, offset)?).into()),
            _ => Some(Ipv6Addr::from(at::<16>(body, offset)?).to_canonical()),
        }
    };
    let mut socket = Socket {
        state,
        local: SocketAddr::new(ip(8)?, port(4)?),
        peer: SocketAddr::new(ip(24)?, port(6)?),
        uid: u32::from_ne_bytes(at(body, 64)?),
        account: None,
        kept: None,
    };
    for (kind, value) in attributes(body.get(MESSAGE..)?) {
        match kind {
            INFO if state != state::LISTEN => socket.account = account(value, state),
            STORAGES => socket.kept = attributes(value).find_map(|(kind, value)| kept(kind, value)),
            _ => {}
        }
    }
    Some(socket)
}

fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(at(bytes, 0)?));
        let kind = u16::from_ne_bytes(at(bytes, 2)?) & !NESTED;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// `struct tcp_info`, which only ever grows at its end: `bytes_sent` since Linux 4.19.
fn account(info: &[u8], state: u8) -> Option<Account> {
    let word = |offset| at(info, offset).map(u32::from_ne_bytes);
    let long = |offset| at(info, offset).map(u64::from_ne_bytes);
    let fin = u64::from(state::PEER_CLOSED.contains(&state));
    Some(Account {
        rtt: word(68)?,
        retransmits: word(100)?,
        received: long(128)?.saturating_sub(fin),
        sent: long(200)?.saturating_sub(long(208)?),
    })
}

fn kept(kind: u16, storage: &[u8]) -> Option<SocketState> {
    if kind != STORAGE {
        return None;
    }
    let mut value = attributes(storage).find_map(|(kind, value)| (kind == VALUE).then_some(value))?;
    let value = &mut value;
    Some(SocketState {
        since: u64::from_ne_bytes(taken(value)?),
        destination: Address::from_bytes(taken(value)?),
        sent_to: Address::from_bytes(taken(value)?),
        port: u32::from_ne_bytes(taken(value)?),
        virtual_port: u32::from_ne_bytes(taken(value)?),
        slot: u32::from_ne_bytes(taken(value)?),
        role: u32::from_ne_bytes(taken(value)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_and_half_of_one_is_not() {
        let mut body = vec![AF_INET6, 8, 0, 0];
        body.extend([0xf2, 0x30, 0, 80]);
        body.extend(Ipv4Addr::new(10, 0, 0, 7).to_ipv6_mapped().octets());
        body.extend("fd00::1".parse::<Ipv6Addr>().unwrap().octets());
        body.resize(64, 0);
        body.extend(1000_u32.to_ne_bytes());
        body.resize(MESSAGE, 0);
        let mut info = vec![0; 216];
        info[68..72].copy_from_slice(&55_u32.to_ne_bytes());
        info[100..104].copy_from_slice(&2_u32.to_ne_bytes());
        info[128..136].copy_from_slice(&101_u64.to_ne_bytes());
        info[200..208].copy_from_slice(&70_u64.to_ne_bytes());
        info[208..216].copy_from_slice(&20_u64.to_ne_bytes());
        body.extend(attribute(INFO, &info));
        let mut value = 9_u64.to_ne_bytes().to_vec();
        value.extend(Address::LOOPBACK6.bytes());
        value.extend(Address::LOOPBACK4.bytes());
        for word in [443_u32, 61000, 1, 2] {
            value.extend(word.to_ne_bytes());
        }
        body.extend(attribute(STORAGES, &attribute(STORAGE, &attribute(VALUE, &value))));
        let socket = decoded(&body).unwrap();
        assert_eq!(socket.local, "10.0.0.7:62000".parse().unwrap());
        assert_eq!(socket.peer, "[fd00::1]:80".parse().unwrap());
        assert_eq!((socket.uid, socket.state), (1000, 8));
        let account = Account { sent: 50, received: 100, rtt: 55, retransmits: 2 };
        assert_eq!(socket.account, Some(account));
        let kept = socket.kept.unwrap();
        assert_eq!((kept.since, kept.destination, kept.port, kept.role), (9, Address::LOOPBACK6, 443, 2));
        for length in 0..body.len() {
            // Whatever is cut off, nothing panics.
            let _half = decoded(&body[..length]);
        }
        let error = [20_u32.to_ne_bytes(), [2, 0, 0, 0], [0; 4], [0; 4], (-1_i32).to_ne_bytes()].concat();
        assert!(messages(&error, &mut Vec::new()).is_err());
    }
}
