//! UDP: servers that answer with what they saw, and clients that follow a list of steps.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ask::{Listener, Place, address, plain};
use crate::process::Helper;

/// A server of UDP: answers each datagram with what it saw of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Answering {
    /// Its sockets.
    pub listeners: Vec<Listener>,
    /// Whether it answers from the address it was asked at (`IP_PKTINFO`) or lets the kernel choose.
    pub exact: bool,
    /// Whether v6 sockets refuse v4.
    pub only_v6: bool,
}

impl Answering {
    /// A server with these sockets that lets the kernel choose its source.
    pub fn at<'a>(listeners: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let listener = |(name, at): (&str, &str)| Listener { name: name.to_owned(), at: address(at) };
        Self { listeners: listeners.into_iter().map(listener).collect(), exact: false, only_v6: true }
    }

    /// The same, answering from the address it was asked at.
    #[must_use]
    pub fn exact(mut self) -> Self {
        self.exact = true;
        self
    }
}

/// What a server saw of a datagram, in one line of text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The listener's name.
    pub by: String,
    /// The address the datagram was sent to.
    pub local: SocketAddr,
    /// Where it came from.
    pub peer: SocketAddr,
    /// What it said.
    pub question: String,
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { by, local, peer, question } = self;
        write!(f, "{by} {local} {peer} {question}")
    }
}

impl FromStr for Asked {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let bad = || format!("not what a server says: {line}");
        let mut words = line.split_whitespace();
        let mut word = || words.next().ok_or_else(bad);
        Ok(Self {
            by: word()?.to_owned(),
            local: word()?.parse().map_err(|error| format!("{}: {error}", bad()))?,
            peer: word()?.parse().map_err(|error| format!("{}: {error}", bad()))?,
            question: word()?.to_owned(),
        })
    }
}

/// One thing a client does with its socket. Questions are single words.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Step {
    /// `connect`. A v4 address goes to a v6 socket as it is, in a `sockaddr_in`.
    Connect(SocketAddr),
    /// `connect` with `AF_UNSPEC`.
    Dissolve,
    /// `send`.
    Send(String),
    /// `sendto`.
    SendTo(SocketAddr, String),
    /// `sendmsg`.
    SendMessage(SocketAddr, String),
    /// `sendmmsg`, all of them in one call.
    SendMany(Vec<(SocketAddr, String)>),
    /// `recvfrom`.
    Receive,
    /// `recv`: does not ask who sent it.
    ReceiveUnnamed,
    /// `recvfrom` with `MSG_PEEK`.
    Peek,
    /// `recvmmsg` until so many have come.
    ReceiveMany(usize),
    /// `getsockname` and `getpeername`.
    Names,
}

/// A client's orders: one socket and what to do with it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Script {
    /// Whether it is an `AF_INET6` socket; it takes v4-mapped addresses too.
    pub v6: bool,
    /// Bind to this first.
    pub bind: Option<SocketAddr>,
    /// `SO_BINDTODEVICE`.
    pub device: Option<String>,
    /// Milliseconds to wait for an answer; EAGAIN after that.
    pub patience: u64,
    /// What to do.
    pub steps: Vec<Step>,
}

impl Script {
    /// Steps of a v4 socket.
    pub fn v4(steps: impl IntoIterator<Item = Step>) -> Self {
        Self { v6: false, bind: None, device: None, patience: 5000, steps: steps.into_iter().collect() }
    }

    /// Steps of a v6 socket.
    pub fn v6(steps: impl IntoIterator<Item = Step>) -> Self {
        Self { v6: true, ..Self::v4(steps) }
    }

    /// The same from a bound socket.
    #[must_use]
    pub fn bind(mut self, at: &str) -> Self {
        self.bind = Some(address(at));
        self
    }

    /// The same where no answer is expected.
    #[must_use]
    pub fn impatient(mut self) -> Self {
        self.patience = 300;
        self
    }
}

/// A datagram as the client got it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Got {
    /// Who sent it, as the client is told.
    pub from: Option<SocketAddr>,
    /// What the server had seen.
    pub answer: Asked,
}

/// What came of one step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Did {
    /// The kernel's name for why it failed.
    pub error: Option<String>,
    /// Own address.
    pub local: Option<SocketAddr>,
    /// Peer's address; none when the socket has none.
    pub peer: Option<SocketAddr>,
    /// What it received.
    pub got: Vec<Got>,
}

impl Did {
    /// The error's name, `ok`, or who answered.
    pub fn outcome(&self) -> &str {
        match (&self.error, self.got.first()) {
            (Some(error), _) => error,
            (None, Some(got)) => &got.answer.by,
            (None, None) => "ok",
        }
    }

    /// The one datagram a step must have received.
    #[track_caller]
    pub fn got(&self) -> &Got {
        assert!(self.error.is_none() && self.got.len() == 1, "one datagram was to come: {self:?}");
        self.got.first().unwrap_or_else(|| panic!("one was there"))
    }

    /// Peer's address, not in its mapped form.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer.map(plain)
    }

    /// Own address, not in its mapped form.
    pub fn local(&self) -> Option<SocketAddr> {
        self.local.map(plain)
    }
}

/// A running server of UDP.
#[derive(Debug)]
pub struct Oracle(Helper);

impl Oracle {
    /// Starts a server and waits until it can be asked.
    pub fn start(place: &Place, answering: &Answering) -> Self {
        let mut helper = Helper::start(place, "answer", answering);
        let line = helper.line();
        assert_eq!(line.as_deref(), Some("ready"), "server of UDP in {place:?}: {answering:?}");
        Self(helper)
    }

    /// The datagrams it got since the last time asked, all those pending included.
    pub fn asked(&mut self) -> Vec<Asked> {
        self.0.say("asked");
        let mut asked = Vec::new();
        loop {
            match self.0.line() {
                Some(line) if line == "." => return asked,
                Some(line) => asked.push(line.parse().expect("a server prints what it saw")),
                None => panic!("the server ended"),
            }
        }
    }
}

/// Runs a client to its end: what came of each step.
pub fn play(place: &Place, script: &Script) -> Vec<Did> {
    let mut helper = Helper::start(place, "play", script);
    let line = helper.line().unwrap_or_else(|| panic!("the client died: {script:?} in {place:?}"));
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_saw_survives_its_line() {
        let line = "dns 127.0.0.1:15053 127.53.0.1:4000 q1";
        let asked: Asked = line.parse().expect("a whole line");
        assert_eq!(asked.to_string(), line);
        assert!("dns 127.0.0.1:15053".parse::<Asked>().is_err());
    }
}
