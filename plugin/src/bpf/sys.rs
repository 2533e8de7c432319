//! The few `bpf(2)` commands that `aya` does not offer on an object that is already pinned: opening a link or program by path
//! as a plain descriptor, attaching it, asking a link what it is attached to, and loading one program without parsing the
//! kernel's BTF (10–17 ms, which `EbpfLoader` always does).
#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper; every call is in this file")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use aya_obj::generated::bpf_attach_type;

const MAP_LOOKUP_ELEM: libc::c_int = 1;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const MAP_DELETE_ELEM: libc::c_int = 3;
const MAP_GET_NEXT_KEY: libc::c_int = 4;
const PROG_LOAD: libc::c_int = 5;
const OBJ_PIN: libc::c_int = 6;
const OBJ_GET: libc::c_int = 7;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const PROG_QUERY: libc::c_int = 16;
const LINK_CREATE: libc::c_int = 28;
const LINK_DETACH: libc::c_int = 34;

const PROG_TYPE_SK_LOOKUP: u32 = 30;

/// `bpf(2)` with the part of `union bpf_attr` the command reads; the kernel takes the rest as zero.
fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: `attr` is a live, initialised, writable value of the size given, laid out as the command's part of bpf_attr;
    // pointers inside it are to buffers the callers below keep alive over the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    libc::c_int::try_from(result).map_err(io::Error::other)
}

/// A descriptor the kernel just made for us.
fn owned(fd: libc::c_int) -> OwnedFd {
    // SAFETY: a fresh descriptor that nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

#[repr(C)]
struct PathAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

fn address<T: ?Sized>(value: *const T) -> u64 {
    value.cast::<()>().addr() as u64
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    // A borrowed descriptor is never negative.
    fd.as_raw_fd().unsigned_abs()
}

/// Opens a pinned object.
pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    bpf(OBJ_GET, &mut PathAttr { path: address(path.as_ptr()), fd: 0, flags: 0 }).map(owned)
}

/// Pins an object.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    bpf(OBJ_PIN, &mut PathAttr { path: address(path.as_ptr()), fd: raw(object), flags: 0 }).map(drop)
}

/// Attaches a program to a cgroup or network namespace with a link. No flags: a cgroup link is always "multi", and comes last on
/// its cgroup.
pub(super) fn attach(
    program: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    kind: bpf_attach_type,
) -> io::Result<OwnedFd> {
    link(program, target, kind, 0)
}

/// The same to a cgroup, before every program that is attached to it; EINVAL before Linux 6.17, which knows no order.
pub(super) fn attach_first(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    kind: bpf_attach_type,
) -> io::Result<OwnedFd> {
    const BEFORE: u32 = 1 << 3;
    link(program, cgroup, kind, BEFORE)
}

fn link(
    program: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    kind: bpf_attach_type,
    flags: u32,
) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        program: u32,
        target: u32,
        kind: u32,
        flags: u32,
    }
    bpf(LINK_CREATE, &mut Attr { program: raw(program), target: raw(target), kind: kind as u32, flags })
        .map(owned)
}

/// What a link is attached to.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct LinkInfo {
    /// `enum bpf_link_type`: 3 cgroup, 5 netns.
    pub(super) kind: u32,
    /// Link id.
    pub(super) id: u32,
    /// Program id.
    pub(super) program: u32,
    padding: u32,
    /// Cgroup id (64 bits), or netns inode (32 bits) and attach type.
    target: [u32; 4],
}

impl LinkInfo {
    /// Cgroup id of a cgroup link; 0 once the cgroup is gone.
    pub(super) fn cgroup(&self) -> u64 {
        u64::from(self.target[0]) | u64::from(self.target[1]) << 32
    }

    /// Inode of the network namespace of a netns link; 0 once it is gone.
    pub(super) fn netns(&self) -> u64 {
        u64::from(self.target[0])
    }
}

/// Asks a link.
pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut info = LinkInfo::default();
    ask(link, &mut info)?;
    Ok(info)
}

/// Detaches a link now. When its last pin goes that happens too, but some time later.
pub(super) fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    bpf(LINK_DETACH, &mut raw(link)).map(drop)
}

/// Has the kernel fill `info`, or as much of it as it knows.
fn ask<T>(object: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    #[repr(C)]
    struct Attr {
        fd: u32,
        length: u32,
        info: u64,
    }
    let length = u32::try_from(size_of::<T>()).map_err(io::Error::other)?;
    let mut attr = Attr { fd: raw(object), length, info: address(std::ptr::from_mut(info)) };
    bpf(OBJ_GET_INFO_BY_FD, &mut attr).map(drop)
}

/// What is attached to a cgroup itself, or to a network namespace, for one kind of call.
#[derive(Debug)]
pub(super) struct Attached {
    /// Ids of the programs, in the order in which they run.
    pub(super) ids: Vec<u32>,
    /// How they were attached: 0, `BPF_F_ALLOW_OVERRIDE` or `BPF_F_ALLOW_MULTI`. Says nothing where there are none.
    pub(super) flags: u32,
}

/// Asks a cgroup or a network namespace.
pub(super) fn programs_on(target: BorrowedFd<'_>, kind: bpf_attach_type) -> io::Result<Attached> {
    // The kernel takes no more than this on one of them.
    const MOST: usize = 64;
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
    let mut ids = [0_u32; MOST];
    let count = u32::try_from(MOST).map_err(io::Error::other)?;
    let mut attr = Attr {
        target: raw(target),
        kind: kind as u32,
        query_flags: 0,
        attach_flags: 0,
        ids: address(ids.as_mut_ptr()),
        count,
        padding: 0,
    };
    bpf(PROG_QUERY, &mut attr)?;
    let count = usize::try_from(attr.count).map_err(io::Error::other)?;
    Ok(Attached { ids: ids.into_iter().take(count).collect(), flags: attr.attach_flags })
}

/// The id of a program.
pub(super) fn program_id(program: BorrowedFd<'_>) -> io::Result<u32> {
    // The beginning of `struct bpf_prog_info`: type and id.
    let mut info = [0_u32; 2];
    ask(program, &mut info)?;
    Ok(info[1])
}

/// The name a program was loaded under.
pub(super) fn program_name(id: u32) -> io::Result<String> {
    #[repr(C)]
    struct Attr {
        id: u32,
        next: u32,
        flags: u32,
    }
    /// The beginning of `struct bpf_prog_info`, up to the name.
    #[repr(C)]
    struct Info {
        before: [u64; 8],
        name: [u8; 16],
    }
    let program = owned(bpf(PROG_GET_FD_BY_ID, &mut Attr { id, next: 0, flags: 0 })?);
    let mut info = Info { before: [0; 8], name: [0; 16] };
    ask(program.as_fd(), &mut info)?;
    let name = info.name.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(name).into_owned())
}

/// Loads an `sk_lookup` program from instructions, 8 bytes each, whose map references are resolved.
pub(super) fn load_sk_lookup(name: &str, code: &[u64]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        kind: u32,
        count: u32,
        code: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
        ifindex: u32,
        attach_type: u32,
    }
    let mut attr = Attr {
        kind: PROG_TYPE_SK_LOOKUP,
        count: u32::try_from(code.len()).map_err(io::Error::other)?,
        code: address(code.as_ptr()),
        license: address(c"Dual BSD/GPL".as_ptr()),
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: [0; 16],
        ifindex: 0,
        attach_type: bpf_attach_type::BPF_SK_LOOKUP as u32,
    };
    for (to, from) in attr.name.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    bpf(PROG_LOAD, &mut attr).map(owned)
}

/// A key of the rule trie as the kernel takes and gives it.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct TrieEntry {
    /// Bits to match.
    pub(super) length: u32,
    /// The key.
    pub(super) key: shunt_abi::TrieKey,
}

/// The key the kernel lists after `key`; `None` after the last.
pub(super) fn next_key(map: BorrowedFd<'_>, key: &TrieEntry) -> io::Result<Option<TrieEntry>> {
    #[repr(C)]
    struct Attr {
        map: u32,
        padding: u32,
        key: u64,
        next: u64,
    }
    let mut next = *key;
    let mut attr = Attr {
        map: raw(map),
        padding: 0,
        key: address(std::ptr::from_ref(key)),
        next: address(std::ptr::from_mut(&mut next)),
    };
    match bpf(MAP_GET_NEXT_KEY, &mut attr) {
        Ok(_) => Ok(Some(next)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The part of `bpf_attr` that commands about one entry of a map read.
#[repr(C)]
struct EntryAttr {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl EntryAttr {
    /// The caller keeps key and value alive over the call; 0 for a value the command does not read.
    fn new<K: aya::Pod>(map: BorrowedFd<'_>, key: &K, value: u64) -> Self {
        Self { map: raw(map), padding: 0, key: address(std::ptr::from_ref(key)), value, flags: 0 }
    }
}

/// Puts a map into a place of a map of maps.
pub(super) fn put(map: BorrowedFd<'_>, place: u32, inner: BorrowedFd<'_>) -> io::Result<()> {
    let value = raw(inner);
    bpf(MAP_UPDATE_ELEM, &mut EntryAttr::new(map, &place, address(std::ptr::from_ref(&value)))).map(drop)
}

/// True if there is a program or map in a place of a map of such.
pub(super) fn is_filled(map: BorrowedFd<'_>, place: u32) -> io::Result<bool> {
    let mut id = 0_u32;
    match bpf(MAP_LOOKUP_ELEM, &mut EntryAttr::new(map, &place, address(std::ptr::from_mut(&mut id)))) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes an entry: by a pod's key, or by the index of a map of maps.
pub(super) fn remove<K: aya::Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<()> {
    bpf(MAP_DELETE_ELEM, &mut EntryAttr::new(map, key, 0)).map(drop)
}

/// A map's only value in this process's memory: what is stored here, programs read in the same moment, and the other way round.
#[derive(Debug)]
pub(super) struct Shared<T> {
    at: NonNull<T>,
}

impl<T: aya::Pod> Shared<T> {
    /// Maps it; the map must be mappable and its value a `T`.
    pub(super) fn of(map: BorrowedFd<'_>) -> io::Result<Self> {
        // SAFETY: a new mapping wherever the kernel likes; its length is rounded up to whole pages, as the map's is.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<T>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        match NonNull::new(at.cast()) {
            Some(first) if at != libc::MAP_FAILED => Ok(Self { at: first }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// A word of the value: the one that is `offset` bytes into it.
    pub(super) fn word(&self, offset: usize) -> Option<&AtomicU64> {
        if !offset.is_multiple_of(align_of::<AtomicU64>()) || offset + size_of::<AtomicU64>() > size_of::<T>()
        {
            return None;
        }
        // SAFETY: inside the mapping, which is as long as a `T` and lives as long as `self`; aligned, since a page is; everybody
        // else who writes it does so in whole words.
        Some(unsafe { AtomicU64::from_ptr(self.at.as_ptr().cast::<u8>().add(offset).cast()) })
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `of`; no reference into it outlives `self`.
        unsafe { libc::munmap(self.at.as_ptr().cast(), size_of::<T>()) };
    }
}

/// Borrows any descriptor-like value; only here so that callers need not import the trait.
pub(super) fn fd(of: &impl AsFd) -> BorrowedFd<'_> {
    of.as_fd()
}
