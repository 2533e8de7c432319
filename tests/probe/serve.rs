//! Servers: greet, then echo. One epoll loop a process; several processes may share a port.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::process::{Command, ExitCode};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use shunt_tests::ask::{Greeting, Listener, Place, Serve};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::socket::{name, original_length, socket_address};

const STDIN: u64 = 0;

/// Runs a server until the test ends it.
pub(crate) fn run(serve: &Serve) -> ExitCode {
    if serve.workers > 1 {
        return run_workers(serve);
    }
    let listeners: Result<Vec<Socket>, String> =
        serve.listeners.iter().map(|listener| listen(serve, listener)).collect();
    match listeners {
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
        Ok(listeners) if serve.hand_over => hand_over(serve, &listeners),
        Ok(listeners) => attend(serve, listeners),
    }
}

/// The process that accepts what another one listens for.
pub(crate) fn accept(serve: &Serve, descriptors: impl Iterator<Item = String>) -> ExitCode {
    let sockets = descriptors.map(|text| {
        let fd: RawFd = text.parse().expect("descriptors are numbers");
        // SAFETY: the parent left exactly these open for us.
        #[expect(unsafe_code, reason = "inherited descriptors arrive as numbers")]
        let owned = unsafe { OwnedFd::from_raw_fd(fd) };
        Socket::from(owned)
    });
    attend(serve, sockets.collect())
}

fn again(job: &str, serve: &Serve, more: impl IntoIterator<Item = String>) -> std::process::Child {
    // Where and who we are is inherited; the place to go to is nowhere else.
    let ids = Place::default().ids(nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
    Command::new("/proc/self/exe")
        .args([job, &serde_json::json!(ids).to_string(), &serde_json::json!(serve).to_string()])
        .args(more)
        .spawn()
        .expect("a program can run itself")
}

fn run_workers(serve: &Serve) -> ExitCode {
    let one = Serve { workers: 0, ..serve.clone() };
    let workers: Vec<_> = (0..serve.workers).map(|_| again("serve", &one, [])).collect();
    wait_for_all(workers)
}

fn hand_over(serve: &Serve, listeners: &[Socket]) -> ExitCode {
    for listener in listeners {
        fcntl(listener.as_fd(), FcntlArg::F_SETFD(FdFlag::empty())).expect("own descriptor");
    }
    let one = Serve { hand_over: false, ..serve.clone() };
    let descriptors = listeners.iter().map(|listener| listener.as_raw_fd().to_string());
    wait_for_all(vec![again("accept", &one, descriptors)])
}

fn wait_for_all(children: Vec<std::process::Child>) -> ExitCode {
    for mut child in children {
        child.wait().expect("own child");
    }
    ExitCode::SUCCESS
}

fn listen(serve: &Serve, Listener { name: _, at }: &Listener) -> Result<Socket, String> {
    let step = |step: &'static str| move |error: io::Error| format!("{step} {}", name(&error));
    let socket = Socket::new(Domain::for_address(*at), Type::STREAM, None).map_err(step("socket"))?;
    socket.set_reuse_address(serve.reuse_address).map_err(step("reuse"))?;
    if at.is_ipv6() {
        socket.set_only_v6(serve.only_v6).map_err(step("only-v6"))?;
    }
    // A worker is told so by a count of none: it shares its ports with the others.
    if serve.workers == 0 {
        socket.set_reuse_port(true).map_err(step("reuse-port"))?;
    }
    socket.bind(&SockAddr::from(*at)).map_err(step("bind"))?;
    socket.listen(4096).map_err(step("listen"))?;
    fast_open(&socket);
    Ok(socket)
}

fn fast_open(socket: &Socket) {
    let queue: i32 = 64;
    let length = u32::try_from(size_of::<i32>()).expect("four");
    // SAFETY: the option's value is the int passed, of the length passed.
    #[expect(unsafe_code, reason = "an option the socket crate does not name")]
    let _done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_TCP,
            libc::TCP_FASTOPEN,
            (&raw const queue).cast(),
            length,
        )
    };
}

/// Accepts, greets and echoes until stdin ends.
fn attend(serve: &Serve, listeners: Vec<Socket>) -> ExitCode {
    let epoll = Epoll::new(EpollCreateFlags::empty()).expect("epoll");
    let watch = |socket: &Socket| {
        let key = u64::try_from(socket.as_raw_fd()).expect("descriptors are positive");
        epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, key)).expect("own socket");
        key
    };
    let stdin = io::stdin();
    // In a container stdin is `/dev/null`, which epoll does not take: nobody asks there, and the container's end is the server's.
    let asked = epoll.add(&stdin, EpollEvent::new(EpollFlags::EPOLLIN, STDIN));
    assert!(asked.is_ok() || std::process::id() == 1, "stdin is a pipe: {asked:?}");
    let mut hearing = HashMap::new();
    for (socket, listener) in listeners.into_iter().zip(&serve.listeners) {
        socket.set_nonblocking(true).expect("own socket");
        hearing.insert(watch(&socket), (socket, listener.name.clone()));
    }
    println!("ready");
    let mut open: HashMap<u64, Socket> = HashMap::new();
    let mut seen = Vec::new();
    let mut events = vec![EpollEvent::empty(); 256];
    loop {
        let count = match epoll.wait(&mut events, EpollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            other => other.expect("own epoll"),
        };
        for event in events.iter().take(count) {
            let key = event.data();
            if key == STDIN {
                let Some(word) = heard() else { return ExitCode::SUCCESS };
                for (socket, name) in hearing.values() {
                    accept_all(serve, socket, name, &mut seen, |socket| {
                        open.insert(watch(&socket), socket);
                    });
                }
                if word.contains("deafen") {
                    hearing.clear();
                } else {
                    for greeting in seen.drain(..) {
                        println!("{greeting}");
                    }
                }
                println!(".");
            } else if let Some((socket, name)) = hearing.get(&key) {
                accept_all(serve, socket, name, &mut seen, |socket| {
                    open.insert(watch(&socket), socket);
                });
            } else if let Some(socket) = open.get(&key)
                && !echo(socket)
            {
                open.remove(&key);
            }
        }
    }
}

/// What the test says; none when it has gone.
fn heard() -> Option<String> {
    let mut buffer = [0; 64];
    let count = io::stdin().read(&mut buffer).unwrap_or(0);
    let word = buffer.get(..count)?;
    (count > 0).then(|| String::from_utf8_lossy(word).into_owned())
}

fn accept_all(
    serve: &Serve,
    listener: &Socket,
    name: &str,
    seen: &mut Vec<Greeting>,
    mut keep: impl FnMut(Socket),
) {
    loop {
        let socket = match listener.accept() {
            Ok((socket, _)) => socket,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            // The client has gone already, or took its half of a handshake back.
            Err(_) => continue,
        };
        let Some(greeting) = greet(serve, &socket, name) else { continue };
        if !serve.quiet {
            seen.push(greeting);
        }
        if !serve.hang_up {
            keep(socket);
        }
    }
}

/// Tells the other end what we see of the connection.
fn greet(serve: &Serve, socket: &Socket, by: &str) -> Option<Greeting> {
    let original = |answer: io::Result<SockAddr>| match socket_address(answer) {
        Ok(address) => address.to_string(),
        Err(error) => format!("!{}", name(&error)),
    };
    let greeting = Greeting {
        by: by.to_owned(),
        pid: std::process::id(),
        local: socket_address(socket.local_addr()).ok()?,
        peer: socket_address(socket.peer_addr()).ok()?,
        original4: original(socket.original_dst_v4()),
        original6: original(socket.original_dst_v6()),
        lengths: if serve.lengths { lengths(socket) } else { String::new() },
    };
    let line = format!("{greeting}\n");
    socket.set_nonblocking(true).ok()?;
    let mut writer = socket;
    writer.write_all(line.as_bytes()).ok()?;
    Some(greeting)
}

fn lengths(socket: &Socket) -> String {
    let mut text = String::new();
    for level in [libc::SOL_IP, libc::SOL_IPV6] {
        for room in [16, 28, 32, 128, 4096, 8192] {
            let comma = if text.is_empty() { "" } else { "," };
            let answer = match original_length(socket, level, room) {
                Ok(length) => length.to_string(),
                Err(error) => format!("!{}", name(&error)),
            };
            write!(text, "{comma}{level}/{room}={answer}").expect("text grows");
        }
    }
    text
}

/// Sends back what came; false when the connection is over.
fn echo(socket: &Socket) -> bool {
    let mut buffer = [0; 4096];
    let mut stream = socket;
    match stream.read(&mut buffer) {
        Ok(0) => false,
        Ok(count) => buffer.get(..count).is_some_and(|bytes| stream.write_all(bytes).is_ok()),
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}
