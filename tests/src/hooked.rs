//! What the kernel has of anybody's programs, counted from outside.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use crate::kernel::{address, bpf, keys, open};

const PROG_QUERY: libc::c_int = 16;

/// `BPF_SK_LOOKUP`, the only kind we attach to a network namespace.
const SK_LOOKUP: u32 = 36;
/// The last attach type any kernel knows is below this; one it does not know answers EINVAL.
const ATTACH_TYPES: u32 = 64;

/// How many programs are attached to a cgroup, not counting those of its parents.
pub fn on_cgroup(dir: &Path) -> io::Result<usize> {
    let directory = File::open(dir)?;
    Ok((0..ATTACH_TYPES).filter_map(|kind| attached(&directory, kind).ok()).sum())
}

/// How many `sk_lookup` programs are attached to a network namespace.
pub fn on_netns(path: &Path) -> io::Result<usize> {
    attached(&File::open(path)?, SK_LOOKUP)
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
pub fn entries(pin: &Path) -> io::Result<usize> {
    keys(&open(pin)?, 64).map(|keys| keys.len())
}
