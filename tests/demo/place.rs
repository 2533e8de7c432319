//! Starting processes inside the site: in a namespace, in a cgroup, under a uid.
//!
//! The demo runs itself as `demo enter PLACE JOB...`; the new process moves, gives up root and does the job or becomes the
//! program. So no code of ours runs between fork and exec.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Gid, Uid, setgid, setgroups, setsid, setuid};
use serde::{Deserialize, Serialize};
use shunt_tests::program;

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
        program::hide(Path::new("/var/lib"), var_lib).doing("put something else at /var/lib")?;
    }
    let program = match job {
        ["exec", path, ..] => Some(program::open(Path::new(path)).doing(format_args!("open {path}"))?),
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
            Err(format!("{name}: {}", program::become_it(&program, name, arguments)))
        }
        (None, ["serve", address]) => web::serve(address).map(|()| true),
        (None, ["get", address]) => web::get(address).map(|()| true),
        (_, job) => Err(format!("no such job: {job:?}")),
    }
}
