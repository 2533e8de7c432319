//! STATUS: can this node intercept? Finding out makes it ready.

use super::places;
use crate::backend;
use crate::cni::{Outcome, StatusRequest};
use crate::error::Error;
use crate::lock::Lock;

pub(super) fn run(request: &StatusRequest) -> Result<Outcome, Error> {
    let places = places(&request.conf.settings);
    let deadline = request.deadline.at();
    let backend = request.conf.settings.backend;
    backend::prepare(places, &Lock::new(places.state_dir, deadline), backend, deadline)?;
    Ok(Outcome::new(format!("ready: {}", backend::chosen(backend).as_str())))
}
