//! What pins hold in the kernel: maps, programs and links, and the memory the kernel says they take.
//!
//! The figure is `memlock` of `/proc/PID/fdinfo`. Of a map it is what the map's kind says of itself, since 6.4 by the entries that are there
//! and before by those there could be; of a program it is the pages of its instructions, without what was compiled from them, and of
//! a link there is none. What is left out shows in [`Meminfo`] only, beside whatever else the machine did.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use crate::kernel::{bpf, open, owned};

const PROG_GET_NEXT_ID: libc::c_int = 11;
const MAP_GET_NEXT_ID: libc::c_int = 12;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const ENABLE_STATS: libc::c_int = 32;

/// What is below a directory of pins; bytes by the kernel's id.
#[derive(Debug, Clone, Default)]
pub struct Held {
    maps: BTreeMap<u32, u64>,
    programs: BTreeMap<u32, u64>,
    links: BTreeMap<u32, u32>,
}

impl Held {
    /// Of every pin below, and of the programs of pinned links.
    pub fn below(directory: &Path) -> Self {
        let mut held = Self::default();
        for (_, about) in pinned(directory) {
            let id = |name| u32::try_from(field(&about, name)).expect("an id");
            if about.contains("link_id:") {
                held.links.insert(id("link_id"), id("prog_id"));
            } else if about.contains("map_id:") {
                held.maps.insert(id("map_id"), field(&about, "memlock"));
            } else {
                held.programs.insert(id("prog_id"), field(&about, "memlock"));
            }
        }
        for program in held.links.values() {
            let fd = by_id(PROG_GET_FD_BY_ID, *program).expect("a link holds its program");
            held.programs.insert(*program, field(&about(&fd), "memlock"));
        }
        held
    }

    /// Bytes of its maps.
    pub fn map_bytes(&self) -> u64 {
        self.maps.values().sum()
    }

    /// Bytes of its programs.
    pub fn program_bytes(&self) -> u64 {
        self.programs.values().sum()
    }

    /// How many programs there are.
    pub fn programs(&self) -> usize {
        self.programs.len()
    }

    /// How many links there are.
    pub fn links(&self) -> usize {
        self.links.len()
    }

    /// How many of its maps and programs the kernel still has. None is opened for that: the kernel (6.18) loses a reference to a map of
    /// programs that is let go a second time before it has been cleared for the first.
    pub fn alive(&self) -> usize {
        let programs = self.programs.keys().filter(|id| exists(PROG_GET_NEXT_ID, **id));
        programs.count() + self.maps.keys().filter(|id| exists(MAP_GET_NEXT_ID, **id)).count()
    }
}

/// How often a program has run, and how long in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Runs {
    /// How often.
    pub count: u64,
    /// Nanoseconds.
    pub nanoseconds: u64,
}

/// While this lives the kernel counts what each program takes; since 5.8.
#[derive(Debug)]
pub struct Counting(#[expect(dead_code, reason = "closing it ends the counting")] OwnedFd);

impl Counting {
    /// From here on.
    pub fn start() -> Self {
        #[repr(C)]
        struct Attr {
            kind: u32,
        }
        // Its one kind so far: run time.
        let counting = bpf(ENABLE_STATS, &mut Attr { kind: 0 }).expect("BPF_ENABLE_STATS, since Linux 5.8");
        Self(owned(counting))
    }
}

/// What each program below a directory of pins has run so far, by the name of its pin.
pub fn runs(directory: &Path) -> BTreeMap<String, Runs> {
    let mut found = BTreeMap::new();
    for (pin, of_pin) in pinned(directory) {
        if of_pin.contains("map_id:") {
            continue;
        }
        let program = u32::try_from(field(&of_pin, "prog_id")).expect("an id");
        let about = about(&by_id(PROG_GET_FD_BY_ID, program).expect("a pin holds it"));
        let runs = Runs { count: field(&about, "run_cnt"), nanoseconds: field(&about, "run_time_ns") };
        found.insert(pin.file_name().expect("an entry has a name").to_string_lossy().into_owned(), runs);
    }
    found
}

/// Every pin below a directory, and what the kernel says of it.
fn pinned(directory: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok) {
            let path = entry.path();
            if path.is_dir() {
                directories.push(path);
            } else {
                let pin = open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                found.push((path, about(&pin)));
            }
        }
    }
    found
}

/// Whether there is something with this id: what follows the one before it.
fn exists(command: libc::c_int, id: u32) -> bool {
    #[repr(C)]
    struct Attr {
        start: u32,
        next: u32,
        flags: u32,
    }
    let mut attr = Attr { start: id.saturating_sub(1), next: 0, flags: 0 };
    bpf(command, &mut attr).is_ok() && attr.next == id
}

fn by_id(command: libc::c_int, id: u32) -> Option<OwnedFd> {
    #[repr(C)]
    struct Attr {
        id: u32,
        next: u32,
        flags: u32,
    }
    bpf(command, &mut Attr { id, next: 0, flags: 0 }).ok().map(owned)
}

fn about(fd: &OwnedFd) -> String {
    fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).expect("an open file")
}

fn field(about: &str, name: &str) -> u64 {
    let value = about.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or_else(|| panic!("no {name} in:\n{about}"))
}

/// KiB of the whole machine.
#[derive(Debug, Clone, Copy)]
pub struct Meminfo {
    /// Objects of the kernel.
    pub slab: u64,
    /// What each CPU has of its own.
    pub percpu: u64,
    /// What is mapped page by page, compiled programs among it.
    pub vmalloc: u64,
}

impl Meminfo {
    /// Now.
    pub fn now() -> Self {
        let text = fs::read_to_string("/proc/meminfo").expect("every kernel has it");
        let kib = |name| field(&text.replace(" kB", ""), name);
        Self { slab: kib("Slab"), percpu: kib("Percpu"), vmalloc: kib("VmallocUsed") }
    }
}
