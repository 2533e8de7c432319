//! The node's pods as their records say: what people call them, and what serves them.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;

use shunt_abi::{PodKey, VERSION};

use super::{FAILED, Said};
use crate::backend::Receipt;
use crate::fault::Outcome;
use crate::record::{Record, Records};

/// All records that can be read.
#[derive(Debug, Default)]
pub(super) struct Pods {
    records: Vec<Record>,
    /// What could not be read, a line each.
    pub(super) unread: Vec<String>,
}

impl Pods {
    /// Reads them.
    pub(super) fn read(state_dir: &Path) -> Outcome<Self> {
        let records = Records::new(state_dir);
        let mut pods = Self::default();
        for name in records.names()? {
            match records.read(&name) {
                Ok(Some(record)) => pods.records.push(record),
                // Gone since.
                Ok(None) => {}
                Err(fault) => pods.unread.push(chain(&fault)),
            }
        }
        Ok(pods)
    }

    /// Those called so: `namespace/name`, a name alone, or a container's id; all of them where nobody asked.
    pub(super) fn called(&self, asked: Option<&str>) -> Vec<&Record> {
        self.records.iter().filter(|record| asked.is_none_or(|asked| is_called(record, asked))).collect()
    }

    /// What to say if there is none.
    pub(super) fn unknown(&self, asked: &str) -> String {
        let mut said = format!("no pod on this node is called {asked:?}");
        let mut names: Vec<String> = self.records.iter().map(name).collect();
        names.sort();
        names.dedup();
        // Writing into a String cannot fail.
        let _ = match names.as_slice() {
            [] => writeln!(said, ": no pod is captured"),
            names if names.len() <= SHOWN => writeln!(said, "; captured are {}", names.join(", ")),
            names => writeln!(said, "; {} are captured", names.len()),
        };
        said
    }

    /// Names by what the kernel's programs call the pods.
    pub(super) fn by_cookie(&self) -> HashMap<PodKey, String> {
        self.records.iter().filter_map(|record| Some((cookie(record)?, name(record)))).collect()
    }
}

/// More names than this help nobody.
const SHOWN: usize = 20;
/// Fewer letters of a container's id are a name.
const PREFIX: usize = 8;

fn is_called(record: &Record, asked: &str) -> bool {
    let name = name(record);
    let container = record.attachment.container_id();
    name == asked
        || name.rsplit_once('/').is_some_and(|(_, name)| name == asked)
        || asked.len() >= PREFIX && container.starts_with(asked)
}

/// `namespace/name`, or the container's id outside Kubernetes.
pub(super) fn name(record: &Record) -> String {
    match record.pod.split_whitespace().next() {
        Some(name) if name != "/" => name.to_owned(),
        _ => record.attachment.container_id().to_owned(),
    }
}

/// What the kernel's programs call the pod, if any serve it.
pub(super) fn cookie(record: &Record) -> Option<PodKey> {
    match record.receipt {
        Receipt::Ebpf { cookie, .. } => Some(cookie),
        Receipt::Iptables { .. } => None,
    }
}

/// The object that serves a pod, or why its programs cannot be asked for `what`.
pub(super) fn object<'a>(record: &'a Record, what: &str) -> Result<&'a str, String> {
    match &record.receipt {
        Receipt::Ebpf { abi, object, .. } if *abi == VERSION => Ok(object),
        Receipt::Ebpf { abi, object, .. } => Err(format!(
            "{}: no {what}: it is served by the programs of another version (object {object}, layouts {abi}, not {VERSION}) \
             until it is made anew",
            name(record)
        )),
        Receipt::Iptables { .. } => Err(format!(
            "{}: no {what}: it is captured by iptables rules; what they decided, the kernel's rule counters say \
             (nsenter --net={} iptables -t nat -nvL)",
            name(record),
            record.netns.display()
        )),
    }
}

/// No answer, and why, a line each.
pub(super) fn complaints(said: &[String]) -> Said {
    let complaint = said.iter().fold(String::new(), |lines, line| lines + "shuntctl: " + line + "\n");
    Said { complaint, code: FAILED, ..Said::default() }
}

/// A fault and all that led to it, on one line.
pub(super) fn chain(fault: &(dyn std::error::Error + 'static)) -> String {
    let mut said = fault.to_string();
    let mut cause = fault.source();
    while let Some(error) = cause {
        let _ = write!(said, ": {error}");
        cause = error.source();
    }
    said
}
