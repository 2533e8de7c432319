//! Load on a path: a client and a server that stay and take orders, so that many of them can take turns.
//!
//! A connection begins with a [`HELLO`] of the client, which says what will come, and a greeting of the same size, in which the
//! server says where the kernel told it that the client wanted to go.

use std::net::{IpAddr, SocketAddr};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::ask::Place;
use crate::process::Helper;

/// Bytes of either side's first message, and of a DNS question and its answer.
pub const HELLO: usize = 64;

/// What a connection is for, in a byte of the hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Each message comes back once it is whole.
    Echo = 1,
    /// Everything is thrown away; at the end the server says how much that was.
    Sink = 2,
}

/// The hello of a client: what for, how long each message is, and whether the server asks for the original destination.
pub fn hello(kind: Kind, size: usize, ask: bool) -> [u8; HELLO] {
    let mut bytes = [0; HELLO];
    bytes[0] = kind as u8;
    bytes[1] = u8::from(ask);
    let size = u32::try_from(size).expect("a message of less than 4 GiB");
    bytes[4..8].copy_from_slice(&size.to_be_bytes());
    bytes
}

/// What a hello says; none if it is not one.
pub fn understand(bytes: &[u8; HELLO]) -> Option<(Kind, usize, bool)> {
    let kind = match bytes[0] {
        1 => Kind::Echo,
        2 => Kind::Sink,
        _ => return None,
    };
    let size = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
    Some((kind, usize::try_from(size).ok()?, bytes[1] != 0))
}

/// The server's greeting: which of its ports it is, and the original destination where it has one.
pub fn greeting(port: u16, original: Option<SocketAddr>) -> [u8; HELLO] {
    let mut bytes = [0; HELLO];
    bytes[0..2].copy_from_slice(&port.to_be_bytes());
    if let Some(original) = original {
        bytes[2] = 1;
        bytes[4..6].copy_from_slice(&original.port().to_be_bytes());
        let ip = match original.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        bytes[8..24].copy_from_slice(&ip.octets());
    }
    bytes
}

/// The same read back.
pub fn greeted(bytes: &[u8; HELLO]) -> (u16, Option<SocketAddr>) {
    let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let mut ip = [0; 16];
    ip.copy_from_slice(&bytes[8..24]);
    let original = (bytes[2] != 0).then(|| SocketAddr::new(IpAddr::from(ip).to_canonical(), port(4)));
    (port(0), original)
}

/// Where a client goes, and who has to answer there: nobody measures a path that was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// Whereto.
    pub to: SocketAddr,
    /// The port of the server that has to answer.
    pub answers: u16,
    /// Whether the server asks the kernel where the client wanted to go, as a proxy does, and the answer has to be right.
    pub ask: bool,
}

/// What a client is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// One message after the other over each of so many connections, which stay open for the next order of the same kind.
    RoundTrips {
        /// Where.
        way: Way,
        /// Connections.
        connections: usize,
        /// Bytes of a message.
        size: usize,
        /// For how long.
        ms: u64,
    },
    /// Connect, request, answer, close; so many connections open at a time.
    Connects {
        /// Where.
        way: Way,
        /// Connections at a time.
        connections: usize,
        /// For how long.
        ms: u64,
        /// No more than this many in all.
        most: usize,
        /// A connection that fails is counted; else it ends the client.
        may_fail: bool,
    },
    /// Bytes in one direction, for so long, over so many connections.
    Stream {
        /// Where.
        way: Way,
        /// Connections.
        connections: usize,
        /// Bytes of a write.
        size: usize,
        /// For how long.
        ms: u64,
    },
    /// Questions of a UDP client, one after the other.
    Questions {
        /// Of whom.
        to: SocketAddr,
        /// By a connected socket, else by `sendto`.
        connected: bool,
        /// For how long.
        ms: u64,
    },
    /// Closes what is open.
    Close,
}

/// What came of an order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Did {
    /// Round trips, connections or questions.
    pub count: u64,
    /// Those that failed.
    pub failed: u64,
    /// Bytes that arrived at the other end.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// Microseconds of one: the 50th, 99th and 99.9th percentile.
    pub percentiles: [f64; 3],
    /// Microseconds of CPU that the client used.
    pub cpu: f64,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// TCP, in both families.
    pub tcp: Vec<u16>,
    /// UDP, at these addresses: each datagram goes back.
    pub udp: Vec<SocketAddr>,
}

/// A client that waits for orders.
#[derive(Debug)]
pub struct Client(Helper);

impl Client {
    /// Starts it.
    pub fn start(place: &Place) -> Self {
        Self(Helper::start(place, "load", &()))
    }

    /// Gives an order and waits for its end.
    pub fn order(&mut self, order: &Order) -> Did {
        self.0.say(&serde_json::to_string(order).expect("orders are plain data"));
        let line = self.0.line().unwrap_or_else(|| panic!("the client died of {order:?}"));
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    /// Keeps it on one CPU.
    pub fn pin(&self, cpu: usize) {
        pin(self.0.id(), cpu);
    }
}

/// A server that can be asked what it has used.
#[derive(Debug)]
pub struct Sink(Helper);

impl Sink {
    /// Starts it and waits until it listens.
    pub fn start(place: &Place, ports: &Ports) -> Self {
        let mut helper = Helper::start(place, "sink", ports);
        assert_eq!(helper.line().as_deref(), Some("ready"), "a server in {place:?}");
        Self(helper)
    }

    /// Microseconds of CPU it has used so far.
    pub fn cpu(&mut self) -> f64 {
        self.0.say("cpu");
        let line = self.0.line().expect("the server is there");
        line.parse().unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    /// Keeps it on one CPU.
    pub fn pin(&self, cpu: usize) {
        pin(self.0.id(), cpu);
    }
}

fn pin(process: u32, cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu).expect("a CPU of this machine");
    let process = Pid::from_raw(i32::try_from(process).expect("a process id"));
    sched_setaffinity(process, &set).unwrap_or_else(|error| panic!("CPU {cpu}: {error}"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ask::address;

    #[test]
    fn a_hello_is_understood() {
        assert_eq!(understand(&hello(Kind::Sink, 70_000, true)), Some((Kind::Sink, 70_000, true)));
        assert_eq!(understand(&[0; HELLO]), None);
    }

    #[test]
    fn a_greeting_is_read_back() {
        for to in ["10.96.0.10:80", "[fd96::10]:443"].map(address) {
            assert_eq!(greeted(&greeting(15001, Some(to))), (15001, Some(to)));
        }
        assert_eq!(greeted(&greeting(15006, None)), (15006, None));
    }
}
