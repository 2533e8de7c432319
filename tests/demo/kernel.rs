//! What Shunt has in the kernel and on disk for our pod, counted from outside.
#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper; both calls are in this file")]

use std::ffi::CString;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::outcome::{Doing as _, Outcome};
use crate::site::Site;

const MAP_GET_NEXT_KEY: libc::c_int = 4;
const OBJ_GET: libc::c_int = 7;
const PROG_QUERY: libc::c_int = 16;

/// `BPF_SK_LOOKUP`, the only kind we attach to a network namespace.
const SK_LOOKUP: u32 = 36;
/// The last attach type any kernel knows is below this; one it does not know answers EINVAL.
const ATTACH_TYPES: u32 = 64;

/// Counts of what belongs to the pod, and of what belongs to the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Traces {
    /// Attachment records.
    pub(crate) records: usize,
    /// Pins of the pod's own links.
    pub(crate) pins: usize,
    /// Programs on the pod's cgroup and network namespace.
    pub(crate) links: usize,
    /// Entries of the map that says which pods are meshed.
    pub(crate) entries: usize,
    /// Lines about our chains in the pod's iptables rules.
    pub(crate) rules: usize,
    /// Programs on the cgroup of all pods; they stay for the next pod.
    pub(crate) shared: usize,
}

impl Traces {
    /// Counts now.
    pub(crate) fn count(site: &Site) -> Outcome<Self> {
        let pins = files(&site.bpf_dir());
        let of_pods = pins.iter().filter(|pin| pin.iter().any(|part| part == "pods")).count();
        let map = pins.iter().find(|pin| pin.file_name().is_some_and(|name| name == "PODS"));
        let records = files(&site.state_dir().join("attachments"))
            .into_iter()
            .filter(|file| file.extension().is_some_and(|extension| extension == "json"))
            .count();
        Ok(Self {
            records,
            pins: of_pods,
            links: on_cgroup(&site.cgroup("pod"))? + on_netns(&site.netns("pod"))?,
            entries: map.map_or(Ok(0), |map| entries(map)).doing("count the pods in the map")?,
            rules: rules(site)?,
            shared: on_cgroup(&site.cgroup("kubepods"))?,
        })
    }

    /// Whether one pod is captured, by this backend alone if one is named.
    pub(crate) fn of_one_pod(self, backend: &str) -> bool {
        let ebpf = self.links > 0 && self.entries == 1;
        let iptables = self.rules > 0;
        self.records == 1
            && match backend {
                "ebpf" => ebpf && !iptables,
                "iptables" => iptables && self.links == 0 && self.pins == 0 && self.entries == 0,
                _ => ebpf != iptables,
            }
    }

    /// Whether nothing of the pod is left.
    pub(crate) fn none_of_pod(self) -> bool {
        self.records == 0 && self.pins == 0 && self.links == 0 && self.entries == 0 && self.rules == 0
    }
}

impl fmt::Display for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "records {}, pins {}, programs on the pod {}, map entries {}, iptables lines {}; the node's own programs {}",
            self.records, self.pins, self.links, self.entries, self.rules, self.shared
        )
    }
}

/// Lines that name our chains, in both families and both flavours of iptables.
fn rules(site: &Site) -> Outcome<usize> {
    site.inside("pod", || {
        let mut lines = 0;
        for tool in
            ["iptables-nft-save", "ip6tables-nft-save", "iptables-legacy-save", "ip6tables-legacy-save"]
        {
            let done = Command::new(tool).stdin(Stdio::null()).output().doing(format_args!("run {tool}"))?;
            if !done.status.success() {
                return Err(format!("{tool}: {}", String::from_utf8_lossy(&done.stderr).trim()));
            }
            lines += String::from_utf8_lossy(&done.stdout).matches("\n-A").count();
            lines += String::from_utf8_lossy(&done.stdout).matches("\n:SHUNT").count();
        }
        Ok(lines)
    })
}

/// Every file below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .flat_map(|entry| {
            let path = entry.path();
            if path.is_dir() { files(&path) } else { vec![path] }
        })
        .collect()
}

fn on_cgroup(dir: &Path) -> Outcome<usize> {
    let directory = File::open(dir).doing(format_args!("open {}", dir.display()))?;
    Ok((0..ATTACH_TYPES).filter_map(|kind| attached(&directory, kind).ok()).sum())
}

fn on_netns(path: &Path) -> Outcome<usize> {
    let namespace = File::open(path).doing(format_args!("open {}", path.display()))?;
    attached(&namespace, SK_LOOKUP).doing("ask for the programs of a network namespace")
}

/// `bpf(2)` with the part of `union bpf_attr` the command reads.
fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: `attr` is a live, initialised, writable value of the size given, laid out as the command's part of bpf_attr;
    // pointers inside it are to buffers the callers below keep alive over the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    libc::c_int::try_from(result).map_err(io::Error::other)
}

fn address<T>(value: *const T) -> u64 {
    // The kernel follows it: exposed, so that the compiler knows somebody may.
    value.expose_provenance() as u64
}

/// How many programs of a kind are attached right here.
fn attached(target: &File, kind: u32) -> io::Result<usize> {
    #[repr(C)]
    struct Attr {
        target: u32,
        kind: u32,
        query_flags: u32,
        attach_flags: u32,
        ids: u64,
        count: u32,
        padding: u32,
    }
    let mut ids = [0_u32; 64];
    let mut attr = Attr {
        target: target.as_raw_fd().unsigned_abs(),
        kind,
        query_flags: 0,
        attach_flags: 0,
        ids: address(ids.as_mut_ptr()),
        count: 64,
        padding: 0,
    };
    bpf(PROG_QUERY, &mut attr)?;
    Ok(attr.count as usize)
}

/// How many entries a pinned map has; its keys are at most 64 bytes.
fn entries(pin: &Path) -> io::Result<usize> {
    #[repr(C)]
    struct PathAttr {
        path: u64,
        fd: u32,
        flags: u32,
    }
    #[repr(C)]
    struct KeyAttr {
        map: u32,
        padding: u32,
        key: u64,
        next: u64,
    }
    let path = CString::new(pin.as_os_str().as_bytes()).map_err(io::Error::other)?;
    let fd = bpf(OBJ_GET, &mut PathAttr { path: address(path.as_ptr()), fd: 0, flags: 0 })?;
    // SAFETY: a fresh descriptor that nobody else owns.
    let map = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut next = [0_u8; 64];
    let mut key;
    // No key asks for the first one.
    let mut from = 0;
    for count in 0..100_000 {
        let mut attr = KeyAttr {
            map: map.as_raw_fd().unsigned_abs(),
            padding: 0,
            key: from,
            next: address(next.as_mut_ptr()),
        };
        match bpf(MAP_GET_NEXT_KEY, &mut attr) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(count),
            Err(error) => return Err(error),
        }
        key = next;
        from = address(std::ptr::from_ref(&key));
    }
    Err(io::Error::other("the map does not end"))
}
