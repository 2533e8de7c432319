//! How a plan is put into effect.
//!
//! A backend installs, verifies and removes; what it did is its receipt, enough to check and to undo it.

pub mod ebpf;

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::attachment::Attachment;
use crate::error::Error;
use crate::lock::Lock;
use crate::netns::Netns;
use crate::plan::Plan;

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
}

/// Puts a plan into effect, whole or not at all.
///
/// # Errors
/// Of the step that failed. What was there before a first ADD is restored; a repeated one leaves the pod captured.
pub fn install(places: Places<'_>, job: &Job<'_>) -> Result<Receipt, Error> {
    ebpf::install(places, job)
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
    ebpf::verify(places, attachment, netns, receipt)
}

/// Removes whatever any backend has for an attachment, found by name; nothing there is success.
///
/// # Errors
/// The first thing that could not be removed; the rest is removed all the same.
pub fn remove(places: Places<'_>, locks: &Lock<'_>, name: &str) -> Result<(), Error> {
    ebpf::remove(places, locks, name)
}

/// Takes back what ADD changed inside a namespace that outlives its last attachment.
///
/// # Errors
/// What could not be taken back.
pub fn revert(places: Places<'_>, netns: &Netns, receipt: &Receipt) -> Result<(), Error> {
    ebpf::revert(places, netns, receipt)
}

/// Names of all attachments any backend has something for.
///
/// # Errors
/// The pins cannot be listed.
pub fn attachments(places: Places<'_>) -> Result<Vec<String>, Error> {
    ebpf::attachments(places)
}

/// Makes the node ready: what STATUS asks.
///
/// # Errors
/// Why it cannot intercept.
pub fn prepare(places: Places<'_>, locks: &Lock<'_>) -> Result<(), Error> {
    ebpf::prepare(places, locks)
}
