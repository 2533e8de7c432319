//! A program that is run again and again, with what has to be so before each run.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use nix::sched::{CloneFlags, setns};
use nix::sys::ptrace;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

/// One program with one input.
pub(crate) struct Run {
    pub(crate) name: &'static str,
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(&'static str, String)>,
    pub(crate) input: String,
    /// Network namespace to start it in; none is this one. Some programs are put there by what calls them.
    pub(crate) netns: Option<PathBuf>,
    /// Runs that make things as they have to be, and are not measured.
    pub(crate) before: Vec<Self>,
}

impl Run {
    /// Runs it to its end and says how many microseconds that took; its failure is the bench's.
    pub(crate) fn once(&mut self) -> f64 {
        self.prepare();
        self.under(&self.program, &[])
    }

    /// All that comes before it.
    pub(crate) fn prepare(&mut self) {
        for run in &mut self.before {
            run.once();
        }
    }

    /// The most memory that the process itself has had, in KiB.
    pub(crate) fn peak(&mut self) -> f64 {
        self.prepare();
        let mut command = self.command(&self.program, &[]);
        // SAFETY: ptrace is one system call, which may be made between fork and exec.
        #[expect(unsafe_code, reason = "what runs in the child before exec is for the caller to vouch for")]
        unsafe {
            command.pre_exec(|| Ok(ptrace::traceme()?));
        }
        let mut child =
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts");
        self.feed(&mut child);
        let (status, peak) = peak(child);
        assert!(status.success(), "{} failed: {status}", self.name);
        peak
    }

    /// The same as an argument of another program, which runs it.
    pub(crate) fn under(&self, program: &Path, arguments: &[String]) -> f64 {
        let mut command = self.command(program, arguments);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let started = Instant::now();
        let mut child = command.spawn().expect("the program starts");
        self.feed(&mut child);
        let status = child.wait().expect("it ends");
        let micros = started.elapsed().as_secs_f64() * 1e6;
        assert!(
            status.success(),
            "{} failed: {status}; a second time: {}",
            self.name,
            self.said(program, arguments)
        );
        micros
    }

    /// All but where its output goes.
    fn command(&self, program: &Path, arguments: &[String]) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .args(&self.arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(key, value)| (key, value)))
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::piped());
        if let Some(netns) = &self.netns {
            let netns = File::open(netns).expect("the namespace is there");
            #[expect(
                unsafe_code,
                reason = "what runs in the child before exec is for the caller to vouch for"
            )]
            // SAFETY: setns is one system call, which may be made between fork and exec.
            unsafe {
                command.pre_exec(move || Ok(setns(&netns, CloneFlags::CLONE_NEWNET)?));
            }
        }
        command
    }

    fn feed(&self, child: &mut Child) {
        let mut stdin = child.stdin.take().expect("stdin is piped");
        // What does not read its input may have ended before.
        let _written = stdin.write_all(self.input.as_bytes());
    }

    /// What it says when it is run once more.
    fn said(&self, program: &Path, arguments: &[String]) -> String {
        let mut command = self.command(program, arguments);
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
        self.feed(&mut child);
        let output = child.wait_with_output().expect("it ends");
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }
}

/// The most memory that the child has had, in KiB, read while it is about to end. What `wait4` tells of it is no use here: a process
/// counts what it had before exec too, which is the memory of whoever started it.
fn peak(mut child: Child) -> (ExitStatus, f64) {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
    let wait = || waitpid(pid, None).expect("a child of ours");
    assert!(matches!(wait(), WaitStatus::Stopped(..)), "it stops at exec");
    ptrace::setoptions(pid, ptrace::Options::PTRACE_O_TRACEEXIT).expect("it is stopped");
    let mut signal = None;
    let mut peak = None;
    loop {
        ptrace::cont(pid, signal).expect("it is stopped");
        signal = match wait() {
            WaitStatus::PtraceEvent(..) => {
                let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it is there");
                let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
                peak = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
                None
            }
            WaitStatus::Stopped(_, signal) => Some(signal),
            WaitStatus::Exited(_, code) => {
                return (ExitStatus::from_raw(code << 8), peak.expect("it was about to end before"));
            }
            other => panic!("{other:?} of {:?}", child.kill()),
        };
    }
}
