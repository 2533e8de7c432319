//! GC: removes attachments of this network that are not on the runtime's list. No list: nothing.

use std::collections::BTreeSet;

use slog::{info, warn};

use super::{Undone, lock_name, names, places, undo};
use crate::backend::Places;
use crate::cni::{GcRequest, Outcome};
use crate::error::{Error, Failed as _, Kind};
use crate::lock::Lock;
use crate::record::Records;
use crate::tally::End;

pub(super) fn run(request: &GcRequest) -> Result<Outcome, Error> {
    let Some(valid) = &request.valid else {
        return Ok(Outcome::new(End::Ok, "no list of valid attachments: nothing removed"));
    };
    let places = places(&request.conf.settings);
    let keep: BTreeSet<String> = valid.iter().map(crate::attachment::Attachment::pin_name).collect();
    let names = names(places)?;
    let mut removed = 0;
    let mut first = Ok(());
    for name in names.difference(&keep) {
        match collect(request, places, name) {
            Ok(true) => removed += 1,
            Ok(false) => {}
            Err(error) => {
                warn!(request.log, "could not remove an attachment"; "attachment" => name, "details" => error.details());
                first = first.and(Err(error));
            }
        }
    }
    first.map(|()| Outcome::new(End::Ok, format!("removed {removed} attachments that are not on the list")))
}

/// Removes one attachment unless it belongs to another network, or was made while this ran: the list knows neither.
fn collect(request: &GcRequest, places: Places<'_>, name: &str) -> Result<bool, Error> {
    let locks = Lock::new(places.state_dir, request.deadline.at());
    let held = locks
        .take(&lock_name(name))
        .failed(Kind::TryAgain, || "waiting for another run of this container")?;
    let record = Records::new(places.state_dir).read(name).unwrap_or_default();
    if record.as_ref().is_some_and(|record| record.network != request.conf.name) {
        return Ok(false);
    }
    info!(request.log, "removing an attachment that is not on the list"; "attachment" => name);
    // Most such namespaces are gone. One that somebody holds is to be as it was.
    let Undone { removed, reverted } = undo(places, &locks, name, record.as_ref(), None);
    removed?;
    if let Err(error) = reverted {
        warn!(request.log, "the namespace keeps settings of ours"; "attachment" => name, "details" => error.details());
    }
    held.discard();
    Ok(true)
}
