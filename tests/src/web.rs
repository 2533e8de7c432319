//! The smallest web server and client that tell what they see.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ask::plain;

/// How long either end waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a client saw of one request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Visit {
    /// Its own end (`getsockname`).
    pub local: Option<SocketAddr>,
    /// The other end (`getpeername`).
    pub peer: Option<SocketAddr>,
    /// Who the server says it was talking to.
    pub seen_by_server: Option<SocketAddr>,
    /// Name of the errno, or what else went wrong.
    pub error: Option<String>,
}

/// A listener for both families.
pub fn listen(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
}

/// Answers every request with the address of whoever asks, and tells `seen` that address and the path asked for.
pub fn serve(listener: &TcpListener, seen: impl Fn(SocketAddr, &str) + Sync) -> io::Result<()> {
    std::thread::scope(|threads| {
        loop {
            let (client, from) = listener.accept()?;
            let seen = &seen;
            threads.spawn(move || answer(client, plain(from), seen));
        }
    })
}

fn answer(mut client: TcpStream, from: SocketAddr, seen: impl Fn(SocketAddr, &str)) {
    let _slow = client.set_read_timeout(Some(PATIENCE));
    // All of it: to close on what was not read resets the connection.
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    while !request.ends_with(b"\r\n\r\n") && request.len() < 65536 {
        match client.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(count) => request.extend_from_slice(buffer.get(..count).unwrap_or_default()),
        }
    }
    let request = String::from_utf8_lossy(&request);
    seen(from, request.split_ascii_whitespace().nth(1).unwrap_or_default());
    let body = format!("{from}\n");
    let length = body.len();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length";
    let _answered = write!(client, "{head}: {length}\r\n\r\n{body}");
}

/// Makes one request.
pub fn get(address: SocketAddr, path: &str) -> Visit {
    let mut visit = Visit { local: None, peer: None, seen_by_server: None, error: None };
    if let Err(error) = ask(address, path, &mut visit) {
        visit.error = Some(match error.raw_os_error() {
            Some(number) => format!("{:?}", nix::errno::Errno::from_raw(number)),
            None => error.to_string(),
        });
    }
    visit
}

fn ask(address: SocketAddr, path: &str, visit: &mut Visit) -> io::Result<()> {
    let mut server = TcpStream::connect_timeout(&address, PATIENCE)?;
    server.set_read_timeout(Some(PATIENCE))?;
    visit.local = Some(plain(server.local_addr()?));
    visit.peer = Some(plain(server.peer_addr()?));
    let request = format!("GET {path} HTTP/1.1\r\nHost: shunt\r\nConnection: close\r\n\r\n");
    server.write_all(request.as_bytes())?;
    let mut answer = String::new();
    server.read_to_string(&mut answer)?;
    visit.seen_by_server = answer.split("\r\n\r\n").nth(1).and_then(|body| body.trim().parse().ok());
    if visit.seen_by_server.is_none() {
        return Err(io::Error::other("closed without an answer"));
    }
    Ok(())
}

impl Visit {
    /// How it ended.
    pub fn outcome(&self) -> String {
        match (&self.error, self.seen_by_server) {
            (Some(error), _) => error.clone(),
            (None, Some(seen)) => format!("answered; the server saw {seen}"),
            (None, None) => "nothing".into(),
        }
    }
}
