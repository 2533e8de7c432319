//! Killed, or told that something failed, at every call that changes something. Whatever was on its way, pods get the neighbour's
//! network or ours, ours only with a plugin that runs, and the next one ends it.

use std::cell::Cell;
use std::fs;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::errno::Errno;
use shunt_tests::trace::{self, Act, Made, Traced};

use crate::host::{Files, Host, difference, in_parallel};
use crate::neighbours::{ALL, Neighbour};
use crate::runtime::{self, Loaded};

/// What is done to a host, and what it was before.
#[derive(Clone, Copy)]
struct Scenario {
    name: &'static str,
    words: &'static [&'static str],
    /// Makes it what it is before.
    before: fn(&mut Host),
    /// Changes what is wanted.
    change: fn(&mut Host),
    /// Whether it is installed before, and is to be.
    installed: bool,
    neighbour: usize,
}

fn mode(host: &mut Host, mode: &str) {
    host.options = vec!["--mode".to_owned(), mode.to_owned()];
}

const NOTHING: fn(&mut Host) = |_| {};
const ONCE: fn(&mut Host) = |host| host.once();
const CHAINED: fn(&mut Host) = |host| {
    mode(host, "chained");
    host.once();
};

const INSTALLS: [Scenario; 10] = [
    Scenario {
        name: "first",
        words: &["once"],
        before: NOTHING,
        change: NOTHING,
        installed: false,
        neighbour: 0,
    },
    Scenario {
        name: "first, chained",
        words: &["once"],
        before: NOTHING,
        change: |host| mode(host, "chained"),
        installed: false,
        neighbour: 0,
    },
    Scenario {
        name: "first, chained, one plugin",
        words: &["once"],
        before: NOTHING,
        change: |host| mode(host, "chained"),
        installed: false,
        neighbour: 7,
    },
    Scenario {
        name: "another entry",
        words: &["once"],
        before: ONCE,
        change: another_entry,
        installed: true,
        neighbour: 0,
    },
    Scenario {
        name: "another entry, chained",
        words: &["once"],
        before: CHAINED,
        change: another_entry,
        installed: true,
        neighbour: 7,
    },
    Scenario {
        name: "another plugin",
        words: &["once"],
        before: ONCE,
        change: another_plugin,
        installed: true,
        neighbour: 0,
    },
    Scenario {
        name: "owned to chained",
        words: &["once"],
        before: ONCE,
        change: |host| mode(host, "chained"),
        installed: true,
        neighbour: 0,
    },
    Scenario {
        name: "chained to owned",
        words: &["once"],
        before: CHAINED,
        change: |host| mode(host, "owned"),
        installed: true,
        neighbour: 0,
    },
    Scenario {
        name: "owned to chained, one plugin",
        words: &["once"],
        before: ONCE,
        change: |host| mode(host, "chained"),
        installed: true,
        neighbour: 7,
    },
    Scenario {
        name: "chained to owned, one plugin",
        words: &["once"],
        before: CHAINED,
        change: |host| mode(host, "owned"),
        installed: true,
        neighbour: 7,
    },
];

const UNINSTALLS: [Scenario; 4] = [
    Scenario {
        name: "keep",
        words: &["uninstall"],
        before: ONCE,
        change: NOTHING,
        installed: true,
        neighbour: 0,
    },
    Scenario {
        name: "detach",
        words: &["uninstall", "--detach"],
        before: ONCE,
        change: NOTHING,
        installed: true,
        neighbour: 0,
    },
    Scenario {
        name: "chained",
        words: &["uninstall"],
        before: CHAINED,
        change: NOTHING,
        installed: true,
        neighbour: 0,
    },
    Scenario {
        name: "chained, one plugin",
        words: &["uninstall"],
        before: CHAINED,
        change: NOTHING,
        installed: true,
        neighbour: 7,
    },
];

fn another_entry(host: &mut Host) {
    fs::write(&host.entry, r#"{"type":"shunt","mesh":"linkerd","backend":"ebpf"}"#).expect("own file");
}

fn another_plugin(host: &mut Host) {
    let mut bytes = fs::read(&host.plugin).expect("built");
    bytes.extend_from_slice(b"\n# another\n");
    let other = host.aside().join("another");
    crate::host::replace(&other, &bytes, 0o755);
    host.plugin = other;
}

impl Scenario {
    fn neighbour(&self) -> Neighbour {
        ALL[self.neighbour]
    }

    fn uninstalls(&self) -> bool {
        self.words.first() == Some(&"uninstall")
    }

    /// The host just before.
    fn prepared(&self, real: bool) -> Host {
        let mut host = if real { Host::new() } else { Host::with_script() };
        self.neighbour().settle(&host);
        (self.before)(&mut host);
        (self.change)(&mut host);
        host
    }

    fn run(&self, host: &Host, counted: impl Fn(&Made) -> bool, at: usize, act: Act) -> Traced {
        trace::run(host.command(self.words).stdin(Stdio::null()), counted, at, act)
    }

    /// What holds at every moment.
    fn holds(&self, host: &Host, what: &str) {
        let Loaded::List(list) = host.loaded() else { panic!("{what}: {:?}", host.loaded()) };
        assert!(list.ours() <= 1, "{what}: {list:?}");
        if list.ours() == 1 {
            assert_eq!(host.runs(), Ok(()), "{what}: our entry and no plugin that runs");
        }
        if self.installed && !self.uninstalls() {
            assert_eq!(list.ours(), 1, "{what}: it was installed, and pods run without it");
        }
        let primary: serde_json::Value =
            serde_json::from_str(self.neighbour().primary.text).expect("a network");
        assert_eq!(list.name, primary["name"], "{what}");
        let theirs = list.plugins.len() - list.ours();
        let plugins = primary["plugins"].as_array().map_or(1, Vec::len);
        assert_eq!(theirs, plugins, "{what}: {list:?}");
    }

    /// The next one does what this one did not.
    fn is_ended(&self, host: &Host, before: &Files, uninstall: bool, what: &str) {
        if !uninstall && !self.uninstalls() {
            host.once();
            let list = host.ours();
            if !self.neighbour().is_single() {
                assert_eq!(list.less_ours(), self.neighbour().primary.text, "{what}");
            }
            let installed = fs::read(host.binary()).expect("installed");
            assert!(installed == fs::read(&host.plugin).expect("own file"), "{what}: the plugin wanted");
            let with_us = runtime::candidates(&host.net_d()).into_iter().filter(|file| {
                fs::read_to_string(host.conf(file)).is_ok_and(|text| text.contains("\"shunt\""))
            });
            assert_eq!(with_us.count(), 1, "{what}");
            no_temporaries(host, what);
        }
        host.uninstall();
        let left = difference(before, &host.everything());
        assert_eq!(left, [""; 0], "{what}: left behind");
    }
}

fn no_temporaries(host: &Host, what: &str) {
    let temporaries: Vec<_> = host
        .everything()
        .into_keys()
        .filter(|path| path.extension().is_some_and(|ending| ending == "tmp"))
        .collect();
    assert!(temporaries.is_empty(), "{what}: {temporaries:?}");
}

/// The installer's own calls that change something. Its log is nobody's, and of writes to one file in a row the first stands for
/// all: half a file is half a file.
fn steps() -> impl Fn(&Made) -> bool {
    let last = Cell::new((0, 0));
    move |made| {
        let [descriptor, ..] = made.arguments;
        let is_write = made.number == libc::SYS_write;
        let counts = made.own && trace::changes(made) && !(is_write && descriptor < 3);
        if counts {
            let repeats = last.replace((made.number, descriptor)) == (made.number, descriptor);
            return !(is_write && repeats);
        }
        false
    }
}

/// Writing, or making sure of it: what a full or read-only disk refuses.
fn writing(made: &Made) -> bool {
    let creates = || made.arguments[2] & u64::from(libc::O_CREAT.unsigned_abs()) != 0;
    made.own
        && match made.number {
            libc::SYS_openat => creates(),
            libc::SYS_write => made.arguments[0] > 2 && made.arguments[2] > 8,
            number => [
                libc::SYS_renameat,
                libc::SYS_renameat2,
                libc::SYS_unlinkat,
                libc::SYS_mkdirat,
                libc::SYS_fchmod,
                libc::SYS_fchown,
                libc::SYS_fsync,
            ]
            .contains(&number),
        }
}

fn all() -> bool {
    std::env::var_os("SHUNT_TESTS_ALL").is_some()
}

/// The numbers from 0 until one says there is no such call, so many at a time.
fn at_each(workers: usize, work: impl Fn(usize) -> bool + Sync) -> usize {
    let (next, end) = (AtomicUsize::new(0), AtomicUsize::new(usize::MAX));
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..workers)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        if at >= end.load(Ordering::Relaxed) {
                            break;
                        }
                        if !work(at) {
                            end.fetch_min(at, Ordering::Relaxed);
                        }
                    }
                })
            })
            .collect();
        for worker in running {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
    end.into_inner()
}

/// `stride`: of the calls only each so-many-th.
fn killed_everywhere(scenario: &Scenario, real: bool, stride: usize) {
    let before = {
        let host = if real { Host::new() } else { Host::with_script() };
        scenario.neighbour().settle(&host);
        host.everything()
    };
    let count = at_each(8, |number| {
        let at = number * stride;
        let host = scenario.prepared(real);
        // What it has started may go on without it, or end with it.
        let act = if number % 3 == 1 { Act::Orphan } else { Act::Kill };
        let traced = scenario.run(&host, steps(), at, act);
        let made = traced.made.get(at).map(|made| (made.number, made.path.clone()));
        let what = format!("{}, killed at call {at}: {made:?}", scenario.name);
        if !traced.reached {
            assert_eq!(traced.code, Some(0), "{what}: {}", String::from_utf8_lossy(&traced.stderr));
            return false;
        }
        scenario.holds(&host, &what);
        scenario.is_ended(&host, &before, number % 2 == 1, &what);
        true
    });
    assert!(count * stride > 5, "{}: {count} calls", scenario.name);
}

#[test]
fn once_is_killed_at_any_call() {
    for scenario in &INSTALLS {
        killed_everywhere(scenario, false, 1);
    }
}

#[test]
fn uninstall_is_killed_at_any_call() {
    for scenario in &UNINSTALLS {
        killed_everywhere(scenario, false, 1);
    }
}

#[test]
fn with_the_real_plugin_killed_at_any_call() {
    let stride = if all() { 1 } else { 4 };
    for scenario in [&INSTALLS[0], &INSTALLS[5], &UNINSTALLS[0], &UNINSTALLS[1]] {
        killed_everywhere(scenario, true, stride);
    }
}

/// One error, and then the disk is well again: it is reported, what was there is there, and the next try does it.
fn fails_everywhere(scenario: &Scenario) {
    let before = {
        let host = Host::with_script();
        scenario.neighbour().settle(&host);
        host.everything()
    };
    let errors = [Errno::ENOSPC, Errno::EROFS, Errno::EACCES];
    // A write that failed is tried again after seconds, in which there is nothing to do.
    at_each(12, |number| {
        // Each error somewhere, or everywhere.
        let (at, chosen) = if all() { (number / 3, number % 3) } else { (number, number % 3) };
        let host = scenario.prepared(false);
        let traced = scenario.run(&host, writing, at, Act::Fail(errors[chosen] as i32));
        let made = traced.made.get(at).map(|made| (made.number, made.path.clone()));
        let said = String::from_utf8_lossy(&traced.stderr).into_owned();
        let what = format!("{}, {} at call {at}: {made:?}: {said}", scenario.name, errors[chosen]);
        if !traced.reached {
            assert_eq!(traced.code, Some(0), "{what}");
            return false;
        }
        scenario.holds(&host, &what);
        // To write to a program that has ended is no error of a disk, and nothing depends on it.
        let pipe = made.is_some_and(|(number, _)| number == libc::SYS_write) && traced.code == Some(0);
        let words = errors[chosen].desc();
        assert!(said.contains(words) || pipe, "{what}: it is not reported");
        if scenario.uninstalls() {
            assert!(matches!(traced.code, Some(0 | 1)), "{what}");
        } else {
            assert_eq!(traced.code, Some(0), "{what}: it was well at the second try");
        }
        scenario.is_ended(&host, &before, false, &what);
        true
    });
}

#[test]
fn once_meets_an_error_at_any_write() {
    in_parallel(&INSTALLS, fails_everywhere);
}

#[test]
fn uninstall_meets_an_error_at_any_write() {
    in_parallel(&UNINSTALLS, fails_everywhere);
}
