//! System calls of whole processes, counted by strace. How long they took is not read there: strace makes each call many times slower.

use std::collections::BTreeMap;
use std::path::Path;

use shunt_tests::figures::{Figures, Subject};

use crate::calls::{Calls, NOTHING};
use crate::run::Run;

/// Counts those of each plugin's ADD, children included, and of ours by kind.
pub(crate) fn count(figures: &mut Figures, calls: &Calls<'_>, ours: &'static str, setting: &str) {
    let mut runs = vec![calls.nothing(), calls.shunt(ours, "ADD"), calls.portmap("ADD")];
    if setting.is_empty() {
        runs.extend([calls.tuning("ADD"), calls.bandwidth("ADD")]);
    } else {
        runs.push(calls.istio_iptables("ADD"));
    }
    let counted: Vec<(&str, BTreeMap<String, u32>)> =
        runs.iter_mut().map(|run| (run.name, of(run))).collect();
    let all = |counts: &BTreeMap<String, u32>| vec![f64::from(counts.values().sum::<u32>())];
    let subjects = counted
        .iter()
        .map(|(name, counts)| Subject { name: (*name).to_owned(), values: all(counts) })
        .collect();
    figures.groups.push(crate::group(
        "system calls of ADD",
        &format!("steady{setting}"),
        "calls",
        NOTHING,
        subjects,
    ));
    let Some((_, counts)) = counted.iter().find(|(name, _)| *name == ours) else { return };
    let mut kinds: BTreeMap<&str, f64> = BTreeMap::new();
    for (call, number) in counts {
        *kinds.entry(kind(call)).or_default() += f64::from(*number);
    }
    kinds.insert("all", counts.values().map(|number| f64::from(*number)).sum());
    let subjects = kinds
        .into_iter()
        .map(|(name, number)| Subject { name: name.to_owned(), values: vec![number] })
        .collect();
    figures.groups.push(crate::group(
        &format!("system calls of ADD by kind, {ours}"),
        "",
        "calls",
        "all",
        subjects,
    ));
}

/// What a call is for.
fn kind(call: &str) -> &'static str {
    match call {
        "bpf" => "bpf(2)",
        "socket" | "bind" | "sendto" | "sendmsg" | "recvfrom" | "recvmsg" | "getsockname" | "setsockopt"
        | "getsockopt" => "sockets (netlink)",
        "mmap" | "munmap" | "mprotect" | "madvise" | "brk" | "mremap" => "memory",
        "clone" | "clone3" | "vfork" | "fork" | "execve" | "exit" | "exit_group" | "wait4" | "waitid"
        | "setns" | "unshare" | "futex" | "set_tid_address" | "set_robust_list" | "rseq" | "arch_prctl" => {
            "processes and threads"
        }
        "fsync" | "fdatasync" => "fsync",
        "open" | "openat" | "openat2" | "read" | "write" | "pread64" | "pwrite64" | "close" | "fstat"
        | "newfstatat" | "statx" | "rename" | "renameat" | "renameat2" | "unlink" | "unlinkat" | "mkdir"
        | "mkdirat" | "flock" | "fchmod" | "lseek" | "getdents64" | "statfs" | "fstatfs" | "readlink"
        | "readlinkat" | "access" | "faccessat2" | "fcntl" | "ftruncate" | "link" | "linkat" | "chmod"
        | "stat" | "lstat" => "files",
        _ => "other",
    }
}

/// How often each call was made in one run.
fn of(run: &mut Run) -> BTreeMap<String, u32> {
    run.prepare();
    let report = std::env::temp_dir().join(format!("shunt-bench-strace-{}", std::process::id()));
    let mut arguments = vec!["-f".to_owned(), "-c".to_owned(), "-o".to_owned(), report.display().to_string()];
    arguments.push(run.program.display().to_string());
    run.under(Path::new("strace"), &arguments);
    let text = std::fs::read_to_string(&report).expect("strace writes its report");
    let _gone = std::fs::remove_file(&report);
    let counts = parse(&text);
    assert!(!counts.is_empty(), "strace counted nothing of {}: {text}", run.name);
    counts
}

/// The rows of `strace -c`: share, seconds, microseconds a call, calls, perhaps errors, and the name.
fn parse(text: &str) -> BTreeMap<String, u32> {
    text.lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (share, name) = (words.first()?.parse::<f64>().ok()?, *words.last()?);
            let calls = words.get(3)?.parse().ok()?;
            (share >= 0.0 && name != "total").then(|| (name.to_owned(), calls))
        })
        .collect()
}
