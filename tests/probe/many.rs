//! Clients with many connections, open together or one after the other.

use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::process::ExitCode;
use std::time::Instant;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use shunt_tests::ask::{Dial, Greeting, How, Many, Sum, plain};
use socket2::{SockAddr, Socket};

use crate::dial::greeting;
use crate::socket::{self, Failure, at, name, patience};

pub(crate) fn run(dial: &Dial) -> ExitCode {
    match dial.many {
        Some(Many::AtOnce(count)) => say(&together(dial, count).0),
        Some(Many::Hold(count)) => {
            let (sum, sockets) = together(dial, count);
            say(&sum);
            // The end of stdin is the end of the test.
            let _ended = io::stdin().read(&mut [0]);
            drop(sockets);
        }
        Some(Many::Churn(count, threads)) => say(&churn(dial, count, threads)),
        None => return ExitCode::from(2),
    }
    ExitCode::SUCCESS
}

fn say(sum: &Sum) {
    println!("{}", serde_json::json!(sum));
}

fn destination(dial: &Dial, number: usize) -> SocketAddr {
    let index = number % dial.to.len().max(1);
    *dial.to.get(index).expect("a client has a destination")
}

fn count(sum: &mut Sum, to: SocketAddr, outcome: Result<Greeting, Failure>) {
    match outcome {
        Ok(greeting) => {
            if greeting.original() == Some(plain(to)) {
                sum.exact += 1;
            } else {
                sum.wrong_count += 1;
                if sum.wrong.len() < 5 {
                    sum.wrong.push(format!("{to} heard {greeting}"));
                }
            }
            *sum.by.entry(greeting.by).or_default() += 1;
        }
        Err((step, error)) => *sum.failed.entry(format!("{step} {error}")).or_default() += 1,
    }
}

/// Connect, greeting, close, again.
fn churn(dial: &Dial, total: usize, threads: usize) -> Sum {
    let mut sum = Sum::default();
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    let mut own = Sum::default();
                    for number in (thread..total).step_by(threads) {
                        let to = destination(dial, number);
                        count(&mut own, to, visit(dial, to));
                    }
                    own
                })
            })
            .collect();
        for thread in running {
            sum.add(thread.join().expect("a thread of the churn"));
        }
    });
    sum
}

fn visit(dial: &Dial, to: SocketAddr) -> Result<Greeting, Failure> {
    let socket = socket::client(dial, to)?;
    socket::connect(dial, &socket, to).map_err(at("connect"))?;
    greeting(&socket)
}

/// All connects begin before the first greeting is read.
fn together(dial: &Dial, total: usize) -> (Sum, Vec<Socket>) {
    let dial = &Dial { how: How::NonBlocking, ..dial.clone() };
    let mut sum = Sum::default();
    let mut sockets = Vec::with_capacity(total);
    let epoll = Epoll::new(EpollCreateFlags::empty()).expect("epoll");
    for number in 0..total {
        let to = destination(dial, number);
        match begin(dial, to) {
            Ok(socket) => {
                let index = u64::try_from(sockets.len()).expect("a count");
                epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, index)).expect("own socket");
                sockets.push((socket, to));
            }
            Err(failure) => count(&mut sum, to, Err(failure)),
        }
    }
    let mut waiting = sockets.len();
    let mut events = vec![EpollEvent::empty(); 256];
    let mut last = Instant::now();
    while waiting > 0 && last.elapsed() < patience(dial) {
        let ready = epoll.wait(&mut events, EpollTimeout::from(1000_u16)).unwrap_or(0);
        for event in events.iter().take(ready) {
            let index = usize::try_from(event.data()).expect("an index");
            let (socket, to) = sockets.get(index).expect("own index");
            epoll.delete(socket).expect("own socket");
            count(&mut sum, *to, arrived(socket));
            waiting -= 1;
            last = Instant::now();
        }
    }
    if waiting > 0 {
        *sum.failed.entry("greeting SILENCE".to_owned()).or_default() += waiting;
    }
    (sum, sockets.into_iter().map(|(socket, _)| socket).collect())
}

fn begin(dial: &Dial, to: SocketAddr) -> Result<Socket, Failure> {
    let socket = socket::client(dial, to)?;
    socket.set_nonblocking(true).map_err(at("blocking"))?;
    match socket.connect(&SockAddr::from(to)) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => {
            Err(("connect".to_owned(), name(&error)))
        }
        _ => Ok(socket),
    }
}

fn arrived(socket: &Socket) -> Result<Greeting, Failure> {
    if let Some(error) = socket.take_error().map_err(at("error"))? {
        return Err(("connect".to_owned(), name(&error)));
    }
    debug_assert!(socket.as_raw_fd() >= 0, "an open socket");
    socket.set_nonblocking(false).map_err(at("blocking"))?;
    greeting(socket)
}
