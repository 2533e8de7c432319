//! What a test needs of the machine. A missing need is a failure, never a silent skip: a suite that ran half of itself
//! looks exactly like one that passed.

use std::path::Path;

fn lacking(what: &str) -> ! {
    let must = std::env::var("TESTS_MUST").is_ok() || std::env::var("CI").is_ok();
    let hint = if must {
        "this run must have it"
    } else {
        "leave the test out by name (`-- --skip NAME`) if you mean to run without it"
    };
    panic!("this test needs {what}: {hint}");
}

/// Fails the test unless it runs as root.
pub fn root() {
    if !nix::unistd::geteuid().is_root() {
        lacking("root");
    }
}

/// Fails the test unless a program of this name is on the path.
pub fn tool(name: &str) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain([Path::new("/usr/sbin").into(), Path::new("/sbin").into()])
        .any(|dir| dir.join(name).is_file());
    if !found {
        lacking(&format!("the program `{name}` (`make deps` installs it)"));
    }
}

/// Fails the test unless the kernel is at least `major.minor`.
pub fn kernel(major: u32, minor: u32) {
    let (have_major, have_minor) = running_kernel();
    if (have_major, have_minor) < (major, minor) {
        lacking(&format!("Linux {major}.{minor}; this is {have_major}.{have_minor}"));
    }
}

/// Major and minor number of the running kernel.
pub fn running_kernel() -> (u32, u32) {
    let release =
        std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("/proc names the running kernel");
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_kernel_is_read() {
        assert!(running_kernel() > (2, 6));
    }

    #[test]
    #[should_panic(expected = "no-such-program")]
    fn a_missing_tool_fails() {
        tool("no-such-program");
    }
}
