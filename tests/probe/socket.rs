//! Sockets with every option a test turns.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use shunt_tests::ask::{Close, Dial, How};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Long enough for any step on a busy machine; a step that takes it all has hung.
pub(crate) fn patience(dial: &Dial) -> Duration {
    Duration::from_secs(dial.patience)
}

/// The kernel's name of an error.
pub(crate) fn name(error: &io::Error) -> String {
    let number = error.raw_os_error().unwrap_or(0);
    let text = nix::errno::Errno::from_raw(number).to_string();
    text.split(':').next().unwrap_or("?").to_owned()
}

/// A step that failed and why.
pub(crate) type Failure = (String, String);

pub(crate) fn at(step: &'static str) -> impl Fn(io::Error) -> Failure {
    move |error| (step.to_owned(), name(&error))
}

/// A client's socket, bound as ordered, not connected.
pub(crate) fn client(dial: &Dial, to: SocketAddr) -> Result<Socket, Failure> {
    let protocol = if dial.how == How::Mptcp { Protocol::MPTCP } else { Protocol::TCP };
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(protocol)).map_err(at("socket"))?;
    socket.set_read_timeout(Some(patience(dial))).map_err(at("timeout"))?;
    socket.set_write_timeout(Some(patience(dial))).map_err(at("timeout"))?;
    socket.set_reuse_address(dial.reuse_address).map_err(at("reuse"))?;
    if let Some(device) = &dial.device {
        socket.bind_device(Some(device.as_bytes())).map_err(at("device"))?;
    }
    if dial.no_port {
        set(&socket, libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1).map_err(at("no-port"))?;
    }
    if let Some(bind) = dial.bind {
        socket.bind(&SockAddr::from(bind)).map_err(at("bind"))?;
    }
    if dial.how == How::FastOpenConnect {
        set(&socket, libc::SOL_TCP, libc::TCP_FASTOPEN_CONNECT, 1).map_err(at("fastopen"))?;
    }
    if dial.close == Close::Abort {
        socket.set_linger(Some(Duration::ZERO)).map_err(at("linger"))?;
    }
    Ok(socket)
}

/// Connects in the way ordered.
pub(crate) fn connect(dial: &Dial, socket: &Socket, to: SocketAddr) -> io::Result<()> {
    let to = SockAddr::from(to);
    match dial.how {
        How::Plain | How::Mptcp => socket.connect(&to),
        How::NonBlocking => {
            socket.set_nonblocking(true)?;
            match socket.connect(&to) {
                Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
                    wait_writable(socket, patience(dial))?;
                }
                // Loopback may finish a handshake before connect returns, never on a socket that may not wait.
                Ok(()) => return Err(io::Error::from_raw_os_error(libc::EISCONN)),
                Err(error) => return Err(error),
            }
            socket.set_nonblocking(false)
        }
        How::FastOpenConnect => {
            socket.connect(&to)?;
            socket.send(b"early").map(drop)
        }
        How::FastOpenSend => socket.send_to_with_flags(b"early", &to, libc::MSG_FASTOPEN).map(drop),
    }
}

fn wait_writable(socket: &Socket, patience: Duration) -> io::Result<()> {
    // SAFETY: the socket outlives the call.
    #[expect(unsafe_code, reason = "poll borrows a descriptor")]
    let fd = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
    let mut waiting = [PollFd::new(fd, PollFlags::POLLOUT)];
    let patience = PollTimeout::try_from(patience).expect("seconds fit");
    if poll(&mut waiting, patience)? == 0 {
        return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
    }
    socket.take_error()?.map_or(Ok(()), Err)
}

pub(crate) fn set(socket: &Socket, level: i32, option: i32, value: i32) -> io::Result<()> {
    let length = u32::try_from(size_of::<i32>()).expect("four");
    // SAFETY: the option's value is the int passed, of the length passed.
    #[expect(unsafe_code, reason = "options the socket crate does not name")]
    let done =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The length `SO_ORIGINAL_DST` answers with when so much room is given.
pub(crate) fn original_length(socket: &Socket, level: i32, room: usize) -> io::Result<u32> {
    let mut buffer = vec![0_u8; room];
    let mut length = u32::try_from(room).expect("a small buffer");
    // SAFETY: the kernel writes at most `length` bytes into the buffer, which has that many.
    #[expect(unsafe_code, reason = "the length is the question here, and wrappers hide it")]
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            libc::SO_ORIGINAL_DST,
            buffer.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if done == 0 { Ok(length) } else { Err(io::Error::last_os_error()) }
}

pub(crate) fn socket_address(address: io::Result<SockAddr>) -> io::Result<SocketAddr> {
    address?.as_socket().ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))
}
