//! The last thing done on a node: everything of ours goes, once no attachment is left.
//!
//! | | goes | killed before the next, the node has |
//! |---|---|---|
//! | 1 | pins: the shared programs detach | a plugin that loads them again |
//! | 2 | log | |
//! | 3 | state, but for the mark | a plugin that makes it again |
//! | 4 | the plugin's file | |
//! | 5 | the mark, the state directory | what the next purge removes |
//!
//! An ADD may be under way all the time: of a list read before. It holds its container's lock, makes its place among the pins, or
//! writes a mark of rules before it changes anything; each of these ends this here, with the plugin and the retirement's mark in
//! place. Programs are set aside before they are removed, see [`crate::bpf::programs::collect`]: such an ADD finds them whole, or
//! fails.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::Instant;

use nix::mount::{MntFlags, umount2};
use serde::{Deserialize, Serialize};

use super::retire;
use crate::backend::Places;
use crate::bpf::pins::{Layout, children};
use crate::bpf::programs::{discard_half_loaded, discard_if_unused};
use crate::cgroup::is_cgroup2;
use crate::error::{Error, Failed as _, Kind};
use crate::fault::{Outcome, Tried as _};
use crate::lock::Lock;
use crate::note::Notes;
use crate::record::discard;
use crate::tally;
use crate::verb::names;

/// What goes besides state and pins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Leaving {
    /// The plugin's file.
    pub(super) binary: Option<PathBuf>,
    /// The log's file.
    pub(super) log: PathBuf,
}

/// Until when others are waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Who loads programs.
    pub(super) load: Instant,
    /// Who holds a container's lock.
    pub(super) run: Instant,
}

/// Lock of those who load programs.
const LOAD: &str = "load";
/// Locks of containers begin so.
const POD: &str = "pod-";

/// Removes everything of ours. False if somebody is at work, or has come: then what serves them stays. What is in our directories
/// and not ours stays too, and is a problem.
pub(super) fn all(
    places: Places<'_>,
    leaving: &Leaving,
    patience: Patience,
    problems: &mut Vec<String>,
) -> Result<bool, Error> {
    let state_dir = places.state_dir;
    // Others are waited for before the programs are locked: an ADD that is at work may be about to load them.
    if !idle(state_dir, patience.run, problems)? {
        return Ok(false);
    }
    let load = Lock::new(state_dir, patience.load)
        .take(LOAD)
        .failed(Kind::TryAgain, || "waiting for another run that loads or removes programs")?;
    if !idle(state_dir, Instant::now(), problems)?
        || !names(places)?.is_empty()
        || !unpin(places.bpf_dir, problems).failed(Kind::Load, || "removing the shared programs")?
    {
        return Ok(false);
    }
    forget_log(&leaving.log).failed(Kind::Io, || "removing the log")?;
    let mut emptied = || -> Outcome<bool> {
        let empty =
            empty(&state_dir.join("attachments"), problems)? && empty(&state_dir.join("iptables"), problems)?;
        if empty {
            for name in ["backend.json", "backend.new", "notes", "tally"] {
                gone(&state_dir.join(name))?;
            }
            unmount(&state_dir.join("cgroup2"), problems)?;
        }
        Ok(empty)
    };
    if !emptied().failed(Kind::Io, || "removing the state")? {
        return Ok(false);
    }
    load.discard();
    // Whoever begins from here on makes the directory of locks anew, or has made a lock in it.
    if !unlock(&state_dir.join("locks"), problems).failed(Kind::Io, || "removing the locks")?
        || !names(places)?.is_empty()
    {
        return Ok(false);
    }
    if let Some(binary) = &leaving.binary {
        forget_binary(binary, problems).failed(Kind::Io, || "removing the plugin")?;
    }
    let mark = retire::path(state_dir);
    gone(&mark.with_extension("new")).and_then(|()| gone(&mark)).failed(Kind::Io, || "removing the mark")?;
    // A run that counts may have begun a tally anew, and one that fails may have left a note.
    gone(&tally::file::path(state_dir))
        .and_then(|()| gone(&Notes::new(state_dir).path()))
        .failed(Kind::Io, || "removing the tally and the notes")?;
    remove_directory(state_dir, problems).failed(Kind::Io, || "removing the state directory")?;
    Ok(true)
}

/// True if nobody holds the lock of a container. Locks that nobody holds go.
fn idle(state_dir: &Path, until: Instant, problems: &mut Vec<String>) -> Result<bool, Error> {
    let directory = state_dir.join("locks");
    let names = children(&directory).failed(Kind::Io, || "looking for other runs")?;
    for name in names.into_iter().filter(|name| name.starts_with(POD)) {
        let path = directory.join(&name);
        if !path.symlink_metadata().is_ok_and(|found| found.is_file()) {
            gone(&path).failed(Kind::Io, || "removing what is no lock")?;
            continue;
        }
        match Lock::new(state_dir, until).take(&name) {
            Ok(held) => held.discard(),
            Err(fault) => {
                problems.push(crate::error::chain(&fault));
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Removes all objects' pins; false if an attachment has a place among them. Needs the lock `load`.
fn unpin(bpf_dir: &Path, problems: &mut Vec<String>) -> Outcome<bool> {
    for layout in Layout::all(bpf_dir)? {
        if !layout.is_unused()? || !discard_if_unused(bpf_dir, &layout)? {
            return Ok(false);
        }
    }
    discard_half_loaded(bpf_dir)?;
    remove_directory(bpf_dir, problems)?;
    Ok(true)
}

/// The log, the one before it, and their directory if it is as we make it and empty.
fn forget_log(file: &Path) -> Outcome<()> {
    let mut old = file.as_os_str().to_owned();
    old.push(".1");
    for path in [file, Path::new(&old)] {
        if path.symlink_metadata().is_ok_and(|found| found.is_file()) {
            gone(path)?;
        }
    }
    if let Some(directory) = file.parent() {
        let private = |found: fs::Metadata| found.is_dir() && found.permissions().mode() & 0o7777 == 0o700;
        if could_be_ours(directory) && directory.symlink_metadata().is_ok_and(private) {
            // Not ours if it holds something else.
            let _stays = fs::remove_dir(directory);
        }
    }
    Ok(())
}

/// Removes a directory of attachments' files and what killed writes left in it; false if it has an attachment.
fn empty(directory: &Path, problems: &mut Vec<String>) -> Outcome<bool> {
    if !directory.symlink_metadata().is_ok_and(|found| found.is_dir()) {
        return gone(directory).map(|()| true);
    }
    for name in children(directory)? {
        let path = directory.join(name);
        let ends = |suffix| path.extension().is_some_and(|extension| extension == suffix);
        if ends("json") {
            return Ok(false);
        }
        if ends("new") {
            gone(&path)?;
        }
    }
    remove_directory(directory, problems)?;
    Ok(true)
}

/// Removes the directory of locks, which is empty unless somebody is at work: then false.
fn unlock(directory: &Path, problems: &mut Vec<String>) -> Outcome<bool> {
    if !directory.symlink_metadata().is_ok_and(|found| found.is_dir()) {
        return gone(directory).map(|()| true);
    }
    remove_directory(directory, problems)?;
    let left = children(directory)?;
    Ok(!left.iter().any(|name| name == LOAD || name.starts_with(POD)))
}

/// Unmounts the cgroup2 hierarchy of a host that had none.
fn unmount(directory: &Path, problems: &mut Vec<String>) -> Outcome<()> {
    if !directory.symlink_metadata().is_ok_and(|found| found.is_dir()) {
        return gone(directory);
    }
    if is_cgroup2(directory) {
        umount2(directory, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
            .tried(|| format!("unmount {}", directory.display()))?;
    }
    remove_directory(directory, problems)
}

fn forget_binary(binary: &Path, problems: &mut Vec<String>) -> Outcome<()> {
    match binary.symlink_metadata() {
        Err(_) => Ok(()),
        Ok(found) if found.is_file() => {
            fs::remove_file(binary).tried(|| format!("remove {}", binary.display()))
        }
        Ok(_) => {
            problems.push(format!("{} is not a file: it stays", binary.display()));
            Ok(())
        }
    }
}

/// Removes a file of ours, or what stands under its name.
fn gone(path: &Path) -> Outcome<()> {
    discard(path).tried(|| format!("remove {}", path.display()))
}

/// Removes a directory that is empty. One that is not, or cannot have been made by us, stays and is a problem.
fn remove_directory(directory: &Path, problems: &mut Vec<String>) -> Outcome<()> {
    if !could_be_ours(directory) {
        problems.push(format!("{} is no directory of ours: it stays", directory.display()));
        return Ok(());
    }
    match fs::remove_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            let left = children(directory)?.join(", ");
            problems.push(format!("{} stays: it holds {left}", directory.display()));
            Ok(())
        }
        // Somebody's mount, or a link.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::ENOTDIR)) => {
            problems.push(format!("{} stays: {error}", directory.display()));
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.tried(|| format!("remove {}", directory.display())),
    }
}

/// A directory at the top of the file system, or above where it says, is not.
fn could_be_ours(directory: &Path) -> bool {
    let names = directory.components().filter(|part| matches!(part, Component::Normal(_))).count();
    names >= 2 && !directory.components().any(|part| part == Component::ParentDir)
}

#[cfg(test)]
mod tests;
