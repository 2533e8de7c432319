//! What a test asks of a helper process and what it hears back; spoken as JSON between the two.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where a process runs and as whom.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Place {
    /// Network namespace; none stays where the test is.
    pub netns: Option<PathBuf>,
    /// Directory of the cgroup to join.
    pub cgroup: Option<PathBuf>,
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// Effective user id where it differs, as in a setuid program.
    pub euid: Option<u32>,
    /// Id to appear as inside a user namespace made by the process itself.
    pub pretend: Option<u32>,
}

impl Place {
    /// The same place for another user and group.
    #[must_use]
    pub fn ids(mut self, uid: u32, gid: u32) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }
}

/// One listening socket.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Listener {
    /// What it calls itself in greetings.
    pub name: String,
    /// Where it listens. `[::]` serves both families unless [`Serve::only_v6`].
    pub at: SocketAddr,
}

/// A server: greets each connection with what it saw of it, then echoes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "switches of a socket, each on its own")]
pub struct Serve {
    /// Its sockets.
    pub listeners: Vec<Listener>,
    /// How many processes accept; more than one share ports by `SO_REUSEPORT`.
    pub workers: usize,
    /// Whether `SO_REUSEADDR` is set before bind.
    pub reuse_address: bool,
    /// Whether v6 sockets refuse v4.
    pub only_v6: bool,
    /// Close each connection after the greeting instead of echoing.
    pub hang_up: bool,
    /// Bind and listen in one process, accept in another.
    pub hand_over: bool,
    /// Answer what `SO_ORIGINAL_DST` says for several lengths.
    pub lengths: bool,
    /// Do not report each connection.
    pub quiet: bool,
}

impl Serve {
    /// A server with these sockets and the settings most servers have.
    pub fn at<'a>(listeners: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        Self {
            listeners: listeners
                .into_iter()
                .map(|(name, at)| Listener { name: name.to_owned(), at: address(at) })
                .collect(),
            workers: 1,
            reuse_address: true,
            only_v6: true,
            hang_up: false,
            hand_over: false,
            lengths: false,
            quiet: false,
        }
    }
}

/// How a client makes its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum How {
    /// Blocking connect.
    Plain,
    /// Non-blocking connect, then poll.
    NonBlocking,
    /// `TCP_FASTOPEN_CONNECT`.
    FastOpenConnect,
    /// `sendto` with `MSG_FASTOPEN`.
    FastOpenSend,
    /// An MPTCP socket.
    Mptcp,
}

/// How a client closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Close {
    /// First.
    First,
    /// After the peer has.
    Second,
    /// With RST.
    Abort,
    /// When the client ends: all its connections are open together.
    Never,
}

/// Many connections at once or one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Many {
    /// All open together, closed when each has been greeted.
    AtOnce(usize),
    /// As `AtOnce`, but kept until the client is told to end.
    Hold(usize),
    /// Connect, greeting, close, again; so many in all, from so many threads.
    Churn(usize, usize),
}

/// A client's orders.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Dial {
    /// Destinations, in order. `[::ffff:a.b.c.d]` is dialled from a v6 socket.
    pub to: Vec<SocketAddr>,
    /// The kind of connect.
    pub how: How,
    /// Bind to this first.
    pub bind: Option<SocketAddr>,
    /// `IP_BIND_ADDRESS_NO_PORT` before bind.
    pub no_port: bool,
    /// `SO_REUSEADDR` before bind.
    pub reuse_address: bool,
    /// `SO_BINDTODEVICE`.
    pub device: Option<String>,
    /// Who closes.
    pub close: Close,
    /// Not one each, but many.
    pub many: Option<Many>,
    /// Seconds after which a step that does not end has failed.
    pub patience: u64,
}

impl Dial {
    /// One plain connection to each destination, the client closing first.
    pub fn to<T: AsRef<str>>(destinations: impl IntoIterator<Item = T>) -> Self {
        Self {
            to: destinations.into_iter().map(|text| address(text.as_ref())).collect(),
            how: How::Plain,
            bind: None,
            no_port: false,
            reuse_address: false,
            device: None,
            close: Close::First,
            many: None,
            patience: 20,
        }
    }

    /// The same made in another way.
    #[must_use]
    pub fn how(mut self, how: How) -> Self {
        self.how = how;
        self
    }

    /// The same from a chosen source.
    #[must_use]
    pub fn bind(mut self, at: &str) -> Self {
        self.bind = Some(address(at));
        self
    }

    /// The same from a socket with `SO_REUSEADDR`.
    #[must_use]
    pub fn reuse_address(mut self) -> Self {
        self.reuse_address = true;
        self
    }

    /// The same with another way to close.
    #[must_use]
    pub fn close(mut self, close: Close) -> Self {
        self.close = close;
        self
    }

    /// Many connections over the destinations in turn.
    #[must_use]
    pub fn many(mut self, many: Many) -> Self {
        self.many = Some(many);
        self
    }
}

/// What one connection of a client was like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Try {
    /// Whereto.
    pub to: SocketAddr,
    /// The step that failed and the kernel's name for why.
    pub error: Option<(String, String)>,
    /// Own address, as the app is told.
    pub local: Option<SocketAddr>,
    /// Peer's address, as the app is told.
    pub peer: Option<SocketAddr>,
    /// What the other end said.
    pub greeting: Option<Greeting>,
}

impl Try {
    /// The error's name, or who answered: `ECONNREFUSED`, `outbound`, `world`.
    pub fn outcome(&self) -> &str {
        match (&self.error, &self.greeting) {
            (Some((_, name)), _) => name,
            (None, Some(greeting)) => &greeting.by,
            (None, None) => "silence",
        }
    }

    /// The greeting of a connection that must have worked.
    pub fn greeted(&self) -> &Greeting {
        self.greeting.as_ref().unwrap_or_else(|| panic!("no answer: {self:?}"))
    }
}

/// What many connections came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    /// Greeted, and the server named the destination that was dialled.
    pub exact: usize,
    /// Greeted, but the server named another destination, or none; a few of them.
    pub wrong: Vec<String>,
    /// How many of those.
    pub wrong_count: usize,
    /// Who greeted, and how often.
    pub by: std::collections::BTreeMap<String, usize>,
    /// Failures, counted by step and error.
    pub failed: std::collections::BTreeMap<String, usize>,
}

impl Sum {
    /// Adds another client's sum.
    pub fn add(&mut self, other: Self) {
        self.exact += other.exact;
        self.wrong_count += other.wrong_count;
        self.wrong.extend(other.wrong);
        self.wrong.truncate(5);
        for (name, count) in other.by {
            *self.by.entry(name).or_default() += count;
        }
        for (name, count) in other.failed {
            *self.failed.entry(name).or_default() += count;
        }
    }
}

/// What a server says of a connection, in one line of text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// The listener's name.
    pub by: String,
    /// The process that accepted.
    pub pid: u32,
    /// The socket's own address.
    pub local: SocketAddr,
    /// The other end.
    pub peer: SocketAddr,
    /// `SO_ORIGINAL_DST` at level 0: an address or `!ERRNO`.
    pub original4: String,
    /// The same at level 41.
    pub original6: String,
    /// More, when asked for: `level/given=returned` or `level/given=!ERRNO`.
    pub lengths: String,
}

impl Greeting {
    /// The original destination, from whichever level has one.
    pub fn original(&self) -> Option<SocketAddr> {
        self.original4.parse().or_else(|_| self.original6.parse()).ok().map(plain)
    }

    /// The peer, not in its mapped form.
    pub fn peer(&self) -> SocketAddr {
        plain(self.peer)
    }

    /// The socket's own address, not in its mapped form.
    pub fn local(&self) -> SocketAddr {
        plain(self.local)
    }
}

impl fmt::Display for Greeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { by, pid, local, peer, original4, original6, lengths } = self;
        write!(f, "{by} {pid} {local} {peer} {original4} {original6} {lengths}")
    }
}

impl FromStr for Greeting {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let bad = || format!("not a greeting: {line}");
        let mut words = line.split_whitespace();
        let mut word = || words.next().ok_or_else(bad);
        Ok(Self {
            by: word()?.to_owned(),
            pid: word()?.parse().map_err(|error| format!("{}: {error}", bad()))?,
            local: word()?.parse().map_err(|error| format!("{}: {error}", bad()))?,
            peer: word()?.parse().map_err(|error| format!("{}: {error}", bad()))?,
            original4: word()?.to_owned(),
            original6: word()?.to_owned(),
            lengths: words.next().unwrap_or_default().to_owned(),
        })
    }
}

/// An address written in a test.
pub fn address(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// A mapped v4 address as v4; scope and flow label left out.
pub fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Brackets where a v6 address needs them.
pub fn at(ip: impl Into<IpAddr>, port: u16) -> String {
    SocketAddr::new(ip.into(), port).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_survives_its_line() {
        let line = "outbound 7 10.0.0.1:1 [::1]:2 !ENOENT [fd00::1]:80 0/16=16";
        let greeting: Greeting = line.parse().expect("a whole line");
        assert_eq!(greeting.to_string(), line);
        assert_eq!(greeting.original(), Some(address("[fd00::1]:80")));
    }

    #[test]
    fn half_a_greeting_is_none() {
        assert!("outbound 7 10.0.0.1:1".parse::<Greeting>().is_err());
    }
}
