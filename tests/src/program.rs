//! A process that becomes another program: opened while it is root, executed under whatever id it has by then.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};

/// What a process is to become.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Become {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// What it finds at `/dev/shm`, when that is not to be the machine's.
    pub shared_memory: Option<PathBuf>,
}

/// What only root can do for it.
pub fn prepare(becoming: &Become) -> io::Result<File> {
    if let Some(with) = &becoming.shared_memory {
        hide(Path::new("/dev/shm"), with)?;
    }
    open(&becoming.program)
}

/// Opens a program so that it stays open over exec: one in somebody's home is not for other ids to find by its path.
pub fn open(path: &Path) -> io::Result<File> {
    let program = File::open(path)?;
    fcntl(&program, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(program)
}

/// Becomes it. Returns only if that fails.
pub fn become_it<S: AsRef<OsStr>>(
    program: &File,
    name: &str,
    arguments: impl IntoIterator<Item = S>,
) -> io::Error {
    let path = format!("/proc/self/fd/{}", program.as_raw_fd());
    Command::new(path).arg0(name).args(arguments).exec()
}

/// Puts a directory in another's place, in a mount namespace of this process's own and only there.
pub fn hide(place: &Path, with: &Path) -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    match mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>) {
        // In a chroot `/` is no mount point, and there is nothing to detach from.
        Ok(()) | Err(Errno::EINVAL) => {}
        Err(error) => return Err(error),
    }
    mount(Some(with), place, None::<&str>, MsFlags::MS_BIND, None::<&str>)
}
