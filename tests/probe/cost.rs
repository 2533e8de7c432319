//! What calls on sockets of loopback take: the same in every place but for the programs that are called on the way.

use std::io::{self, BufRead as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::process::ExitCode;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, SockaddrStorage, connect, recvfrom, sendto};
use shunt_tests::cost::{Cost, Rush};
use shunt_tests::figures::sample::percentile;
use socket2::{Domain, SockAddr, Socket, Type};

fn made(v6: bool, kind: Type) -> Socket {
    let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
    Socket::new(domain, kind, None).expect("a socket can be made")
}

/// A bound socket and where it is. One of TCP does not listen: whoever connects to it is refused, and nothing is left of that.
fn bound(v6: bool, kind: Type) -> (Socket, SockaddrStorage) {
    let socket = made(v6, kind);
    let loopback: IpAddr = if v6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
    socket.bind(&SockAddr::from(SocketAddr::from((loopback, 0)))).expect("loopback is there");
    let at = socket.local_addr().expect("own socket").as_socket().expect("an address");
    (socket, SockaddrStorage::from(at))
}

fn refused(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::ECONNREFUSED) => Ok(()),
        Ok(()) => panic!("nobody listens, and yet it connected"),
        Err(error) => Err(error),
    }
}

/// What a call takes is taken so many times: in the middle one nothing else came between.
const TURNS: u32 = 20;

/// Prints what each call takes.
pub(crate) fn run() -> ExitCode {
    let mut found: Vec<Cost> = Vec::new();
    let mut measure = |call: &str, v6: bool, times: u32, work: &dyn Fn() -> Result<(), Errno>| {
        let turn = || {
            let started = Instant::now();
            for _call in 0..times / TURNS {
                work().expect("a call on loopback");
            }
            started.elapsed().as_secs_f64() * 1e9 / f64::from(times / TURNS)
        };
        turn();
        let turns: Vec<f64> = (0..TURNS).map(|_| turn()).collect();
        let nanoseconds = percentile(&turns, 50.0).expect("some were taken");
        found.push(Cost { call: call.to_owned(), v6, nanoseconds });
    };
    for v6 in [false, true] {
        let (server, to) = bound(v6, Type::DGRAM);
        let (client, connected) = (made(v6, Type::DGRAM), made(v6, Type::DGRAM));
        measure("UDP, connect", v6, 20_000, &|| connect(connected.as_raw_fd(), &to));
        measure("UDP, sendto and recvfrom", v6, 20_000, &|| {
            sendto(client.as_raw_fd(), b"word", &to, MsgFlags::empty())?;
            recvfrom::<SockaddrStorage>(server.as_raw_fd(), &mut [0; 16]).map(drop)
        });
        // Nobody takes these: when the queue is full they are dropped, which costs every place the same.
        measure("UDP, sendto", v6, 20_000, &|| {
            sendto(client.as_raw_fd(), b"word", &to, MsgFlags::empty()).map(drop)
        });
        let (_deaf, to) = bound(v6, Type::STREAM);
        // One that was refused can be connected again.
        let client = made(v6, Type::STREAM);
        measure("TCP, connect", v6, 10_000, &|| refused(connect(client.as_raw_fd(), &to)));
    }
    println!("{}", serde_json::json!(found));
    ExitCode::SUCCESS
}

/// When told to, connects so many times, each from a new socket, and says when it is done.
pub(crate) fn rush(rush: Rush) -> ExitCode {
    let (_deaf, to) = bound(false, Type::STREAM);
    println!("ready");
    for _word in io::stdin().lock().lines() {
        for _round in 0..rush.connections {
            let client = made(false, Type::STREAM);
            refused(connect(client.as_raw_fd(), &to)).expect("a connection on loopback");
        }
        println!("done");
    }
    ExitCode::SUCCESS
}
