//! A node that refuses some system calls to the plugin and to all it starts, as a kernel without them, a seccomp profile or missing
//! capabilities do.

#![expect(unsafe_code, reason = "seccomp has no safe wrapper")]

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// `BPF_LD | BPF_W | BPF_ABS`, of the first word of `struct seccomp_data`: the system call's number.
const LOAD_NUMBER: libc::sock_filter = libc::sock_filter { code: 0x20, jt: 0, jf: 0, k: 0 };
/// `BPF_JMP | BPF_JEQ | BPF_K`
const EQUAL: u16 = 0x15;
/// `BPF_RET | BPF_K`
const RETURN: u16 = 0x06;

const fn answer(k: u32) -> libc::sock_filter {
    libc::sock_filter { code: RETURN, jt: 0, jf: 0, k }
}

/// Makes these system calls fail with EPERM in the program to come.
pub(crate) fn deny(command: &mut Command, calls: &[i64]) {
    if calls.is_empty() {
        return;
    }
    let mut filter = vec![LOAD_NUMBER];
    for call in calls {
        let k = u32::try_from(*call).expect("a system call's number");
        // Not this one: skip the refusal.
        filter.push(libc::sock_filter { code: EQUAL, jt: 0, jf: 1, k });
        filter.push(answer(libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs()));
    }
    filter.push(answer(libc::SECCOMP_RET_ALLOW));
    // SAFETY: two system calls between fork and exec, on memory that is the child's copy.
    unsafe {
        command.pre_exec(move || {
            let program = libc::sock_fprog {
                len: u16::try_from(filter.len()).map_err(io::Error::other)?,
                filter: filter.as_mut_ptr(),
            };
            let installed = libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0;
            if installed { Ok(()) } else { Err(io::Error::last_os_error()) }
        });
    }
}
