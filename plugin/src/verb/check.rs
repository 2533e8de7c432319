//! CHECK: is the kernel as ADD left it? Cheap, because CRI-O asks right after every ADD.

use super::{places, pod_netns, tell_of_earlier};
use crate::backend;
use crate::cni::{CheckRequest, Outcome};
use crate::error::{Error, Failed as _, Kind};
use crate::policy::{Decision, decide};
use crate::record::{Record, Records};
use crate::tally::End;

pub(super) fn run(request: &CheckRequest) -> Result<Outcome, Error> {
    let places = places(&request.conf.settings);
    let name = request.attachment.pin_name();
    let record = Records::new(places.state_dir)
        .read(&name)
        .failed(Kind::Record, || "reading the attachment's record")?;
    let decision = decide(&request.pod, &request.conf.annotations, &request.conf.settings)?;
    let Some(record) = record else {
        return match decision {
            Decision::Skip(reason) => Ok(Outcome::new(End::Ok, format!("not intercepted: {reason}"))),
            Decision::Intercept(_)
                if request.conf.settings.failure_policy == shunt_api::FailurePolicy::Open =>
            {
                Ok(Outcome::new(End::Ok, "not intercepted: failurePolicy is open"))
            }
            Decision::Intercept(_) => {
                Err(Error::new(Kind::Verify, "the pod is to be intercepted and has no record of it"))
            }
        };
    };
    let backend = record.receipt.backend();
    verified(request, &record).map_err(|error| error.under(backend))?;
    tell_of_earlier(places, &record.receipt, &request.log);
    Ok(Outcome::new(End::Ok, "as ADD left it").by(Some(backend)))
}

fn verified(request: &CheckRequest, record: &Record) -> Result<(), Error> {
    let netns = pod_netns(&request.netns)?;
    if netns.identity() != record.netns_identity {
        let text = format!("CNI_NETNS {} is another namespace than at ADD", request.netns.display());
        return Err(Error::new(Kind::Verify, text));
    }
    backend::verify(places(&request.conf.settings), &request.attachment, &netns, &record.receipt)
}
