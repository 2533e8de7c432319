//! User namespaces: what the proxy's uid and gid are outside the pod.
//!
//! The kernel's programs see ids as the initial user namespace does; the plan names them as the pod does. For a pod with a user
//! namespace of its own (`hostUsers: false`) they differ.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt as _;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork, pipe};

use crate::bpf::rules::Ids;
use crate::fault::{Fault, Outcome, Tried as _};
use crate::netns::Netns;
use crate::plan::Plan;

/// One line of `uid_map`: `count` ids from `inside` on are `outside` and following.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Extent {
    inside: u32,
    outside: u32,
    count: u32,
}

/// The plan's ids as the kernel's programs will see them.
pub fn outside(netns: &Netns, plan: &Plan) -> Outcome<Ids> {
    let inside = Ids {
        uids: plan.exempt_uids.clone(),
        gids: plan.exempt_gids.clone(),
        excluded_uids: plan.outbound.exclude_uids.clone(),
    };
    let Some(owner) = foreign_owner(netns)? else {
        return Ok(inside);
    };
    let (uid_map, gid_map) = maps_of(&owner)?;
    Ok(Ids {
        uids: translated("uid", &inside.uids, &uid_map)?,
        gids: translated("gid", &inside.gids, &gid_map)?,
        excluded_uids: translated("uid", &inside.excluded_uids, &uid_map)?,
    })
}

/// The user namespace that owns a network namespace, if it is not the one this process is in.
pub fn foreign_owner(netns: &Netns) -> Outcome<Option<File>> {
    let owner = owner(netns)?;
    let ours = File::open("/proc/self/ns/user").tried(|| "open this process's user namespace")?;
    let inode =
        |file: &File| file.metadata().map(|m| (m.dev(), m.ino())).tried(|| "look at a user namespace");
    Ok((inode(&owner)? != inode(&ours)?).then_some(owner))
}

/// `NS_GET_USERNS`, `_IO(0xb7, 0x1)`.
const NS_GET_USERNS: libc::Ioctl = 0xb701;

/// The user namespace that owns a network namespace.
#[expect(unsafe_code, reason = "an ioctl that nix has no function for")]
fn owner(netns: &Netns) -> Outcome<File> {
    use std::os::fd::AsRawFd as _;
    // SAFETY: an open namespace file; the call takes no pointer.
    let fd: RawFd = unsafe { libc::ioctl(netns.as_fd().as_raw_fd(), NS_GET_USERNS) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error())
            .tried(|| "ask which user namespace owns the pod's network namespace");
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

const PATIENCE_MS: u16 = 1000;
/// More than the kernel's 340 lines of two maps can be.
const LIMIT: u64 = 64 * 1024;

/// `uid_map` and `gid_map` of a user namespace. Only a process inside can read them with a parent's ids on the right, and only
/// a process with a single thread may enter: a child, gone before this returns.
#[expect(unsafe_code, reason = "fork")]
fn maps_of(userns: &File) -> Outcome<(Vec<Extent>, Vec<Extent>)> {
    let (reader, writer) = pipe().tried(|| "make a pipe")?;
    // SAFETY: no other thread of this process runs now (work inside a namespace joins its thread), so the child finds no lock
    // held; it ends with _exit and runs nothing of ours afterwards.
    match unsafe { fork() }.tried(|| "fork to read the pod's user namespace")? {
        ForkResult::Child => {
            let told = tell(userns, writer);
            // SAFETY: ends the child without running destructors of the parent's state.
            unsafe { libc::_exit(i32::from(told.is_err())) }
        }
        ForkResult::Parent { child } => {
            drop(writer);
            let mut text = String::new();
            let heard = hear(reader, &mut text);
            if heard.is_err() {
                // It may be stuck; what it was for is lost anyway.
                let _gone = nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL);
            }
            waitpid(child, None).tried(|| "wait for the child in the pod's user namespace")?;
            heard?;
            let (uids, gids) = text.split_once('\0').ok_or_else(|| {
                Fault::new("read the pod's user namespace", "its id maps could not be read")
            })?;
            Ok((extents(uids)?, extents(gids)?))
        }
    }
}

fn tell(userns: &File, writer: OwnedFd) -> std::io::Result<()> {
    setns(userns, CloneFlags::CLONE_NEWUSER)?;
    let text = format!(
        "{}\0{}",
        std::fs::read_to_string("/proc/self/uid_map")?,
        std::fs::read_to_string("/proc/self/gid_map")?
    );
    File::from(writer).write_all(text.as_bytes())
}

fn hear(reader: OwnedFd, text: &mut String) -> Outcome<()> {
    let ready = poll(&mut [PollFd::new(reader.as_fd(), PollFlags::POLLIN)], PollTimeout::from(PATIENCE_MS))
        .tried(|| "wait for the child in the pod's user namespace")?;
    if ready == 0 {
        return Err(Fault::new("read the pod's user namespace", "no answer in a second"));
    }
    File::from(reader).take(LIMIT).read_to_string(text).tried(|| "read the pod's id maps")?;
    Ok(())
}

fn extents(map: &str) -> Outcome<Vec<Extent>> {
    let line = |line: &str| -> Option<Extent> {
        let mut numbers = line.split_whitespace().map(str::parse);
        match (numbers.next()?, numbers.next()?, numbers.next()?) {
            (Ok(inside), Ok(outside), Ok(count)) => Some(Extent { inside, outside, count }),
            _ => None,
        }
    };
    map.lines()
        .map(|text| line(text).ok_or_else(|| Fault::new("read an id map", format!("it says {text:?}"))))
        .collect()
}

fn translated(what: &str, ids: &[u32], map: &[Extent]) -> Outcome<Vec<u32>> {
    ids.iter()
        .map(|id| {
            map.iter()
                .find_map(|e| {
                    id.checked_sub(e.inside)
                        .filter(|offset| *offset < e.count)
                        .map(|offset| e.outside + offset)
                })
                .ok_or_else(|| {
                    Fault::new(
                        format!("map the proxy's {what} {id}"),
                        "the pod's user namespace has no such id",
                    )
                })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_mapped_and_unmapped_ones_are_named() {
        let map = extents("         0 2292908032      65536\n 70000 5 1\n").unwrap();
        assert_eq!(translated("uid", &[1337, 70000], &map).unwrap(), [2_292_908_032 + 1337, 5]);
        let error = translated("uid", &[65536], &map).unwrap_err();
        assert!(error.to_string().contains("65536"));
        assert!(extents("1 x 3").is_err());
    }
}
