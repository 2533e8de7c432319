//! All of the node that Shunt could have touched, to be compared with itself.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use shunt_tests::hooked::on_cgroup;

use super::Node;

/// What is the work of others, and changes with every pod or by itself.
const OTHERS: [&str; 14] = [
    "etc/kubernetes/manifests",
    "run/containerd",
    "run/netns",
    "run/proc",
    "run/lock",
    "run/xtables.lock",
    "var/lib/cni",
    "var/lib/containerd",
    "var/lib/etcd",
    "var/lib/kubelet",
    "var/log/containers",
    "var/log/daemons",
    "var/log/pods",
    "var/tmp",
];

/// A picture of it: what is where, and for files what is in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Whole(BTreeMap<String, String>);

impl Whole {
    /// Takes it.
    pub(crate) fn of(node: &Node) -> Self {
        let mut all = BTreeMap::new();
        let machine = &node.machine;
        for dir in ["etc", "opt", "root", "run", "var", "sys/fs/bpf"] {
            walk(&machine.inside("/"), dir, &mut all);
        }
        for dir in ["", "kubepods", "kubepods/besteffort", "kubepods/burstable", "system.slice"] {
            let path = machine.cgroups().join(dir);
            let count = on_cgroup(&path).map_or_else(|error| error.to_string(), |count| count.to_string());
            all.insert(format!("programs on /{dir}"), count);
        }
        for entry in fs::read_dir(machine.cgroups()).into_iter().flatten().filter_map(Result::ok) {
            if entry.path().is_dir() {
                all.insert(format!("cgroup {}", entry.file_name().to_string_lossy()), String::new());
            }
        }
        for tool in ["iptables-save", "ip6tables-save"] {
            let text = machine.run(tool, &[]);
            let rules: Vec<&str> = text.lines().filter(|line| line.starts_with('-')).collect();
            all.insert(tool.to_owned(), rules.join("\n"));
        }
        all.insert("mounts".to_owned(), mounts(&machine.inside("/proc/1/mountinfo")));
        Self(all)
    }

    /// How another picture differs from this one, a line each.
    pub(crate) fn differences(&self, other: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        for (key, value) in &self.0 {
            match other.0.get(key) {
                None => lines.push(format!("{key} is gone")),
                Some(there) if there != value => lines.push(format!("{key} was {value:?} and is {there:?}")),
                Some(_) => {}
            }
        }
        lines.extend(
            other.0.keys().filter(|key| !self.0.contains_key(*key)).map(|key| format!("{key} is new")),
        );
        lines
    }

    /// How much it holds.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

fn walk(root: &Path, relative: &str, all: &mut BTreeMap<String, String>) {
    if OTHERS.contains(&relative) {
        return;
    }
    let path = root.join(relative);
    let Ok(meta) = fs::symlink_metadata(&path) else { return };
    let kind = meta.file_type();
    let what = if kind.is_dir() {
        "directory".to_owned()
    } else if kind.is_symlink() {
        fs::read_link(&path).map(|target| target.display().to_string()).unwrap_or_default()
    } else if kind.is_socket() || kind.is_fifo() {
        "no file".to_owned()
    } else {
        contents(&path)
    };
    all.insert(relative.to_owned(), format!("{:o} {}:{} {what}", meta.mode(), meta.uid(), meta.gid()));
    // What is mounted from the host is not the node's; a link is not followed.
    if kind.is_dir() && !relative.starts_with("opt/rig") {
        let mut names: Vec<_> = fs::read_dir(&path).into_iter().flatten().filter_map(Result::ok).collect();
        names.sort_by_key(fs::DirEntry::file_name);
        for entry in names {
            walk(root, &format!("{relative}/{}", entry.file_name().to_string_lossy()), all);
        }
    }
}

/// Text as it is, so that a difference can be read; else a sum.
fn contents(path: &Path) -> String {
    use sha2::Digest as _;
    let Ok(bytes) = fs::read(path) else { return "unreadable".to_owned() };
    match String::from_utf8(bytes) {
        Ok(text) if text.len() < 4096 => text,
        Ok(text) => format!("{:x?}", sha2::Sha256::digest(text.as_bytes())),
        Err(error) => format!("{:x?}", sha2::Sha256::digest(error.as_bytes())),
    }
}

/// Where something is mounted, but for what containers and pods have.
fn mounts(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let mut places: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|place| {
            !["/run/containerd", "/run/netns", "/var/lib/kubelet"]
                .iter()
                .any(|start| place.starts_with(start))
        })
        .collect();
    places.sort_unstable();
    places.join("\n")
}
