//! What the kernel's maps hold, read past the plugin: what is left behind is counted here, not asked of who left it.

#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper, and the plugin's own is what is being tested")]

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use shunt_abi::{ListenerKey, TrieKey, names};

const MAP_GET_NEXT_KEY: libc::c_int = 4;
const OBJ_GET: libc::c_int = 7;

/// `bpf(2)` with the part of `union bpf_attr` the command reads; the kernel takes the rest as zero.
pub(crate) fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: a live, initialised, writable value of the size given, laid out as the command's part of bpf_attr; what it points to
    // outlives the call in every caller.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    libc::c_int::try_from(result).map_err(io::Error::other)
}

/// What `bpf(2)` has made or opened.
pub(crate) fn owned(fd: libc::c_int) -> OwnedFd {
    // SAFETY: fresh, and nobody else's.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// An address in an attribute. The kernel follows it: exposed, so that the compiler knows somebody may.
pub(crate) fn address<T>(value: *const T) -> u64 {
    value.expose_provenance() as u64
}

/// What is pinned there.
pub(crate) fn open(path: &Path) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        path: u64,
        fd: u32,
        flags: u32,
    }
    let path = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)?;
    bpf(OBJ_GET, &mut Attr { path: address(path.as_ptr()), fd: 0, flags: 0 }).map(owned)
}

/// The key that the kernel lists after another, the first one after none; none after the last. `size` is at least that of a key.
pub(crate) fn next_key(map: &OwnedFd, after: Option<&[u8]>, size: usize) -> io::Result<Option<Vec<u8>>> {
    #[repr(C)]
    struct Attr {
        map: u32,
        padding: u32,
        key: u64,
        next: u64,
    }
    let mut next = vec![0_u8; size];
    let key = after.map_or(0, |after| address(after.as_ptr()));
    let map = map.as_raw_fd().unsigned_abs();
    match bpf(MAP_GET_NEXT_KEY, &mut Attr { map, padding: 0, key, next: address(next.as_mut_ptr()) }) {
        Ok(_) => Ok(Some(next)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// All keys of a map, as bytes; `size` is at least that of a key.
pub(crate) fn keys(map: &OwnedFd, size: usize) -> io::Result<Vec<Vec<u8>>> {
    // Twenty times the entries of any test. A key that goes while we stand on it sends us back to the first one, again and again at worst.
    const MOST: usize = 1 << 21;
    let mut found: Vec<Vec<u8>> = Vec::new();
    while found.len() < MOST {
        match next_key(map, found.last().map(Vec::as_slice), size)? {
            Some(next) => found.push(next),
            None => return Ok(found),
        }
    }
    Err(io::Error::other("the map does not end"))
}

/// Every map entry under `bpf_dir` that is about the namespace with this cookie: name of the map, as often as it has one.
pub fn entries(bpf_dir: &Path, cookie: u64) -> Vec<String> {
    let mut found = Vec::new();
    let objects = fs::read_dir(bpf_dir).into_iter().flatten().filter_map(Result::ok);
    for object in objects {
        for (name, size, offset) in [
            (names::PODS, 8, 0),
            (names::COUNTERS, 8, 0),
            (names::SEEN, 8, 0),
            (names::RULES, 4 + size_of::<TrieKey>(), 4),
            (names::LISTENERS, size_of::<ListenerKey>(), 0),
        ] {
            let Ok(map) = open(&object.path().join("maps").join(name)) else { continue };
            let all = keys(&map, size).expect("a map of ours");
            let ours = all.iter().filter(|key| key.get(offset..offset + 8) == Some(&cookie.to_ne_bytes()));
            found.extend(ours.map(|_| format!("map entry {name}")));
        }
    }
    found
}

/// Removes one entry of a map.
fn delete(map: &OwnedFd, key: &[u8]) -> io::Result<()> {
    #[repr(C)]
    struct Attr {
        map: u32,
        padding: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    const MAP_DELETE: libc::c_int = 3;
    let fd = map.as_raw_fd().unsigned_abs();
    bpf(MAP_DELETE, &mut Attr { map: fd, padding: 0, key: address(key.as_ptr()), value: 0, flags: 0 })
        .map(drop)
}

/// Removes the entries of a namespace from one map of an object.
pub fn forget(object: &Path, name: &str, cookie: u64) {
    let (size, offset) = if name == names::RULES { (4 + size_of::<TrieKey>(), 4) } else { (8, 0) };
    let path = object.join("maps").join(name);
    let map = open(&path).expect("a pinned map");
    let all = keys(&map, size).expect("a map of ours");
    let ours: Vec<_> =
        all.iter().filter(|key| key.get(offset..offset + 8) == Some(&cookie.to_ne_bytes())).collect();
    assert!(!ours.is_empty(), "{name} has nothing to forget");
    for key in ours {
        delete(&map, key).expect("it can be changed");
    }
}

/// Takes a pinned link off what it is on; the pin stays.
pub fn detach(pin: &Path) {
    const LINK_DETACH: libc::c_int = 34;
    let link = open(pin).expect("a pinned link");
    bpf(LINK_DETACH, &mut link.as_raw_fd()).expect("it can be detached");
}

/// Removes everything from a pinned map of programs.
pub fn empty(pin: &Path) {
    let map = open(pin).expect("a pinned map");
    for place in keys(&map, 4).expect("a map of ours") {
        delete(&map, &place).expect("it is there");
    }
}
