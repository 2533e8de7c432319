//! `shunt report`: what is on this node, and what was counted. Changes nothing.

use shunt_api::report::{Attached, Report};

use crate::attachment::Attachment;
use crate::backend::{self, Places};
use crate::cni::Deadline;
use crate::error::Error;
use crate::note::Notes;
use crate::record::Records;
use crate::tally::{self, note};
use crate::verb::names;

pub(super) fn made(places: Places<'_>, deadline: Deadline) -> Result<Report, Error> {
    let mut report = Report { plugin: env!("CARGO_PKG_VERSION").to_owned(), ..Report::default() };
    for name in names(places)? {
        deadline.before("all attachments were looked at")?;
        report.attachments.push(attached(places, &name)?);
    }
    // Where they cannot be read, none is known.
    for left in Notes::new(places.state_dir).all().unwrap_or_default() {
        note(&mut report.uncaptured, left.what.word(), 1);
    }
    // What a pod had counted is in the tally before it is taken from the pod: at worst it is seen twice for a moment, never not.
    tally::file::read(places.state_dir).tell(&mut report);
    for (reason, count) in backend::ebpf::decisions(places)? {
        note(&mut report.decisions, reason.label(), count);
    }
    Ok(report)
}

fn attached(places: Places<'_>, name: &str) -> Result<Attached, Error> {
    // A record that cannot be read is as good as none.
    let record = Records::new(places.state_dir).read(name).unwrap_or_default();
    let at = record.as_ref().map(|record| (record.netns.as_path(), record.netns_identity));
    let alive = backend::alive(places, name, at);
    let backend = backend::held(places, name, record.as_ref().map(|record| &record.receipt))?;
    let attachment = Attachment::of_pin_name(name);
    let part = |of: fn(&Attachment) -> &str, other: &str| attachment.as_ref().map_or(other, of).to_owned();
    Ok(Attached {
        // A name that is no attachment's is shown as it is.
        container_id: part(Attachment::container_id, name),
        ifname: part(Attachment::ifname, ""),
        backend: backend.map_or("", shunt_api::Backend::as_str).to_owned(),
        network: record.as_ref().map(|record| record.network.clone()).unwrap_or_default(),
        pod: record.as_ref().map(|record| record.pod.clone()).unwrap_or_default(),
        netns: record.map(|record| record.netns).unwrap_or_default(),
        alive,
    })
}
