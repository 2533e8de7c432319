//! What this node has of its attachments: the record, the namespace, what the kernel counts and who listens.

use std::collections::BTreeMap;
use std::fs;
use std::time::UNIX_EPOCH;

use serde::Serialize;
use shunt_abi::{Address, ListenerKey, PodKey, Reason, VERSION, slot};
use shunt_api::Backend;

use super::sockets::{Socket, listening};
use crate::attachment::Attachment;
use crate::backend::{self, Places, Receipt};
use crate::bpf::ask;
use crate::bpf::pins::Layout;
use crate::bpf::pod::{configuration, counts};
use crate::error::chain;
use crate::fault::Outcome;
use crate::netns::Netns;
use crate::plan::Plan;
use crate::record::{Record, Records};
use crate::verb::names;

/// One attachment.
#[derive(Debug)]
pub(super) struct Attached {
    /// As records and pins are called.
    pub(super) name: String,
    /// None: the name is no attachment's.
    pub(super) attachment: Option<Attachment>,
    /// None: it is lost, or cannot be read.
    pub(super) record: Option<Record>,
    /// When the record was written, in seconds since 1970.
    pub(super) since: Option<u64>,
    /// The namespace, if it is where it was at ADD.
    pub(super) netns: Option<Netns>,
    /// False: the namespace is gone.
    pub(super) alive: bool,
    pub(super) backend: Option<Backend>,
}

/// All there is anything of.
pub(super) fn all(places: Places<'_>) -> Result<Vec<Attached>, String> {
    let names = names(places).map_err(|error| error.details())?;
    Ok(names.into_iter().map(|name| Attached::read(places, name)).collect())
}

impl Attached {
    pub(super) fn read(places: Places<'_>, name: String) -> Self {
        let records = Records::new(places.state_dir);
        let record = records.read(&name).unwrap_or_default();
        let written = fs::metadata(records.path(&name)).and_then(|file| file.modified()).ok();
        let since = written.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).map(|since| since.as_secs());
        let of = |record: &Record| {
            Netns::open(&record.netns).ok().filter(|netns| netns.identity() == record.netns_identity)
        };
        let netns = record.as_ref().and_then(of);
        let at = record.as_ref().map(|record| (record.netns.as_path(), record.netns_identity));
        let alive = netns.is_some() || backend::alive(places, &name, at);
        let receipt = record.as_ref().map(|record| &record.receipt);
        let backend = backend::held(places, &name, receipt).unwrap_or_default();
        Self { attachment: Attachment::of_pin_name(&name), name, record, since, netns, alive, backend }
    }

    /// What is not as ADD left it, in words: what CHECK would say first, or all.
    pub(super) fn drift(&self, places: Places<'_>, all: bool) -> Vec<String> {
        let Some(record) = &self.record else {
            return vec![
                "its record is lost, or of another version: the pod's next ADD writes one".to_owned(),
            ];
        };
        let Some(netns) = &self.netns else {
            let path = record.netns.display();
            return if self.alive {
                vec![format!("its network namespace is not at {path} as seen from here")]
            } else {
                Vec::new()
            };
        };
        if all {
            return backend::differences(places, &record.attachment, netns, &record.receipt, &record.plan);
        }
        let verified = backend::verify(places, &record.attachment, netns, &record.receipt);
        verified.err().into_iter().map(|error| error.details()).collect()
    }
}

/// What the programs decided about connections, by what came of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Counted {
    /// Went to the proxy.
    pub(super) captured: u64,
    /// Went where they were addressed.
    pub(super) passed: u64,
    /// Failed.
    pub(super) refused: u64,
}

impl Counted {
    fn of(counts: &[(Reason, u64)]) -> Self {
        let mut counted = Self::default();
        for (reason, count) in counts {
            let place = match reason {
                Reason::Outbound
                | Reason::OutboundPort
                | Reason::Inbound
                | Reason::SelfCall
                | Reason::Dns => &mut counted.captured,
                Reason::NoListener
                | Reason::NoState
                | Reason::NoFamily
                | Reason::SelfConnect
                | Reason::UdpBlocked => &mut counted.refused,
                // The second half of what was captured, and no connection.
                Reason::Accepted | Reason::AlreadyCaptured | Reason::ListenerAdded => continue,
                _ => &mut counted.passed,
            };
            *place = place.saturating_add(*count);
        }
        counted
    }
}

/// What the kernel has of a pod under eBPF, if it is laid out as this version knows it.
#[derive(Debug, Clone)]
pub(super) struct Kernel {
    pub(super) counted: Counted,
    pub(super) v4: bool,
    pub(super) v6: bool,
    /// Listeners that the programs know as the proxy's.
    pub(super) listeners: Vec<ListenerKey>,
}

/// What is asked of each object once and not for each pod.
#[derive(Debug, Default)]
pub(super) struct Objects(BTreeMap<String, BTreeMap<PodKey, Vec<ListenerKey>>>);

impl Objects {
    /// None: it is not under eBPF, or the kernel has nothing.
    pub(super) fn kernel(&mut self, places: Places<'_>, receipt: &Receipt) -> Outcome<Option<Kernel>> {
        let Receipt::Ebpf { abi: VERSION, object, cookie, .. } = receipt else { return Ok(None) };
        let layout = Layout::new(places.bpf_dir, object);
        let Some(config) = configuration(&layout, *cookie)? else { return Ok(None) };
        if !self.0.contains_key(object) {
            self.0.insert(object.clone(), ask::every_listener(&layout)?);
        }
        let listeners = self.0.get(object).and_then(|pods| pods.get(cookie)).cloned().unwrap_or_default();
        Ok(Some(Kernel {
            counted: Counted::of(&counts(&layout, *cookie)?),
            v4: config.own4 != Address::UNSPECIFIED,
            v6: config.own6 != Address::UNSPECIFIED,
            listeners,
        }))
    }
}

/// One side of a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Side {
    pub(super) role: &'static str,
    pub(super) slot: u32,
    pub(super) port: u16,
}

/// The sides that a plan has.
pub(super) fn sides(plan: &Plan) -> Vec<Side> {
    let side = |role, slot, port| Side { role, slot, port };
    let dns = plan.dns.as_ref().map(|dns| side("dns", slot::DNS, dns.port));
    let both = [
        side("outbound", slot::OUTBOUND, plan.outbound_port),
        side("inbound", slot::INBOUND, plan.inbound_port),
    ];
    both.into_iter().chain(dns).collect()
}

/// Whether the proxy listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Listening {
    /// On all its ports.
    Yes,
    /// On some.
    Partly,
    /// On none.
    No,
    /// It could not be found out.
    Unknown,
}

impl Listening {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Yes => "listens",
            Self::Partly => "partly",
            Self::No => "silent",
            Self::Unknown => "unknown",
        }
    }
}

/// Of the connections' two sides: as the programs know it where there are some, else as the namespace's sockets say.
pub(super) fn proxy(attached: &Attached, kernel: Option<&Kernel>) -> Listening {
    let (Some(record), Some(netns)) = (&attached.record, &attached.netns) else { return Listening::Unknown };
    let open: Vec<Socket>;
    let is_open: &dyn Fn(Side) -> bool = match (&record.receipt, kernel) {
        (Receipt::Ebpf { .. }, None) => return Listening::Unknown,
        (_, Some(kernel)) => {
            &|side| kernel.listeners.iter().any(|known| known.is_proxys() && known.slot == side.slot)
        }
        (Receipt::Iptables { .. }, None) => match listening(netns) {
            Ok(found) => {
                open = found;
                &|side| open.iter().any(|socket| !socket.udp && socket.port == side.port)
            }
            Err(_) => return Listening::Unknown,
        },
    };
    let sides = sides(&record.plan);
    let tcp = sides.iter().filter(|side| side.slot != slot::DNS);
    let (open, silent): (Vec<bool>, Vec<bool>) = tcp.map(|side| is_open(*side)).partition(|open| *open);
    match (open.is_empty(), silent.is_empty()) {
        (_, true) => Listening::Yes,
        (true, false) => Listening::No,
        (false, false) => Listening::Partly,
    }
}

/// A fault in words.
pub(super) fn words(fault: &crate::fault::Fault) -> String {
    chain(fault)
}

#[cfg(test)]
mod tests {
    use shunt_abi::Reason;

    use super::Counted;

    #[test]
    fn every_decision_is_counted_once() {
        let counts: Vec<(Reason, u64)> = Reason::ALL.iter().map(|reason| (*reason, 1)).collect();
        let Counted { captured, passed, refused } = Counted::of(&counts);
        assert_eq!((captured, refused), (5, 5));
        // All but those that are the second half of another, or no connection.
        assert_eq!(captured + passed + refused + 3, Reason::ALL.len() as u64);
    }
}
