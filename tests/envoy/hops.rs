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

/// How long the access log is waited for: Envoy writes a line when a connection or request is over.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is wrong with a talk that came this way; nothing is.
pub(crate) fn judge(seen: &Talked, hops: &[Hop], envoys: &[Envoy]) -> Result<(), String> {
    if let Some(error) = &seen.error {
        return Err(error.clone());
    }
    let port = seen.port.ok_or("it went nowhere")?;
    let first = hops.first().ok_or("no hop")?.meant_for;
    if seen.peer.is_some_and(|peer| peer != SocketAddr::new(first, port)) {
        return Err(format!("the client was told of the peer {:?}", seen.peer));
    }
    if seen.seen.is_empty() {
        return Err("the server saw nobody".into());
    }
    let end = Instant::now() + PATIENCE;
    loop {
        let followed = follow(seen, port, hops, envoys);
        if followed.is_ok() || Instant::now() > end {
            return followed;
        }
        let _waited = nix::poll::poll(&mut [], 10_u8);
    }
}

/// Follows a talk from hop to hop, as far as the logs go by now.
fn follow(seen: &Talked, port: u16, hops: &[Hop], envoys: &[Envoy]) -> Result<(), String> {
    let speaks = match port {
        port::HTTP | port::WEBSOCKET => Some("HTTP/1.1"),
        port::HTTP2 | port::GRPC => Some("HTTP/2"),
        _ => None,
    };
    let mut clients: Option<BTreeSet<SocketAddr>> = None;
    for hop in hops {
        // Requests by their id: one connection of Envoy's may carry those of several talks. Connections by where they go too: a
        // source port may go to two destinations.
        let is_one = |access: &Access| {
            let client = access.client.parse().ok();
            let asked_for = access.asked_for.parse::<SocketAddr>();
            access.listener == hop.listener
                && asked_for.is_ok_and(|address| address.port() == port)
                && (speaks.is_none() || access.talk.as_deref() == Some(&seen.id))
                && match &clients {
                    Some(clients) => client.is_some_and(|client| clients.contains(&client)),
                    None => speaks.is_some() || client == seen.local,
                }
        };
        let lines: Vec<Access> = envoys[hop.envoy].accesses().into_iter().filter(is_one).collect();
        if lines.is_empty() {
            return Err(format!("the {} log of Envoy has nothing of {seen:?}", hop.listener));
        }
        clients = Some(lines.iter().map(|line| one(hop, line, port, speaks)).collect::<Result<_, _>>()?);
    }
    let last = clients.unwrap_or_default();
    match seen.seen.iter().find(|client| !last.contains(client)) {
        None => Ok(()),
        Some(other) => Err(format!("the server saw {other}, and the last Envoy dialled from {last:?}")),
    }
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
