//! What the kernel has of anybody's programs, counted from outside.

#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper; both calls are in this file")]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

const MAP_GET_NEXT_KEY: libc::c_int = 4;
const OBJ_GET: libc::c_int = 7;
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
pub fn entries(pin: &Path) -> io::Result<usize> {
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
