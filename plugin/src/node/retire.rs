//! The mark that a purge leaves where pods run on: the DEL that removes the last attachment then removes the rest of us.

use std::path::{Path, PathBuf};
use std::time::Instant;

use slog::{Logger, info, warn};

use super::leave::{self, Leaving, Patience};
use crate::backend::Places;
use crate::bpf::programs::make_directory;
use crate::error::{Error, Failed as _, Kind};
use crate::record::{discard, read_whole, write_whole};
use crate::verb::names;

/// Files larger than this are not ours.
const LIMIT: u64 = 64 * 1024;

/// Where it is. Whoever installs anew removes it.
pub(super) fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("retired")
}

/// Leaves the mark, over an earlier one.
pub(super) fn mark(places: Places<'_>, leaving: &Leaving) -> Result<(), Error> {
    let what = || "writing down that the last DEL is to remove the rest";
    make_directory(places.state_dir).failed(Kind::Io, what)?;
    let text = serde_json::to_vec(leaving).failed(Kind::Internal, what)?;
    let path = path(places.state_dir);
    // A file can be put over anything else.
    if path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
        discard(&path).failed(Kind::Io, what)?;
    }
    write_whole(&path, &text).failed(Kind::Io, what)
}

/// What the mark says, if there is one. One that cannot be read names no binary.
fn marked(state_dir: &Path, log_file: &Path) -> Option<Leaving> {
    let path = path(state_dir);
    // All that a DEL pays for this where nobody has left a mark.
    path.symlink_metadata().ok()?;
    let text = read_whole(&path, LIMIT).ok().flatten();
    let written = text.and_then(|text| serde_json::from_str::<Leaving>(&text).ok());
    Some(written.unwrap_or_else(|| Leaving { binary: None, log: log_file.to_owned() }))
}

/// Removes the rest of us if that was asked for and no attachment is left. What could not be removed is a problem.
pub(super) fn after(
    places: Places<'_>,
    log_file: &Path,
    patience: Patience,
    problems: &mut Vec<String>,
) -> bool {
    let Some(leaving) = marked(places.state_dir, log_file) else { return false };
    let left = names(places)
        .and_then(|names| Ok(names.is_empty() && leave::all(places, &leaving, patience, problems)?));
    left.unwrap_or_else(|error| {
        problems.push(error.details());
        false
    })
}

/// The same after a DEL. It waits for no other run: one that is at work ends with a DEL of its own.
pub(crate) fn after_del(places: Places<'_>, log_file: &Path, deadline: Instant, log: &Logger) {
    let mut problems = Vec::new();
    let patience = Patience { load: deadline, run: Instant::now() };
    if after(places, log_file, patience, &mut problems) {
        info!(log, "removed the last of us from this node, as a purge has asked");
    }
    for problem in problems {
        warn!(log, "something stays after the last DEL"; "details" => problem);
    }
}
