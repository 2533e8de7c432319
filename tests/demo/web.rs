//! The smallest web server and client that tell what they see.

use std::io::{Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::outcome::{Doing as _, Outcome};

const PATIENCE: Duration = Duration::from_secs(5);

/// What a client saw of one request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Visit {
    /// Its own end (`getsockname`).
    pub(crate) local: Option<SocketAddr>,
    /// The other end (`getpeername`).
    pub(crate) peer: Option<SocketAddr>,
    /// Who the server says it was talking to.
    pub(crate) seen_by_server: Option<SocketAddr>,
    /// Name of the errno, or what else went wrong.
    pub(crate) error: Option<String>,
}

/// A v4 client on a v6 socket is a v4 client.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Answers every request with the address of whoever asks.
pub(crate) fn serve(port: &str) -> Outcome<()> {
    let port = port.parse().doing("read a port")?;
    let listener = TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).doing("listen")?;
    println!("ready");
    loop {
        let (mut client, from) = listener.accept().doing("accept")?;
        let from = plain(from);
        std::thread::spawn(move || {
            let _slow = client.set_read_timeout(Some(PATIENCE));
            let mut request = [0; 4096];
            // One read: what asks here sends its request in one piece.
            let _asked = client.read(&mut request);
            let body = format!("{from}\n");
            let length = body.len();
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length";
            let _answered = write!(client, "{head}: {length}\r\n\r\n{body}");
        });
    }
}

/// Makes one request and prints a [`Visit`].
pub(crate) fn get(address: &str) -> Outcome<()> {
    let address: SocketAddr = address.parse().doing("read an address")?;
    let mut visit = Visit { local: None, peer: None, seen_by_server: None, error: None };
    if let Err(error) = ask(address, &mut visit) {
        visit.error = Some(match error.raw_os_error() {
            Some(number) => format!("{:?}", nix::errno::Errno::from_raw(number)),
            None => error.to_string(),
        });
    }
    println!("{}", serde_json::to_string(&visit).doing("write down what was seen")?);
    Ok(())
}

fn ask(address: SocketAddr, visit: &mut Visit) -> std::io::Result<()> {
    let mut server = TcpStream::connect_timeout(&address, PATIENCE)?;
    server.set_read_timeout(Some(PATIENCE))?;
    visit.local = Some(plain(server.local_addr()?));
    visit.peer = Some(plain(server.peer_addr()?));
    write!(server, "GET / HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    server.read_to_string(&mut answer)?;
    visit.seen_by_server = answer.split("\r\n\r\n").nth(1).and_then(|body| body.trim().parse().ok());
    if visit.seen_by_server.is_none() {
        return Err(std::io::Error::other("closed without an answer"));
    }
    Ok(())
}

impl Visit {
    /// How it ended.
    pub(crate) fn outcome(&self) -> String {
        match (&self.error, self.seen_by_server) {
            (Some(error), _) => error.clone(),
            (None, Some(seen)) => format!("answered; the server saw {seen}"),
            (None, None) => "nothing".into(),
        }
    }
}
