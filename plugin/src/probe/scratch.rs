//! A cgroup to try in: empty but for the probe's own process, and gone afterwards.
//!
//! Whoever uses one holds a file lock on its directory. The kernel releases that when the process is gone, however it went, so a
//! later probe tells a stale cgroup from one in use without trusting process ids, which mean nothing across PID namespaces.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, poll};

use crate::fault::{Fault, Outcome, Tried as _};

const PREFIX: &str = "shunt-probe-";
/// More probes than this at once, or names taken, are somebody's joke.
const MOST: u32 = 64;

/// The cgroup; removed on drop.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
    _locked: File,
}

impl Scratch {
    /// Makes one below the root of the hierarchy.
    pub(super) fn new(root: &Path) -> Outcome<Self> {
        for number in 0..MOST {
            let path = root.join(format!("{PREFIX}{}-{number}", std::process::id()));
            let what = || format!("make cgroup {}", path.display());
            match fs::create_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                made => made.tried(what)?,
            }
            let directory = match File::open(&path) {
                // Another probe took it for a stale one before it was locked.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened.tried(what)?,
            };
            match directory.try_lock() {
                Ok(()) if path.is_dir() => return Ok(Self { path, _locked: directory }),
                Ok(()) | Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => {
                    let _first_error_counts = fs::remove_dir(&path);
                    return Err(error).tried(|| format!("lock cgroup {}", path.display()));
                }
            }
        }
        Err(Fault::new(format!("make a cgroup in {}", root.display()), "every name is taken"))
    }

    /// Its directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it; says why if it stays.
    pub(super) fn remove(self) -> Outcome<()> {
        discard(&self.path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays is found by the next probe.
        let _stays = fs::remove_dir(&self.path);
    }
}

/// Removes the cgroups of probes that were killed.
pub(super) fn sweep(root: &Path) -> Outcome<()> {
    for name in crate::bpf::pins::children(root)? {
        if !name.starts_with(PREFIX) {
            continue;
        }
        let path = root.join(name);
        let in_use = |directory: &File| matches!(directory.try_lock(), Err(TryLockError::WouldBlock));
        match File::open(&path) {
            Ok(directory) if in_use(&directory) => {}
            // Locked while it is removed: its maker, if there is one, goes on with another name.
            Ok(_locked) => discard(&path)?,
            Err(_gone) => {}
        }
    }
    Ok(())
}

/// Removes a cgroup whose last process has ended, or is about to.
fn discard(path: &Path) -> Outcome<()> {
    const TRIES: u32 = 20;
    const PATIENCE_MS: u16 = 10;
    let what = || format!("remove cgroup {}", path.display());
    for _ in 0..TRIES {
        match fs::remove_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            removed => return removed.tried(what),
        }
        // A process is in its cgroup until the kernel is done with it; the kernel tells when the last one has left.
        let Ok(events) = File::open(path.join("cgroup.events")) else { continue };
        let _left = poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLPRI)], PATIENCE_MS);
    }
    fs::remove_dir(path).tried(what)
}
