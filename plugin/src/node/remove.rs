//! `shunt sweep` and `shunt purge`: attachments that go without a DEL.
//!
//! containerd forgets a sandbox whose namespace is gone and calls neither DEL nor GC for it: what it left is found here.

use std::path::Path;
use std::time::Duration;

use shunt_api::report::Swept;
use slog::{Logger, info, warn};

use super::leave::{self, Leaving, Patience};
use super::retire;
use crate::backend::{self, Places};
use crate::cni::Deadline;
use crate::error::{Error, Failed as _, Kind};
use crate::lock::Lock;
use crate::record::{Record, Records};
use crate::verb::{Undone, known, lock_name, names, undo};

/// How long another run of one container is waited for: as long as it may take.
const QUEUE: Duration = Duration::from_secs(6);

/// How often a purge looks again whether somebody came while it looked.
const ROUNDS: usize = 3;

/// What a sweep or a purge needs.
#[derive(Debug)]
pub(super) struct Run<'a> {
    pub(super) places: Places<'a>,
    pub(super) log_file: &'a Path,
    pub(super) deadline: Deadline,
    pub(super) log: &'a Logger,
}

impl Run<'_> {
    /// Removes what namespaces that are gone have left.
    pub(super) fn sweep(&self) -> Result<Swept, Error> {
        let mut swept = Swept::default();
        self.clear(false, &mut swept)?;
        retire::after(self.places, self.log_file, self.patience(), &mut swept.problems);
        self.closed(swept)
    }

    /// The same, or all attachments, and then all there is of us. While attachments are left, the last DEL is told to do that.
    pub(super) fn purge(&self, detach: bool, binary: Option<&Path>) -> Result<Swept, Error> {
        let mut swept = Swept::default();
        let leaving = Leaving { binary: binary.map(Path::to_owned), log: self.log_file.to_owned() };
        let mut marked = false;
        for _round in 0..ROUNDS {
            // Of the last round only.
            swept.problems.clear();
            self.clear(detach, &mut swept)?;
            if names(self.places)?.is_empty() {
                if leave::all(self.places, &leaving, self.patience(), &mut swept.problems)? {
                    return Ok(swept);
                }
            } else if marked {
                break;
            }
            // A last DEL that ended before it could see the mark has left nothing: that is seen in the next round.
            retire::mark(self.places, &leaving)?;
            marked = true;
        }
        self.closed(swept)
    }

    fn patience(&self) -> Patience {
        Patience { load: self.deadline.at(), run: self.deadline.within(QUEUE).at() }
    }

    fn closed(&self, mut swept: Swept) -> Result<Swept, Error> {
        swept.left = u64::try_from(names(self.places)?.len()).unwrap_or(u64::MAX);
        for problem in &swept.problems {
            warn!(self.log, "something stays"; "details" => problem);
        }
        Ok(swept)
    }

    /// Removes attachments, one after the other: those whose namespace is gone, or all.
    fn clear(&self, all: bool, swept: &mut Swept) -> Result<(), Error> {
        for name in names(self.places)? {
            if let Err(error) = self.deadline.before("all attachments were looked at") {
                swept.problems.push(error.details());
                break;
            }
            if !all && self.lives(&name) {
                continue;
            }
            match self.clear_one(&name, all, &mut swept.problems) {
                Ok(removed) => swept.removed += u64::from(removed),
                Err(error) => swept.problems.push(format!("{name}: {}", error.details())),
            }
        }
        Ok(())
    }

    /// A record that cannot be read is as good as none.
    fn record(&self, name: &str) -> Option<Record> {
        Records::new(self.places.state_dir).read(name).unwrap_or_default()
    }

    fn lives(&self, name: &str) -> bool {
        let record = self.record(name);
        let at = record.as_ref().map(|record| (record.netns.as_path(), record.netns_identity));
        backend::alive(self.places, name, at)
    }

    /// As DEL does it. True if it was removed: not if it is alive, or gone, now that nobody else is at it.
    fn clear_one(&self, name: &str, all: bool, problems: &mut Vec<String>) -> Result<bool, Error> {
        let locks = Lock::new(self.places.state_dir, self.deadline.within(QUEUE).at());
        let held = locks
            .take(&lock_name(name))
            .failed(Kind::TryAgain, || "waiting for another run of this container")?;
        if !known(self.places, name)? {
            held.discard();
            return Ok(false);
        }
        if !all && self.lives(name) {
            return Ok(false);
        }
        let record = self.record(name);
        let Undone { removed, reverted } = undo(self.places, &locks, name, record.as_ref(), None);
        removed?;
        if let Err(error) = reverted {
            problems.push(format!("{name}: the namespace keeps settings of ours: {}", error.details()));
        }
        held.discard();
        info!(self.log, "removed an attachment"; "attachment" => name, "alive" => all);
        Ok(true)
    }
}
