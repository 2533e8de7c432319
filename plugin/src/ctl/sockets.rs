//! Who listens in a network namespace, as the kernel lists it.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::fault::{Outcome, Tried as _};
use crate::netns::Netns;

/// A socket that takes what comes: of TCP one that listens, of UDP one that is not connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Socket {
    pub(super) udp: bool,
    /// Where it is bound.
    pub(super) ip: IpAddr,
    pub(super) port: u16,
    /// Whose it is, as the kernel sees it.
    pub(super) uid: u32,
}

/// Those of a namespace.
pub(super) fn listening(netns: &Netns) -> Outcome<Vec<Socket>> {
    netns.run(listening_here)
}

/// Those of the calling thread's namespace.
fn listening_here() -> Outcome<Vec<Socket>> {
    let mut open = Vec::new();
    for (file, udp) in [("tcp", false), ("tcp6", false), ("udp", true), ("udp6", true)] {
        let path = format!("/proc/thread-self/net/{file}");
        let text = match fs::read_to_string(&path) {
            // A kernel without IPv6 has no file for it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            text => text.tried(|| format!("read {path}"))?,
        };
        open.extend(text.lines().skip(1).filter_map(|line| socket(line, udp)));
    }
    Ok(open)
}

/// A line of `/proc/net/tcp` that is a listener's, or of `/proc/net/udp` that is not connected.
fn socket(line: &str, udp: bool) -> Option<Socket> {
    let mut fields = line.split_whitespace().skip(1);
    let (ip, port) = fields.next()?.split_once(':')?;
    let state = fields.nth(1)?;
    let uid = fields.nth(3)?.parse().ok()?;
    let port = u16::from_str_radix(port, 16).ok()?;
    (state == if udp { "07" } else { "0A" }).then_some(Socket { udp, ip: address(ip)?, port, uid })
}

/// Words of 32 bits, each as this machine writes a number.
fn address(hex: &str) -> Option<IpAddr> {
    let words: Option<Vec<[u8; 4]>> = (0..hex.len() / 8)
        .map(|word| u32::from_str_radix(hex.get(word * 8..word * 8 + 8)?, 16).ok().map(u32::to_ne_bytes))
        .collect();
    match *words? {
        [a] => Some(Ipv4Addr::from(a).into()),
        [a, b, c, d] => {
            let bytes: [u8; 16] = [a, b, c, d].concat().try_into().ok()?;
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Socket, socket};

    #[test]
    fn who_listens() {
        let line = "   0: 00000000:3A99 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1337        0 1 1 0 100 0 0 10 0";
        let listener = Socket { udp: false, ip: [0, 0, 0, 0].into(), port: 15001, uid: 1337 };
        assert_eq!(socket(line, false), Some(listener));
        assert_eq!(socket(line, true), None);
        let v6 = "   0: 00000000000000000000000001000000:3A99 00000000000000000000000000000000:0000 07 0:0 0:0 0 7 0 1 1";
        let loopback = Socket { udp: true, ip: std::net::Ipv6Addr::LOCALHOST.into(), port: 15001, uid: 7 };
        assert_eq!(socket(v6, true), Some(loopback));
        let connected =
            "   1: 0100007F:3A99 0100007F:CB2E 01 00000000:00000000 00:00000000 00000000  1337 0 1 1";
        assert_eq!(socket(connected, false), None);
        assert_eq!(socket("", false), None);
    }
}
