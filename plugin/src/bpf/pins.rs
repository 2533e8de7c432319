//! Where things are pinned.
//!
//! ```text
//! <bpfDir>/<object hash>/maps/<NAME>
//!                        programs/<name>
//!                        links/<name>                     shared, on the cgroup all pods live under
//!                        pods/<attachment>/<cookie>/<name> one pod's own links
//! ```
//!
//! An attachment's directory is made before anything else of it and removed last, and has the namespace's cookie in it: what
//! an ADD that was killed half-way left in the maps is found from the pins alone.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::unistd::{AccessFlags, faccessat};

use crate::fault::{Outcome, Tried as _};

/// Paths of one object's pins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
}

/// Name of a directory being filled; bpffs allows no dot in a name.
pub const TEMPORARY: &str = "loading-";

impl Layout {
    /// Pins of the object `hash` under `bpf_dir`.
    pub fn new(bpf_dir: &Path, hash: &str) -> Self {
        Self { root: bpf_dir.join(hash) }
    }

    /// Every object that has pins under `bpf_dir`: names of 16 hex digits. Half-loaded ones, and what the kernel itself puts
    /// into the root of a BPF file system, are something else.
    pub fn all(bpf_dir: &Path) -> Outcome<Vec<Self>> {
        Ok(children(bpf_dir)?
            .into_iter()
            .filter(|name| name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .map(|name| Self { root: bpf_dir.join(name) })
            .collect())
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The object's hash.
    pub fn hash(&self) -> &str {
        self.root.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    /// A pinned map.
    pub fn map(&self, name: &str) -> PathBuf {
        self.root.join("maps").join(name)
    }

    /// A pinned program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.root.join("programs").join(name)
    }

    /// A pinned shared link.
    pub fn link(&self, name: &str) -> PathBuf {
        self.root.join("links").join(name)
    }

    /// All attachments.
    pub fn pods(&self) -> PathBuf {
        self.root.join("pods")
    }

    /// One attachment.
    pub fn attachment(&self, name: &str) -> PathBuf {
        self.pods().join(name)
    }

    /// One attachment's pins in the namespace with this cookie.
    pub fn pod(&self, name: &str, cookie: u64) -> PathBuf {
        self.attachment(name).join(format!("{cookie:016x}"))
    }

    /// Cookies of the namespaces an attachment has pins for: one, or more after an ADD that was killed.
    pub fn cookies(&self, name: &str) -> Outcome<Vec<u64>> {
        Ok(children(&self.attachment(name))?
            .iter()
            .filter_map(|name| u64::from_str_radix(name, 16).ok())
            .collect())
    }

    /// Names of all attachments with pins.
    pub fn attachments(&self) -> Outcome<Vec<String>> {
        children(&self.pods())
    }

    /// True if no attachment has pins.
    pub fn is_unused(&self) -> Outcome<bool> {
        let pods = self.pods();
        // The first name is enough: a node has a thousand of them, and every DEL asks.
        match fs::read_dir(&pods) {
            Ok(mut names) => Ok(names.next().is_none()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error).tried(|| format!("list {}", pods.display())),
        }
    }

    /// True if an attachment other than `name` is in the namespace with this cookie.
    pub fn shared(&self, name: &str, cookie: u64) -> Outcome<bool> {
        let pods = self.pods();
        let directory = match File::open(&pods) {
            Ok(directory) => directory,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error).tried(|| format!("open {}", pods.display())),
        };
        // One short look each: a node has a thousand of them, and every DEL asks.
        for other in children(&pods)? {
            let pins = format!("{other}/{cookie:016x}");
            match faccessat(&directory, pins.as_str(), AccessFlags::F_OK, AtFlags::empty()) {
                Ok(()) if other != name => return Ok(true),
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(error) => return Err(error).tried(|| format!("look for {}/{pins}", pods.display())),
            }
        }
        Ok(false)
    }
}

/// Names in a directory, sorted; none if it is not there.
pub fn children(directory: &Path) -> Outcome<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).tried(|| format!("list {}", directory.display())),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.tried(|| format!("list {}", directory.display()))?;
        if let Ok(name) = entry.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Removes a directory and all under it; nothing there is success.
pub fn remove_tree(directory: &Path) -> Outcome<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).tried(|| format!("remove pins {}", directory.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_shared_by_two_attachments_that_have_pins_for_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let layout = Layout::new(directory.path(), "0123456789abcdef");
        assert!(!layout.shared("one", 7).expect("nothing is there"));
        for (name, cookie) in [("one", 7), ("other", 7), ("third", 8)] {
            fs::create_dir_all(layout.pod(name, cookie)).expect("a directory");
        }
        assert!(layout.shared("one", 7).expect("it can be looked at"));
        assert!(!layout.shared("third", 8).expect("it can be looked at"));
        fs::remove_dir(layout.pod("other", 7)).expect("it is there");
        assert!(!layout.shared("one", 7).expect("its directory alone says nothing"));
    }
}
