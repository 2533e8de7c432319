//! Which attachments have, or may have, rules in which namespace: one small file each, written before the first rule.
//!
//! Rules are inside the namespace and nothing outside says that they are there. A mark is what an ADD that is killed is found by.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::bpf::pins::children;
use crate::bpf::programs::make_directory;
use crate::fault::{Outcome, Tried as _};
use crate::iptables::Flavour;
use crate::netns::{Identity, Netns};

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
        let text = fs::read(self.path(name)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Marks of the same container's other attachments, if they are in that namespace and it is still where they say.
    pub(super) fn peers(&self, name: &str, identity: Identity) -> Outcome<Vec<Mark>> {
        let container = name.split_once('@').map_or(name, |(container, _)| container);
        let is_peer = |other: &&String| {
            *other != name && other.split_once('@').is_some_and(|(theirs, _)| theirs == container)
        };
        let names = self.names()?;
        let marks = names.iter().filter(is_peer).filter_map(|other| self.read(other));
        Ok(marks.filter(|mark| mark.identity == identity && mark.open().is_some()).collect())
    }

    pub(super) fn write(&self, name: &str, mark: &Mark) -> Outcome<()> {
        make_directory(&self.directory)?;
        let path = self.path(name);
        let temporary = path.with_extension("new");
        let what = || format!("write {}", path.display());
        discard(&temporary).tried(what)?;
        let text = serde_json::to_vec(mark).tried(what)?;
        let mut file =
            fs::File::options().write(true).create_new(true).mode(0o600).open(&temporary).tried(what)?;
        io::Write::write_all(&mut file, &text).and_then(|()| fs::rename(&temporary, &path)).tried(what)
    }

    pub(super) fn remove(&self, name: &str) -> Outcome<()> {
        let path = self.path(name);
        for path in [path.with_extension("new"), path] {
            discard(&path).tried(|| format!("remove {}", path.display()))?;
        }
        Ok(())
    }
}

fn discard(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
