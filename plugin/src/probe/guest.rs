//! The probe's own process: the pod, its app and its proxy in one.
//!
//! A fork, not the program started anew: a hidden mode of the binary would be one more way in that a runtime's environment could
//! open, and the file may have been replaced by an upgrade. The plugin has a single thread here (work inside a namespace joins its
//! thread), so the child finds no lock held. It tells the parent what it found over a socket, and ends with the parent: the kernel
//! kills it when the parent dies, and its network namespace goes with it.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, getpid, getppid};
use serde::{Deserialize, Serialize};

use super::report::{Failure, Step};
use super::traffic::{Traffic, inbound, outbound};
use crate::fault::{Fault, Outcome, Tried as _};
use crate::netns::cookie_of_thread;

/// Addresses of the guest: its own as the programs are told, and another in its place of a stranger's. Those of documentation,
/// in a namespace that nothing leaves.
pub(super) const OWN4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(super) const OWN6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
pub(super) const STRANGER4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub(super) const STRANGER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

/// What the guest says, a line each.
#[derive(Debug, Serialize, Deserialize)]
enum Said {
    /// It is in its cgroup and namespace.
    Ready { cookie: u64, v6: bool, netns: PathBuf },
    /// It is not.
    Failed(Failure),
    /// How a step went.
    Went(Step, Result<(), Failure>),
}

/// The guest as the parent sees it; killed on drop.
#[derive(Debug)]
pub(super) struct Guest {
    pid: Pid,
    talk: BufReader<UnixStream>,
    deadline: Instant,
    /// Cookie of its namespace.
    pub(super) cookie: u64,
    /// Whether it has IPv6.
    pub(super) v6: bool,
    /// The path of its network namespace.
    pub(super) netns: PathBuf,
}

/// A line is a failure at most.
const LINE_MAX: u64 = 16 * 1024;

impl Guest {
    /// Starts the guest in a cgroup, and in a network namespace that is made for it.
    #[expect(unsafe_code, reason = "fork")]
    pub(super) fn start(cgroup: &Path, deadline: Instant) -> Result<Self, Failure> {
        alone()?;
        let (ours, theirs) = UnixStream::pair().tried(|| "make a socket pair")?;
        let parent = getpid();
        // SAFETY: this process has one thread, as was just counted, so the child finds no lock held; it ends with _exit and runs
        // nothing of the parent's afterwards.
        match unsafe { fork() }.tried(|| "fork for the probe")? {
            ForkResult::Child => {
                drop(ours);
                // Nobody is left to tell when it cannot be told.
                let told = live(parent, cgroup, theirs, deadline);
                // SAFETY: ends the child without running destructors of the parent's state.
                unsafe { libc::_exit(i32::from(told.is_err())) }
            }
            ForkResult::Parent { child } => {
                drop(theirs);
                let talk = BufReader::new(ours);
                let mut guest =
                    Self { pid: child, talk, deadline, cookie: 0, v6: false, netns: PathBuf::new() };
                match guest.hear()? {
                    Said::Ready { cookie, v6, netns } => {
                        (guest.cookie, guest.v6, guest.netns) = (cookie, v6, netns);
                        Ok(guest)
                    }
                    Said::Failed(failure) => Err(failure),
                    Said::Went(..) => {
                        Err(Fault::new("listen to the probe's process", "it speaks out of turn").into())
                    }
                }
            }
        }
    }

    /// Has it try one kind of traffic.
    pub(super) fn try_out(&mut self, step: Step) -> Result<(), Failure> {
        let order = [u8::try_from(position(step)).unwrap_or(u8::MAX)];
        self.talk.get_mut().write_all(&order).tried(|| "talk to the probe's process")?;
        match self.hear()? {
            Said::Went(of, went) if of == step => went,
            _ => Err(Fault::new("listen to the probe's process", "it speaks out of turn").into()),
        }
    }

    fn hear(&mut self) -> Result<Said, Failure> {
        let what = "listen to the probe's process";
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Failure::late(what));
        }
        self.talk.get_ref().set_read_timeout(Some(left)).tried(|| what)?;
        let mut line = String::new();
        // EAGAIN, when the time is up, is a failure of the moment.
        self.talk.by_ref().take(LINE_MAX).read_line(&mut line).tried(|| what)?;
        if line.is_empty() {
            return Err(Fault::new(what, "it has ended").into());
        }
        Ok(serde_json::from_str(&line).tried(|| what)?)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It has nothing to tidy up, and ends by itself when nobody talks to it. It has not been waited for: the id is its.
        let _gone = self.talk.get_ref().shutdown(Shutdown::Both);
        let _gone = kill(self.pid, Signal::SIGKILL);
        let _gone = waitpid(self.pid, None);
    }
}

fn position(step: Step) -> usize {
    Step::ALL.iter().position(|other| *other == step).unwrap_or(usize::MAX)
}

/// Fails where this process has another thread: forking would copy its locks and not the thread.
fn alone() -> Outcome<()> {
    let what = "count this process's threads";
    match fs::read_dir("/proc/self/task").tried(|| what)?.count() {
        1 => Ok(()),
        count => Err(Fault::new(what, format!("{count}: the probe forks, which is safe with one only"))),
    }
}

/// The guest's life.
fn live(parent: Pid, cgroup: &Path, talk: UnixStream, deadline: Instant) -> Outcome<()> {
    let what = || "prepare the probe's process";
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).tried(what)?;
    if getppid() != parent {
        return Err(Fault::new(what(), "its parent has ended"));
    }
    let mut talk = talk;
    let begun = begin(cgroup);
    let traffic = match begun {
        Ok((cookie, v6, netns)) => {
            say(&mut talk, &Said::Ready { cookie, v6, netns })?;
            Traffic { deadline }
        }
        Err(fault) => return say(&mut talk, &Said::Failed(fault.into())),
    };
    loop {
        // No longer than the parent wants to hear anything.
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        talk.set_read_timeout(Some(left)).tried(what)?;
        let mut order = [0];
        if talk.read(&mut order).tried(what)? == 0 {
            return Ok(());
        }
        let Some(step) = order.first().and_then(|order| Step::ALL.get(usize::from(*order))).copied() else {
            return Ok(());
        };
        let went = match step {
            Step::OutboundIpv4 => outbound(&traffic, OWN4.into()),
            Step::OutboundIpv6 => outbound(&traffic, OWN6.into()),
            Step::InboundIpv4 => inbound(&traffic, STRANGER4.into(), OWN4.into()),
            Step::InboundIpv6 => inbound(&traffic, STRANGER6.into(), OWN6.into()),
            _ => Err(Fault::new(step.as_str(), "is not for this process").into()),
        };
        say(&mut talk, &Said::Went(step, went))?;
    }
}

fn say(talk: &mut UnixStream, said: &Said) -> Outcome<()> {
    let what = || "tell what the probe found";
    let mut line = serde_json::to_vec(said).tried(what)?;
    line.push(b'\n');
    talk.write_all(&line).tried(what)
}

/// Leaves the caller's streams, enters the cgroup, then a namespace of its own. Returns its cookie, whether it has IPv6, and its path.
fn begin(cgroup: &Path) -> Outcome<(u64, bool, PathBuf)> {
    release_streams()?;
    let procs = cgroup.join("cgroup.procs");
    fs::write(&procs, "0").tried(|| format!("write to {}", procs.display()))?;
    unshare(CloneFlags::CLONE_NEWNET).tried(|| "make a network namespace")?;
    let wanted: [IpAddr; 4] = [OWN4.into(), STRANGER4.into(), OWN6.into(), STRANGER6.into()];
    let taken = crate::link::loopback_with(&wanted)?;
    Ok((cookie_of_thread()?, taken.iter().any(IpAddr::is_ipv6), own_netns()?))
}

/// By the id that `/proc` has for this process, and not by the one the parent has for it: called from the installer's container the
/// plugin sees the host's `/proc`, where that number is another process, and the programs would be attached to that one's namespace.
fn own_netns() -> Outcome<PathBuf> {
    let own = fs::read_link("/proc/self").tried(|| "read /proc/self")?;
    Ok(Path::new("/proc").join(own).join("ns/net"))
}

/// Whoever reads this program's output waits for its end; the guest must not keep it open.
fn release_streams() -> Outcome<()> {
    let what = || "open /dev/null";
    let null = fs::File::options().read(true).write(true).open("/dev/null").tried(what)?;
    nix::unistd::dup2_stdin(&null).tried(what)?;
    nix::unistd::dup2_stdout(&null).tried(what)?;
    nix::unistd::dup2_stderr(&null).tried(what)
}
