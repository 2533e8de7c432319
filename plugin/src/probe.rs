//! What this node can do, found out by doing it: the kernel object is loaded, attached and made to redirect real connections, in a
//! cgroup and a network namespace made for that.
//!
//! ```text
//! answer ── kept for this boot and object? ── yes ──▶ that
//!             │ no
//!             ▼ under the lock `load`
//!           report: cgroup2 → scratch → load → attach → entries → attach → connect, v4 and v6, out and in → tidy
//!             │
//!             ▼ unless what failed may go otherwise the next time
//!           keep
//! ```
//!
//! Everything a probe makes is its own: pins in a directory of the kind a load makes, a cgroup that holds its one process, that
//! process's namespace. A probe that is killed leaves an empty cgroup and pins, which attach to nothing else; the next one removes
//! them.

pub mod cache;
mod guest;
pub mod report;
mod scratch;
mod traffic;

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use self::cache::Answer;
use self::guest::{Guest, OWN4, OWN6};
use self::report::{Failure, Report, Step};
use self::scratch::Scratch;
use self::traffic::{INBOUND_PORT, OUTBOUND_PORT, PROXY};
use crate::backend::Places;
use crate::bpf::object::HASH;
use crate::bpf::pins::{Layout, remove_tree};
use crate::bpf::pod::PodPins;
use crate::bpf::programs::{attach, load_aside};
use crate::bpf::rules::{Ids, encoded};
use crate::cgroup::Cgroups;
use crate::fault::Outcome;
use crate::link::{Interfaces, OwnAddress};
use crate::lock::Lock;
use crate::netns::Netns;
use crate::plan::Plan;

/// How long a probe takes at most.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long another's is waited for: one, and a bit.
const QUEUE: Duration = Duration::from_millis(2500);

/// What this node can do: as kept, or found out now. `deadline` is the caller's.
///
/// Never fails: what cannot be found out is an obstacle. An obstacle of the moment, such as no memory or no time, is not kept.
/// True with an answer that was found out now.
pub fn answer(places: Places<'_>, deadline: Instant) -> (Answer, bool) {
    let boot_id = cache::boot_id().unwrap_or_default();
    match cache::read(places.state_dir, &boot_id, HASH) {
        Some(answer) => (answer, false),
        None => ask(places, &boot_id, deadline, false),
    }
}

/// What this node can do, found out now whatever is kept.
pub fn anew(places: Places<'_>, deadline: Instant) -> Answer {
    let boot_id = cache::boot_id().unwrap_or_default();
    ask(places, &boot_id, deadline, true).0
}

/// What is kept for this boot and this object, if anything is.
pub fn kept(places: Places<'_>) -> Option<Answer> {
    let boot_id = cache::boot_id().unwrap_or_default();
    cache::read(places.state_dir, &boot_id, HASH)
}

fn ask(places: Places<'_>, boot_id: &str, deadline: Instant, anew: bool) -> (Answer, bool) {
    let started = Instant::now();
    let mut report = Report::default();
    let queue = deadline.min(started + QUEUE);
    match Lock::new(places.state_dir, queue).take("load") {
        // A lock that cannot be had says nothing of the kernel.
        Err(fault) => {
            let why = Failure::from(fault).why;
            report.note(Step::Lock, Err(Failure { why, transient: true }));
            (Answer::new(boot_id, HASH, report, 0), true)
        }
        Ok(_held) => {
            // Another probe may have ended while this one waited.
            if !anew && let Some(answer) = cache::read(places.state_dir, boot_id, HASH) {
                return (answer, false);
            }
            let started = Instant::now();
            report.note(Step::Lock, Ok(()));
            run(&mut report, places, deadline.min(started + PATIENCE));
            let took_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
            let answer = Answer::new(boot_id, HASH, report, took_us);
            if !answer.transient && !boot_id.is_empty() {
                // One that is not kept is found out again.
                let _again = cache::write(places.state_dir, &answer);
            }
            (answer, true)
        }
    }
}

/// All steps after the lock; ends at the first that fails.
fn run(report: &mut Report, places: Places<'_>, deadline: Instant) {
    let cgroups = match Cgroups::find(places.state_dir) {
        Ok(cgroups) => cgroups,
        Err(fault) => {
            report.note(Step::Cgroup2, Err(fault.into()));
            return;
        }
    };
    report.note(Step::Cgroup2, Ok(()));
    let made = scratch::sweep(cgroups.root()).and_then(|()| Scratch::new(cgroups.root()));
    match made {
        Err(fault) => {
            report.note(Step::Scratch, Err(fault.into()));
        }
        Ok(scratch) => {
            let unpinned = in_scratch(report, places, &cgroups, scratch.path(), deadline);
            // Last, when nothing is attached to it and nobody is in it.
            report.note(Step::Tidy, unpinned.and(scratch.remove()).map_err(Failure::from));
        }
    }
}

/// All steps inside the scratch cgroup; returns how removing the pins went. The guest is gone then.
fn in_scratch(
    report: &mut Report,
    places: Places<'_>,
    cgroups: &Cgroups,
    cgroup: &Path,
    deadline: Instant,
) -> Outcome<()> {
    let mut guest = match Guest::start(cgroup, deadline) {
        Ok(guest) => guest,
        Err(failure) => {
            report.note(Step::Scratch, Err(failure));
            return Ok(());
        }
    };
    report.note(Step::Scratch, Ok(()));
    let layout = match load_aside(places.bpf_dir) {
        Ok(layout) => layout,
        Err(fault) => {
            report.note(Step::Load, Err(fault.into()));
            return Ok(());
        }
    };
    if in_time(report, Step::Load, deadline, Ok(()))
        && place(report, &layout, cgroups, cgroup, &guest, deadline)
    {
        traffic(report, &mut guest);
    }
    remove_tree(layout.root())
}

/// Notes a step; one that came to its end too late has failed too.
fn in_time(report: &mut Report, step: Step, deadline: Instant, went: Outcome<()>) -> bool {
    let went = match went {
        Ok(()) if Instant::now() >= deadline => Err(Failure::late(step.as_str())),
        went => went.map_err(Failure::from),
    };
    report.note(step, went)
}

/// Everything an ADD does to a pod.
fn place(
    report: &mut Report,
    layout: &Layout,
    cgroups: &Cgroups,
    cgroup: &Path,
    guest: &Guest,
    deadline: Instant,
) -> bool {
    let pins = PodPins { layout, name: "probe", cookie: guest.cookie };
    let wanted = encoded(
        &Plan::of_everything(OUTBOUND_PORT, INBOUND_PORT, vec![PROXY]),
        &interfaces(guest.v6),
        INTERFACE,
        &ids(),
        1,
    );
    in_time(report, Step::AttachShared, deadline, attach(layout, cgroups, cgroup))
        && in_time(report, Step::Entries, deadline, pins.prepare().and_then(|()| pins.write(&wanted)))
        && in_time(report, Step::AttachPod, deadline, {
            Netns::open(&guest.netns).and_then(|netns| pins.attach(&netns, cgroups, Some(cgroup), cgroup))
        })
}

fn traffic(report: &mut Report, guest: &mut Guest) {
    for (step, v6) in [
        (Step::OutboundIpv4, false),
        (Step::OutboundIpv6, true),
        (Step::InboundIpv4, false),
        (Step::InboundIpv6, true),
    ] {
        if v6 && !guest.v6 {
            report.leave_out(step, "the kernel has no IPv6, or it is switched off");
            continue;
        }
        let went = guest.try_out(step);
        if !report.note(step, went) {
            return;
        }
    }
}

/// What the programs are told the guest's interface is called. Its addresses are on the loopback interface, which takes any.
const INTERFACE: &str = "eth0";

fn interfaces(v6: bool) -> Interfaces {
    let own = |ip: IpAddr| OwnAddress { interface: INTERFACE.to_owned(), ip, broadcast: None };
    let mut addresses = vec![own(OWN4.into())];
    if v6 {
        addresses.push(own(OWN6.into()));
    }
    let names = vec!["lo".to_owned(), INTERFACE.to_owned()];
    Interfaces { names, index_of_loopback: 1, addresses, ..Interfaces::default() }
}

fn ids() -> Ids {
    Ids { uids: vec![PROXY], ..Ids::default() }
}
