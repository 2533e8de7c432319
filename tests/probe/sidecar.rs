//! A sidecar: asks the kernel where each connection was going, and goes there.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use shunt_tests::ask::plain;
use shunt_tests::sidecar::{HEALTH, INBOUND, OUTBOUND, SOURCES};
use shunt_tests::web;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::pod::{Service, listen};

const PATIENCE: Duration = Duration::from_secs(5);

/// Listens; what it returns goes on for ever.
pub(crate) fn service() -> Service {
    let (outbound, inbound, health) = (listen(OUTBOUND), listen(INBOUND), listen(HEALTH));
    println!("listening");
    Box::new(move || {
        std::thread::spawn(move || accept("inbound", &inbound));
        std::thread::spawn(move || web::serve(&health, |_from, _path| {}));
        accept("outbound", &outbound)
    })
}

fn accept(side: &'static str, listener: &TcpListener) -> io::Result<()> {
    loop {
        let (client, from) = listener.accept()?;
        std::thread::spawn(move || {
            let outcome = carry(side, client);
            println!("{side} {} {}", plain(from), outcome.unwrap_or_else(|error| format!("failed: {error}")));
        });
    }
}

/// Carries one connection; says where it was going.
fn carry(side: &str, client: TcpStream) -> io::Result<String> {
    let client = Socket::from(client);
    let original = client.original_dst_v4().or_else(|_| client.original_dst_v6())?;
    let to = plain(original.as_socket().ok_or_else(|| io::Error::other("no address of a family we know"))?);
    // What was sent to us and nobody else would be sent to us again.
    if [OUTBOUND, INBOUND].contains(&to.port()) {
        return Err(io::Error::other(format!("meant for the proxy itself: {to}")));
    }
    let server = if side == "outbound" { dial_out(to) } else { dial_in(to) }?;
    let (client, server) = (TcpStream::from(client), TcpStream::from(server));
    std::thread::scope(|threads| {
        threads.spawn(|| pump(&client, &server));
        pump(&server, &client);
    });
    Ok(format!("to {to}"))
}

fn pump(mut from: &TcpStream, mut to: &TcpStream) {
    let _broken = io::copy(&mut from, &mut to);
    let _closed = to.shutdown(Shutdown::Write);
}

fn dial(to: SocketAddr, from: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SockAddr::from(from))?;
    socket.connect_timeout(&SockAddr::from(to), PATIENCE)?;
    Ok(socket)
}

/// Out of the pod, from the next of our ports that is free for this destination.
fn dial_out(to: SocketAddr) -> io::Result<Socket> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let count = SOURCES.end() - SOURCES.start() + 1;
    for _attempt in 0..count {
        let port = SOURCES.start() + NEXT.fetch_add(1, Ordering::Relaxed) % count;
        match dial(to, SocketAddr::new(any, port)) {
            Err(error)
                if [io::ErrorKind::AddrInUse, io::ErrorKind::AddrNotAvailable].contains(&error.kind()) => {}
            done => return done,
        }
    }
    Err(io::Error::other("all ports of the proxy are taken"))
}

/// To the app, from the address by which it is known that the proxy has handed the connection on.
fn dial_in(to: SocketAddr) -> io::Result<Socket> {
    let from = if to.is_ipv4() {
        IpAddr::from(Ipv4Addr::new(127, 0, 0, 6))
    } else {
        IpAddr::from(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6))
    };
    dial(to, SocketAddr::new(from, 0))
}
