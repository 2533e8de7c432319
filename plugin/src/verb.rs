//! What the plugin does for each command, once everything that is CNI's own has been checked.

mod add;
mod check;
mod del;
mod gc;
mod status;

use std::collections::BTreeSet;
use std::path::Path;

use slog::{Logger, debug, warn};

use crate::attachment::container_in;
use crate::backend::{Places, Receipt, ebpf};
use crate::cni::{AddRequest, CheckRequest, DelRequest, GcRequest, Outcome, StatusRequest, Verbs};
use crate::error::{Error, Failed as _, Kind};
use crate::lock::Lock;
use crate::netns::Netns;
use crate::note::Notes;
use crate::record::{Record, Records};
use crate::settings::Settings;

/// This node.
#[derive(Debug, Default)]
pub struct Node;

impl Node {
    /// This node.
    pub const fn new() -> Self {
        Self
    }
}

impl Verbs for Node {
    fn add(&self, request: &AddRequest) -> Result<Outcome, Error> {
        // Why it failed is asked of the pod: no sandbox of it lives on.
        add::run(request)
            .inspect_err(|error| Notes::new(&request.conf.settings.state_dir).failed(request, error))
    }

    fn del(&self, request: &DelRequest) -> Result<Outcome, Error> {
        Notes::new(&request.conf.state_dir).gone(&request.attachment);
        Ok(del::run(request))
    }

    fn check(&self, request: &CheckRequest) -> Result<Outcome, Error> {
        check::run(request)
    }

    fn status(&self, request: &StatusRequest) -> Result<Outcome, Error> {
        status::run(request)
    }

    fn gc(&self, request: &GcRequest) -> Result<Outcome, Error> {
        gc::run(request)
    }
}

fn places(settings: &Settings) -> Places<'_> {
    Places { state_dir: &settings.state_dir, bpf_dir: &settings.bpf_dir }
}

/// Says which programs of others see a pod's connections before ours do. They may do no harm, so the pod is served; a service
/// address that one of them has changed is one the proxy never learns.
fn tell_of_earlier(places: Places<'_>, receipt: &Receipt, log: &Logger) {
    match ebpf::earlier_programs(places, receipt) {
        Ok(programs) if programs.is_empty() => {}
        Ok(programs) => {
            warn!(log, "programs of others run before ours: an address that one of them changes is the one the proxy is told";
                "programs" => programs.join(", "));
        }
        Err(fault) => {
            // Whoever looks for the reason of something finds it with `shuntctl check`.
            let details = fault.to_string();
            debug!(log, "programs of others could not be asked for"; "details" => details);
        }
    }
}

/// Name of the lock of an attachment: its container's. Two attachments of one container are in one namespace and share its map
/// entries, so that removing one must not run beside writing or removing the other.
pub(crate) fn lock_name(attachment: &str) -> String {
    format!("pod-{}", container_in(attachment))
}

/// Names of all attachments there is anything of: a record, pins, or a mark of rules.
pub(crate) fn names(places: Places<'_>) -> Result<BTreeSet<String>, Error> {
    let recorded = Records::new(places.state_dir).names().failed(Kind::Io, || "listing the records")?;
    let mut names: BTreeSet<String> = recorded.into_iter().collect();
    names.extend(crate::backend::attachments(places)?);
    Ok(names)
}

/// True if anything is known of the attachment called `name`.
pub(crate) fn known(places: Places<'_>, name: &str) -> Result<bool, Error> {
    Ok(Records::new(places.state_dir).exists(name)
        || crate::backend::attachments(places)?.iter().any(|known| known == name))
}

/// Opens the pod's namespace and refuses the host's own: rules there would catch the node.
fn pod_netns(path: &Path) -> Result<Netns, Error> {
    let netns =
        Netns::open(path).failed(Kind::Netns, || "opening the pod's network namespace (CNI_NETNS)")?;
    let own = Netns::own().failed(Kind::Netns, || "opening the plugin's own network namespace")?;
    if netns.identity() == own.identity() {
        let text = format!("CNI_NETNS {} is the network namespace the plugin itself runs in", path.display());
        return Err(Error::new(Kind::Netns, text));
    }
    Ok(netns)
}

/// What became of an attachment's removal.
#[derive(Debug)]
pub(crate) struct Undone {
    /// Whether everything of it is gone.
    pub(crate) removed: Result<(), Error>,
    /// Whether its namespace has its settings back.
    pub(crate) reverted: Result<(), Error>,
}

/// Undoes an ADD: removes all there is of the attachment called `name`, and gives its namespace back what was changed there. That
/// is where `record` says, or `path`. Needs the attachment's lock.
pub(crate) fn undo(
    places: Places<'_>,
    locks: &Lock<'_>,
    name: &str,
    record: Option<&Record>,
    path: Option<&Path>,
) -> Undone {
    let netns = record.and_then(|record| recorded(record, path.unwrap_or(&record.netns)));
    let removed = remove(places, locks, name, netns.as_ref());
    let reverted = match (record, &netns) {
        (Some(record), Some(netns)) => revert(places, record, netns),
        // Gone, or not to be found: then it keeps them.
        _ => Ok(()),
    };
    Undone { removed, reverted }
}

/// The namespace at `path`, if it is the one that was recorded: it outlives the attachment when somebody else made it.
fn recorded(record: &Record, path: &Path) -> Option<Netns> {
    Netns::open(path).ok().filter(|netns| netns.identity() == record.netns_identity)
}

/// Removes all there is of the attachment called `name`: what backends have, then the record. Needs its lock.
fn remove(places: Places<'_>, locks: &Lock<'_>, name: &str, netns: Option<&Netns>) -> Result<(), Error> {
    let removed = crate::backend::remove(places, locks, name, netns);
    // The record goes only when nothing is left that it describes.
    removed.and_then(|()| {
        Records::new(places.state_dir)
            .remove(name)
            .failed(Kind::Record, || "removing the attachment's record")
    })
}

/// Gives the recorded namespace its settings back.
fn revert(places: Places<'_>, record: &Record, netns: &Netns) -> Result<(), Error> {
    // Another interface of the pod is still captured: what is changed passes to its attachment, and stays.
    match staying(places, record)? {
        Some(mut stays) => {
            crate::backend::hand_over(places, netns, record, &mut stays)?;
            let written = Records::new(places.state_dir).write(&stays);
            written.failed(Kind::Record, || "writing the record of the pod's other attachment")
        }
        None => crate::backend::revert(places, netns, &record.receipt),
    }
}

/// The record of another attachment in the same namespace, under the same backend; of several the newest.
fn staying(places: Places<'_>, gone: &Record) -> Result<Option<Record>, Error> {
    let name = gone.attachment.pin_name();
    let records = Records::new(places.state_dir);
    let mut found: Option<Record> = None;
    for other in records.names().failed(Kind::Io, || "listing the records")? {
        if other == name || container_in(&other) != container_in(&name) {
            continue;
        }
        // One that cannot be read is nobody's to hand something over to.
        let Some(record) = records.read(&other).unwrap_or_default() else { continue };
        let stays = record.netns_identity == gone.netns_identity
            && record.receipt.backend() == gone.receipt.backend();
        if stays
            && found.as_ref().is_none_or(|found| found.receipt.generation() < record.receipt.generation())
        {
            found = Some(record);
        }
    }
    Ok(found)
}
