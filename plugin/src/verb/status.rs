//! STATUS: can this node intercept? Finding out makes it ready.

use super::places;
use crate::backend;
use crate::choice::{self, Ask};
use crate::cni::{Outcome, StatusRequest};
use crate::error::Error;
use crate::lock::Lock;
use crate::tally::End;

pub(super) fn run(request: &StatusRequest) -> Result<Outcome, Error> {
    let places = places(&request.conf.settings);
    let deadline = request.deadline.at();
    let wanted = request.conf.settings.backend;
    let choice = choice::for_node(&Ask { places, deadline, log: &request.log }, wanted)?;
    backend::prepare(places, &Lock::new(places.state_dir, deadline), choice.backend(), deadline)
        .map_err(|error| choice.failed(places, wanted, error).under(choice.backend()))?;
    Ok(Outcome::new(End::Ok, format!("ready: {}", choice.words())).by(Some(choice.backend())))
}
