//! UDP: a server that answers with what it saw, and a client that follows a list of steps.

use std::io::{self, IoSlice, IoSliceMut, Read as _};
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::process::ExitCode;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, getpeername, getsockname,
    recv, recvfrom, recvmmsg, recvmsg, send, sendmmsg, sendmsg, sendto, setsockopt, sockopt,
};
use shunt_tests::ask::{Listener, plain};
use shunt_tests::datagram::{Answering, Asked, Did, Got, Script, Step};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::socket::{name, set};

fn made(v6: bool) -> Socket {
    let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
    Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)).expect("a UDP socket can be made")
}

fn storage(address: SocketAddr) -> SockaddrStorage {
    SockaddrStorage::from(address)
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().map(|at| SocketAddr::from((at.ip(), at.port())));
    v4.or_else(|| storage.as_sockaddr_in6().map(|at| SocketAddr::from((at.ip(), at.port()))))
}

/// Answers until stdin ends.
pub(crate) fn answer(orders: &Answering) -> ExitCode {
    let sockets: Vec<(Socket, &str)> = orders
        .listeners
        .iter()
        .map(|listener| (listening(orders, listener), listener.name.as_str()))
        .collect();
    println!("ready");
    let mut asked = Vec::new();
    loop {
        let stdin = io::stdin();
        let mut waiting = vec![PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        waiting.extend(sockets.iter().map(|(socket, _)| PollFd::new(socket.as_fd(), PollFlags::POLLIN)));
        poll(&mut waiting, PollTimeout::NONE).expect("own descriptors");
        let is_told = waiting.first().and_then(PollFd::any).unwrap_or(false);
        for (socket, name) in &sockets {
            while let Some(one) = respond(orders, socket, name) {
                asked.push(one);
            }
        }
        if is_told {
            if io::stdin().read(&mut [0; 64]).unwrap_or(0) == 0 {
                return ExitCode::SUCCESS;
            }
            for one in asked.drain(..) {
                println!("{one}");
            }
            println!(".");
        }
    }
}

fn listening(orders: &Answering, Listener { name: _, at }: &Listener) -> Socket {
    let socket = made(at.is_ipv6());
    if at.is_ipv6() {
        socket.set_only_v6(orders.only_v6).expect("own socket");
        setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true).expect("own socket");
        // The world answers from addresses it has routes to itself for, and no more.
        set(&socket, libc::SOL_IPV6, libc::IPV6_FREEBIND, 1).expect("own socket");
    } else {
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true).expect("own socket");
    }
    socket.bind(&SockAddr::from(*at)).expect("a server can be bound where the test says");
    socket.set_nonblocking(true).expect("own socket");
    socket
}

/// Takes one datagram and answers it; none when there is none.
fn respond(orders: &Answering, socket: &Socket, by: &str) -> Option<Asked> {
    let fd = socket.as_raw_fd();
    let mut buffer = [0; 512];
    let mut control = nix::cmsg_space!(libc::in6_pktinfo, libc::in_pktinfo);
    let (length, peer, info) = {
        let mut room = [IoSliceMut::new(&mut buffer)];
        let message = loop {
            match recvmsg::<SockaddrStorage>(fd, &mut room, Some(&mut control), MsgFlags::empty()) {
                Err(Errno::EAGAIN) => return None,
                // What an earlier answer met.
                Err(Errno::ECONNREFUSED) => {}
                other => break other.expect("own socket"),
            }
        };
        let info: Vec<ControlMessageOwned> = message.cmsgs().expect("room for them").collect();
        (message.bytes, message.address.expect("datagrams have a sender"), info)
    };
    let port = socket.local_addr().ok()?.as_socket()?.port();
    let local = info.iter().find_map(|message| match message {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            Some(std::net::IpAddr::from(u32::from_be(info.ipi_addr.s_addr).to_be_bytes()))
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(std::net::IpAddr::from(info.ipi6_addr.s6_addr)),
        _ => None,
    })?;
    let asked = Asked {
        by: by.to_owned(),
        local: SocketAddr::new(local, port),
        peer: address(&peer)?,
        question: String::from_utf8_lossy(buffer.get(..length)?).into_owned(),
    };
    let text = asked.to_string();
    let text = [IoSlice::new(text.as_bytes())];
    let mut source4 = libc::in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: libc::in_addr { s_addr: 0 },
        ipi_addr: libc::in_addr { s_addr: 0 },
    };
    let mut source6 = libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: [0; 16] }, ipi6_ifindex: 0 };
    let source = match local {
        std::net::IpAddr::V4(v4) => {
            source4.ipi_spec_dst.s_addr = u32::from(v4).to_be();
            ControlMessage::Ipv4PacketInfo(&source4)
        }
        std::net::IpAddr::V6(v6) => {
            source6.ipi6_addr.s6_addr = v6.octets();
            ControlMessage::Ipv6PacketInfo(&source6)
        }
    };
    let control: &[ControlMessage<'_>] = if orders.exact { &[source] } else { &[] };
    // Nobody may be there to hear it.
    let _unheard = sendmsg(fd, &text, control, MsgFlags::empty(), Some(&peer));
    Some(asked)
}

/// Follows a client's orders.
pub(crate) fn play(script: &Script) -> ExitCode {
    println!("{}", serde_json::json!(follow(script)));
    ExitCode::SUCCESS
}

/// What came of each step.
pub(crate) fn follow(script: &Script) -> Vec<Did> {
    let socket = made(script.v6);
    if script.v6 {
        socket.set_only_v6(false).expect("own socket");
    }
    socket.set_read_timeout(Some(Duration::from_millis(script.patience))).expect("own socket");
    if let Some(device) = &script.device {
        socket.bind_device(Some(device.as_bytes())).expect("root may bind to a device");
    }
    if let Some(at) = script.bind {
        socket.bind(&SockAddr::from(at)).expect("a client can be bound where the test says");
    }
    script
        .steps
        .iter()
        .map(|step| {
            step_by(&socket, step)
                .unwrap_or_else(|error| Did { error: Some(name(&io::Error::from(error))), ..Did::default() })
        })
        .collect()
}

fn step_by(socket: &Socket, step: &Step) -> Result<Did, Errno> {
    let fd = socket.as_raw_fd();
    match step {
        Step::Connect(to) => nix::sys::socket::connect(fd, &storage(*to))?,
        Step::Dissolve => dissolve(socket)?,
        Step::Send(text) => drop(send(fd, text.as_bytes(), MsgFlags::empty())?),
        Step::SendTo(to, text) => drop(sendto(fd, text.as_bytes(), &storage(*to), MsgFlags::empty())?),
        Step::SendMessage(to, text) => {
            let text = [IoSlice::new(text.as_bytes())];
            sendmsg(fd, &text, &[], MsgFlags::empty(), Some(&storage(*to)))?;
        }
        Step::SendMany(messages) => send_many(socket, messages)?,
        Step::Receive => return received(socket, MsgFlags::empty()),
        Step::Peek => return received(socket, MsgFlags::MSG_PEEK),
        Step::ReceiveUnnamed => {
            let mut buffer = [0; 512];
            let length = recv(fd, &mut buffer, MsgFlags::empty())?;
            return Ok(Did { got: vec![got(None, buffer.get(..length))], ..Did::default() });
        }
        Step::ReceiveMany(count) => return receive_many(socket, *count),
        Step::Names => {
            let local = getsockname::<SockaddrStorage>(fd)?;
            let peer = getpeername::<SockaddrStorage>(fd).ok();
            let peer = peer.and_then(|peer| address(&peer));
            return Ok(Did { local: address(&local), peer, ..Did::default() });
        }
    }
    Ok(Did::default())
}

fn dissolve(socket: &Socket) -> Result<(), Errno> {
    let nobody = libc::sockaddr { sa_family: 0, sa_data: [0; 14] };
    let length = u32::try_from(size_of::<libc::sockaddr>()).expect("sixteen");
    // SAFETY: an address of the length passed.
    #[expect(unsafe_code, reason = "no wrapper knows an address of no family")]
    let done = unsafe { libc::connect(socket.as_raw_fd(), &raw const nobody, length) };
    Errno::result(done).map(drop)
}

fn send_many(socket: &Socket, messages: &[(SocketAddr, String)]) -> Result<(), Errno> {
    let mut headers = MultiHeaders::preallocate(messages.len(), None);
    let texts: Vec<[IoSlice<'_>; 1]> =
        messages.iter().map(|(_, text)| [IoSlice::new(text.as_bytes())]).collect();
    let to: Vec<Option<SockaddrStorage>> = messages.iter().map(|(to, _)| Some(storage(*to))).collect();
    let sent = sendmmsg(socket.as_raw_fd(), &mut headers, &texts, &to, [], MsgFlags::empty())?.count();
    if sent == messages.len() { Ok(()) } else { Err(Errno::EMSGSIZE) }
}

fn received(socket: &Socket, flags: MsgFlags) -> Result<Did, Errno> {
    let mut buffer = [0; 512];
    let fd = socket.as_raw_fd();
    let (length, from) = if flags.is_empty() {
        recvfrom::<SockaddrStorage>(fd, &mut buffer)?
    } else {
        let mut room = [IoSliceMut::new(&mut buffer)];
        let message = recvmsg::<SockaddrStorage>(fd, &mut room, None, flags)?;
        (message.bytes, message.address)
    };
    Ok(Did { got: vec![got(from, buffer.get(..length))], ..Did::default() })
}

fn receive_many(socket: &Socket, count: usize) -> Result<Did, Errno> {
    let mut did = Did::default();
    while did.got.len() < count {
        let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(count, None);
        let mut buffers = vec![[0_u8; 512]; count];
        let mut came = Vec::new();
        {
            let mut rooms: Vec<[IoSliceMut<'_>; 1]> =
                buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
            // The first one is waited for, as the socket's timeout says.
            let messages =
                recvmmsg(socket.as_raw_fd(), &mut headers, &mut rooms, MsgFlags::MSG_WAITFORONE, None)?;
            came.extend(messages.map(|message| (message.bytes, message.address)));
        }
        for ((length, from), buffer) in came.into_iter().zip(&buffers) {
            did.got.push(got(from, buffer.get(..length)));
        }
    }
    Ok(did)
}

fn got(from: Option<SockaddrStorage>, text: Option<&[u8]>) -> Got {
    let text = String::from_utf8_lossy(text.unwrap_or_default()).into_owned();
    let answer = text.parse().expect("servers of tests say what they saw");
    Got { from: from.and_then(|from| address(&from)).map(plain), answer }
}
