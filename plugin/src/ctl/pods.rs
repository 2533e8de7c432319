//! `shuntctl pods`: every attachment of this node, and how it is.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::unistd::geteuid;
use serde::Serialize;
use shunt_api::Mesh;

use super::attached::{Attached, Counted, Listening, Objects, all, proxy};
use super::explain::find::named;
use super::lines::columns;
use super::{Directories, EXIT_CODES, FAILED, Format, JSON_VERSION, Said, TOLD};
use crate::attachment::Attachment;
use crate::backend::{Places, Receipt};
use crate::cni::PodRef;
use crate::note::{Note, Notes, What};

/// Lists the pods that are captured on this node, and how they are
///
/// One line for each attachment: mesh, backend, the proxy's ports, what the kernel has counted, whether the proxy listens, and whether
/// the kernel still has all that ADD did. With --all also the pods that were left alone, and those whose ADD failed.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Args {
    /// Also pods that are not captured: skipped by policy, open because they could not be captured, failed.
    #[arg(long)]
    all: bool,
    /// Leave out what takes longest: comparing with what ADD left. With iptables that runs a tool in each pod.
    #[arg(long)]
    quick: bool,
    /// How it is printed.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: Format,
    #[command(flatten)]
    directories: Directories,
}

/// What is said; `conf/schemas/pods.json` describes it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Answer {
    version: u32,
    pods: Vec<Row>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum State {
    /// As ADD left it, as far as was looked.
    Captured,
    /// The kernel does not show all that ADD did.
    Damaged,
    /// Its namespace is gone, and no DEL has come.
    Ended,
    Skipped,
    Open,
    Failed,
}

impl State {
    const fn word(self) -> &'static str {
        match self {
            Self::Captured => "captured",
            Self::Damaged => "damaged",
            Self::Ended => "ended",
            Self::Skipped => "skipped",
            Self::Open => "open",
            Self::Failed => "failed",
        }
    }
}

#[derive(Debug, Clone, Serialize)]
struct Ports {
    outbound: u16,
    inbound: u16,
    dns: Option<u16>,
}

#[derive(Debug, Clone, Serialize)]
struct Row {
    state: State,
    namespace: Option<String>,
    name: Option<String>,
    uid: Option<String>,
    container: String,
    interface: String,
    netns: Option<PathBuf>,
    network: Option<String>,
    mesh: Option<Mesh>,
    backend: Option<&'static str>,
    ports: Option<Ports>,
    /// `ipv4`, `ipv6`
    families: Vec<&'static str>,
    /// When ADD captured it, or decided otherwise, in seconds since 1970.
    since: Option<u64>,
    /// None: nobody counts.
    counted: Option<Counted>,
    proxy: Listening,
    /// Whether its namespace is there.
    alive: bool,
    /// What is not as ADD left it; of a pod that is not captured: why.
    why: Vec<String>,
}

/// Lists them.
pub(super) fn run(args: &Args) -> Said {
    if !geteuid().is_root() {
        return Said::failed(FAILED, "only root may read what is known of pods");
    }
    let answer = match answer(args.directories.places(), args.all, args.quick) {
        Ok(answer) => answer,
        Err(why) => return Said::failed(FAILED, &why),
    };
    match args.output {
        Format::Table => Said::told(TOLD, text(&answer)),
        Format::Json => Said::json(TOLD, &answer),
    }
}

/// `others`: those that are not captured too. `quick`: nothing is compared.
pub(super) fn answer(places: Places<'_>, others: bool, quick: bool) -> Result<Answer, String> {
    let mut objects = Objects::default();
    let mut pods: Vec<Row> =
        all(places)?.iter().map(|attached| row(places, attached, &mut objects, quick)).collect();
    if others {
        // Where they cannot be read, none is known.
        let notes = Notes::new(places.state_dir).all().unwrap_or_default();
        pods.extend(notes.iter().map(noted));
    }
    pods.sort_by(|one, other| {
        let key = |row: &Row| (row.namespace.clone(), row.name.clone(), row.since);
        key(one).cmp(&key(other))
    });
    Ok(Answer { version: JSON_VERSION, pods })
}

fn row(places: Places<'_>, attached: &Attached, objects: &mut Objects, quick: bool) -> Row {
    let record = attached.record.as_ref();
    let PodRef { namespace, name, uid, .. } = record.map(|record| named(&record.pod)).unwrap_or_default();
    let kernel = record.map(|record| objects.kernel(places, &record.receipt));
    let mut why = if quick { Vec::new() } else { attached.drift(places, false) };
    let kernel = kernel.transpose().unwrap_or_else(|fault| {
        why.push(super::attached::words(&fault));
        None
    });
    let kernel = kernel.flatten();
    let state = match (attached.alive, why.is_empty()) {
        (false, _) => State::Ended,
        (true, false) => State::Damaged,
        (true, true) => State::Captured,
    };
    let (v4, v6) = match (&kernel, record.map(|record| &record.receipt)) {
        (Some(kernel), _) => (kernel.v4, kernel.v6),
        (None, Some(Receipt::Iptables { v6, .. })) => (true, *v6),
        _ => (false, false),
    };
    let families = [("ipv4", v4), ("ipv6", v6)];
    let part = |text: Option<&str>| text.unwrap_or_default().to_owned();
    let attachment = attached.attachment.as_ref();
    Row {
        state,
        namespace,
        name,
        uid,
        container: attachment.map_or(attached.name.as_str(), |it| it.container_id()).to_owned(),
        interface: part(attachment.map(Attachment::ifname)),
        netns: record.map(|record| record.netns.clone()),
        network: record.map(|record| record.network.clone()),
        mesh: record.map(|record| record.plan.mesh),
        backend: attached.backend.map(shunt_api::Backend::as_str),
        ports: record.map(|record| Ports {
            outbound: record.plan.outbound_port,
            inbound: record.plan.inbound_port,
            dns: record.plan.dns.as_ref().map(|dns| dns.port),
        }),
        families: families.into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect(),
        since: attached.since,
        counted: kernel.as_ref().map(|kernel| kernel.counted),
        proxy: if attached.alive { proxy(attached, kernel.as_ref()) } else { Listening::No },
        alive: attached.alive,
        why,
    }
}

/// Of a pod that is not captured.
fn noted(note: &Note) -> Row {
    let (state, why) = match &note.what {
        What::Skipped { words, .. } => (State::Skipped, words),
        What::Open { details, .. } => (State::Open, details),
        What::Failed { details, .. } => (State::Failed, details),
    };
    Row {
        state,
        namespace: note.pod.namespace.clone(),
        name: note.pod.name.clone(),
        uid: note.pod.uid.clone(),
        container: note.attachment.container_id().to_owned(),
        interface: note.attachment.ifname().to_owned(),
        netns: Some(note.netns.clone()),
        network: Some(note.network.clone()),
        mesh: None,
        backend: None,
        ports: None,
        families: Vec::new(),
        since: Some(note.at),
        counted: None,
        proxy: Listening::Unknown,
        alive: note.netns.exists(),
        why: vec![why.clone()],
    }
}

const HEAD: [&str; 12] = [
    "POD", "STATE", "MESH", "BACKEND", "OUT/IN", "FAMILIES", "AGE", "CAPTURED", "PASSED", "REFUSED", "PROXY",
    "WHY",
];

fn text(answer: &Answer) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let rows: Vec<Vec<String>> = answer.pods.iter().map(|row| cells(row, now)).collect();
    columns(&HEAD, &rows)
}

fn cells(row: &Row, now: u64) -> Vec<String> {
    let short: String = row.container.chars().take(13).collect();
    let pod = match (&row.namespace, &row.name) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        (None, Some(name)) => name.clone(),
        _ => short,
    };
    let none = || "-".to_owned();
    let count = |of: fn(&Counted) -> u64| row.counted.as_ref().map_or_else(none, |it| of(it).to_string());
    let is_captured = matches!(row.state, State::Captured | State::Damaged);
    vec![
        pod,
        row.state.word().to_owned(),
        row.mesh.map_or_else(none, |mesh| mesh.as_str().to_owned()),
        row.backend.map_or_else(none, str::to_owned),
        row.ports.as_ref().map_or_else(none, |ports| format!("{}/{}", ports.outbound, ports.inbound)),
        if row.families.is_empty() { none() } else { row.families.join(",") },
        row.since.map_or_else(none, |since| age(now.saturating_sub(since))),
        count(|counted| counted.captured),
        count(|counted| counted.passed),
        count(|counted| counted.refused),
        if is_captured { row.proxy.word().to_owned() } else { none() },
        row.why.join("; "),
    ]
}

/// As kubectl shows it.
fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::age;

    #[test]
    fn ages() {
        for (seconds, text) in [(0, "0s"), (119, "119s"), (120, "2m"), (7200, "2h"), (200_000, "2d")] {
            assert_eq!(age(seconds), text);
        }
    }
}
