//! Runs a program under `ptrace` and stops it at a system call of our choice: killed there, or told that it failed.
//!
//! System calls are counted over all threads in the order they are made, so that every single one can be named by a number.

#![expect(unsafe_code, reason = "ptrace(2) has no safe wrapper here; every call is in this file")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

/// What is done at the chosen system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Nothing.
    Watch,
    /// SIGKILL before it is made.
    Kill,
    /// The same, and what it has started runs on to its own end.
    Orphan,
    /// SIGKILL, of the program that makes it: the traced one or one that it runs.
    KillCaller,
    /// It is not made, and fails with this number.
    Fail(i32),
}

/// A system call as it was made.
#[derive(Debug, Clone)]
pub struct Made {
    /// Its number.
    pub number: i64,
    /// Its arguments.
    pub arguments: [u64; 6],
    /// The path, of an `openat` or `openat2`.
    pub path: String,
    /// The type of the program, of a `bpf` that loads one.
    pub loads: Option<u32>,
    /// Whether the program makes it, and not one that it runs.
    pub own: bool,
}

/// A run that was watched.
#[derive(Debug)]
pub struct Traced {
    /// Every counted call, in order.
    pub made: Vec<Made>,
    /// Its exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// All it printed to standard output.
    pub stdout: Vec<u8>,
    /// All it printed to standard error.
    pub stderr: Vec<u8>,
    /// True if the chosen call was reached.
    pub reached: bool,
}

/// `struct ptrace_syscall_info`, as much as is read.
#[repr(C)]
#[derive(Default)]
struct Info {
    op: u8,
    padding: [u8; 3],
    arch: u32,
    instruction: u64,
    stack: u64,
    number: u64,
    arguments: [u64; 6],
}

const GET_SYSCALL_INFO: libc::c_uint = 0x420e;
const ENTRY: u8 = 1;
const EXIT: u8 = 2;
const SYSCALL_STOP: libc::c_int = libc::SIGTRAP | 0x80;

fn ptrace(request: libc::c_uint, pid: libc::pid_t, address: usize, data: usize) -> libc::c_long {
    // SAFETY: where data is a pointer it is to a live value of the size the request writes or reads.
    unsafe { libc::ptrace(request, pid, address, data) }
}

fn resume(pid: libc::pid_t, signal: libc::c_int) {
    // A thread that was killed meanwhile cannot be resumed; its end is reported next.
    ptrace(libc::PTRACE_SYSCALL, pid, 0, usize::try_from(signal).unwrap_or(0));
}

fn info(pid: libc::pid_t) -> Info {
    let mut info = Info::default();
    ptrace(GET_SYSCALL_INFO, pid, size_of::<Info>(), std::ptr::from_mut(&mut info).addr());
    info
}

#[cfg(target_arch = "x86_64")]
fn registers(pid: libc::pid_t, change: impl FnOnce(&mut libc::user_regs_struct)) {
    // SAFETY: plain integers.
    let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    let at = std::ptr::from_mut(&mut registers).addr();
    if ptrace(libc::PTRACE_GETREGS, pid, 0, at) == 0 {
        change(&mut registers);
        ptrace(libc::PTRACE_SETREGS, pid, 0, at);
    }
}

/// Makes the kernel skip the call.
#[cfg(target_arch = "x86_64")]
fn skip(pid: libc::pid_t) {
    registers(pid, |registers| registers.orig_rax = u64::MAX);
}

/// What the skipped call answers.
#[cfg(target_arch = "x86_64")]
fn answer_with(pid: libc::pid_t, error: i32) {
    registers(pid, |registers| registers.rax = i64::from(-error).cast_unsigned());
}

/// `struct bpf_attr` of `BPF_PROG_LOAD` begins with the type.
const PROG_LOAD: u64 = 5;

/// What is at an address; zeros where nothing is mapped.
fn bytes_at<const N: usize>(pid: libc::pid_t, address: u64) -> [u8; N] {
    let mut bytes = [0; N];
    // Less than asked for at the end of a mapping is fine.
    let _short = File::open(format!("/proc/{pid}/mem"))
        .and_then(|mut memory| memory.seek(SeekFrom::Start(address)).and_then(|_| memory.read(&mut bytes)));
    bytes
}

/// The process a thread is of.
fn group(thread: libc::pid_t) -> libc::pid_t {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    line.and_then(|id| id.trim().parse().ok()).unwrap_or(thread)
}

fn text_at(pid: libc::pid_t, address: u64) -> String {
    let bytes = bytes_at::<256>(pid, address);
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

/// A file that holds `bytes`, at its start.
pub fn input(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().expect("the temporary directory is writable");
    file.write_all(bytes).expect("room for a configuration");
    file.rewind().expect("a file");
    file
}

#[expect(
    clippy::zombie_processes,
    reason = "a traced child is waited for with waitpid, by the loop that traces it"
)]
fn spawn(command: &mut Command) -> (libc::pid_t, OwnedFd, OwnedFd) {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    // SAFETY: one system call between fork and exec.
    unsafe {
        command.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    let mut child = command.spawn().expect("the program can be run");
    let stdout = child.stdout.take().expect("piped").into();
    let stderr = child.stderr.take().expect("piped").into();
    (child.id().cast_signed(), stdout, stderr)
}

/// Runs a program; at the call number `at` of those `counted`, acts.
///
/// The thread that calls this traces, so each run needs no more than its own thread.
pub fn run(command: &mut Command, counted: impl Fn(&Made) -> bool, at: usize, act: Act) -> Traced {
    let (leader, stdout, stderr) = spawn(command);
    let mut status = 0;
    // SAFETY: our child, and a place for its status.
    unsafe { libc::waitpid(leader, &raw mut status, libc::__WALL) };
    assert!(libc::WIFSTOPPED(status), "the program stops at its first instruction: {status:#x}");
    let options = libc::PTRACE_O_TRACESYSGOOD
        | libc::PTRACE_O_TRACECLONE
        | libc::PTRACE_O_TRACEFORK
        | libc::PTRACE_O_TRACEVFORK
        | libc::PTRACE_O_EXITKILL;
    ptrace(libc::PTRACE_SETOPTIONS, leader, 0, usize::try_from(options).unwrap_or(0));
    resume(leader, 0);
    let (made, failing, others) = (Vec::new(), BTreeMap::new(), BTreeSet::new());
    let mut watch = Watch { leader, at, act, made, failing, others, own: BTreeMap::new(), reached: false };
    let mut ended = None;
    let status = loop {
        let mut status = 0;
        // SAFETY: a place for the status; only children and tracees of this thread are waited for.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
        if let (true, Some(ended)) = (pid < 0, ended) {
            break ended;
        }
        assert!(pid > 0, "the program is gone without a word");
        if libc::WIFSTOPPED(status) {
            watch.stopped(pid, status, &counted);
        } else if pid != leader {
            watch.others.remove(&pid);
        } else if act == Act::Orphan {
            ended = Some(status);
        } else {
            break status;
        }
    };
    // A child that was stopped when its parent was killed is nobody's to resume, and one that was just made may not have been
    // heard of yet: it would hold our ends of the pipes for ever. Threads are gone with their leader.
    let end = |pid| {
        // SAFETY: a number; whoever traces it is this thread, which has not been told of its end.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    };
    watch.others.into_iter().for_each(end);
    loop {
        let mut status = 0;
        // SAFETY: as above.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
        if pid < 0 {
            break;
        }
        if libc::WIFSTOPPED(status) {
            end(pid);
        }
    }
    let code = if libc::WIFEXITED(status) { Some(libc::WEXITSTATUS(status)) } else { None };
    Traced { made: watch.made, code, stdout: all(stdout), stderr: all(stderr), reached: watch.reached }
}

fn all(pipe: OwnedFd) -> Vec<u8> {
    let mut bytes = Vec::new();
    File::from(pipe).read_to_end(&mut bytes).expect("a pipe can be read");
    bytes
}

struct Watch {
    leader: libc::pid_t,
    at: usize,
    act: Act,
    made: Vec<Made>,
    /// Threads whose call is being skipped, and what it answers.
    failing: BTreeMap<libc::pid_t, i32>,
    /// Threads and children of the program whose end has not been seen.
    others: BTreeSet<libc::pid_t>,
    /// Whether a thread is the program's own.
    own: BTreeMap<libc::pid_t, bool>,
    reached: bool,
}

impl Watch {
    fn stopped(&mut self, pid: libc::pid_t, status: libc::c_int, counted: &impl Fn(&Made) -> bool) {
        if pid != self.leader {
            self.others.insert(pid);
        }
        let signal = libc::WSTOPSIG(status);
        if signal != SYSCALL_STOP {
            // A new thread begins with SIGSTOP; an event is reported as SIGTRAP. Neither is the program's.
            let own = matches!(signal, libc::SIGTRAP | libc::SIGSTOP);
            resume(pid, if own { 0 } else { signal });
            return;
        }
        let info = info(pid);
        match info.op {
            ENTRY => self.enters(pid, &info, counted),
            EXIT => {
                if let Some(error) = self.failing.remove(&pid) {
                    answer_with(pid, error);
                }
            }
            _ => {}
        }
        resume(pid, 0);
    }

    fn enters(&mut self, pid: libc::pid_t, info: &Info, counted: &impl Fn(&Made) -> bool) {
        let number = info.number.cast_signed();
        let path = match number {
            libc::SYS_openat | libc::SYS_openat2 => text_at(pid, info.arguments[1]),
            _ => String::new(),
        };
        let loads = (number == libc::SYS_bpf && info.arguments[0] == PROG_LOAD).then(|| {
            let bytes = bytes_at::<4>(pid, info.arguments[1]);
            u32::from_ne_bytes(bytes)
        });
        let leader = self.leader;
        let own = *self.own.entry(pid).or_insert_with(|| group(pid) == leader);
        let made = Made { number, arguments: info.arguments, path, loads, own };
        if !counted(&made) {
            return;
        }
        self.made.push(made);
        if self.made.len() - 1 != self.at || self.act == Act::Watch {
            return;
        }
        self.reached = true;
        match self.act {
            Act::Watch => {}
            Act::Kill | Act::Orphan => {
                // SAFETY: our own child, which has not been waited for.
                unsafe { libc::kill(self.leader, libc::SIGKILL) };
            }
            Act::KillCaller => {
                // SAFETY: it is stopped at a call, so the id is still its own.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
            Act::Fail(error) => {
                skip(pid);
                self.failing.insert(pid, error);
            }
        }
    }
}

/// True of a call that can change something outside the process, or something that outlives it.
///
/// All others are left out where the plugin is killed: nothing outside can tell whether they were made, so being killed before one of
/// them is the same as being killed before the next one that counts. Locks (`flock`) go with the process; `setns` and `clone` are
/// about its threads; what `bpf` creates and does not pin or attach goes with its descriptor.
pub fn changes(made: &Made) -> bool {
    const MAP_UPDATE: u64 = 2;
    const MAP_DELETE: u64 = 3;
    const OBJ_PIN: u64 = 6;
    const READ_OR_ANONYMOUS: [u64; 14] = [0, 1, 4, 5, 7, 11, 12, 13, 14, 15, 16, 18, 19, 31];
    let [first, _, third, ..] = made.arguments;
    match made.number {
        libc::SYS_bpf => {
            matches!(first, MAP_UPDATE | MAP_DELETE | OBJ_PIN) || !READ_OR_ANONYMOUS.contains(&first)
        }
        libc::SYS_openat => third & u64::from((libc::O_CREAT | libc::O_TRUNC).unsigned_abs()) != 0,
        number => !HARMLESS.contains(&number),
    }
}

/// Calls that read, or are about the process itself: its memory, signals, threads, descriptors and clocks.
const HARMLESS: [i64; 68] = [
    libc::SYS_read,
    libc::SYS_pread64,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_lstat,
    libc::SYS_stat,
    libc::SYS_lseek,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_ioctl,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_getrandom,
    libc::SYS_futex,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_getdents64,
    libc::SYS_fcntl,
    libc::SYS_socket,
    libc::SYS_bind,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_pipe2,
    libc::SYS_socketpair,
    libc::SYS_prlimit64,
    libc::SYS_arch_prctl,
    libc::SYS_set_tid_address,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_prctl,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_openat2,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_uname,
    libc::SYS_setns,
    libc::SYS_access,
    libc::SYS_flock,
    libc::SYS_execve,
    libc::SYS_fsync,
];
