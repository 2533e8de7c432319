//! The eBPF backend: one pod's capture from the first look at its namespace to the verified links.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use shunt_abi::{Reason, Rule, RuleKey, VERSION};

use super::{Job, Places, Presence, Receipt};
use crate::attachment::Attachment;
use crate::bpf::ask;
use crate::bpf::pins::Layout;
use crate::bpf::pod::{PodPins, configuration, counts, is_nobodys};
use crate::bpf::programs::{collect, cover, ensure};
use crate::bpf::rules::{Encoded, Ids, encoded};
use crate::cgroup::{Cgroups, PodCgroup};
use crate::error::{Error, Failed as _, Kind};
use crate::fault::{Fault, Outcome};
use crate::link::{self, Interfaces, Loopback, Wishes, has_markers, prepared};
use crate::lock::Lock;
use crate::netns::{Netns, cookie_of_thread};
use crate::plan::Plan;
use crate::ports;
use crate::record::Record;
use crate::tally;
use crate::userns;

/// What is read of a namespace, and what is changed in it.
struct Seen {
    cookie: u64,
    interfaces: Interfaces,
    changes: Changes,
}

/// What ADD changed inside the namespace: the namespace may outlive the attachment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    reserved_ports: Option<String>,
    loopback: Loopback,
}

impl Changes {
    /// What a receipt says of it.
    pub fn of(receipt: &Receipt) -> Self {
        match receipt {
            Receipt::Ebpf { reserved_ports, passthrough, dns_route, .. } => {
                let loopback = Loopback { passthrough: *passthrough, dns_route: *dns_route };
                Self { reserved_ports: reserved_ports.clone(), loopback }
            }
            Receipt::Iptables { passthrough, .. } => {
                let loopback = Loopback { passthrough: *passthrough, dns_route: false };
                Self { reserved_ports: None, loopback }
            }
        }
    }

    /// Whether ADD gave the loopback interface the pass-through address.
    pub const fn passthrough(&self) -> bool {
        self.loopback.passthrough
    }

    /// What only this backend needs.
    #[must_use]
    pub fn without_passthrough(self) -> Self {
        Self { loopback: Loopback { passthrough: false, ..self.loopback }, ..self }
    }

    /// Takes it back.
    pub fn revert(&self, netns: &Netns) -> Outcome<()> {
        if *self == Self::default() {
            return Ok(());
        }
        netns.run(|| {
            let ports = self.reserved_ports.as_deref().map_or(Ok(()), ports::restore);
            ports.and(self.loopback.revert())
        })
    }
}

/// Prepare, write maps, attach, verify. See [`super::install`].
pub fn install(places: Places<'_>, job: &Job<'_>) -> Result<Receipt, Error> {
    let cgroups =
        Cgroups::find(places.state_dir).failed(Kind::Capability, || "finding the cgroup2 hierarchy")?;
    let cgroup = cgroups
        .resolve(job.cgroup_path, job.pod_uid)
        .failed(Kind::Config, || "finding the pod's cgroup (runtimeConfig.cgroupPath)")?;
    let ids = userns::outside(job.netns, job.plan).failed(Kind::Netns, || "translating the proxy's ids")?;
    let wishes =
        Wishes { all_routes: !job.plan.exclude_interfaces.is_empty(), dns_markers: job.plan.dns.is_some() };
    let seen =
        job.netns.run(|| look(wishes)).failed(Kind::Netns, || "looking at the pod's network namespace")?;
    let installed = place(places, job, &seen, &ids, &cgroups, cgroup);
    // A pod that was captured before stays captured: its processes run.
    match (installed, job.before) {
        (Err(error), None) => {
            match seen
                .changes
                .revert(job.netns)
                .failed(Kind::Netns, || "undoing the ADD in the pod's namespace")
            {
                Ok(()) => Err(error),
                Err(undo) => Err(error.with_undo(undo)),
            }
        }
        (installed, _) => installed,
    }
}

/// Everything outside the namespace.
fn place(
    places: Places<'_>,
    job: &Job<'_>,
    seen: &Seen,
    ids: &Ids,
    cgroups: &Cgroups,
    cgroup: PodCgroup,
) -> Result<Receipt, Error> {
    if !has_address(&seen.interfaces) {
        return Err(no_address());
    }
    let name = job.attachment.pin_name();
    let locks = Lock::new(places.state_dir, job.deadline);
    let layout = programs(places, job, &locks, cgroups, &cgroup)?;
    let pins = PodPins { layout: &layout, name: &name, cookie: seen.cookie };
    let first = !layout.pod(&name, seen.cookie).is_dir();
    if first && was_captured(places, job, &layout, seen.cookie)? {
        // What the programs knew of its proxy is lost: no connection may pass for a proxy that seems never to have listened.
        pins.proxy_was_seen().failed(Kind::Attach, || "taking over a pod that was captured before")?;
    }
    let installed = capture(&pins, job, seen, ids, cgroups, &cgroup)
        .and_then(|generation| remove_others(places, &layout, &name, seen.cookie).map(|()| generation));
    match installed {
        Ok(generation) => {
            let before = job.before.map(Changes::of).unwrap_or_default();
            Ok(Receipt::Ebpf {
                abi: VERSION,
                object: layout.hash().to_owned(),
                cookie: seen.cookie,
                generation,
                pod_cgroup: cgroup.pod,
                all_pods: cgroup.all_pods,
                reserved_ports: seen.changes.reserved_ports.clone().or(before.reserved_ports),
                passthrough: seen.changes.loopback.passthrough || before.loopback.passthrough,
                dns_route: seen.changes.loopback.dns_route || before.loopback.dns_route,
            })
        }
        // A pod that was captured before stays captured: its processes run.
        Err(error) if !first => Err(error),
        Err(error) => Err(match undo(places, &pins, job.netns) {
            Ok(()) => error,
            Err(undo) => error.with_undo(undo),
        }),
    }
}

/// The program of another that keeps ours from the cgroups of a pod.
pub fn obstacle(
    places: Places<'_>,
    cgroup_path: Option<&str>,
    pod_uid: Option<&str>,
) -> Outcome<Option<Fault>> {
    let cgroups = Cgroups::find(places.state_dir)?;
    let cgroup = cgroups.resolve(cgroup_path, pod_uid)?;
    let layout = Layout::new(places.bpf_dir, crate::bpf::object::HASH);
    crate::bpf::others::obstacle(&layout, &cgroups, cgroup.pod.as_deref(), &cgroup.all_pods)
}

/// Programs of others that run before ours for a pod that was captured and may change where its connections go, in words.
pub fn earlier_programs(places: Places<'_>, receipt: &Receipt) -> Outcome<Vec<String>> {
    let Receipt::Ebpf { object, pod_cgroup, all_pods, .. } = receipt else { return Ok(Vec::new()) };
    let cgroups = Cgroups::find(places.state_dir)?;
    let layout = Layout::new(places.bpf_dir, object);
    crate::bpf::others::earlier(places.bpf_dir, &layout, &cgroups, pod_cgroup.as_deref(), all_pods)
}

/// True if an earlier ADD captured this attachment in this namespace, and not with `layout`.
fn was_captured(places: Places<'_>, job: &Job<'_>, layout: &Layout, cookie: u64) -> Result<bool, Error> {
    match job.before {
        Some(Receipt::Ebpf { cookie: before, .. }) if *before == cookie => return Ok(true),
        // By rules, under which nothing went out before its proxy listened.
        Some(Receipt::Iptables { .. }) => return Ok(true),
        _ => {}
    }
    let name = job.attachment.pin_name();
    let elsewhere = || -> Outcome<bool> {
        for other in Layout::all(places.bpf_dir)? {
            if &other != layout && other.cookies(&name)?.contains(&cookie) {
                return Ok(true);
            }
        }
        Ok(false)
    };
    elsewhere().failed(Kind::Attach, || "looking for what an earlier ADD of this attachment left")
}

/// Runs inside the namespace.
fn look(wishes: Wishes) -> Outcome<Seen> {
    let cookie = cookie_of_thread()?;
    let (interfaces, loopback) = prepared(wishes)?;
    // Last: what came before is undone by the caller only if this works too.
    let reserved_ports = ports::reserve().inspect_err(|_| {
        let _first_error_counts = loopback.revert();
    })?;
    Ok(Seen { cookie, interfaces, changes: Changes { reserved_ports, loopback } })
}

/// What a pod without an address gets.
pub(super) fn no_address() -> Error {
    Error::new(
        Kind::Attach,
        "no interface of the pod has an address: chain shunt after the plugin that assigns one",
    )
}

/// True if the plugin before us has given the pod an address.
pub(super) fn has_address(interfaces: &Interfaces) -> bool {
    interfaces.addresses.iter().any(|address| address.interface != "lo" && !address.ip.is_loopback())
}

/// The pins to use: those that already serve this attachment, if this plugin knows their layout, so that listeners it knows stay
/// known over an upgrade; else those of this plugin's own object.
fn programs(
    places: Places<'_>,
    job: &Job<'_>,
    locks: &Lock<'_>,
    cgroups: &Cgroups,
    cgroup: &PodCgroup,
) -> Result<Layout, Error> {
    if let Some(Receipt::Ebpf { abi: VERSION, object, .. }) = job.before {
        let layout = Layout::new(places.bpf_dir, object);
        if layout.attachment(&job.attachment.pin_name()).is_dir() {
            cover(&layout, locks, cgroups, &cgroup.all_pods)
                .failed(Kind::Attach, || "checking where the shared programs are attached")?;
            return Ok(layout);
        }
    }
    ensure(places.bpf_dir, locks, cgroups, Some(&cgroup.all_pods))
        .failed(Kind::Load, || "loading the shared programs")
}

/// Writes, attaches and verifies; returns the generation written.
fn capture(
    pins: &PodPins<'_>,
    job: &Job<'_>,
    seen: &Seen,
    ids: &Ids,
    cgroups: &Cgroups,
    cgroup: &PodCgroup,
) -> Result<u32, Error> {
    pins.prepare().failed(Kind::Attach, || "making a place for the pod's pins")?;
    let before =
        configuration(pins.layout, pins.cookie).failed(Kind::Attach, || "reading the map of pods")?;
    let generation = before.map_or(1, |config| config.generation.wrapping_add(1));
    let wanted = encoded(job.plan, &seen.interfaces, job.attachment.ifname(), ids, generation);
    pins.write(&wanted).failed(Kind::Attach, || "writing the pod's map entries")?;
    pins.attach(job.netns, cgroups, cgroup.pod.as_deref(), &cgroup.all_pods)
        .failed(Kind::Attach, || "attaching the pod's own programs")?;
    read_back(pins, job.netns, &wanted)?;
    Ok(generation)
}

fn read_back(pins: &PodPins<'_>, netns: &Netns, wanted: &Encoded) -> Result<(), Error> {
    let config = configuration(pins.layout, pins.cookie)
        .failed(Kind::Verify, || "reading the pod's configuration back")?;
    if config != Some(wanted.config) {
        return Err(Error::new(Kind::Verify, "the kernel's configuration of the pod is not the one written"));
    }
    if !pins.lookup_attached(netns).failed(Kind::Verify, || "reading the pod's link back")? {
        return Err(Error::new(Kind::Verify, "the pod's sk_lookup link is not on its network namespace"));
    }
    Ok(())
}

/// Takes back what a first ADD that failed has made outside the namespace.
fn undo(places: Places<'_>, pins: &PodPins<'_>, netns: &Netns) -> Result<(), Error> {
    pins.remove(Some(netns), &|counts| tally::file::keep(places.state_dir, counts))
        .and_then(|()| crate::bpf::pins::remove_tree(&pins.layout.attachment(pins.name)))
        .failed(Kind::Attach, || "undoing the ADD")
}

/// Pins of the same attachment in another namespace or of another object, left by an ADD that was killed.
fn remove_others(places: Places<'_>, layout: &Layout, name: &str, cookie: u64) -> Result<(), Error> {
    let others = || -> Outcome<()> {
        for other in Layout::all(places.bpf_dir)? {
            for found in other.cookies(name)? {
                if &other != layout || found != cookie {
                    PodPins { layout: &other, name, cookie: found }
                        .remove(None, &|counts| tally::file::keep(places.state_dir, counts))?;
                }
            }
            if &other != layout {
                crate::bpf::pins::remove_tree(&other.attachment(name))?;
            }
        }
        Ok(())
    };
    others().failed(Kind::Attach, || "removing what an earlier ADD of this attachment left")
}

/// See [`super::verify`].
pub fn verify(
    places: Places<'_>,
    attachment: &Attachment,
    netns: &Netns,
    receipt: &Receipt,
) -> Result<(), Error> {
    compared(places, attachment, netns, receipt, false).into_iter().next().map_or(Ok(()), Err)
}

/// What is not as ADD left it: the first thing, or all.
fn compared(
    places: Places<'_>,
    attachment: &Attachment,
    netns: &Netns,
    receipt: &Receipt,
    all: bool,
) -> Vec<Error> {
    let Receipt::Ebpf { abi, object, cookie, generation, pod_cgroup, all_pods, .. } = receipt else {
        return Vec::new();
    };
    let wrong = |what: &str| Err(Error::new(Kind::Verify, what.to_owned()));
    if *abi != VERSION {
        let what = "the attachment was made by a plugin with another kernel interface";
        return vec![Error::new(Kind::Verify, what)];
    }
    let layout = Layout::new(places.bpf_dir, object);
    let name = attachment.pin_name();
    let pins = PodPins { layout: &layout, name: &name, cookie: *cookie };
    let shared = || {
        let cgroups =
            Cgroups::find(places.state_dir).failed(Kind::Verify, || "finding the cgroup2 hierarchy")?;
        let missing = crate::bpf::programs::missing(&layout, &cgroups, all_pods)
            .failed(Kind::Verify, || "asking where the shared programs are attached")?;
        match missing.first() {
            Some(program) => {
                wrong(&format!("program {program} does not run for the pods under {}", all_pods.display()))
            }
            None => Ok(()),
        }
    };
    let configured = || {
        let found =
            configuration(&layout, *cookie).failed(Kind::Verify, || "reading the pod's configuration")?;
        match found {
            // A second attachment in the same namespace counts the same entry up.
            Some(config) if config.generation >= *generation => Ok(()),
            Some(_) => wrong("the kernel's configuration of the pod is older than its record"),
            None => wrong("the kernel has no configuration of the pod"),
        }
    };
    let ruled = || {
        let has = pins.has_rules().failed(Kind::Verify, || "reading the pod's rules")?;
        if has { Ok(()) } else { wrong("the kernel has no rules of the pod") }
    };
    let pinned = || match crate::bpf::programs::damage(&layout)
        .failed(Kind::Verify, || "looking for the object's pins")?
    {
        Some(gone) => wrong(&format!(
            "{gone}: pods of object {object} may be refused all connections, and ADD may fail; delete them, and the next ADD loads it anew"
        )),
        None => Ok(()),
    };
    let looked_up = || {
        let is = pins.lookup_attached(netns).failed(Kind::Verify, || "asking the pod's link")?;
        if is { Ok(()) } else { wrong("the pod's sk_lookup link is not on its network namespace") }
    };
    let answered = || {
        let is = pins
            .getsockopt_attached(pod_cgroup.as_deref(), all_pods)
            .failed(Kind::Verify, || "asking the getsockopt link")?;
        if is { Ok(()) } else { wrong("the getsockopt link is not on the pod's cgroup") }
    };
    let routed = || {
        if Changes::of(receipt).loopback.dns_route
            && !netns.run(has_markers).failed(Kind::Verify, || "listing the pod's routes")?
        {
            return wrong("the pod's route to the markers of DNS queries (::7f35:0:0:0/124) is gone");
        }
        Ok(())
    };
    let checks: [&dyn Fn() -> Result<(), Error>; 7] =
        [&shared, &pinned, &configured, &ruled, &looked_up, &answered, &routed];
    let found = checks.into_iter().filter_map(|check| check().err());
    found.take(if all { checks.len() } else { 1 }).collect()
}

/// How many of the second are not among the first.
fn lacking(among: &[(u32, RuleKey, Rule)], of: &[(u32, RuleKey, Rule)]) -> usize {
    let among: HashMap<(u32, RuleKey), Rule> =
        among.iter().map(|(length, key, rule)| ((*length, *key), *rule)).collect();
    of.iter().filter(|(length, key, rule)| among.get(&(*length, *key)) != Some(rule)).count()
}

/// All that is not as ADD left it, also what costs more to look at than CHECK may: each rule, and what was changed in the namespace.
/// Each in words.
pub fn differences(
    places: Places<'_>,
    attachment: &Attachment,
    netns: &Netns,
    receipt: &Receipt,
    plan: &Plan,
) -> Vec<String> {
    let Receipt::Ebpf { abi, object, cookie, reserved_ports, passthrough, .. } = receipt else {
        return Vec::new();
    };
    let found = compared(places, attachment, netns, receipt, true);
    let mut found: Vec<String> = found.iter().map(Error::details).collect();
    if *abi != VERSION {
        return found;
    }
    let seen = || -> Outcome<Vec<String>> {
        let (interfaces, reserved) =
            netns.run(|| Ok((link::seen(!plan.exclude_interfaces.is_empty())?, ports::are_reserved()?)))?;
        let mut seen = Vec::new();
        if reserved_ports.is_some() && !reserved {
            seen.push("the pod's virtual ports are no longer reserved (ip_local_reserved_ports)".to_owned());
        }
        let is_passthrough = |ip: &IpAddr| *ip == IpAddr::V6(link::PASSTHROUGH);
        if *passthrough && !interfaces.addresses.iter().any(|address| is_passthrough(&address.ip)) {
            seen.push("the pass-through address ::6 is gone from the pod's loopback interface".to_owned());
        }
        let layout = Layout::new(places.bpf_dir, object);
        let name = attachment.pin_name();
        let Some(config) = configuration(&layout, *cookie)? else { return Ok(seen) };
        // Two attachments of one namespace have one entry: that of whoever came last.
        if layout.shared(&name, *cookie)? {
            return Ok(seen);
        }
        let ids = userns::outside(netns, plan)?;
        let wanted = encoded(plan, &interfaces, attachment.ifname(), &ids, config.generation);
        if config != wanted.config {
            seen.push(
                "the kernel's configuration of the pod is not what its plan and addresses say".to_owned(),
            );
        }
        let there = ask::rules(&layout, *cookie)?;
        let missing = lacking(&there, &wanted.rules);
        if missing > 0 && !there.is_empty() {
            let all = wanted.rules.len();
            seen.push(format!(
                "{missing} of {all} rules of the pod's plan and addresses are not in the kernel"
            ));
        }
        let strange = lacking(&wanted.rules, &there);
        if strange > 0 {
            seen.push(format!(
                "the kernel has {strange} rules of the pod that its plan and addresses do not say"
            ));
        }
        Ok(seen)
    };
    match seen() {
        Ok(seen) => found.extend(seen),
        Err(fault) => found.push(crate::error::chain(&fault)),
    }
    found
}

/// See [`super::remove`].
pub fn remove(places: Places<'_>, locks: &Lock<'_>, name: &str, netns: Option<&Netns>) -> Result<(), Error> {
    let mut first = Ok(());
    for layout in Layout::all(places.bpf_dir).failed(Kind::Attach, || "listing the pins")? {
        let removed = || -> Outcome<()> {
            for cookie in layout.cookies(name)? {
                PodPins { layout: &layout, name, cookie }
                    .remove(netns, &|counts| tally::file::keep(places.state_dir, counts))?;
            }
            crate::bpf::pins::remove_tree(&layout.attachment(name))
        };
        first = first.and(removed().failed(Kind::Attach, || "removing the pod's pins and map entries"));
    }
    let collected =
        collect(places.bpf_dir, locks).failed(Kind::Load, || "removing programs that serve no pod");
    first.and(collected)
}

/// See [`super::revert`].
pub fn revert(places: Places<'_>, netns: &Netns, receipt: &Receipt) -> Result<(), Error> {
    let Receipt::Ebpf { cookie, .. } = receipt else {
        return Ok(());
    };
    let in_use = || -> Outcome<bool> {
        if is_nobodys(netns) {
            return Ok(false);
        }
        for layout in Layout::all(places.bpf_dir)? {
            // No attachment has this name: any that is in the namespace counts.
            if layout.shared("", *cookie)? {
                return Ok(true);
            }
        }
        Ok(false)
    };
    let reverted = || if in_use()? { Ok(()) } else { Changes::of(receipt).revert(netns) };
    reverted().failed(Kind::Netns, || "giving the namespace its settings back")
}

/// The programs have one configuration for a namespace: that of the newest attachment, with the addresses of its interface. Writes
/// that of one that stays. The interface that goes is still there when a runtime says so.
pub fn settle(places: Places<'_>, netns: &Netns, stays: &Record, gone: &str) -> Result<(), Error> {
    let Record { attachment, plan, receipt, .. } = stays;
    let Receipt::Ebpf { abi: VERSION, object, cookie, .. } = receipt else {
        return Ok(());
    };
    let all_routes = !plan.exclude_interfaces.is_empty();
    let mut interfaces = netns
        .run(|| link::seen(all_routes))
        .failed(Kind::Netns, || "looking at the pod's network namespace")?;
    interfaces.names.retain(|name| name != gone);
    interfaces.addresses.retain(|address| address.interface != gone);
    interfaces.routes.retain(|route| route.interface != gone);
    if !has_address(&interfaces) {
        return Ok(());
    }
    let ids = userns::outside(netns, plan).failed(Kind::Netns, || "translating the proxy's ids")?;
    let layout = Layout::new(places.bpf_dir, object);
    let name = attachment.pin_name();
    let written = || -> Outcome<()> {
        let Some(before) = configuration(&layout, *cookie)? else { return Ok(()) };
        let wanted = encoded(plan, &interfaces, attachment.ifname(), &ids, before.generation.wrapping_add(1));
        PodPins { layout: &layout, name: &name, cookie: *cookie }.write(&wanted)
    };
    written().failed(Kind::Attach, || "writing the map entries of the pod's other attachment")
}

/// See [`super::attachments`].
pub fn attachments(places: Places<'_>) -> Result<Vec<String>, Error> {
    let all = || -> Outcome<Vec<String>> {
        let mut names = Vec::new();
        for layout in Layout::all(places.bpf_dir)? {
            names.extend(layout.attachments()?);
        }
        names.sort();
        names.dedup();
        Ok(names)
    };
    all().failed(Kind::Io, || "listing the pins")
}

/// Whether the namespace of an attachment is there, as the links of its pins say.
pub fn presence(places: Places<'_>, name: &str) -> Presence {
    let asked = || -> Outcome<Presence> {
        let mut found = Presence::Nothing;
        for layout in Layout::all(places.bpf_dir)? {
            for cookie in layout.cookies(name)? {
                let link = PodPins { layout: &layout, name, cookie }.namespace()?;
                found = found.max(match link {
                    Some(0) => Presence::Gone,
                    Some(_) => Presence::There,
                    // An ADD that was killed, or one that is at work.
                    None => Presence::Unknown,
                });
            }
        }
        Ok(found)
    };
    asked().unwrap_or(Presence::Unknown)
}

/// What the programs decided so far for the pods that are there.
///
/// # Errors
/// The pins cannot be listed or a map not be read.
pub fn decisions(places: Places<'_>) -> Result<Vec<(Reason, u64)>, Error> {
    let all = || -> Outcome<Vec<(Reason, u64)>> {
        let mut found = Vec::new();
        for layout in Layout::all(places.bpf_dir)? {
            let mut cookies = BTreeSet::new();
            for name in layout.attachments()? {
                cookies.extend(layout.cookies(&name)?);
            }
            for cookie in cookies {
                found.extend(counts(&layout, cookie)?);
            }
        }
        Ok(found)
    };
    all().failed(Kind::Io, || "reading what the programs counted")
}

/// See [`super::prepare`].
pub fn prepare(places: Places<'_>, locks: &Lock<'_>) -> Result<(), Error> {
    let cgroups =
        Cgroups::find(places.state_dir).failed(Kind::NotAvailable, || "finding the cgroup2 hierarchy")?;
    let pods = cgroups.usual_place();
    ensure(places.bpf_dir, locks, &cgroups, pods.as_deref())
        .failed(Kind::NotAvailable, || "loading the shared programs")?;
    Ok(())
}
