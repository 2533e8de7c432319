//! STATUS: can this node intercept? Finding out makes it ready.

use super::places;
use crate::backend;
use crate::choice::{self, Ask, Choice, doubt};
use crate::cni::{Outcome, StatusRequest};
use crate::error::{Error, Kind};
use crate::lock::Lock;

pub(super) fn run(request: &StatusRequest) -> Result<Outcome, Error> {
    let places = places(&request.conf.settings);
    let wanted = request.conf.settings.backend;
    let locks = Lock::new(places.state_dir, request.deadline.at());
    let ask = Ask { places, deadline: request.deadline.at(), log: &request.log };
    let choice = choice::for_node(&ask, wanted)?;
    match &choice {
        Choice::Ebpf => {
            backend::prepare(places, &locks).inspect_err(|error| doubt(places, wanted, error))?;
        }
        Choice::Iptables { .. } => {
            let missing = Error::new(Kind::NotAvailable, "the backend is not available in this version");
            return Err(choice.explain(missing));
        }
    }
    Ok(Outcome::new(format!("ready: {}", choice.words())))
}
