//! Directories of this run, named so that a later run can tell a dead owner's from a live one's.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// First part of every name we give to something outside our own directory: cgroups, bpffs directories.
pub const PREFIX: &str = "shunt-t-";

static NEXT: AtomicU32 = AtomicU32::new(0);
static REAP: Once = Once::new();

/// A directory for one test, with a name of its own for things that live elsewhere. Removed, with what is mounted in
/// it, on drop.
#[derive(Debug)]
pub struct Scratch {
    dir: PathBuf,
    name: String,
}

impl Scratch {
    /// A fresh directory. The first call of a run removes what dead runs left behind.
    #[expect(clippy::new_without_default, reason = "making one touches the disk; a default should not")]
    pub fn new() -> Self {
        REAP.call_once(reap);
        let pid = std::process::id();
        // No dot: bpffs keeps names with dots for itself.
        let name = format!(
            "{PREFIX}{pid}_{}-{}",
            start_time(pid).unwrap_or(0),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let dir = std::env::temp_dir().join(&name);
        fs::create_dir_all(&dir).expect("the temporary directory is writable");
        // Processes under other ids reach the helper files below it.
        fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("own directory");
        Self { dir, name }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The unique name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.dir);
    }
}

/// A moment of birth tells a process from a later one under the same id.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

/// Whether the run that made something of this name is over.
fn owner_is_gone(name: &str) -> bool {
    let Some((owner, _)) = name.strip_prefix(PREFIX).and_then(|rest| rest.rsplit_once('-')) else {
        return false;
    };
    let Some((pid, born)) = owner.split_once('_') else { return false };
    match (pid.parse(), born.parse()) {
        (Ok(pid), Ok(born)) => start_time(pid) != Some(born),
        _ => false,
    }
}

/// Removes what runs that are over have left: mounts, cgroups with their processes, pins, files.
fn reap() {
    for name in leftovers(&std::env::temp_dir()) {
        remove(&name);
    }
    for name in leftovers(Path::new(BPF_ROOT)) {
        let _gone = fs::remove_dir_all(name);
    }
    if let Some(root) = crate::cgroup::mount_point() {
        for name in leftovers(&root) {
            crate::cgroup::remove(&name);
        }
    }
}

/// Where bpffs is, by convention.
pub const BPF_ROOT: &str = "/sys/fs/bpf";

fn leftovers(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .filter(|entry| owner_is_gone(&entry.file_name().to_string_lossy()))
        .map(|entry| entry.path())
        .collect()
}

/// Unmounts everything below a directory, deepest first, then removes it.
fn remove(dir: &Path) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut below: Vec<&str> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|path| Path::new(path).starts_with(dir))
        .collect();
    below.sort_by_key(|path| std::cmp::Reverse(path.len()));
    for path in below {
        let _gone = umount2(path, MntFlags::MNT_DETACH);
    }
    let _gone = fs::remove_dir_all(dir);
}

/// What lies about of this process's own: directories, pins, cgroups.
pub fn own() -> Vec<PathBuf> {
    let pid = std::process::id();
    let prefix = format!("{PREFIX}{pid}_{}-", start_time(pid).unwrap_or(0));
    let places = [Some(std::env::temp_dir()), Some(BPF_ROOT.into()), crate::cgroup::mount_point()];
    let entries = places.into_iter().flatten().filter_map(|place| fs::read_dir(place).ok()).flatten();
    let paths = entries.filter_map(Result::ok).map(|entry| entry.path());
    paths
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)))
        .collect()
}

/// Runs something on a thread whose mounts nobody else sees.
pub fn with_own_mounts<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
                .expect("root may have mounts of its own");
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
                .expect("as root");
            work()
        });
        inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_things_are_kept_and_those_of_the_dead_are_not() {
        let own = Scratch::new();
        assert!(!owner_is_gone(own.name()), "{}", own.name());
        assert!(super::own().contains(&own.dir().to_owned()), "{:?}", super::own());
        assert!(owner_is_gone("shunt-t-1_999999999999-0"));
        assert!(owner_is_gone("shunt-t-4194304_5-7"));
        assert!(!owner_is_gone("somebody-else"));
        assert!(!owner_is_gone("shunt-t-odd"));
    }
}
