//! What the plugin says of its node when it is run as `shunt report`, `shunt sweep` or `shunt purge`: one JSON document each.
//!
//! The installer does not link the plugin; it runs the file it has installed and reads these. A field that an older plugin does not
//! print is empty, one that a newer plugin adds is not looked at.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Upper bounds of the latency buckets in microseconds; what took longer counts in the total alone. An ADD takes 3 ms with eBPF,
/// 20 with iptables, and 5 s at most.
pub const BUCKETS_US: [u64; 13] = [
    500, 1_000, 2_000, 3_000, 5_000, 10_000, 20_000, 50_000, 100_000, 250_000, 1_000_000, 2_500_000,
    5_000_000,
];

/// The answer of `shunt report`: this node, now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// Version of the plugin that says it.
    pub plugin: String,
    /// All attachments there is anything of.
    pub attachments: Vec<Attached>,
    /// Pods that are not captured now, by what is noted of them: `skipped`, `open`, `failed`. The oldest notes go first.
    pub uncaptured: BTreeMap<String, u64>,
    /// Calls since the node booted, by what came of them.
    pub calls: Vec<Calls>,
    /// Pods that were left alone since the node booted, by why.
    pub skipped: BTreeMap<String, u64>,
    /// Calls that failed since the node booted, by the short name of the error.
    pub failed: BTreeMap<String, u64>,
    /// What the kernel programs decided since the node booted, by reason; pods that have ended are in it.
    pub decisions: BTreeMap<String, u64>,
}

/// One attachment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Attached {
    /// `CNI_CONTAINERID`
    pub container_id: String,
    /// `CNI_IFNAME`
    pub ifname: String,
    /// Name of the network list it was added for; empty where its record is lost.
    pub network: String,
    /// Namespace, name and uid of the pod, for people.
    pub pod: String,
    /// `ebpf` or `iptables`.
    pub backend: String,
    /// Path of the network namespace at ADD; empty where its record is lost.
    pub netns: PathBuf,
    /// False when the namespace is gone.
    pub alive: bool,
}

/// Calls of one command with one outcome under one backend.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Calls {
    /// `ADD`, `DEL`, `CHECK` or `STATUS`.
    pub command: String,
    /// What came of them: `intercepted`, `skipped`, `removed`, `failed` and so on.
    pub outcome: String,
    /// `ebpf`, `iptables` or `none`.
    pub backend: String,
    /// How many.
    pub count: u64,
    /// Microseconds they took together, from the start of the process to the answer.
    pub sum_us: u64,
    /// How many took no longer than each of [`BUCKETS_US`]; not cumulative: each call is in one bucket, or in none.
    pub buckets: Vec<u64>,
}

/// The answer of `shunt sweep` and `shunt purge`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Swept {
    /// How many attachments were removed.
    pub removed: u64,
    /// How many are left: their pods run.
    pub left: u64,
    /// What could not be removed, and why; each a line for people.
    pub problems: Vec<String>,
}
