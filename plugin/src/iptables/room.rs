//! Running the host's tools inside a pod's namespace, with nothing of the host leaking in.
//!
//! One thread enters the network namespace, takes a mount namespace of its own and hides what a tool would wait for: `/run`,
//! with the lock of the host's own rules and the sockets of name services, and `nsswitch.conf`, because `--uid-owner` looks a
//! number up as a name first. The children it starts inherit both namespaces. A pod with a user namespace of its own needs rules
//! that are written from inside it: `xt_owner` refuses others, and ids in them are the pod's.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::tools::Tool;
use crate::fault::{Fault, Outcome, Tried as _};
use crate::netns::Netns;
use crate::userns;

/// A place to run tools in, until a point in time.
#[derive(Debug)]
pub struct Room {
    /// The user namespace that owns the network namespace, where it is not the plugin's.
    userns: Option<File>,
    deadline: Instant,
}

/// Each process has this file for itself: nobody holds a lock on it.
const LOCK: &str = "/proc/self/comm";
const NSSWITCH: &str = "/etc/nsswitch.conf";
const FILES_ONLY: &str =
    "passwd: files\ngroup: files\nshadow: files\nhosts: files\nservices: files\nprotocols: files\n";

/// Runs `work` on a thread inside `netns`, first `look` before anything is hidden from it.
///
/// # Errors
/// The namespaces cannot be entered or made, or what `work` returns.
pub fn inside<L: Send, T: Send>(
    netns: &Netns,
    deadline: Instant,
    look: impl FnOnce() -> Outcome<L> + Send,
    work: impl FnOnce(&Room, L) -> Outcome<T> + Send,
) -> Outcome<T> {
    let userns = userns::foreign_owner(netns)?;
    netns.run(|| {
        let looked = look()?;
        isolate()?;
        work(&Room { userns, deadline }, looked)
    })
}

/// A mount namespace of the calling thread in which nothing of the host is waited for.
fn isolate() -> Outcome<()> {
    let what = || "make a mount namespace for iptables";
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS).tried(what)?;
    // What the host unmounts goes here too, and nothing goes the other way. A root file system that cannot be a slave is cut off.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)
        .or_else(|_| mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none))
        .tried(what)?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755,size=64k"))
        .tried(|| "hide /run from iptables")?;
    if Path::new(NSSWITCH).exists() {
        let own = "/run/nsswitch.conf";
        fs::write(own, FILES_ONLY).tried(|| format!("write {own}"))?;
        mount(Some(own), NSSWITCH, none, MsFlags::MS_BIND, none)
            .tried(|| format!("hide {NSSWITCH} from iptables"))?;
    }
    Ok(())
}

/// One run of a tool.
#[derive(Debug)]
pub struct Run<'a> {
    /// What to run.
    pub tool: &'a Tool,
    /// Its arguments.
    pub arguments: &'a [&'a str],
    /// Its standard input.
    pub input: &'a str,
    /// Whether it writes rules: then it runs in the pod's user namespace. Reading there may be forbidden: the list of legacy tables
    /// belongs to the host's root if the namespace was made before its ids were mapped.
    pub writes: bool,
}

/// Most that a tool may print.
const OUTPUT_MAX: usize = 64 * 1024 * 1024;
/// Most of an error message that is kept.
const ERROR_MAX: usize = 2048;
/// Reads of one pipe before the others, and the clock, are looked at.
const TURNS: usize = 64;

impl Room {
    /// No room: tools run where the plugin is. For what only speaks of itself.
    pub const fn plain(deadline: Instant) -> Self {
        Self { userns: None, deadline }
    }

    /// Runs tools at the same time; what each printed. All have ended when this returns.
    ///
    /// # Errors
    /// The first that could not be run, failed, printed too much or did not end in time.
    pub fn run(&self, runs: &[Run<'_>]) -> Outcome<Vec<String>> {
        let mut started = Vec::new();
        for run in runs {
            started.push(self.start(run)?);
        }
        while started.iter().any(Running::is_open) {
            self.wait(&mut started)?;
        }
        started.into_iter().map(|running| running.finish(self.deadline)).collect()
    }

    fn start(&self, run: &Run<'_>) -> Outcome<Running> {
        let what = || format!("run {}", run.tool.program.display());
        let mut command = Command::new(&run.tool.program);
        command
            .arg0(&run.tool.name)
            .args(run.arguments)
            .env_clear()
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .env("LC_ALL", "C")
            .env("XTABLES_LOCKFILE", LOCK)
            .current_dir("/")
            .stdin(input(run.input).tried(what)?)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        prepare(&mut command, self.userns.as_ref().filter(|_| run.writes));
        let mut child = command.spawn().tried(what)?;
        let pipes = child.stdout.take().map(OwnedFd::from).zip(child.stderr.take().map(OwnedFd::from));
        let running = |output: OwnedFd, error: OwnedFd| -> io::Result<(Pipe, Pipe)> {
            Ok((Pipe::new(output, OUTPUT_MAX)?, Pipe::new(error, ERROR_MAX)?))
        };
        // From here on the child is ended whatever fails.
        let mut started = Running { name: run.tool.name.clone(), child, pipes: Vec::new() };
        if let Some((output, error)) = pipes {
            let (output, error) = running(output, error).tried(what)?;
            started.pipes = vec![output, error];
        }
        Ok(started)
    }

    fn wait(&self, started: &mut [Running]) -> Outcome<()> {
        let what = || "wait for iptables";
        let names = |started: &[Running]| {
            started.iter().map(|running| running.name.as_str()).collect::<Vec<_>>().join(", ")
        };
        let left = self.deadline.saturating_duration_since(Instant::now());
        // One that talks all the time leaves no time without news.
        if left.is_zero() {
            return Err(late(&names(started)));
        }
        let timeout = PollTimeout::try_from(left.as_millis()).unwrap_or(PollTimeout::MAX);
        let open = || started.iter().flat_map(|running| &running.pipes).filter_map(|pipe| pipe.file.as_ref());
        let mut fds: Vec<PollFd<'_>> =
            open().map(|file| PollFd::new(file.as_fd(), PollFlags::POLLIN)).collect();
        match poll(&mut fds, timeout) {
            Ok(0) => return Err(late(&names(started))),
            Err(nix::errno::Errno::EINTR) => return Ok(()),
            other => other.tried(what)?,
        };
        for running in started.iter_mut() {
            for pipe in &mut running.pipes {
                pipe.drain().tried(what)?;
            }
            running.in_bounds()?;
        }
        Ok(())
    }
}

fn late(who: &str) -> Fault {
    Fault::new(
        format!("wait for {who}"),
        io::Error::new(io::ErrorKind::TimedOut, "it did not end within the plugin's time limit"),
    )
}

/// The text as a file: a pipe could fill up while the tool waits for us to read.
fn input(text: &str) -> io::Result<File> {
    let mut file = File::from(memfd_create(c"iptables", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file)
}

/// What the child does between fork and exec: system calls only.
#[expect(unsafe_code, reason = "pre_exec, and system calls that act on the calling process")]
fn prepare(command: &mut Command, userns: Option<&File>) {
    let userns = userns.map(std::os::fd::AsRawFd::as_raw_fd);
    let before_exec = move || {
        let done = |result: libc::c_long| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
        if let Some(userns) = userns {
            // SAFETY: numbers only; the namespace's file is open as long as the child has not called exec. Raw calls, because the
            // library's would act on threads that the child does not have. As its root the child keeps its rights over exec.
            unsafe {
                done(libc::syscall(libc::SYS_setns, userns, libc::CLONE_NEWUSER))?;
                done(libc::syscall(libc::SYS_setresgid, 0, 0, 0))?;
                done(libc::syscall(libc::SYS_setresuid, 0, 0, 0))?;
            }
        }
        // SAFETY: numbers only. Where the kernel does not know the call, the runtime's descriptors are closed one by one.
        unsafe {
            if libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) < 0 {
                for fd in 3..1024 {
                    libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
                }
            }
            // A plugin that is killed takes its tools with it.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        }
        Ok(())
    };
    // SAFETY: the closure allocates nothing, takes no lock and makes system calls only.
    unsafe {
        command.pre_exec(before_exec);
    }
}

/// What a child prints.
#[derive(Debug)]
struct Pipe {
    file: Option<File>,
    text: Vec<u8>,
    most: usize,
    overrun: bool,
}

impl Pipe {
    fn new(fd: OwnedFd, most: usize) -> io::Result<Self> {
        fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Self { file: Some(File::from(fd)), text: Vec::new(), most, overrun: false })
    }

    /// Takes what there is, but not for ever; keeps as much as may be.
    fn drain(&mut self) -> io::Result<()> {
        let mut buffer = [0; 16 * 1024];
        for _turn in 0..TURNS {
            let Some(file) = &mut self.file else { return Ok(()) };
            match file.read(&mut buffer) {
                Ok(0) => self.file = None,
                Ok(count) => {
                    let room = self.most.saturating_sub(self.text.len());
                    self.overrun |= count > room;
                    self.text.extend_from_slice(buffer.get(..count.min(room)).unwrap_or_default());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&self.text).trim().to_owned()
    }
}

/// A tool that runs; ended when dropped.
#[derive(Debug)]
struct Running {
    name: String,
    child: Child,
    /// Standard output, standard error.
    pipes: Vec<Pipe>,
}

/// How often a child that has closed its output is asked whether it has ended, where the kernel cannot tell by itself.
const PAUSE_MS: u16 = 1;
/// The same where it can.
const LONG_PAUSE_MS: u16 = 100;

impl Running {
    /// What it prints is still no more than it may.
    fn in_bounds(&self) -> Outcome<()> {
        if self.pipes.first().is_some_and(|output| output.overrun) {
            let why = format!("it printed more than {OUTPUT_MAX} bytes");
            return Err(Fault::new(format!("run {}", self.name), why));
        }
        Ok(())
    }

    fn is_open(&self) -> bool {
        self.pipes.iter().any(|pipe| pipe.file.is_some())
    }

    /// Waits until the child may have ended.
    #[expect(unsafe_code, reason = "nix has no pidfd_open")]
    fn pause(&self) -> io::Result<()> {
        let id = libc::pid_t::try_from(self.child.id()).map_err(io::Error::other)?;
        // SAFETY: two numbers; the child has not been waited for, so the id is still its own.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, id, 0) };
        let Some(fd) = libc::c_int::try_from(fd).ok().filter(|fd| *fd >= 0) else {
            // Before Linux 5.3.
            poll(&mut [], PollTimeout::from(PAUSE_MS))?;
            return Ok(());
        };
        // SAFETY: a fresh descriptor that nobody else owns.
        let pidfd = unsafe { OwnedFd::from_raw_fd(fd) };
        match poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], PollTimeout::from(LONG_PAUSE_MS)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// After its output ended.
    fn finish(mut self, deadline: Instant) -> Outcome<String> {
        let what = format!("run {}", self.name);
        let status = loop {
            if let Some(status) = self.child.try_wait().tried(|| what.clone())? {
                break status;
            }
            if Instant::now() >= deadline {
                return Err(late(&self.name));
            }
            self.pause().tried(|| what.clone())?;
        };
        let [output, error] = self.pipes.as_slice() else {
            return Err(Fault::new(what, "it has no output"));
        };
        if status.success() {
            return String::from_utf8(output.text.clone()).tried(|| what);
        }
        Err(Fault::new(what, format!("{status}: {}", error.said().replace('\n', " "))))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // It and what it started: they are a process group.
            if let Ok(id) = i32::try_from(self.child.id()) {
                let _gone = kill(Pid::from_raw(-id), Signal::SIGKILL);
            }
            let _gone = self.child.kill();
            let _ended = self.child.wait();
        }
    }
}
