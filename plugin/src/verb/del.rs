//! DEL: removes what there is of an attachment, and always succeeds.
//!
//! A DEL that fails is worse than one that does nothing: the plugins before us never run, and the pod's address is not
//! released. What cannot be removed now is logged and stays where GC and the next DEL find it.

use slog::warn;

use super::{Undone, known, lock_name, undo};
use crate::backend::{self, Places};
use crate::cni::{DelRequest, Outcome};
use crate::error::{Error, Failed as _, Kind};
use crate::lock::Lock;
use crate::node::retire;
use crate::record::Records;
use crate::tally::End;

pub(super) fn run(request: &DelRequest) -> Outcome {
    let places = Places { state_dir: &request.conf.state_dir, bpf_dir: &request.conf.bpf_dir };
    let outcome = match removed(request, places) {
        Ok(Some(outcome)) => outcome,
        Ok(None) => Outcome::new(End::Nothing, "nothing to remove"),
        Err(error) => {
            warn!(request.log, "could not remove everything"; "kind" => error.kind().as_str(), "details" => error.details());
            Outcome::new(End::Partial, "removed in part").by(error.backend())
        }
    };
    retire::after_del(places, &request.conf.log.file, request.deadline.at(), &request.log);
    outcome
}

/// `None` if there was nothing.
fn removed(request: &DelRequest, places: Places<'_>) -> Result<Option<Outcome>, Error> {
    let name = request.attachment.pin_name();
    let locks = Lock::new(places.state_dir, request.deadline.at());
    // A lock's file alone is an ADD that runs, or one that was killed before it did anything.
    if !locks.exists(&lock_name(&name)) && !known(places, &name)? {
        return Ok(None);
    }
    let records = Records::new(places.state_dir);
    let held =
        locks.take(&lock_name(&name)).failed(Kind::TryAgain, || "waiting for another run of this container");
    // Better removed beside a run that hangs than not removed.
    if let Err(error) = &held {
        warn!(request.log, "removing without the attachment's lock"; "details" => error.details());
    }
    let record = records.read(&name).unwrap_or_default();
    let had = backend::held(places, &name, record.as_ref().map(|record| &record.receipt)).unwrap_or_default();
    // A runtime that has lost the path says none; the namespace may be there all the same.
    let Undone { removed, reverted } = undo(places, &locks, &name, record.as_ref(), request.netns.as_deref());
    if let Err(error) = reverted {
        warn!(request.log, "the namespace keeps settings of ours"; "details" => error.details());
    }
    if let (Ok(()), Ok(held)) = (&removed, held) {
        held.discard();
    }
    match removed {
        Ok(()) => Ok(Some(Outcome::new(End::Removed, "removed").by(had))),
        Err(error) => Err(had.into_iter().fold(error, Error::under)),
    }
}
