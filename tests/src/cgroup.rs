//! Scratch cgroups under whichever cgroup2 mount the machine has.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Where cgroup2 is mounted: `/sys/fs/cgroup` on a unified host, `/sys/fs/cgroup/unified` on a hybrid one.
pub fn mount_point() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let is_cgroup2 = after.split(' ').next() == Some("cgroup2");
        is_cgroup2.then(|| before.split(' ').nth(4).map(PathBuf::from)).flatten()
    })
}

/// A cgroup of a test; removed with its children and processes on drop.
#[derive(Debug)]
pub struct Cgroup {
    dir: PathBuf,
}

impl Cgroup {
    /// Makes a cgroup, parents included, at a path that begins at the mount's root.
    pub fn new(path: &str) -> Self {
        let root = mount_point().expect("the machine has a cgroup2 mount");
        let dir = root.join(path.trim_start_matches('/'));
        fs::create_dir_all(&dir).expect("root may make cgroups");
        Self { dir }
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A directory below, made if needed.
    pub fn child(&self, name: &str) -> PathBuf {
        let dir = self.dir.join(name);
        fs::create_dir_all(&dir).expect("root may make cgroups");
        dir
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove(&self.dir);
    }
}

/// Removes all cgroups below one, with their processes.
pub(crate) fn empty(dir: &Path) {
    let entries = fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    for child in entries.filter(|entry| entry.path().is_dir()) {
        remove(&child.path());
    }
}

/// Ends the processes of a cgroup and of those below it, then removes them.
pub(crate) fn remove(dir: &Path) {
    empty(dir);
    // A process that was killed is in its cgroup until it has died; the kernel tells when the last one has.
    for _round in 0..20 {
        let inside = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        for pid in inside.lines().filter_map(|pid| pid.parse().ok()) {
            let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        if fs::remove_dir(dir).is_ok() || !dir.exists() {
            return;
        }
        let Ok(events) = fs::File::open(dir.join("cgroup.events")) else { return };
        let mut change = [PollFd::new(events.as_fd(), PollFlags::POLLPRI)];
        let _changed = poll(&mut change, 100_u8);
    }
}
