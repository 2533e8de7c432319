//! `shuntctl flows`: captured connections by the destination they asked for, with the kernel's own accounts of them.
//!
//! A connection that leaves is seen at the app's end, where its original destination is kept; one that arrives at the proxy's. So
//! round trips are those to the proxy for the one and those to the peer for the other. Bytes are the pod's: sent by it, received by it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Duration;

use clap::ValueEnum;
use nix::unistd::geteuid;
use serde::Serialize;
use shunt_abi::{PodKey, role, slot};

use super::captured::{Pods, chain, complaints, cookie, name, object};
use super::stream::remark;
use super::table::{self, Column};
use super::{Directories, EXIT_CODES, FAILED, Format, JSON_VERSION, Said, TOLD};
use crate::bpf::pins::Layout;
use crate::bpf::pod::socket_states;
use crate::bpf::trace::monotonic;
use crate::fault::{Fault, Outcome, Tried as _};
use crate::netns::Netns;
use crate::plan::Plan;
use crate::record::Record;
use crate::sockets::{Account, Socket, of_this_namespace, state};

/// Shows captured connections by the destination they asked for
///
/// With the kernel's own accounts of them: bytes, round trips, retransmits, state, and age as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Args {
    #[command(flatten)]
    asked: Asked,
    /// How it is printed.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

/// What was asked, by `flows` and by `top`.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub(super) struct Asked {
    /// Whose; all pods if left out: namespace/name, a name, or the beginning of a container's id.
    pub(super) pod: Option<String>,
    /// What comes first.
    #[arg(long, value_name = "KEY", default_value = "bytes")]
    pub(super) sort: Sort,
    /// What a row is.
    #[arg(long, value_name = "WHAT", default_value = "destination")]
    pub(super) by: By,
    #[command(flatten)]
    pub(super) directories: Directories,
}

/// What comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Sort {
    /// Most bytes, both ways.
    Bytes,
    /// Longest round trip.
    Rtt,
    /// Most retransmits.
    #[value(name = "retrans")]
    Retransmits,
    /// Oldest.
    Age,
    /// By destination.
    #[value(name = "dest")]
    Destination,
}

impl Sort {
    pub(super) const NAMES: [(Self, &'static str); 5] = [
        (Self::Bytes, "bytes"),
        (Self::Rtt, "rtt"),
        (Self::Retransmits, "retrans"),
        (Self::Age, "age"),
        (Self::Destination, "dest"),
    ];

    pub(super) fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(sort, _)| *sort == self).map_or("", |(_, name)| name)
    }
}

/// What a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum By {
    /// All connections to one destination.
    Destination,
    /// One connection.
    Connection,
}

/// Which way a connection goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Direction {
    /// The app's.
    Outbound,
    /// To the app.
    Inbound,
    /// The proxy's, to what is delivered inside the pod.
    SelfCall,
    /// The app's, to a DNS server.
    Dns,
}

impl Direction {
    fn name(self) -> &'static str {
        match self {
            Self::Outbound => "out",
            Self::Inbound => "in",
            Self::SelfCall => "self",
            Self::Dns => "dns",
        }
    }
}

/// A captured connection.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Flow {
    pod: String,
    direction: Direction,
    source: SocketAddr,
    destination: SocketAddr,
    state: &'static str,
    uid: u32,
    sent_bytes: u64,
    received_bytes: u64,
    rtt_us: u32,
    retransmits: u32,
    age_ms: Option<u64>,
}

/// Connections of one pod with the same destination.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Group {
    pub(super) pod: String,
    pub(super) direction: Direction,
    pub(super) destination: SocketAddr,
    /// Only where each connection is a group of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) source: Option<SocketAddr>,
    connections: u64,
    states: BTreeMap<&'static str, u64>,
    pub(super) sent_bytes: u64,
    pub(super) received_bytes: u64,
    /// The mean.
    rtt_us: u32,
    retransmits: u64,
    /// Of the oldest.
    age_ms: Option<u64>,
}

/// What is said; `conf/schemas/flows.json` describes it.
#[derive(Debug, Serialize)]
struct Answer {
    version: u32,
    flows: Vec<Group>,
    /// Which pods could not be asked, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing: Vec<String>,
}

/// Prints them once.
pub(super) fn run(args: &Args) -> Said {
    let asked = &args.asked;
    if !geteuid().is_root() {
        return Said::failed(FAILED, "only root may look into pods");
    }
    match gathered(asked) {
        Ok(Gathered { groups, missing }) => {
            if groups.is_empty() && asked.pod.is_some() && !missing.is_empty() {
                return complaints(&missing);
            }
            for why in &missing {
                remark(why);
            }
            if args.output == Format::Json {
                return Said::json(TOLD, &Answer { version: JSON_VERSION, flows: groups, missing });
            }
            let rows: Vec<Vec<String>> = groups.iter().map(|group| row(group, None)).collect();
            let lines = table::lines(&columns(asked.by), &rows, None);
            Said::told(TOLD, lines.join("\n") + "\n")
        }
        Err(fault) => Said::failed(FAILED, &chain(&fault)),
    }
}

/// What was found, in the order that was asked for, and what could not be.
#[derive(Debug)]
pub(super) struct Gathered {
    pub(super) groups: Vec<Group>,
    pub(super) missing: Vec<String>,
}

/// Asks the kernel about every pod in question.
pub(super) fn gathered(asked: &Asked) -> Outcome<Gathered> {
    let pods = Pods::read(&asked.directories.state_dir)?;
    let called = pods.called(asked.pod.as_deref());
    if let (Some(asked), true) = (&asked.pod, called.is_empty()) {
        let unknown = pods.unknown(asked);
        return Err(Fault::new(unknown.trim_start_matches("shuntctl: ").trim_end().to_owned(), "no record"));
    }
    let mut missing = pods.unread.clone();
    let mut flows = Vec::new();
    let mut seen: BTreeSet<PodKey> = BTreeSet::new();
    for record in called {
        match object(record, "flows") {
            // A namespace may have several attachments.
            Ok(_) if cookie(record).is_some_and(|cookie| !seen.insert(cookie)) => {}
            Ok(object) => match flows_of(record, &Layout::new(&asked.directories.bpf_dir, object)) {
                Ok(more) => flows.extend(more),
                Err(fault) => missing.push(format!("{}: {}", name(record), chain(&fault))),
            },
            Err(why) => missing.push(why),
        }
    }
    let mut groups = grouped(flows, asked.by);
    sort(&mut groups, asked.sort);
    Ok(Gathered { groups, missing })
}

pub(super) fn sort(groups: &mut [Group], by: Sort) {
    let place = |group: &Group| (group.destination, group.pod.clone(), group.source);
    match by {
        Sort::Bytes => {
            groups.sort_by_cached_key(|it| (Reverse(it.sent_bytes + it.received_bytes), place(it)));
        }
        Sort::Rtt => groups.sort_by_cached_key(|it| (Reverse(it.rtt_us), place(it))),
        Sort::Retransmits => groups.sort_by_cached_key(|it| (Reverse(it.retransmits), place(it))),
        Sort::Age => groups.sort_by_cached_key(|it| (Reverse(it.age_ms), place(it))),
        Sort::Destination => groups.sort_by_cached_key(place),
    }
}

fn grouped(flows: Vec<Flow>, by: By) -> Vec<Group> {
    let mut groups: BTreeMap<(String, Direction, SocketAddr, Option<SocketAddr>), Vec<Flow>> =
        BTreeMap::new();
    for flow in flows {
        let source = (by == By::Connection).then_some(flow.source);
        groups.entry((flow.pod.clone(), flow.direction, flow.destination, source)).or_default().push(flow);
    }
    groups
        .into_iter()
        .map(|((pod, direction, destination, source), flows)| {
            let mut states = BTreeMap::new();
            for flow in &flows {
                *states.entry(flow.state).or_default() += 1;
            }
            let connections = u64::try_from(flows.len()).unwrap_or(u64::MAX);
            let rtt: u64 = flows.iter().map(|flow| u64::from(flow.rtt_us)).sum();
            Group {
                pod,
                direction,
                destination,
                source,
                connections,
                states,
                sent_bytes: flows.iter().map(|flow| flow.sent_bytes).sum(),
                received_bytes: flows.iter().map(|flow| flow.received_bytes).sum(),
                rtt_us: u32::try_from(rtt / connections.max(1)).unwrap_or(u32::MAX),
                retransmits: flows.iter().map(|flow| u64::from(flow.retransmits)).sum(),
                age_ms: flows.iter().filter_map(|flow| flow.age_ms).max(),
            }
        })
        .collect()
}

/// The captured connections of one pod.
fn flows_of(record: &Record, layout: &Layout) -> Outcome<Vec<Flow>> {
    let netns = Netns::open(&record.netns)?;
    if netns.identity() != record.netns_identity {
        return Err(Fault::new(
            format!("look into {}", record.netns.display()),
            "it is another namespace than at ADD",
        ));
    }
    let states = socket_states(layout)?;
    let (sockets, ports) = netns.run(|| Ok((of_this_namespace(states.as_fd())?, ephemeral_ports()?)))?;
    let now = monotonic()?;
    let pod = name(record);
    let proxy = Proxy::of(&record.plan, &sockets, ports);
    Ok(sockets.iter().filter_map(|socket| flow(&pod, socket, &proxy, now)).collect())
}

/// The ports that the kernel chooses for those who connect.
fn ephemeral_ports() -> Outcome<(u16, u16)> {
    const FILE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
    let text = std::fs::read_to_string(Path::new(FILE)).tried(|| format!("read {FILE}"))?;
    let mut words = text.split_whitespace().map(str::parse);
    match (words.next(), words.next()) {
        (Some(Ok(first)), Some(Ok(last))) => Ok((first, last)),
        _ => Err(Fault::new(format!("read {FILE}"), format!("not two ports: {text:?}"))),
    }
}

/// How sockets of the pod's proxy are told: who owns its listeners, and where those are.
#[derive(Debug)]
struct Proxy {
    uids: BTreeSet<u32>,
    ports: BTreeSet<u16>,
    apps_ports: BTreeSet<u16>,
    ephemeral: (u16, u16),
}

impl Proxy {
    fn of(plan: &Plan, sockets: &[Socket], ephemeral: (u16, u16)) -> Self {
        let listeners = || sockets.iter().filter(|socket| socket.state == state::LISTEN);
        let main = [plan.outbound_port, plan.inbound_port];
        let uids: BTreeSet<u32> = listeners()
            .filter(|socket| main.contains(&socket.local.port()))
            .map(|socket| socket.uid)
            .collect();
        let ports = |own: bool| {
            listeners()
                .filter(|socket| uids.contains(&socket.uid) == own)
                .map(|socket| socket.local.port())
                .collect()
        };
        let (own, apps) = (ports(true), ports(false));
        Self { uids, ports: own, apps_ports: apps, ephemeral }
    }

    /// True for a connection that was given to the proxy as it arrived: the proxy's end of it has a port of its own on which the proxy
    /// does not listen. Nor does one that the proxy makes, but that has a port of the kernel's choice.
    fn was_given(&self, socket: &Socket) -> bool {
        let port = socket.local.port();
        self.uids.contains(&socket.uid)
            && !self.ports.contains(&port)
            && (self.apps_ports.contains(&port) || port < self.ephemeral.0 || port > self.ephemeral.1)
    }
}

fn flow(pod: &str, socket: &Socket, proxy: &Proxy, now: u64) -> Option<Flow> {
    let Account { sent, received, rtt, retransmits } = socket.account?;
    let of = |direction, source, destination, age_ms| Flow {
        pod: pod.to_owned(),
        direction,
        source,
        destination,
        state: state::NAMES.get(usize::from(socket.state)).copied().unwrap_or("?"),
        uid: socket.uid,
        sent_bytes: sent,
        received_bytes: received,
        rtt_us: rtt,
        retransmits,
        age_ms,
    };
    match socket.kept {
        // Connected elsewhere since.
        Some(kept) if kept.role & role::CLIENT != 0 && kept.virtual_port != u32::from(socket.peer.port()) => {
            None
        }
        Some(kept) if kept.role & role::CLIENT != 0 => {
            let direction = match kept.slot {
                slot::INBOUND => Direction::SelfCall,
                slot::DNS => Direction::Dns,
                _ => Direction::Outbound,
            };
            let port = u16::try_from(kept.port).unwrap_or_default();
            let destination = SocketAddr::new(kept.destination.ip(), port);
            Some(of(direction, socket.local, destination, Some(now.saturating_sub(kept.since) / 1_000_000)))
        }
        // The other end of such a connection.
        Some(kept) if kept.role & role::ACCEPTED != 0 => None,
        _ if proxy.was_given(socket) => Some(of(Direction::Inbound, socket.peer, socket.local, None)),
        _ => None,
    }
}

/// The columns of a table of groups.
pub(super) fn columns(by: By) -> Vec<Column> {
    let column = |title, right, spare| Column { title, right, spare };
    let mut columns = vec![column("DESTINATION", false, 0)];
    if by == By::Connection {
        columns.push(column("SOURCE", false, 3));
    }
    columns.extend([
        column("DIR", false, 2),
        column("CONNS", true, 4),
        column("SENT", true, 0),
        column("RECEIVED", true, 0),
        column("RTT", true, 1),
        column("RETRANS", true, 5),
        column("AGE", true, 6),
        column("STATE", false, 8),
        column("POD", false, 7),
    ]);
    columns
}

/// A row of it; `sent` and `received` take the place of the sums.
pub(super) fn row(group: &Group, rates: Option<(String, String)>) -> Vec<String> {
    let states: Vec<String> = if group.states.len() == 1 {
        group.states.keys().map(|state| (*state).to_owned()).collect()
    } else {
        group.states.iter().map(|(state, count)| format!("{count} {state}")).collect()
    };
    let age = group.age_ms.map_or_else(|| "-".to_owned(), |age| table::age(Duration::from_millis(age)));
    let (sent, received) =
        rates.unwrap_or_else(|| (table::bytes(group.sent_bytes), table::bytes(group.received_bytes)));
    let mut row = vec![group.destination.to_string()];
    row.extend(group.source.map(|source| source.to_string()));
    row.extend([
        group.direction.name().to_owned(),
        group.connections.to_string(),
        sent,
        received,
        table::round_trip(group.rtt_us),
        group.retransmits.to_string(),
        age,
        states.join(", "),
        group.pod.clone(),
    ]);
    row
}
