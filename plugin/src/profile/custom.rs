//! `custom`: a proxy that is described by `redirect` and by our own annotations alone.

use super::Profile;
use crate::annotation::{INTERCEPT, bad};
use crate::cni::Annotations;
use crate::error::Error;
use crate::plan::DnsTcp;
use crate::policy::{Layer, Reason};

pub(crate) static PROFILE: Profile = Profile {
    defaults: Layer::default,
    marker: Some(INTERCEPT),
    gate,
    keys: &[],
    include_beats_exclude: false,
    tunnel_port: None,
    self_calls: true,
    own_addresses: false,
    dns_tcp: DnsTcp::Capture,
    #[cfg(test)]
    page: PAGE,
};

fn gate(annotations: &Annotations) -> Result<Option<Reason>, Error> {
    match annotations.get(INTERCEPT).map(String::as_str) {
        Some("true") => Ok(None),
        Some("false") => Ok(Some(Reason::OptedOut { key: INTERCEPT })),
        None => Ok(Some(Reason::NotMarked { key: INTERCEPT })),
        Some(other) => Err(bad(INTERCEPT, other, "must be \"true\" or \"false\"")),
    }
}

#[cfg(test)]
const PAGE: super::table::Page = super::table::Page {
    sources: "none: the entry's `redirect` and our own annotations are all there is",
    base: &[
        (INTERCEPT, "true"),
        ("shunt-cni.io/outbound-port", "1"),
        ("shunt-cni.io/inbound-port", "2"),
        ("shunt-cni.io/proxy-uids", "3"),
    ],
    selects: "`shunt-cni.io/intercept: \"true\"`",
    others: &[],
    other_fields: &[],
    differs: &[],
};
