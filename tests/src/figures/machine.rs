//! What a figure was taken on.

use std::fmt;
use std::fs;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// A machine, at a time, with a state of the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's own name.
    pub cpu: String,
    /// How many of them.
    pub cpus: usize,
    /// MiB of memory.
    pub memory: u64,
    /// Release of the kernel.
    pub kernel: String,
    /// The distribution.
    pub system: String,
    /// Load average of the last minute before the bench began: a machine that is busy with something else shows here.
    pub load: String,
    /// Day and time, UTC.
    pub date: String,
    /// The commit, `+` where the source has changed since.
    pub commit: String,
}

impl Machine {
    /// This one, now.
    pub fn this() -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let field = |text: &str, name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name))
                .map(|rest| rest.trim_start_matches([' ', '\t', ':', '=']).trim_matches('"').to_owned())
                .unwrap_or_default()
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        Self {
            cpu: field(&cpuinfo, "model name"),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory: memory.trim_end_matches(" kB").parse::<u64>().unwrap_or(0) / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            system: field(&read("/etc/os-release"), "PRETTY_NAME"),
            load: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
            date: said("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
            commit: commit(),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, cpus, memory, kernel, system, load, date, commit } = self;
        let many = if *cpus == 1 { "" } else { "s" };
        write!(
            f,
            "{cpu}, {cpus} CPU{many}, {memory} MiB, Linux {kernel}, {system}; {date}, load {load}, commit {commit}"
        )
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// What a program says; nothing if there is none or it fails.
fn said(program: &str, arguments: &[&str]) -> String {
    Command::new(program)
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .ok()
        .filter(|output| output.status.success())
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default()
}

fn commit() -> String {
    let commit = said("git", &["rev-parse", "--short=10", "HEAD"]);
    if commit.is_empty() {
        return "unknown".to_owned();
    }
    let changed = said("git", &["status", "--porcelain", "--untracked-files=no"]);
    if changed.is_empty() { commit } else { commit + "+" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_name() {
        let machine = Machine::this();
        assert!(!machine.kernel.is_empty() && machine.cpus > 0 && machine.memory > 0, "{machine:?}");
        assert!(machine.to_string().contains(&machine.kernel));
    }
}
