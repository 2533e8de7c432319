//! How a plan is put into effect.
//!
//! A backend installs, verifies and removes; what it did is its receipt, enough to check and to undo it.

pub mod ebpf;
pub mod iptables;

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use shunt_api::Backend;

use crate::attachment::Attachment;
use crate::error::{Error, Failed as _, Kind};
use crate::iptables::Flavour;
use crate::lock::Lock;
use crate::netns::{Identity, Netns};
use crate::plan::Plan;
use crate::record::Record;

/// Host directories of this node's configuration.
#[derive(Debug, Clone, Copy)]
pub struct Places<'a> {
    /// `stateDir`
    pub state_dir: &'a Path,
    /// `bpfDir`
    pub bpf_dir: &'a Path,
}

/// One pod to intercept.
#[derive(Debug)]
pub struct Job<'a> {
    /// Which attachment.
    pub attachment: &'a Attachment,
    /// Its namespace.
    pub netns: &'a Netns,
    /// `cgroupPath` as the runtime sent it.
    pub cgroup_path: Option<&'a str>,
    /// The pod's uid, if the runtime told.
    pub pod_uid: Option<&'a str>,
    /// What the pod gets.
    pub plan: &'a Plan,
    /// What carries it out: never `auto`.
    pub backend: Backend,
    /// What an earlier ADD of this attachment left.
    pub before: Option<&'a Receipt>,
    /// When the time is up.
    pub deadline: Instant,
}

/// What a backend did for one attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "backend", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Receipt {
    /// The eBPF backend.
    Ebpf {
        /// Version of names and layouts.
        abi: u32,
        /// Hash of the kernel object whose pins serve the pod.
        object: String,
        /// Cookie of the namespace: key of the pod's map entries.
        cookie: u64,
        /// Counts the ADDs of the attachment.
        generation: u32,
        /// The pod's cgroup, if it had one at ADD.
        pod_cgroup: Option<PathBuf>,
        /// The cgroup the shared programs are to cover.
        all_pods: PathBuf,
        /// `ip_local_reserved_ports` of the namespace before ADD changed it.
        reserved_ports: Option<String>,
        /// True if ADD gave the loopback interface the pass-through address `::6`.
        passthrough: bool,
        /// True if ADD made the IPv6 markers of DNS local (see `shunt_abi::dns`).
        #[serde(default)]
        dns_route: bool,
    },
    /// The iptables backend.
    Iptables {
        /// Which of the kernel's rule stores.
        flavour: Flavour,
        /// Whether there are IPv6 rules too: not on a kernel without IPv6.
        v6: bool,
        /// Counts the ADDs in the namespace.
        generation: u32,
        /// Stands for the rules that were written.
        digest: String,
        /// Name of the attachment.
        name: String,
        /// Path of the namespace at ADD.
        netns: PathBuf,
        /// True if ADD gave the loopback interface the pass-through address `::6`.
        passthrough: bool,
    },
}

impl Receipt {
    /// Which backend it is of.
    pub const fn backend(&self) -> Backend {
        match self {
            Self::Ebpf { .. } => Backend::Ebpf,
            Self::Iptables { .. } => Backend::Iptables,
        }
    }

    /// Counts ADDs; the newest attachment of a namespace has the highest.
    pub const fn generation(&self) -> u32 {
        match self {
            Self::Ebpf { generation, .. } | Self::Iptables { generation, .. } => *generation,
        }
    }

    /// What another attachment's ADD changed in the same namespace is from here on this one's to take back.
    fn take_over(&mut self, gone: &Self) {
        match (self, gone) {
            (
                Self::Ebpf { reserved_ports, passthrough, dns_route, .. },
                Self::Ebpf { reserved_ports: ports, passthrough: address, dns_route: route, .. },
            ) => {
                if reserved_ports.is_none() {
                    reserved_ports.clone_from(ports);
                }
                *passthrough |= address;
                *dns_route |= route;
            }
            (Self::Iptables { passthrough, .. }, Self::Iptables { passthrough: address, .. }) => {
                *passthrough |= address;
            }
            _ => {}
        }
    }
}

/// The backend an attachment has from an earlier ADD: as its record says or, where that is lost, by what is found under its name.
///
/// # Errors
/// The pins cannot be listed.
pub fn held(places: Places<'_>, name: &str, before: Option<&Receipt>) -> Result<Option<Backend>, Error> {
    match before {
        Some(receipt) => Ok(Some(receipt.backend())),
        None if ebpf::attachments(places)?.iter().any(|known| known == name) => Ok(Some(Backend::Ebpf)),
        None => Ok(iptables::knows(places, name).then_some(Backend::Iptables)),
    }
}

/// Puts a plan into effect, whole or not at all. What the other backend had for the attachment goes when this one is in place.
///
/// # Errors
/// Of the step that failed. What was there before a first ADD is restored; a repeated one leaves the pod captured.
pub fn install(places: Places<'_>, job: &Job<'_>) -> Result<Receipt, Error> {
    let name = job.attachment.pin_name();
    if job.backend == Backend::Iptables {
        let receipt = iptables::install(places, job)?;
        if ebpf::attachments(places)?.contains(&name) {
            ebpf::remove(places, &Lock::new(places.state_dir, job.deadline), &name, Some(job.netns))?;
        }
        if let Some(before @ Receipt::Ebpf { .. }) = job.before {
            let changes = ebpf::Changes::of(before).without_passthrough();
            changes.revert(job.netns).failed(Kind::Netns, || "giving the namespace its settings back")?;
        }
        return Ok(receipt);
    }
    let receipt = ebpf::install(places, job)?;
    if iptables::knows(places, &name) {
        iptables::remove(places, &name)?;
    }
    Ok(receipt)
}

/// Compares a receipt with what the kernel shows.
///
/// # Errors
/// Names the first thing that is not as it was left.
pub fn verify(
    places: Places<'_>,
    attachment: &Attachment,
    netns: &Netns,
    receipt: &Receipt,
) -> Result<(), Error> {
    match receipt {
        Receipt::Ebpf { .. } => ebpf::verify(places, attachment, netns, receipt),
        Receipt::Iptables { .. } => iptables::verify(places, attachment, netns, receipt),
    }
}

/// All that is not as ADD left it, in words: what [`verify`] finds and, with eBPF, what it does not take the time to look at.
pub fn differences(
    places: Places<'_>,
    attachment: &Attachment,
    netns: &Netns,
    receipt: &Receipt,
    plan: &Plan,
) -> Vec<String> {
    match receipt {
        Receipt::Ebpf { .. } => ebpf::differences(places, attachment, netns, receipt, plan),
        Receipt::Iptables { .. } => {
            let found = iptables::verify(places, attachment, netns, receipt);
            found.err().into_iter().map(|error| error.details()).collect()
        }
    }
}

/// Removes whatever any backend has for an attachment, found by name; nothing there is success. With its namespace, if that is at
/// hand, it takes no longer on a node with many pods.
///
/// # Errors
/// The first thing that could not be removed; the rest is removed all the same.
pub fn remove(places: Places<'_>, locks: &Lock<'_>, name: &str, netns: Option<&Netns>) -> Result<(), Error> {
    let rules = iptables::remove(places, name);
    ebpf::remove(places, locks, name, netns).and(rules)
}

/// Takes back what ADD changed inside a namespace that outlives its last attachment.
///
/// # Errors
/// What could not be taken back.
pub fn revert(places: Places<'_>, netns: &Netns, receipt: &Receipt) -> Result<(), Error> {
    match receipt {
        Receipt::Ebpf { .. } => ebpf::revert(places, netns, receipt),
        Receipt::Iptables { .. } => iptables::revert(places, netns, receipt),
    }
}

/// An attachment has gone and another stays in its namespace: what ADD of the one changed there is for DEL of the other to take
/// back, and what the backend knows of the namespace is what the other's plan and interfaces say.
///
/// # Errors
/// The namespace cannot be looked at, or the backend's tables cannot be written.
pub fn hand_over(places: Places<'_>, netns: &Netns, gone: &Record, stays: &mut Record) -> Result<(), Error> {
    stays.receipt.take_over(&gone.receipt);
    ebpf::settle(places, netns, stays, gone.attachment.ifname())
}

/// Names of all attachments any backend has something for.
///
/// # Errors
/// The pins or the marks cannot be listed.
pub fn attachments(places: Places<'_>) -> Result<Vec<String>, Error> {
    let mut names = ebpf::attachments(places)?;
    names.extend(iptables::attachments(places)?);
    names.sort();
    names.dedup();
    Ok(names)
}

/// What is known of an attachment's namespace; the greatest of several counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Presence {
    /// A backend has nothing for the attachment.
    Nothing,
    /// It is gone.
    Gone,
    /// A backend has something and cannot tell.
    Unknown,
    /// It is there.
    There,
}

/// Whether the namespace of an attachment may still be there. `recorded` says where it was at ADD: asked where no backend knows.
pub fn alive(places: Places<'_>, name: &str, recorded: Option<(&Path, Identity)>) -> bool {
    match ebpf::presence(places, name).max(iptables::presence(places, name)) {
        Presence::There => true,
        Presence::Gone => false,
        Presence::Nothing | Presence::Unknown => {
            recorded.is_none_or(|(path, identity)| presence_at(path, identity) != Presence::Gone)
        }
    }
}

/// Whether a namespace is at a path as this process sees it.
fn presence_at(path: &Path, identity: Identity) -> Presence {
    match Netns::open(path) {
        Ok(netns) if netns.identity() == identity => Presence::There,
        // Another one, or a file that is none: what runtimes leave for a moment where a namespace was mounted.
        Ok(_) => Presence::Gone,
        Err(fault) => match fault.errno() {
            None | Some(libc::ENOENT | libc::ENOTDIR) => Presence::Gone,
            Some(_) => Presence::Unknown,
        },
    }
}

/// Makes the node ready: what STATUS asks.
///
/// # Errors
/// Why it cannot intercept.
pub fn prepare(
    places: Places<'_>,
    locks: &Lock<'_>,
    backend: Backend,
    deadline: Instant,
) -> Result<(), Error> {
    match backend {
        Backend::Iptables => iptables::prepare(deadline),
        Backend::Ebpf | Backend::Auto => ebpf::prepare(places, locks),
    }
}
