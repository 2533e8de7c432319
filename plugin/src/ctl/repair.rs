//! `shuntctl repair`: what is there is made what ADD left, in place.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::unistd::geteuid;
use serde::Serialize;
use shunt_abi::VERSION;

use super::attached::{Attached, all};
use super::check::{called, of_target};
use super::explain::find::named;
use super::{Directories, EXIT_CODES, FAILED, Format, JSON_VERSION, Said, TOLD};
use crate::backend::{self, Job, Places, Receipt};
use crate::cgroup::Cgroups;
use crate::error::{Error, Failed as _, Kind};
use crate::lock::Lock;
use crate::netns::Netns;
use crate::record::{Record, Records};
use crate::verb::lock_name;

/// How long one pod may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes captured pods again what ADD left
///
/// Compares what the kernel has with what ADD recorded, and where they differ does again what ADD does: links, map entries, rules, routes,
/// reserved ports. The pod and its processes are not touched, and listeners that are known stay known. Connections that were made while
/// something was missing may have gone past the proxy and go on as they are; those that were captured go on too.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Args {
    /// The pod: `namespace/name`, a name, the uid, or the first letters of the container id; the path of a network namespace; or
    /// the id of a process.
    #[arg(value_name = "POD|NETNS|PID", required_unless_present = "all", conflicts_with = "all")]
    target: Option<String>,
    /// All pods of this node.
    #[arg(long)]
    all: bool,
    /// Say what differs and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// How it is printed.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: Format,
    #[command(flatten)]
    directories: Directories,
}

/// What is said; `conf/schemas/repair.json` describes it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    version: u32,
    dry_run: bool,
    pods: Vec<Repaired>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum End {
    /// Nothing differed.
    Fine,
    /// It differs, and nothing was to be changed.
    Differs,
    /// It is as it was left, again.
    Repaired,
    /// It could not be done.
    Failed,
    /// It is not to be done.
    LeftAlone,
}

#[derive(Debug, Clone, Serialize)]
struct Repaired {
    pod: String,
    container: String,
    interface: String,
    result: End,
    /// What differed.
    differed: Vec<String>,
    /// What is worth knowing, or why it could not be done.
    words: Option<String>,
}

/// Said of each pod that was repaired.
const RUNNING: &str =
    "connections that were made while this was missing may have gone past the proxy, and go on as they are";

/// Repairs.
pub(super) fn run(args: &Args) -> Said {
    if !geteuid().is_root() {
        return Said::failed(FAILED, "only root may change what pods have");
    }
    let places = args.directories.places();
    let attached = match &args.target {
        Some(target) => of_target(places, target),
        None => all(places),
    };
    let attached = match attached {
        Ok(attached) if attached.is_empty() && !args.all => {
            return Said::failed(FAILED, "it is not captured: there is nothing to repair");
        }
        Ok(attached) => attached,
        Err(why) => return Said::failed(FAILED, &why),
    };
    let pods: Vec<Repaired> = attached.iter().map(|one| repaired(places, one, args.dry_run)).collect();
    let code = if pods.iter().any(|pod| pod.result == End::Failed) { FAILED } else { TOLD };
    let answer = Answer { version: JSON_VERSION, dry_run: args.dry_run, pods };
    match args.output {
        Format::Table => Said::told(code, text(&answer)),
        Format::Json => Said::json(code, &answer),
    }
}

fn repaired(places: Places<'_>, one: &Attached, dry_run: bool) -> Repaired {
    let (result, differed, words) = match (&one.record, &one.netns) {
        _ if !one.alive => (
            End::LeftAlone,
            Vec::new(),
            Some("its network namespace is gone: `shunt sweep` removes it".to_owned()),
        ),
        (Some(record), Some(_)) if is_of_another_version(&record.receipt) => {
            let words = "programs of another version serve it, and go on until the pod ends";
            (End::LeftAlone, Vec::new(), Some(words.to_owned()))
        }
        (Some(record), Some(netns)) if dry_run => {
            let differed = differences(places, record, netns);
            (if differed.is_empty() { End::Fine } else { End::Differs }, differed, None)
        }
        (Some(_), Some(netns)) => mended(places, one, netns),
        (record, _) => {
            let words = match record {
                Some(_) => "it cannot be entered from here: look for it by a process of the pod",
                None => "what the pod is to get is not known: restart it",
            };
            (End::Failed, one.drift(places, false), Some(words.to_owned()))
        }
    };
    let attachment = one.attachment.as_ref();
    Repaired {
        pod: called(one),
        container: attachment.map_or(one.name.as_str(), |it| it.container_id()).to_owned(),
        interface: attachment.map_or("", |it| it.ifname()).to_owned(),
        result,
        differed,
        words,
    }
}

const fn is_of_another_version(receipt: &Receipt) -> bool {
    matches!(receipt, Receipt::Ebpf { abi, .. } if *abi != VERSION)
}

fn differences(places: Places<'_>, record: &Record, netns: &Netns) -> Vec<String> {
    backend::differences(places, &record.attachment, netns, &record.receipt, &record.plan)
}

/// Compares and mends under the lock: no ADD and no DEL of the container meanwhile.
fn mended(places: Places<'_>, one: &Attached, netns: &Netns) -> (End, Vec<String>, Option<String>) {
    let deadline = Instant::now() + PATIENCE;
    let mut differed = Vec::new();
    let mut mend = || -> Result<bool, Error> {
        let _held = Lock::new(places.state_dir, deadline)
            .take(&lock_name(&one.name))
            .failed(Kind::TryAgain, || "waiting for another run of this container")?;
        let records = Records::new(places.state_dir);
        let record = records.read(&one.name).failed(Kind::Record, || "reading the attachment's record")?;
        let record = record.filter(|record| record.netns_identity == netns.identity());
        let gone = || Error::new(Kind::Record, "the attachment was removed or made anew meanwhile");
        let record = record.ok_or_else(gone)?;
        differed = differences(places, &record, netns);
        if differed.is_empty() {
            return Ok(false);
        }
        let receipt = installed(places, &record, netns, deadline)?;
        let record = Record { receipt, ..record };
        records.write(&record).failed(Kind::Record, || "recording the attachment")?;
        match differences(places, &record, netns).as_slice() {
            [] => Ok(true),
            left => Err(Error::new(Kind::Verify, format!("it still differs: {}", left.join("; ")))),
        }
    };
    match mend() {
        Ok(false) => (End::Fine, differed, None),
        Ok(true) => (End::Repaired, differed, Some(RUNNING.to_owned())),
        Err(error) => (End::Failed, differed, Some(error.details())),
    }
}

/// What ADD does, from what it recorded.
fn installed(
    places: Places<'_>,
    record: &Record,
    netns: &Netns,
    deadline: Instant,
) -> Result<Receipt, Error> {
    let uid = named(&record.pod).uid;
    let (path, uid) = match &record.receipt {
        Receipt::Ebpf { pod_cgroup, all_pods, .. } => {
            let cgroups = Cgroups::find(places.state_dir)
                .failed(Kind::Capability, || "finding the cgroup2 hierarchy")?;
            let relative = |path: &Path| {
                let below = path.strip_prefix(cgroups.root()).ok()?;
                (!below.as_os_str().is_empty()).then(|| format!("/{}", below.display()))
            };
            match pod_cgroup {
                Some(pod) => (relative(pod), uid),
                // The pod had none: no part of the path may be taken for its.
                None => (relative(all_pods), Some(NOBODY.to_owned())),
            }
        }
        Receipt::Iptables { .. } => (None, uid),
    };
    let job = Job {
        attachment: &record.attachment,
        netns,
        cgroup_path: path.as_deref(),
        pod_uid: uid.as_deref(),
        plan: &record.plan,
        backend: record.receipt.backend(),
        before: Some(&record.receipt),
        deadline,
    };
    backend::install(places, &job)
}

/// No pod's uid.
const NOBODY: &str = "no pod is called so";

fn text(answer: &Answer) -> String {
    let mut lines = super::lines::Lines::default();
    for pod in &answer.pods {
        let word = match pod.result {
            End::Fine => "fine",
            End::Differs => "differs",
            End::Repaired => "repaired",
            End::Failed => "failed",
            End::LeftAlone => "left alone",
        };
        lines.put(word, &format!("{} {}", pod.pod, pod.interface));
        for what in &pod.differed {
            lines.put("", &format!("- {what}"));
        }
        if let Some(words) = &pod.words {
            lines.put("", words);
        }
    }
    let count = |result| answer.pods.iter().filter(|pod| pod.result == result).count();
    let (repaired, failed, differs) = (count(End::Repaired), count(End::Failed), count(End::Differs));
    let all = answer.pods.len();
    let what = if answer.dry_run {
        format!("{differs} differ; nothing was changed")
    } else {
        format!("{repaired} repaired, {failed} failed")
    };
    lines.put("", &format!("{all} attachments: {what}"));
    lines.0
}
