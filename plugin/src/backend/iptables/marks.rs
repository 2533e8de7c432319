//! Which attachments have, or may have, rules in which namespace: one small file each, written before the first rule.
//!
//! Rules are inside the namespace and nothing outside says that they are there. A mark is what an ADD that is killed is found by.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::attachment::container_in;
use crate::bpf::pins::children;
use crate::bpf::programs::make_directory;
use crate::fault::{Outcome, Tried as _};
use crate::iptables::Flavour;
use crate::netns::{Identity, Netns};
use crate::record::{read_whole, remove_whole, write_whole};

/// What is known of one attachment's rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Mark {
    /// Path of the namespace.
    pub(super) netns: PathBuf,
    /// Which it is.
    pub(super) identity: Identity,
    /// Flavours in which there may be rules.
    pub(super) flavours: Vec<Flavour>,
    /// Counts the ADDs in the namespace; 0 until the rules are there.
    pub(super) generation: u32,
    /// Stands for the rules.
    pub(super) digest: String,
}

impl Mark {
    /// The namespace, if it is still there.
    pub(super) fn open(&self) -> Option<Netns> {
        Netns::open(&self.netns).ok().filter(|netns| netns.identity() == self.identity)
    }
}

/// The marks of one state directory.
#[derive(Debug)]
pub(super) struct Marks {
    directory: PathBuf,
}

/// Files larger than this are not ours.
const LIMIT: u64 = 64 * 1024;
const SUFFIX: &str = ".json";

impl Marks {
    pub(super) fn new(state_dir: &Path) -> Self {
        Self { directory: state_dir.join("iptables") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}{SUFFIX}"))
    }

    pub(super) fn names(&self) -> Outcome<Vec<String>> {
        let files = children(&self.directory)?;
        Ok(files.iter().filter_map(|file| file.strip_suffix(SUFFIX)).map(str::to_owned).collect())
    }

    pub(super) fn exists(&self, name: &str) -> bool {
        self.path(name).symlink_metadata().is_ok()
    }

    /// Reads a mark; none if there is none, or none that can be read: a power cut takes the rules with it.
    pub(super) fn read(&self, name: &str) -> Option<Mark> {
        let text = read_whole(&self.path(name), LIMIT).ok().flatten()?;
        serde_json::from_str(&text).ok()
    }

    /// Marks of the same container's other attachments, if they are in that namespace and it is still where they say.
    pub(super) fn peers(&self, name: &str, identity: Identity) -> Outcome<Vec<Mark>> {
        let is_peer = |other: &&String| *other != name && container_in(other) == container_in(name);
        let names = self.names()?;
        let marks = names.iter().filter(is_peer).filter_map(|other| self.read(other));
        Ok(marks.filter(|mark| mark.identity == identity && mark.open().is_some()).collect())
    }

    pub(super) fn write(&self, name: &str, mark: &Mark) -> Outcome<()> {
        make_directory(&self.directory)?;
        let path = self.path(name);
        let what = || format!("write {}", path.display());
        let text = serde_json::to_vec(mark).tried(what)?;
        write_whole(&path, &text).tried(what)
    }

    pub(super) fn remove(&self, name: &str) -> Outcome<()> {
        let path = self.path(name);
        remove_whole(&path).tried(|| format!("remove {}", path.display()))
    }
}
