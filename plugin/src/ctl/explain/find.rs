//! Who is meant, and what the plugin has left of it.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::attachment::Attachment;
use crate::backend::Places;
use crate::cni::PodRef;
use crate::netns::{Identity, Netns};
use crate::note::{Note, Notes, What};
use crate::record::{Record, Records, read_whole};

/// Who is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::ctl) enum Target {
    Netns(PathBuf),
    Process(u32),
    Pod(String),
}

impl Target {
    /// Who is called so on this node.
    pub(in crate::ctl) fn here(text: &str) -> Result<Self, String> {
        Self::parse(text, |pid| Path::new(&format!("/proc/{pid}")).is_dir())
    }

    /// A path begins with a slash; a number is a process if there is such a one.
    pub(in crate::ctl) fn parse(text: &str, is_process: impl Fn(u32) -> bool) -> Result<Self, String> {
        let process = |digits: &str| digits.parse::<u32>().ok();
        if let Some(digits) = text.strip_prefix("pid:") {
            return process(digits)
                .map(Self::Process)
                .ok_or_else(|| format!("{digits:?} is not the id of a process"));
        }
        if let Some(name) = text.strip_prefix("pod:") {
            return Ok(Self::Pod(name.to_owned()));
        }
        if text.starts_with('/') {
            return Ok(Self::Netns(text.into()));
        }
        if text.is_empty() {
            return Err("an empty name is nobody's".to_owned());
        }
        match process(text) {
            Some(pid) if is_process(pid) => Ok(Self::Process(pid)),
            _ => Ok(Self::Pod(text.to_owned())),
        }
    }
}

/// What was found.
#[derive(Debug, Default)]
pub(in crate::ctl) struct Found {
    /// What ADD recorded, newest first; all of one namespace.
    pub(in crate::ctl) records: Vec<Record>,
    /// What ADD noted, newest first.
    pub(in crate::ctl) notes: Vec<Note>,
    /// The namespace, where that is what was asked about.
    pub(in crate::ctl) netns: Option<Netns>,
    /// It is the one this process runs in.
    pub(in crate::ctl) host: bool,
    /// Ids of the process that was asked about, as the kernel sees them.
    pub(in crate::ctl) ids: Option<(u32, u32)>,
}

/// What of a record tells whose it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Label {
    attachment: Attachment,
    pod: String,
    netns_identity: Identity,
}

/// Finds it.
pub(in crate::ctl) fn find(places: Places<'_>, target: &Target) -> Result<Found, String> {
    let mut found = Found::default();
    match target {
        Target::Pod(name) => {
            found.records = records(places, |label| is_called(name, &named(&label.pod), &label.attachment))?;
            found.notes = notes(places, |note| is_called(name, &note.pod, &note.attachment));
            one_pod(name, &mut found)?;
        }
        Target::Netns(path) => of_netns(places, path, &mut found)?,
        Target::Process(pid) => {
            of_netns(places, &PathBuf::from(format!("/proc/{pid}/ns/net")), &mut found)?;
            found.ids = ids(*pid);
        }
    }
    // Of notes about one pod only the newest holds.
    found.notes.sort_by_key(|note| std::cmp::Reverse(note.at));
    Ok(found)
}

fn of_netns(places: Places<'_>, path: &Path, found: &mut Found) -> Result<(), String> {
    let netns = Netns::open(path).map_err(|fault| crate::error::chain(&fault))?;
    let identity = netns.identity();
    found.host = Netns::own().is_ok_and(|own| own.identity() == identity);
    found.records = records(places, |label| label.netns_identity == identity)?;
    found.notes = notes(places, |note| is_at(&note.netns, identity));
    found.netns = Some(netns);
    Ok(())
}

/// Whether a path leads to a namespace.
pub(in crate::ctl) fn is_at(path: &Path, identity: Identity) -> bool {
    Netns::open(path).is_ok_and(|netns| netns.identity() == identity)
}

/// Whether a record's namespace is still there.
pub(in crate::ctl) fn is_alive(record: &Record) -> bool {
    is_at(&record.netns, record.netns_identity)
}

/// Names a pod may be called by.
fn is_called(name: &str, pod: &PodRef, attachment: &Attachment) -> bool {
    let is = |part: &Option<String>| part.as_deref() == Some(name);
    if let Some((namespace, name)) = name.split_once('/') {
        return pod.namespace.as_deref() == Some(namespace) && pod.name.as_deref() == Some(name);
    }
    is(&pod.name) || is(&pod.uid) || attachment.container_id().starts_with(name)
}

/// The pod as a record describes it: "namespace/name uid".
pub(in crate::ctl) fn named(described: &str) -> PodRef {
    let (name, uid) = described.split_once(' ').unwrap_or((described, ""));
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    let part = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    PodRef { namespace: part(namespace), name: part(name), uid: part(uid), sandbox: None }
}

fn records(places: Places<'_>, is_meant: impl Fn(&Label) -> bool) -> Result<Vec<Record>, String> {
    const LIMIT: u64 = 64 * 1024 * 1024;
    let records = Records::new(places.state_dir);
    let mut found = Vec::new();
    for name in records.names().map_err(|fault| crate::error::chain(&fault))? {
        // One that cannot be read, or is gone by now, is nobody's.
        let text = read_whole(&records.path(&name), LIMIT).ok().flatten().unwrap_or_default();
        if serde_json::from_str::<Label>(&text).is_ok_and(|label| is_meant(&label)) {
            let modified = fs::metadata(records.path(&name)).and_then(|file| file.modified()).ok();
            let record = records.read(&name).map_err(|fault| crate::error::chain(&fault))?;
            found.extend(record.map(|record| (modified, record)));
        }
    }
    found.sort_by_key(|(modified, _)| std::cmp::Reverse(*modified));
    Ok(found.into_iter().map(|(_, record)| record).collect())
}

fn notes(places: Places<'_>, is_meant: impl Fn(&Note) -> bool) -> Vec<Note> {
    // Where they cannot be read, none is known.
    let all = Notes::new(places.state_dir).all().unwrap_or_default();
    all.into_iter().filter(|note| is_meant(note)).collect()
}

/// One pod's, or an error that names those it may be.
fn one_pod(name: &str, found: &mut Found) -> Result<(), String> {
    // Of sandboxes that are gone and were not removed one is as good as another.
    if found.records.iter().any(is_alive) {
        found.records.retain(is_alive);
    }
    let mut pods: Vec<String> = found.records.iter().map(|record| record.pod.clone()).collect();
    for note in &found.notes {
        let part = |text: &Option<String>| text.clone().unwrap_or_default();
        let pod = &note.pod;
        // A failed ADD may know less of the pod than one that worked.
        pods.push(format!("{}/{} {}", part(&pod.namespace), part(&pod.name), part(&pod.uid)));
    }
    pods.sort();
    let same = |one: &mut String, other: &mut String| {
        one.split(' ').next() == other.split(' ').next() && one.split(' ').next() != Some("/") || one == other
    };
    pods.dedup_by(same);
    if pods.len() > 1 {
        return Err(format!("{name} may be one of {}; say which", pods.join(", ")));
    }
    if found.records.is_empty() && found.notes.is_empty() {
        return Err(format!(
            "nothing is known of {name} on this node: no ADD of this plugin that captured it, left it alone or failed"
        ));
    }
    let Some(first) = found.records.first().map(|record| record.netns_identity) else { return Ok(()) };
    found.records.retain(|record| record.netns_identity == first);
    Ok(())
}

/// Real uid and gid of a process.
fn ids(pid: u32) -> Option<(u32, u32)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let id = |name: &str| -> Option<u32> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    Some((id("Uid:")?, id("Gid:")?))
}

impl Found {
    /// A newer note than the record that counts, about an ADD that failed.
    pub(in crate::ctl) fn failed_since(&self) -> Option<&Note> {
        self.notes.iter().find(|note| matches!(note.what, What::Failed { .. }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_meant() {
        let parse = |text: &str| Target::parse(text, |pid| pid == 7);
        for (text, target) in [
            ("7", Target::Process(7)),
            ("8", Target::Pod("8".to_owned())),
            ("pid:8", Target::Process(8)),
            ("pod:7", Target::Pod("7".to_owned())),
            ("/proc/7/ns/net", Target::Netns("/proc/7/ns/net".into())),
            ("shop/cart-0", Target::Pod("shop/cart-0".to_owned())),
        ] {
            assert_eq!(parse(text), Ok(target), "{text}");
        }
        assert!(parse("").is_err() && parse("pid:x").is_err());
    }

    #[test]
    fn what_a_pod_is_called() {
        let pod = named("shop/cart-0 2c0e");
        let attachment = Attachment::new("4f1dabc", "eth0").expect("valid");
        for name in ["shop/cart-0", "cart-0", "2c0e", "4f1d", "4f1dabc"] {
            assert!(is_called(name, &pod, &attachment), "{name}");
        }
        for name in ["shop", "cart", "other/cart-0", "shop/", "f1d", "2c"] {
            assert!(!is_called(name, &pod, &attachment), "{name}");
        }
        // What the runtime did not say is not a name.
        assert_eq!(named("/ "), PodRef::default());
    }

    #[test]
    fn a_process_has_ids() {
        assert_eq!(ids(std::process::id()).map(|(uid, _)| uid), Some(nix::unistd::getuid().as_raw()));
        assert_eq!(ids(u32::MAX), None);
    }
}
