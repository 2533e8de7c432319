//! Whether a talk went the way it should: for each hop, the access log has who came, where they wanted to go and from where Envoy went
//! on, and each hop's answer is the next one's question.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use shunt_tests::envoy::Access;

use crate::peers::{NAME, Talked, port};
use crate::proxy::Envoy;

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// From a pod's app to the world, by its Envoy.
    Out,
    /// From the world to a pod's app, by its Envoy.
    In,
    /// From one pod's app to another's, by both Envoys.
    Through,
    /// From a pod's app to itself by way of a service, twice by its Envoy.
    Own,
}

impl Way {
    pub(crate) const ALL: [Self; 4] = [Self::Out, Self::In, Self::Through, Self::Own];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Out => "out",
            Self::In => "in",
            Self::Through => "through",
            Self::Own => "self",
        }
    }
}

/// One Envoy on the way: which listener takes the connection, and where it goes on to.
pub(crate) struct Hop {
    /// Whose.
    pub(crate) envoy: usize,
    pub(crate) listener: &'static str,
    pub(crate) meant_for: IpAddr,
    pub(crate) goes_to: IpAddr,
    /// From where Envoy dials on.
    pub(crate) from: IpAddr,
}

/// All hops of a way, in order.
pub(crate) struct Path<'a> {
    pub(crate) hops: &'a [Hop],
    pub(crate) envoys: &'a [Envoy],
    /// Whether each sees the port that its client has: see [`of`].
    pub(crate) keeps_ports: bool,
}

/// How long the access log is waited for: Envoy writes a line when a connection or request is over.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is wrong with a talk that came this way; nothing is.
pub(crate) fn judge(seen: &Talked, way: &Path<'_>) -> Result<(), String> {
    if let Some(error) = &seen.error {
        return Err(error.clone());
    }
    let port = seen.port.ok_or("it went nowhere")?;
    let first = way.hops.first().ok_or("no hop")?.meant_for;
    if seen.peer.is_some_and(|peer| peer != SocketAddr::new(first, port)) {
        return Err(format!("the client was told of the peer {:?}", seen.peer));
    }
    if seen.seen.is_empty() {
        return Err("the server saw nobody".into());
    }
    let end = Instant::now() + PATIENCE;
    loop {
        let followed = follow(seen, port, way);
        if followed.is_ok() || Instant::now() > end {
            return followed;
        }
        let _waited = nix::poll::poll(&mut [], 10_u8);
    }
}

/// Follows a talk from hop to hop, as far as the logs go by now.
fn follow(seen: &Talked, port: u16, way: &Path<'_>) -> Result<(), String> {
    let speaks = match port {
        port::HTTP | port::WEBSOCKET => Some("HTTP/1.1"),
        port::HTTP2 | port::GRPC => Some("HTTP/2"),
        _ => None,
    };
    // Requests go by their id: one connection of Envoy's may carry those of several talks.
    let mut clients: BTreeSet<SocketAddr> = seen.local.into_iter().collect();
    for (number, hop) in way.hops.iter().enumerate() {
        let is_one = |access: &Access| {
            access.listener == hop.listener
                && access.asked_for.parse::<SocketAddr>().is_ok_and(|address| address.port() == port)
                && (speaks.is_none() || access.talk.as_deref() == Some(&seen.id))
        };
        let mut lines: Vec<Access> = way.envoys[hop.envoy].accesses().into_iter().filter(is_one).collect();
        if number > 0 || speaks.is_none() {
            lines = of(&clients, SocketAddr::new(hop.meant_for, port), way.keeps_ports, &lines);
        }
        if lines.is_empty() {
            return Err(format!("the {} log of Envoy has nothing of {seen:?}", hop.listener));
        }
        clients = lines.iter().map(|line| one(hop, line, port, speaks)).collect::<Result<_, _>>()?;
    }
    match seen.seen.iter().find(|client| !clients.contains(client)) {
        None => Ok(()),
        Some(other) => Err(format!("the server saw {other}, and the last Envoy dialled from {clients:?}")),
    }
}

/// The lines of these clients, to this destination; if there is none, theirs to another one.
///
/// `keeps_ports` says whether the proxy sees the port that a client has. A port may go to two destinations at once, and where REDIRECT
/// makes one of the two (the proxy's port), conntrack gives the later connection another source port. There a client is its address, and
/// which of its connections it was shows at the end of the way, in whom the server saw.
fn of(
    clients: &BTreeSet<SocketAddr>,
    meant_for: SocketAddr,
    keeps_ports: bool,
    lines: &[Access],
) -> Vec<Access> {
    let is_client = |line: &&Access, to_the_port: bool| {
        line.client.parse::<SocketAddr>().is_ok_and(|client| {
            clients
                .iter()
                .any(|other| other.ip() == client.ip() && (!to_the_port || other.port() == client.port()))
        })
    };
    let goes_there = |line: &&Access| line.asked_for.parse() == Ok(meant_for) && is_client(line, keeps_ports);
    let found: Vec<Access> = lines.iter().filter(goes_there).cloned().collect();
    if found.is_empty() {
        return lines.iter().filter(|line| is_client(line, true)).cloned().collect();
    }
    found
}

/// One line of one Envoy; says from where it went on.
fn one(hop: &Hop, line: &Access, port: u16, speaks: Option<&str>) -> Result<SocketAddr, String> {
    let wrong = |what: &str| Err(format!("{what}: {line:?}"));
    let at = |ip: IpAddr| SocketAddr::new(ip, port);
    if line.asked_for.parse() != Ok(at(hop.meant_for)) {
        return wrong("Envoy was told another destination");
    }
    if line.dials.as_ref().and_then(|text| text.parse().ok()) != Some(at(hop.goes_to)) {
        return wrong("Envoy dialled elsewhere");
    }
    if port == port::TLS && line.server_name.as_deref() != Some(NAME) {
        return wrong("Envoy did not see the name the client asked for");
    }
    if line.protocol.as_deref() != speaks {
        return wrong("Envoy did not speak its protocol");
    }
    match line.dials_from.as_ref().and_then(|text| text.parse::<SocketAddr>().ok()) {
        Some(from) if from.ip() == hop.from => Ok(from),
        _ => wrong("Envoy dialled from another address"),
    }
}
