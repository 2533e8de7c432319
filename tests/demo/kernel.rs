//! What Shunt has in the kernel and on disk for our pod, counted from outside.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use shunt_tests::hooked::{entries, on_cgroup, on_netns};

use crate::outcome::{Doing as _, Outcome};
use crate::site::Site;

/// Counts of what belongs to the pod, and of what belongs to the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Traces {
    /// Attachment records.
    pub(crate) records: usize,
    /// Pins of the pod's own links.
    pub(crate) pins: usize,
    /// Programs on the pod's cgroup and network namespace.
    pub(crate) links: usize,
    /// Entries of the map that says which pods are meshed.
    pub(crate) entries: usize,
    /// Lines about our chains in the pod's iptables rules.
    pub(crate) rules: usize,
    /// Programs on the cgroup of all pods; they stay for the next pod.
    pub(crate) shared: usize,
}

impl Traces {
    /// Counts now.
    pub(crate) fn count(site: &Site) -> Outcome<Self> {
        let pins = files(&site.bpf_dir());
        let of_pods = pins.iter().filter(|pin| pin.iter().any(|part| part == "pods")).count();
        let map = pins.iter().find(|pin| pin.file_name().is_some_and(|name| name == "PODS"));
        let records = files(&site.state_dir().join("attachments"))
            .into_iter()
            .filter(|file| file.extension().is_some_and(|extension| extension == "json"))
            .count();
        Ok(Self {
            records,
            pins: of_pods,
            links: on_cgroup(&site.cgroup("pod")).doing("ask for the programs of the pod's cgroup")?
                + on_netns(&site.netns("pod")).doing("ask for the programs of a network namespace")?,
            entries: map.map_or(Ok(0), |map| entries(map)).doing("count the pods in the map")?,
            rules: rules(site)?,
            shared: on_cgroup(&site.cgroup("kubepods")).doing("ask for the programs of all pods' cgroup")?,
        })
    }

    /// Whether one pod is captured, by this backend alone if one is named.
    pub(crate) fn of_one_pod(self, backend: &str) -> bool {
        let ebpf = self.links > 0 && self.entries == 1;
        let iptables = self.rules > 0;
        self.records == 1
            && match backend {
                "ebpf" => ebpf && !iptables,
                "iptables" => iptables && self.links == 0 && self.pins == 0 && self.entries == 0,
                _ => ebpf != iptables,
            }
    }

    /// Whether nothing of the pod is left.
    pub(crate) fn none_of_pod(self) -> bool {
        self.records == 0 && self.pins == 0 && self.links == 0 && self.entries == 0 && self.rules == 0
    }
}

impl fmt::Display for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "records {}, pins {}, programs on the pod {}, map entries {}, iptables lines {}; the node's own programs {}",
            self.records, self.pins, self.links, self.entries, self.rules, self.shared
        )
    }
}

/// Lines that name our chains, in both families and both flavours of iptables.
fn rules(site: &Site) -> Outcome<usize> {
    site.inside("pod", || {
        let mut lines = 0;
        for tool in
            ["iptables-nft-save", "ip6tables-nft-save", "iptables-legacy-save", "ip6tables-legacy-save"]
        {
            let done = Command::new(tool).stdin(Stdio::null()).output().doing(format_args!("run {tool}"))?;
            if !done.status.success() {
                return Err(format!("{tool}: {}", String::from_utf8_lossy(&done.stderr).trim()));
            }
            lines += String::from_utf8_lossy(&done.stdout).matches("\n-A").count();
            lines += String::from_utf8_lossy(&done.stdout).matches("\n:SHUNT").count();
        }
        Ok(lines)
    })
}

/// Every file below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .flat_map(|entry| {
            let path = entry.path();
            if path.is_dir() { files(&path) } else { vec![path] }
        })
        .collect()
}
