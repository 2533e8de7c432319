//! How much the verifier had to look at: it gives up at a million instructions, and ADD waits for it.

#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper")]

use std::ffi::CString;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

const OBJ_GET: libc::c_int = 7;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;

fn bpf<T>(command: libc::c_int, attr: &T) -> libc::c_int {
    // SAFETY: a live value of the size given; what it points to outlives the call in the callers below.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    assert!(result >= 0, "bpf command {command}: {}", std::io::Error::last_os_error());
    libc::c_int::try_from(result).expect("a descriptor")
}

/// How many instructions the verifier processed for a pinned program, all ways through it taken together. Linux 5.16 and newer
/// say so; 0 on an older one.
pub(crate) fn verified(pin: &Path) -> u32 {
    #[repr(C)]
    struct Get {
        path: u64,
        fd: u32,
        flags: u32,
    }
    #[repr(C)]
    struct Ask {
        fd: u32,
        length: u32,
        info: u64,
    }
    /// `struct bpf_prog_info`, of which `verified_insns` is the last that is read.
    #[repr(C)]
    struct Info {
        before: [u64; 27],
        verified: u32,
        padding: u32,
    }
    let path = CString::new(pin.as_os_str().as_bytes()).expect("a path");
    let fd = bpf(OBJ_GET, &Get { path: path.as_ptr().addr() as u64, fd: 0, flags: 0 });
    // SAFETY: fresh, and nobody else's.
    let program = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut info = Info { before: [0; 27], verified: 0, padding: 0 };
    let length = u32::try_from(size_of::<Info>()).expect("small");
    let at = std::ptr::from_mut(&mut info).addr() as u64;
    bpf(OBJ_GET_INFO_BY_FD, &Ask { fd: program.as_raw_fd().unsigned_abs(), length, info: at });
    info.verified
}
