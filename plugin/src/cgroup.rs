//! The cgroup2 hierarchy as the plugin sees it: where it is mounted, which cgroup is a pod's, which one all pods live under.
//!
//! The plugin runs in the runtime's cgroup and mount namespaces, so paths are resolved here and nowhere else.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use crate::fault::{Fault, Outcome, Tried as _};

/// Where systemd mounts it: alone, and beside v1.
const USUAL: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// A mounted cgroup2 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroups {
    root: PathBuf,
}

/// What became of a runtime's `cgroupPath`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodCgroup {
    /// The pod's directory; `None` when there is none in this hierarchy (hybrid hosts create it after ADD).
    pub pod: Option<PathBuf>,
    /// The directory all pods live under.
    pub all_pods: PathBuf,
}

impl Cgroups {
    /// Finds the mount there is. A host without one gets a mount of ours under `state_dir`.
    pub fn find(state_dir: &Path) -> Outcome<Self> {
        if let Some(found) = Self::mounted()? {
            return Ok(found);
        }
        let root = state_dir.join("cgroup2");
        crate::bpf::programs::make_directory(&root)?;
        nix::mount::mount(
            Some("cgroup2"),
            &root,
            Some("cgroup2"),
            nix::mount::MsFlags::empty(),
            None::<&str>,
        )
        .tried(|| format!("mount a cgroup2 hierarchy on {}", root.display()))?;
        Ok(Self { root })
    }

    /// The mount there is, if there is one; nothing is mounted.
    pub fn mounted() -> Outcome<Option<Self>> {
        // Where it is on nearly every host. The table has several lines for each pod, and each ADD would have it written twice.
        if let Some(root) = USUAL.iter().map(Path::new).find(|place| is_cgroup2(place)) {
            return Ok(Some(Self { root: root.to_owned() }));
        }
        let table = fs::read_to_string("/proc/self/mountinfo").tried(|| "read /proc/self/mountinfo")?;
        Ok(mounted(&table).map(|root| Self { root }))
    }

    /// The cgroup with this id: looked for from the root down, but not in more than `MOST` places.
    pub fn with_id(&self, id: u64) -> Option<PathBuf> {
        const MOST: usize = 5000;
        let mut places = VecDeque::from([self.root.clone()]);
        for _ in 0..MOST {
            let place = places.pop_front()?;
            if fs::metadata(&place).is_ok_and(|found| found.ino() == id) {
                return Some(place);
            }
            let entries = fs::read_dir(&place).into_iter().flatten().filter_map(Result::ok);
            let is_directory = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
            places.extend(entries.filter(is_directory).map(|entry| entry.path()));
        }
        None
    }

    /// Where it is mounted: the root as far as this cgroup namespace goes.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Resolves a `cgroupPath` as runtimes send it: a full path with the cgroupfs driver and with containerd's systemd driver,
    /// a bare slice name with CRI-O's, or nothing. `uid` is the pod's: a path that is not about that pod is no pod cgroup.
    pub fn resolve(&self, cgroup_path: Option<&str>, uid: Option<&str>) -> Outcome<PodCgroup> {
        let nowhere = PodCgroup { pod: None, all_pods: self.root.clone() };
        let Some(written) = cgroup_path.filter(|path| !path.is_empty()) else {
            return Ok(nowhere);
        };
        let relative = relative_path(written)?;
        let pod = if names_pod(&relative, uid) { self.open_beneath(&relative)? } else { None };
        let all_pods = match all_pods_of(&relative) {
            Some(ancestor) => self.open_beneath(&ancestor)?.unwrap_or_else(|| self.root.clone()),
            None => self.root.clone(),
        };
        Ok(PodCgroup { pod, all_pods })
    }

    /// The directory all pods live under when no pod says so: the first of the usual places that exists.
    pub fn usual_place(&self) -> Option<PathBuf> {
        ["kubepods", "kubepods.slice", "kubelet.slice/kubelet-kubepods.slice", "kubelet/kubepods"]
            .iter()
            .map(|place| self.root.join(place))
            .find(|path| path.is_dir())
    }

    /// Ids of `directory` and of everything above it, up to the root.
    pub fn ids_to_root(&self, directory: &Path) -> Outcome<Vec<u64>> {
        let mut ids = Vec::new();
        for ancestor in directory.ancestors() {
            if !ancestor.starts_with(&self.root) {
                break;
            }
            let metadata =
                fs::metadata(ancestor).tried(|| format!("look at cgroup {}", ancestor.display()))?;
            ids.push(metadata.ino());
        }
        Ok(ids)
    }

    /// A directory under the root; never outside it, whatever links there are.
    fn open_beneath(&self, relative: &Path) -> Outcome<Option<PathBuf>> {
        let root = File::open(&self.root).tried(|| format!("open {}", self.root.display()))?;
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        match openat2(root.as_fd(), relative, how) {
            Ok(_) => Ok(Some(self.root.join(relative))),
            Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR) => Ok(None),
            Err(error) => Err(error)
                .tried(|| format!("open cgroup {} under {}", relative.display(), self.root.display())),
        }
    }
}

/// The cgroup2 mount to use, from `/proc/self/mountinfo`: the first one listed that is not hidden by a later mount on the same
/// place. Octal escapes are undone.
fn mounted(table: &str) -> Option<PathBuf> {
    // Those that can be the answer, and no others: a node has thousands of mounts.
    let mut found: Vec<&str> = Vec::new();
    for line in table.lines() {
        let (before, after) = line.split_once(" - ")?;
        let place = before.split(' ').nth(4)?;
        found.retain(|other| *other != place);
        if after.split(' ').next() == Some("cgroup2") {
            found.push(place);
        }
    }
    found.first().map(|place| PathBuf::from(unescaped(place)))
}

/// Whether a cgroup2 hierarchy is mounted there, or this is a cgroup of one.
pub(crate) fn is_cgroup2(place: &Path) -> bool {
    statfs(place).is_ok_and(|status| status.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

fn unescaped(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// `cgroupPath` → path relative to the hierarchy's root.
fn relative_path(written: &str) -> Outcome<PathBuf> {
    let bad = |why: &str| Fault::new(format!("read cgroupPath {written:?}"), why);
    if written.contains('\0') {
        return Err(bad("it has a NUL in it"));
    }
    let is_slice = Path::new(written).extension().is_some_and(|extension| extension == "slice");
    let full = if is_slice && !written.contains('/') {
        expand_slice(written).ok_or_else(|| bad("the slice name has an empty part"))?
    } else {
        written.to_owned()
    };
    let mut relative = PathBuf::new();
    for component in Path::new(&full).components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(part) => relative.push(part),
            Component::ParentDir | Component::Prefix(_) => return Err(bad("it has a `..` in it")),
        }
    }
    if relative.as_os_str().is_empty() { Err(bad("it names the root")) } else { Ok(relative) }
}

/// `a-b-c.slice` → `a.slice/a-b.slice/a-b-c.slice`, as systemd nests slices.
fn expand_slice(name: &str) -> Option<String> {
    let stem = name.strip_suffix(".slice")?;
    let mut prefix = String::new();
    let mut path = Vec::new();
    for part in stem.split('-') {
        if part.is_empty() {
            return None;
        }
        if !prefix.is_empty() {
            prefix.push('-');
        }
        prefix.push_str(part);
        path.push(format!("{prefix}.slice"));
    }
    Some(path.join("/"))
}

/// True if the last component is about the pod with this uid (systemd writes `_` for `-`). Unknown uid: take the path's word.
fn names_pod(relative: &Path, uid: Option<&str>) -> bool {
    let Some(uid) = uid.filter(|uid| !uid.is_empty()) else {
        return true;
    };
    let last = relative.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    last.contains(uid) || last.contains(&uid.replace('-', "_"))
}

/// The `kubepods` ancestor of a pod's path, whatever it is called: `kubepods`, `kubepods.slice`, `kubelet-kubepods.slice`.
fn all_pods_of(relative: &Path) -> Option<PathBuf> {
    let mut path = PathBuf::new();
    for part in relative.components() {
        path.push(part);
        let name = part.as_os_str().to_str().unwrap_or_default();
        let stem = name.strip_suffix(".slice").unwrap_or(name);
        if stem == "kubepods" || stem.ends_with("-kubepods") {
            return Some(path);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_understood_in_all_four_shapes() {
        let uid = Some("0b3f-77");
        for (written, relative, all) in [
            ("/kubepods/burstable/pod0b3f-77", "kubepods/burstable/pod0b3f-77", "kubepods"),
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0b3f_77.slice",
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0b3f_77.slice",
                "kubepods.slice",
            ),
            (
                "kubepods-burstable-pod0b3f_77.slice",
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0b3f_77.slice",
                "kubepods.slice",
            ),
            (
                "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod0b3f_77.slice",
                "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod0b3f_77.slice",
                "kubelet.slice/kubelet-kubepods.slice",
            ),
        ] {
            let found = relative_path(written).unwrap();
            assert_eq!(found, Path::new(relative), "{written}");
            assert!(names_pod(&found, uid), "{written}");
            assert_eq!(all_pods_of(&found).as_deref(), Some(Path::new(all)), "{written}");
        }
    }

    #[test]
    fn hostile_paths_are_refused() {
        for written in ["../../etc", "/kubepods/../..", "a\0b", "/", "a--b.slice", "-.slice"] {
            assert!(relative_path(written).is_err(), "{written:?}");
        }
        assert!(!names_pod(Path::new("kubepods/pod1"), Some("2")));
    }

    #[test]
    fn the_mount_is_found_in_unified_and_hybrid_hosts_and_not_under_another_mount() {
        let unified = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n";
        assert_eq!(mounted(unified), Some("/sys/fs/cgroup".into()));
        let hybrid = "1 1 0:1 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n2 1 0:2 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      3 1 0:3 / /sys/fs/cgroup/uni\\040fied rw shared:1 - cgroup2 cgroup rw\n";
        assert_eq!(mounted(hybrid), Some("/sys/fs/cgroup/uni fied".into()));
        let hidden = "1 1 0:1 / /cg rw - cgroup2 c rw\n2 1 0:1 / /cg rw - tmpfs t rw\n";
        assert_eq!(mounted(hidden), None);
    }
}
