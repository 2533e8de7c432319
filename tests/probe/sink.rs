//! The far end of a load: one thread, one epoll; echoes, swallows, answers datagrams.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::process::ExitCode;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{MsgFlags, SockaddrStorage, recvfrom, sendto};
use shunt_tests::ask::plain;
use shunt_tests::load::{HELLO, Kind, Ports, greeting, understand};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::load::cpu;
use crate::socket::socket_address;

const STDIN: u64 = 0;
/// More than any message.
const BUFFER: usize = 256 * 1024;

enum Role {
    Listener(u16),
    Datagrams,
    Connection(State),
}

/// How far a connection has come.
struct State {
    port: u16,
    v4: bool,
    kind: Kind,
    size: usize,
    /// Whether the hello is still to come.
    new: bool,
    /// Bytes of the message that is on its way, or all of a sink's.
    have: usize,
}

/// Serves until stdin ends.
pub(crate) fn run(ports: &Ports) -> ExitCode {
    let epoll = Epoll::new(EpollCreateFlags::empty()).expect("epoll");
    epoll.add(io::stdin(), EpollEvent::new(EpollFlags::EPOLLIN, STDIN)).expect("stdin is a pipe");
    let mut sockets = HashMap::new();
    for port in &ports.tcp {
        let socket = bound(Type::STREAM, SocketAddr::from((Ipv6Addr::UNSPECIFIED, *port)));
        socket.listen(4096).expect("a bound socket");
        socket.set_nonblocking(true).expect("own socket");
        watch(&epoll, &mut sockets, socket, Role::Listener(*port));
    }
    for at in &ports.udp {
        watch(&epoll, &mut sockets, bound(Type::DGRAM, *at), Role::Datagrams);
    }
    println!("ready");
    let mut buffer = vec![0; BUFFER];
    let mut events = vec![EpollEvent::empty(); 256];
    loop {
        let count = match epoll.wait(&mut events, EpollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            other => other.expect("own epoll"),
        };
        for event in events.iter().take(count) {
            let key = event.data();
            if key == STDIN {
                if io::stdin().read(&mut buffer).unwrap_or(0) == 0 {
                    return ExitCode::SUCCESS;
                }
                println!("{}", cpu());
                continue;
            }
            let Some((socket, role)) = sockets.get_mut(&key) else { continue };
            match role {
                Role::Listener(port) => {
                    let port = *port;
                    if let Ok((accepted, from)) = socket.accept() {
                        let v4 = socket_address(Ok(from)).is_ok_and(|from| plain(from).is_ipv4());
                        accepted.set_tcp_nodelay(true).expect("a TCP socket");
                        let state = State { port, v4, kind: Kind::Echo, size: HELLO, new: true, have: 0 };
                        watch(&epoll, &mut sockets, accepted, Role::Connection(state));
                    }
                }
                Role::Datagrams => give_back(socket),
                Role::Connection(state) => {
                    if !attend(socket, state, &mut buffer) {
                        sockets.remove(&key);
                    }
                }
            }
        }
    }
}

fn watch(epoll: &Epoll, sockets: &mut HashMap<u64, (Socket, Role)>, socket: Socket, role: Role) {
    let key = u64::try_from(socket.as_raw_fd()).expect("descriptors are positive");
    epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, key)).expect("own socket");
    sockets.insert(key, (socket, role));
}

/// A socket at an address; at `[::]` it serves both families.
fn bound(kind: Type, at: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(at), kind, None).expect("a socket");
    if at.is_ipv6() {
        socket.set_only_v6(false).expect("a v6 socket");
    }
    socket.set_reuse_address(true).expect("own socket");
    socket.bind(&SockAddr::from(at)).unwrap_or_else(|error| panic!("{at}: {error}"));
    socket
}

fn give_back(socket: &Socket) {
    let mut room = [0; 512];
    let Ok((length, Some(from))) = recvfrom::<SockaddrStorage>(socket.as_raw_fd(), &mut room) else { return };
    let message = room.get(..length).unwrap_or_default();
    let _told = sendto(socket.as_raw_fd(), message, &from, MsgFlags::empty());
}

/// Takes what has come; false when the connection is over.
fn attend(socket: &Socket, state: &mut State, buffer: &mut [u8]) -> bool {
    let mut stream = socket;
    let swallows = state.kind == Kind::Sink && !state.new;
    // A sink reads as much at a time as its client writes.
    let most = if swallows { state.size } else { state.size - state.have };
    let Some(room) = buffer.get_mut(..most) else { return false };
    let Ok(count) = stream.read(room) else { return false };
    if count == 0 {
        if swallows {
            let _told = stream.write_all(&u64::try_from(state.have).unwrap_or(u64::MAX).to_be_bytes());
        }
        return false;
    }
    state.have += count;
    if swallows || state.have < state.size {
        return true;
    }
    state.have = 0;
    if state.new {
        // A first message in pieces is none of ours: the client writes it in one.
        let Some((kind, size, ask)) =
            buffer.first_chunk::<HELLO>().filter(|_| count == HELLO).and_then(understand)
        else {
            return false;
        };
        (state.kind, state.size, state.new) = (kind, size, false);
        let original = ask.then(|| original(socket, state.v4)).flatten();
        return stream.write_all(&greeting(state.port, original)).is_ok();
    }
    buffer.get(..state.size).is_some_and(|message| stream.write_all(message).is_ok())
}

/// Asked at the level of the connection's own family, as proxies do.
fn original(socket: &Socket, v4: bool) -> Option<SocketAddr> {
    let answer = if v4 { socket.original_dst_v4() } else { socket.original_dst_v6() };
    socket_address(answer).ok().map(plain)
}
