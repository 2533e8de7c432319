//! `custom`: a proxy that is described by `redirect` and by our own annotations alone.

use super::{Excluded, Profile};
use crate::annotation::{INTERCEPT, bad};
use crate::cni::Annotations;
use crate::error::Error;
use crate::plan::DnsTcp;
use crate::policy::{Layer, Reason};

pub(crate) static PROFILE: Profile = Profile {
    defaults: Layer::default,
    marker: Some(INTERCEPT),
    gate,
    layer: |_| Ok(Layer::default()),
    excluded_inbound: |excluded: Excluded| excluded.exclude,
    tunnel_port: None,
    self_calls: true,
    own_addresses: false,
    dns_tcp: DnsTcp::Capture,
};

fn gate(annotations: &Annotations) -> Result<Option<Reason>, Error> {
    match annotations.get(INTERCEPT).map(String::as_str) {
        Some("true") => Ok(None),
        Some("false") => Ok(Some(Reason::OptedOut { key: INTERCEPT })),
        None => Ok(Some(Reason::NotMarked { key: INTERCEPT })),
        Some(other) => Err(bad(INTERCEPT, other, "must be \"true\" or \"false\"")),
    }
}
