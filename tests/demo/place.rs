//! Starting processes inside the site: in a namespace, in a cgroup, under a uid.
//!
//! The demo runs itself as `demo enter PLACE JOB...`; the new process moves, gives up root and does the job or becomes the
//! program. So no code of ours runs between fork and exec.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Gid, Uid, setgid, setgroups, setsid, setuid};
use serde::{Deserialize, Serialize};

use crate::outcome::{Doing as _, Outcome};
use crate::site::Site;
use crate::web;

/// Where and as whom a process runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) netns: PathBuf,
    pub(crate) cgroup: PathBuf,
    pub(crate) id: u32,
    /// Ends with the demo.
    pub(crate) with_us: bool,
    /// What it finds at `/var/lib`, when that is not to be the machine's.
    pub(crate) var_lib: Option<PathBuf>,
}

impl Place {
    /// A command that does a job of ours, or with `exec` becomes another program.
    pub(crate) fn command(&self, job: &[&str]) -> Outcome<Command> {
        if Site::stopped() {
            return Err("interrupted".into());
        }
        let place = serde_json::to_string(self).doing("write down a place")?;
        let mut command = Command::new("/proc/self/exe");
        command.arg("enter").arg(place).args(job).stdin(Stdio::null());
        Ok(command)
    }
}

/// The new process: moves to its place, then does its job.
pub(crate) fn enter(place: &str, job: &[&str]) -> Outcome<bool> {
    let place: Place = serde_json::from_str(place).doing("read a place")?;
    fs::write(place.cgroup.join("cgroup.procs"), "0")
        .doing(format_args!("join {}", place.cgroup.display()))?;
    let namespace = File::open(&place.netns).doing(format_args!("open {}", place.netns.display()))?;
    setns(namespace, CloneFlags::CLONE_NEWNET).doing(format_args!("enter {}", place.netns.display()))?;
    if let Some(var_lib) = &place.var_lib {
        hide_var_lib(var_lib).doing("put something else at /var/lib")?;
    }
    // A program in somebody's home is not for other uids to find by its path; opened while we are root, it is.
    let program = match job {
        ["exec", program, ..] => Some(open_program(Path::new(program))?),
        _ => None,
    };
    let id = (Uid::from_raw(place.id), Gid::from_raw(place.id));
    setgroups(&[id.1]).and_then(|()| setgid(id.1)).and_then(|()| setuid(id.0)).doing("give up root")?;
    if place.with_us {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).doing("tie the process to the demo")?;
    } else {
        // Nor does it end with the terminal.
        setsid().doing("leave the terminal")?;
    }
    SigSet::all().thread_unblock().doing("unblock signals")?;
    match (program, job) {
        (Some(program), ["exec", name, arguments @ ..]) => {
            let path = format!("/proc/self/fd/{}", program.as_raw_fd());
            Err(format!("{name}: {}", Command::new(path).arg0(name).args(arguments).exec()))
        }
        (None, ["serve", address]) => web::serve(address).map(|()| true),
        (None, ["get", address]) => web::get(address).map(|()| true),
        (_, job) => Err(format!("no such job: {job:?}")),
    }
}

/// In a mount namespace of its own, and only there.
fn hide_var_lib(with: &Path) -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    match mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>) {
        // In a chroot `/` is no mount point, and there is nothing to detach from.
        Ok(()) | Err(nix::errno::Errno::EINVAL) => {}
        Err(error) => return Err(error),
    }
    mount(Some(with), "/var/lib", None::<&str>, MsFlags::MS_BIND, None::<&str>)
}

/// Opens a program so that it stays open over exec.
fn open_program(path: &Path) -> Outcome<File> {
    let program = File::open(path).doing(format_args!("open {}", path.display()))?;
    fcntl(&program, FcntlArg::F_SETFD(FdFlag::empty())).doing("keep a file open")?;
    Ok(program)
}
