//! The tally's file: added to after the answer, so nobody waits for it but the runtime for the process's end, and for no longer
//! than it takes to give up. A count that is lost is nothing; an ADD that waits is something.
//!
//! No mapping of the file: one that is cut short under it would end the process with a signal.

use std::fs::{self, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use shunt_abi::Reason as Decision;

use super::{Count, HEADER, LENGTH, Patch, Tally, decided};
use crate::bpf::programs::make_directory;
use crate::cni::Command;

/// How often a lock is tried that another run holds for some microseconds.
const TRIES: u32 = 15;
const PAUSE: Duration = Duration::from_micros(100);
const MODE: u32 = 0o600;

/// Where it is.
pub fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("tally")
}

/// Counts a call.
pub fn count(state_dir: &Path, count: &Count) {
    let path = path(state_dir);
    let patches = count.patches();
    let counted = add(&path, &patches);
    // A node whose pods were all left alone has no state directory yet. Where anything but an ADD finds none, there is nothing of us.
    if counted.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        && count.command == Command::Add
        && make_directory(state_dir).is_ok()
    {
        let _lost = add(&path, &patches);
    }
}

/// Keeps what was decided for a pod whose counters go.
pub fn keep(state_dir: &Path, counts: &[(Decision, u64)]) {
    if !counts.is_empty() {
        let _lost = add(&path(state_dir), &[decided(counts)]);
    }
}

/// All numbers; zeros where there is no file, or none of ours.
pub fn read(state_dir: &Path) -> Tally {
    let open = || File::options().read(true).custom_flags(FLAGS).open(path(state_dir));
    open().and_then(|file| content(&file)).ok().flatten().unwrap_or_default()
}

/// A link is not followed and a fifo not waited for.
const FLAGS: i32 = libc::O_NOFOLLOW | libc::O_NONBLOCK;

fn open(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false).mode(MODE).custom_flags(FLAGS);
    options.open(path)
}

/// All there is, in one read; `None` if it is not ours.
fn content(file: &File) -> io::Result<Option<Tally>> {
    let mut bytes = [0; LENGTH + 1];
    let length = file.read_at(&mut bytes, 0)?;
    Ok(bytes.get(..length).and_then(Tally::decode))
}

fn add(path: &Path, patches: &[Patch]) -> io::Result<()> {
    let opened = open(path);
    let in_the_way = match &opened {
        Ok(_) => false,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(_) => fs::symlink_metadata(path).is_ok_and(|found| !found.is_file()),
    };
    let file = if in_the_way { replaced(path) } else { opened }?;
    if !locked(&file) {
        return Ok(());
    }
    match content(&file) {
        Ok(Some(mut tally)) => write(&file, &mut tally, patches),
        _ if file.metadata()?.is_file() => begin(&file, patches),
        // A fifo can be opened.
        _ => {
            let file = replaced(path)?;
            if locked(&file) && file.metadata()?.len() == 0 { begin(&file, patches) } else { Ok(()) }
        }
    }
}

/// A new file in place of what is no file. The name is ours; a directory that holds something is left.
fn replaced(path: &Path) -> io::Result<File> {
    if fs::symlink_metadata(path)?.is_dir() {
        fs::remove_dir(path)?;
    } else {
        fs::remove_file(path)?;
    }
    open(path)
}

/// Makes a whole file of one that is empty or not ours. What makes it ours is written last.
fn begin(file: &File, patches: &[Patch]) -> io::Result<()> {
    file.set_len(0)?;
    file.set_permissions(Permissions::from_mode(MODE))?;
    file.set_len(u64::try_from(LENGTH).map_err(io::Error::other)?)?;
    write(file, &mut Tally::default(), patches)?;
    file.write_all_at(&HEADER, 0)
}

fn write(file: &File, tally: &mut Tally, patches: &[Patch]) -> io::Result<()> {
    patches.iter().try_for_each(|patch| {
        let (offset, bytes) = tally.add(patch);
        file.write_all_at(&bytes, offset)
    })
}

fn locked(file: &File) -> bool {
    for _ in 0..TRIES {
        match file.try_lock() {
            Ok(()) => return true,
            Err(TryLockError::WouldBlock) => pause(),
            Err(TryLockError::Error(_)) => return false,
        }
    }
    false
}

#[expect(
    clippy::disallowed_methods,
    reason = "as for other locks; two milliseconds in all, then the count is given up"
)]
fn pause() {
    std::thread::sleep(PAUSE);
}

#[cfg(test)]
mod tests;
