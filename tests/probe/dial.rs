//! Clients that make one connection to each destination.

use std::io::{self, BufRead as _, Read as _, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;

use shunt_tests::ask::{Close, Dial, Greeting, Try, plain};
use socket2::Socket;

use crate::socket::{self, Failure, at, name, socket_address};

/// Dials each destination in turn. What is not closed stays open until the sockets are dropped.
pub(crate) fn each(dial: &Dial) -> (Vec<Try>, Vec<Option<Socket>>) {
    dial.to.iter().map(|to| one(dial, *to)).unzip()
}

fn one(dial: &Dial, to: SocketAddr) -> (Try, Option<Socket>) {
    let mut seen = Try { to, error: None, local: None, peer: None, greeting: None };
    match attempt(dial, to, &mut seen) {
        Ok(socket) => (seen, (dial.close == Close::Never).then_some(socket)),
        Err(failure) => {
            seen.error = Some(failure);
            (seen, None)
        }
    }
}

fn attempt(dial: &Dial, to: SocketAddr, seen: &mut Try) -> Result<Socket, Failure> {
    let socket = socket::client(dial, to)?;
    socket::connect(dial, &socket, to).map_err(at("connect"))?;
    seen.local = Some(socket_address(socket.local_addr()).map(plain).map_err(at("getsockname"))?);
    seen.peer = Some(socket_address(socket.peer_addr()).map(plain).map_err(at("getpeername"))?);
    seen.greeting = Some(greeting(&socket)?);
    match dial.close {
        // Until the other end has gone too, so that the next one from the same port meets TIME_WAIT and no race.
        Close::First => {
            socket.shutdown(std::net::Shutdown::Write).map_err(at("shutdown"))?;
            drain(&socket).map_err(at("drain"))?;
        }
        Close::Second => drain(&socket).map_err(at("drain"))?,
        Close::Abort | Close::Never => {}
    }
    Ok(socket)
}

/// Reads the line the server begins with.
pub(crate) fn greeting(socket: &Socket) -> Result<Greeting, Failure> {
    let mut stream = socket;
    let mut line = Vec::with_capacity(256);
    let mut buffer = [0; 512];
    while !line.contains(&b'\n') {
        match stream.read(&mut buffer).map_err(at("greeting"))? {
            0 => return Err(("greeting".to_owned(), "EOF".to_owned())),
            count => line.extend_from_slice(buffer.get(..count).unwrap_or_default()),
        }
    }
    let line = String::from_utf8_lossy(&line);
    let first = line.lines().next().unwrap_or_default();
    first.parse().map_err(|error| ("greeting".to_owned(), error))
}

fn drain(socket: &Socket) -> io::Result<()> {
    let mut stream = socket;
    let mut buffer = [0; 512];
    while stream.read(&mut buffer)? > 0 {}
    Ok(())
}

/// Keeps the connections and sends a word over each whenever the test says so.
pub(crate) fn talk(dial: &Dial) -> ExitCode {
    let dial = Dial { close: Close::Never, ..dial.clone() };
    let (tries, sockets) = each(&dial);
    println!("{}", serde_json::json!(tries));
    for _word in io::stdin().lock().lines() {
        let answers: Vec<String> = sockets.iter().map(|socket| word(socket.as_ref())).collect();
        println!("{}", answers.join(" "));
    }
    ExitCode::SUCCESS
}

fn word(socket: Option<&Socket>) -> String {
    let Some(mut stream) = socket else { return "closed".to_owned() };
    let mut buffer = [0; 4];
    let answer = stream.write_all(b"word").and_then(|()| stream.read_exact(&mut buffer));
    match answer {
        Ok(()) if &buffer == b"word" => "same".to_owned(),
        Ok(()) => "other".to_owned(),
        Err(error) => name(&error),
    }
}
