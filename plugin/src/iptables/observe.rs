//! What a network namespace already holds, seen from inside it and without running a tool.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::TimeVal;

use super::Family;
use crate::fault::{Fault, Outcome, Tried as _};

/// What was seen in the calling thread's namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Tables of `ip_tables` or `ip6_tables`.
    pub legacy_tables: bool,
    /// Tables of `nf_tables` with the names that iptables uses; none when the kernel has no `nf_tables`.
    pub nft_tables: Option<bool>,
    /// The kernel has IPv6.
    pub v6: bool,
}

impl Held {
    /// The families to program.
    pub fn families(&self) -> &'static [Family] {
        if self.v6 { &Family::ALL } else { &[Family::V4] }
    }
}

/// Looks.
///
/// # Errors
/// Something is there and cannot be read.
pub fn held() -> Outcome<Held> {
    let legacy =
        ["ip_tables_names", "ip6_tables_names"].map(|name| Path::new("/proc/thread-self/net").join(name));
    let mut legacy_tables = false;
    for path in legacy {
        match fs::read_to_string(&path) {
            Ok(names) => legacy_tables |= !names.trim().is_empty(),
            // The module is not loaded.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).tried(|| format!("read {}", path.display())),
        }
    }
    let v6 = Path::new("/proc/thread-self/net/if_inet6").exists();
    Ok(Held { legacy_tables, nft_tables: nft_tables()?, v6 })
}

/// The tables that iptables makes.
const NAMES: [&str; 5] = ["nat", "filter", "mangle", "raw", "security"];

const NFNL_SUBSYS_NFTABLES: u8 = 10;
const NFT_MSG_GETTABLE: u8 = 1;
const NFTA_TABLE_NAME: u16 = 1;
const HEADER: usize = 16;
/// Netlink header and `nfgenmsg`.
const HEADERS: usize = HEADER + 4;
const PATIENCE: TimeVal = TimeVal::new(1, 0);

/// Names of all tables of `nf_tables` in the calling thread's namespace, whoever made them.
pub fn table_names() -> Outcome<Vec<String>> {
    let Some(socket) = asked()? else { return Ok(Vec::new()) };
    let mut buffer = vec![0; 64 * 1024];
    let mut names = Vec::new();
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())
            .tried(|| "hear which tables nf_tables has")?;
        let mut each = |message: &[u8]| names.extend(named(message).map(|(_, name)| name.to_owned()));
        match walk(buffer.get(..length).unwrap_or_default(), &mut each) {
            Walked::More => {}
            // An error: no such subsystem, or no right to ask it.
            Walked::End | Walked::Error(_) => break,
        }
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// Asks `nf_tables` for its tables. None: the kernel does not know the question.
fn nft_tables() -> Outcome<Option<bool>> {
    match asked()? {
        Some(socket) => answer(&socket),
        None => Ok(None),
    }
}

/// A socket on which `nf_tables` answers which tables it has.
fn asked() -> Outcome<Option<OwnedFd>> {
    let what = || "ask the kernel for nf_tables' tables";
    let open = || {
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter)
    };
    let socket = match open() {
        Err(nix::errno::Errno::EPROTONOSUPPORT) => return Ok(None),
        opened => opened.tried(what)?,
    };
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0)).tried(what)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &PATIENCE).tried(what)?;
    send(socket.as_raw_fd(), &question(), MsgFlags::empty()).tried(what)?;
    Ok(Some(socket))
}

fn question() -> [u8; HEADERS] {
    let mut message = [0; HEADERS];
    let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_DUMP).unwrap_or_default();
    let length = u32::try_from(HEADERS).unwrap_or_default();
    let kind = u16::from_be_bytes([NFNL_SUBSYS_NFTABLES, NFT_MSG_GETTABLE]);
    let fields = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes()].concat();
    for (place, byte) in message.iter_mut().zip(fields) {
        *place = byte;
    }
    message
}

fn answer(socket: &OwnedFd) -> Outcome<Option<bool>> {
    let mut buffer = vec![0; 64 * 1024];
    let mut found = false;
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())
            .tried(|| "hear which tables nf_tables has")?;
        match read(buffer.get(..length).unwrap_or_default()) {
            Heard::More(tables) => found |= tables,
            Heard::End(tables) => return Ok(Some(found || tables)),
            // No such subsystem, or no right to ask it.
            Heard::Error(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOENT | libc::EPROTONOSUPPORT) => {
                return Ok(None);
            }
            Heard::Error(errno) => {
                return Err(Fault::new(
                    "ask the kernel for nf_tables' tables",
                    io::Error::from_raw_os_error(errno),
                ));
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Heard {
    /// And whether one of the tables is one that iptables makes.
    More(bool),
    End(bool),
    Error(i32),
}

/// Reads one datagram of the answer.
fn read(bytes: &[u8]) -> Heard {
    let mut found = false;
    match walk(bytes, &mut |message| found |= is_of_iptables(message)) {
        Walked::More => Heard::More(found),
        Walked::End => Heard::End(found),
        Walked::Error(errno) => Heard::Error(errno),
    }
}

/// How a datagram ends.
enum Walked {
    More,
    End,
    Error(i32),
}

/// Hands on each table's message in a datagram.
fn walk(mut bytes: &[u8], each: &mut dyn FnMut(&[u8])) -> Walked {
    while let Some((length, kind)) = word(bytes, 0).zip(half(bytes, 4)) {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some(message) = bytes.get(..length).filter(|_| length >= HEADER) else { break };
        match i32::from(kind) {
            libc::NLMSG_DONE => return Walked::End,
            libc::NLMSG_ERROR => {
                let errno = word(message, HEADER).map_or(libc::EIO, |code| code.cast_signed().wrapping_neg());
                return Walked::Error(errno);
            }
            _ => each(message.get(HEADER..).unwrap_or_default()),
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Walked::More
}

fn is_of_iptables(message: &[u8]) -> bool {
    named(message).is_some_and(|(family, name)| {
        matches!(i32::from(family), libc::AF_INET | libc::AF_INET6) && NAMES.contains(&name)
    })
}

/// A table's message, which is family, version, resource, attributes: its family and name.
fn named(message: &[u8]) -> Option<(u8, &str)> {
    let family = message.first().copied()?;
    let mut attributes = message.get(4..).unwrap_or_default();
    while let Some((length, kind)) = half(attributes, 0).zip(half(attributes, 2)) {
        let length = usize::from(length);
        let value = attributes.get(4..length)?;
        if kind == NFTA_TABLE_NAME {
            let name = value.split(|byte| *byte == 0).next().unwrap_or_default();
            return std::str::from_utf8(name).ok().map(|name| (family, name));
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};

    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(HEADER + body.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn named(family: u8, name: &str) -> Vec<u8> {
        let mut body = vec![family, 0, 0, 0];
        body.extend(u16::try_from(4 + name.len() + 1).unwrap().to_ne_bytes());
        body.extend(NFTA_TABLE_NAME.to_ne_bytes());
        body.extend(name.bytes().chain([0]));
        message(0x0a00, &body)
    }

    #[test]
    fn tables_of_iptables_are_told_from_others() {
        let done = message(3, &[0; 4]);
        for (family, name, found) in
            [(2, "nat", true), (10, "raw", true), (2, "shop", false), (1, "nat", false), (2, "natx", false)]
        {
            assert_eq!(
                read(&[named(family, name), done.clone()].concat()),
                Heard::End(found),
                "{family} {name}"
            );
        }
        assert_eq!(read(&named(2, "nat")), Heard::More(true));
        assert_eq!(read(&message(2, &(-22_i32).to_ne_bytes())), Heard::Error(22));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_their_end(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _whatever = read(&bytes);
        }
    }
}
