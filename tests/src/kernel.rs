//! What the kernel's maps hold, read past the plugin: what is left behind is counted here, not asked of who left it.

#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper, and the plugin's own is what is being tested")]

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use shunt_abi::{ListenerKey, TrieKey, names};

const MAP_GET_NEXT_KEY: libc::c_int = 4;
const OBJ_GET: libc::c_int = 7;

/// bpf(2): what it returns, none when it fails.
pub(crate) fn bpf<T>(command: libc::c_int, attr: &mut T) -> Option<libc::c_int> {
    // SAFETY: a live value of the size given; what it points to outlives the call in every caller.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    libc::c_int::try_from(result).ok().filter(|result| *result >= 0)
}

/// What is pinned there.
pub(crate) fn open(path: &Path) -> Option<OwnedFd> {
    #[repr(C)]
    struct Attr {
        path: u64,
        fd: u32,
        flags: u32,
    }
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    let fd = bpf(OBJ_GET, &mut Attr { path: path.as_ptr().addr() as u64, fd: 0, flags: 0 })?;
    // SAFETY: fresh, and nobody else's.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// All keys of a map, as bytes.
fn keys(map: &Path, size: usize) -> Vec<Vec<u8>> {
    #[repr(C)]
    struct Attr {
        map: u32,
        padding: u32,
        key: u64,
        next: u64,
    }
    let Some(map) = open(map) else { return Vec::new() };
    let mut found: Vec<Vec<u8>> = Vec::new();
    loop {
        let mut next = vec![0_u8; size];
        let key = found.last().map_or(0, |last| last.as_ptr().addr() as u64);
        let fd = map.as_raw_fd().unsigned_abs();
        if bpf(
            MAP_GET_NEXT_KEY,
            &mut Attr { map: fd, padding: 0, key, next: next.as_mut_ptr().addr() as u64 },
        )
        .is_none()
        {
            return found;
        }
        found.push(next);
    }
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
            let all = keys(&object.path().join("maps").join(name), size);
            let ours = all.iter().filter(|key| key.get(offset..offset + 8) == Some(&cookie.to_ne_bytes()));
            found.extend(ours.map(|_| format!("map entry {name}")));
        }
    }
    found
}

/// Removes the entries of a namespace from one map of an object.
pub fn forget(object: &Path, name: &str, cookie: u64) {
    #[repr(C)]
    struct Attr {
        map: u32,
        padding: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    const MAP_DELETE: libc::c_int = 3;
    let (size, offset) = if name == names::RULES { (4 + size_of::<TrieKey>(), 4) } else { (8, 0) };
    let path = object.join("maps").join(name);
    let map = open(&path).expect("a pinned map");
    let all = keys(&path, size);
    let ours: Vec<_> =
        all.iter().filter(|key| key.get(offset..offset + 8) == Some(&cookie.to_ne_bytes())).collect();
    assert!(!ours.is_empty(), "{name} has nothing to forget");
    for key in ours {
        let fd = map.as_raw_fd().unsigned_abs();
        let attr = &mut Attr { map: fd, padding: 0, key: key.as_ptr().addr() as u64, value: 0, flags: 0 };
        assert!(bpf(MAP_DELETE, attr).is_some(), "{name} can be changed");
    }
}
