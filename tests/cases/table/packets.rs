//! Packets that belong to no connection, made by hand.

use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use shunt_tests::node::Pod;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::case::{Family, SILENCE};
use crate::scene::Scene;

const SYN_ACK: u8 = 0x12;
const RST: u8 = 0x04;
/// The app listens there.
const TO: u16 = 8080;
const FROM: u16 = 21_777;

/// Answers a SYN that was never sent: connection tracking calls that invalid. The pod's kernel says RST if it gets to see it.
pub(super) fn invalid(scene: &mut Scene, family: Family) -> String {
    let to = scene.pod.ip(family.is_v6());
    let from = gateway(&scene.pod, family);
    scene.world.netns().enter(|| answered(from, to))
}

fn gateway(pod: &Pod, family: Family) -> IpAddr {
    match pod.ip(family.is_v6()) {
        IpAddr::V4(ip) => {
            let [net, number, ..] = ip.octets();
            IpAddr::from([net, number, 0, 1])
        }
        IpAddr::V6(ip) => {
            let [net, ..] = ip.segments();
            IpAddr::from([net, 0, 0, 0, 0, 0, 0, 1])
        }
    }
}

fn answered(from: IpAddr, to: IpAddr) -> String {
    let mut socket = Socket::new(Domain::for_address((to, 0).into()), Type::RAW, Some(Protocol::TCP))
        .expect("root may open raw sockets");
    socket.bind(&SockAddr::from(SocketAddr::from((from, 0)))).expect("an address of the world");
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a time limit");
    socket
        .send_to(&segment(from, to), &SockAddr::from(SocketAddr::from((to, 0))))
        .expect("the packet is sent");
    let deadline = Instant::now() + Duration::from_millis(700);
    let mut packet = [0; 2048];
    while Instant::now() < deadline {
        let Ok(length) = socket.read(&mut packet) else { continue };
        // IPv4 comes with its header, IPv6 without.
        let start = if from.is_ipv4() { usize::from(packet.first().unwrap_or(&0) & 0xf) * 4 } else { 0 };
        let Some([from0, from1, to0, to1, _, _, _, _, _, _, _, _, _, flags, ..]) = packet.get(start..length)
        else {
            continue;
        };
        let ports = [u16::from_be_bytes([*from0, *from1]), u16::from_be_bytes([*to0, *to1])];
        if ports == [TO, FROM] && flags & RST != 0 {
            return "RST".to_owned();
        }
    }
    SILENCE.to_owned()
}

/// A TCP header and nothing else.
fn segment(from: IpAddr, to: IpAddr) -> Vec<u8> {
    let header = |checksum: u16| {
        [
            FROM.to_be_bytes().as_slice(),
            &TO.to_be_bytes(),
            &7_u32.to_be_bytes(),
            &9_u32.to_be_bytes(),
            &[5 << 4, SYN_ACK],
            &1024_u16.to_be_bytes(),
            &checksum.to_be_bytes(),
            &[0, 0],
        ]
        .concat()
    };
    header(checksum(from, to, &header(0)))
}

/// RFC 9293, over the pseudo-header, which adds up to the same for both families.
fn checksum(from: IpAddr, to: IpAddr, tcp: &[u8]) -> u16 {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let protocol_and_length = [0, 6, 0, 20];
    let all = [octets(from), octets(to), protocol_and_length.to_vec(), tcp.to_vec()].concat();
    let word = |pair: &[u8]| match pair {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        _ => 0,
    };
    let mut sum: u32 = all.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}
