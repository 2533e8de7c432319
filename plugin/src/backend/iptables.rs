//! The iptables backend: one namespace's rules, written by the host's tools, read back, and removed with the last attachment.
//!
//! Attachments of one container are in one namespace and have one set of rules: that of the newest ADD. The container's lock
//! keeps two runs of ours apart.

mod marks;
mod write;

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use self::marks::{Mark, Marks};
use self::write::{Writer, read};
use super::ebpf::Changes;
use super::{Job, Places, Presence, Receipt};
use crate::attachment::Attachment;
use crate::error::{Error, Failed as _, Kind};
use crate::fault::Outcome;
use crate::iptables::choice::{Seen, chosen};
use crate::iptables::observe::{Held, held, table_names};
use crate::iptables::render::rendered;
use crate::iptables::room::{Room, Run, inside};
use crate::iptables::rules::Rules;
use crate::iptables::saved::{difference, digest, state};
use crate::iptables::tools::{Job as Task, Tool, Tools};
use crate::iptables::{Family, Flavour};
use crate::link::{Loopback, Wishes, prepared};
use crate::netns::Netns;
use crate::plan::Plan;
use crate::record::Records;

/// How long one tool may take to say its version, and all of them to work in a DEL or a CHECK.
const PATIENCE: Duration = Duration::from_secs(4);

/// How much of an ADD's time is kept for undoing it.
const UNDOING: Duration = Duration::from_secs(1);

/// What is seen in the namespace before anything is hidden.
struct Look {
    held: Held,
    flavours: Result<Vec<Flavour>, String>,
    has_address: bool,
}

/// Prepare, mark, write, verify. See [`super::install`].
pub fn install(places: Places<'_>, job: &Job<'_>) -> Result<Receipt, Error> {
    let wanted = [rendered(job.plan, Family::V4)?, rendered(job.plan, Family::V6)?];
    let now = Instant::now();
    let deadline =
        job.deadline.checked_sub(UNDOING).filter(|deadline| *deadline > now).unwrap_or(job.deadline);
    let tools = tools(deadline);
    let name = job.attachment.pin_name();
    let marks = Marks::new(places.state_dir);
    let earlier = earlier(places, &marks, &name, job)?;
    let identity = job.netns.identity();
    let mut peers =
        marks.peers(&name, identity).failed(Kind::Io, || "reading the marks of the container's rules")?;
    peers.extend(earlier.clone());
    let before = job.before.and_then(flavour_of).or_else(|| peers.iter().find_map(only_flavour));
    let generation = peers.iter().map(|mark| mark.generation).max().unwrap_or(0).wrapping_add(1);
    let mark = |flavours: &[Flavour], digest: &str, generation| Mark {
        netns: job.netns.path().to_owned(),
        identity,
        flavours: flavours.to_vec(),
        generation,
        digest: digest.to_owned(),
    };
    let mut passthrough = false;
    let look = || -> Outcome<Look> {
        let held = held()?;
        let flavours = chosen(&seen(held, &tools, before));
        if let Ok(flavours) = &flavours
            && earlier.is_none()
        {
            marks.write(&name, &mark(flavours, "", 0))?;
        }
        if flavours.is_err() {
            return Ok(Look { held, flavours, has_address: true });
        }
        let (interfaces, given) = prepared(Wishes::default())?;
        passthrough = given.passthrough;
        Ok(Look { held, flavours, has_address: super::ebpf::has_address(&interfaces) })
    };
    let again = !peers.is_empty() || matches!(job.before, Some(Receipt::Iptables { .. }));
    let written = inside(job.netns, deadline, look, |room, look| Ok(put(room, &tools, &wanted, look, again)));
    let done = written.failed(Kind::Netns, || "working in the pod's network namespace").and_then(|put| {
        let Put { flavour, families } = put?;
        let states: Vec<Vec<String>> = wanted.iter().take(families.len()).map(state).collect();
        let digest = digest(states.iter().map(Vec::as_slice));
        marks
            .write(&name, &mark(&[flavour], &digest, generation))
            .failed(Kind::Io, || "marking the attachment's rules")?;
        let before = job.before.map(Changes::of).unwrap_or_default();
        Ok(Receipt::Iptables {
            flavour,
            v6: families.contains(&Family::V6),
            generation,
            digest,
            name: name.clone(),
            netns: job.netns.path().to_owned(),
            passthrough: passthrough || before.passthrough(),
        })
    });
    match done {
        Err(error) if !again && job.before.is_none() => Err(undone(places, &name, job, passthrough, error)),
        done => done,
    }
}

/// After a first ADD that failed: whatever it left is taken out.
fn undone(places: Places<'_>, name: &str, job: &Job<'_>, passthrough: bool, error: Error) -> Error {
    let changes = if passthrough {
        job.netns.run(|| Loopback { passthrough, dns_route: false }.revert())
    } else {
        Ok(())
    };
    let changes = changes.failed(Kind::Netns, || "undoing the ADD in the pod's namespace");
    // What cannot be taken out in time is what the mark is for: DEL does it.
    let deadline = job.deadline.max(Instant::now() + UNDOING);
    match remove_until(places, name, deadline).and(changes) {
        Ok(()) => error,
        Err(undo) => error.with_undo(undo),
    }
}

/// The mark of an earlier ADD in this namespace. One in another namespace is of a pod that is gone, or was moved: its rules go.
fn earlier(places: Places<'_>, marks: &Marks, name: &str, job: &Job<'_>) -> Result<Option<Mark>, Error> {
    match marks.read(name) {
        Some(mark) if mark.identity != job.netns.identity() => {
            remove(places, name)?;
            Ok(None)
        }
        mark => Ok(mark),
    }
}

fn flavour_of(receipt: &Receipt) -> Option<Flavour> {
    match receipt {
        Receipt::Iptables { flavour, .. } => Some(*flavour),
        Receipt::Ebpf { .. } => None,
    }
}

fn only_flavour(mark: &Mark) -> Option<Flavour> {
    match mark.flavours.as_slice() {
        [flavour] => Some(*flavour),
        _ => None,
    }
}

fn seen(held: Held, tools: &Tools, before: Option<Flavour>) -> Seen {
    Seen {
        legacy_tables: held.legacy_tables,
        nft_tables: held.nft_tables == Some(true),
        nft_kernel: held.nft_tables.is_some(),
        nft_tools: tools.nft.is_some(),
        legacy_tools: tools.legacy.is_some(),
        before,
    }
}

/// The host's tools; one whose name says nothing is asked for its version.
fn tools(deadline: Instant) -> Tools {
    let ask = |tool: &Tool| {
        let run = Run { tool, arguments: &["--version"], input: "", writes: false };
        Room::plain(deadline.min(Instant::now() + PATIENCE)).run(&[run]).ok()?.pop()
    };
    Tools::find(std::env::var_os("PATH"), ask)
}

/// What was written.
struct Put {
    flavour: Flavour,
    families: &'static [Family],
}

/// Writes in the first flavour that works; a second is tried only in a namespace that had nothing.
fn put(room: &Room, tools: &Tools, wanted: &[Rules; 2], look: Look, again: bool) -> Result<Put, Error> {
    let flavours = look.flavours.map_err(|why| no_iptables(&why))?;
    if !look.has_address {
        return Err(super::ebpf::no_address());
    }
    let families = look.held.families();
    // Tables of somebody else may be such that iptables cannot show them: that is to be known before anything is written.
    let again = again || look.held.nft_tables == Some(true);
    let tried = flavours.iter().try_fold(None::<Error>, |first, flavour| {
        let Some(set) = tools.of(*flavour) else { return ControlFlow::Continue(first) };
        let writer = Writer { room, set, families };
        match writer.write(wanted, again) {
            Ok(()) => ControlFlow::Break(*flavour),
            Err(error) => ControlFlow::Continue(Some(match first {
                None => error,
                Some(first) => first.because_also(error),
            })),
        }
    });
    match tried {
        ControlFlow::Break(flavour) => Ok(Put { flavour, families }),
        ControlFlow::Continue(error) => Err(error.unwrap_or_else(|| no_iptables("no flavour was tried"))),
    }
}

fn no_iptables(why: &str) -> Error {
    Error::new(
        Kind::Capability,
        format!(
            "the iptables backend cannot work on this node: {why} (install iptables on the host, or use backend \"ebpf\")"
        ),
    )
}

/// Names of the chains that iptables shows in a namespace, ours and others', each once, and of the tables that only `nft` shows.
/// Nothing is run in a namespace that has no rules.
pub fn chains(netns: &Netns, deadline: Instant) -> Outcome<Vec<String>> {
    let (held, mut names) = netns.run(|| Ok((held()?, table_names()?)))?;
    let tools = tools(deadline);
    let flavours = [(Flavour::Nft, held.nft_tables == Some(true)), (Flavour::Legacy, held.legacy_tables)];
    for (flavour, has) in flavours {
        let Some(set) = tools.of(flavour).filter(|_| has) else { continue };
        let look = |room: &Room, ()| {
            let save = held.families().iter().filter_map(|family| set.tool(*family, Task::Save));
            let runs: Vec<Run<'_>> =
                save.map(|tool| Run { tool, arguments: &[], input: "", writes: false }).collect();
            room.run(&runs)
        };
        let texts = inside(netns, deadline, || Ok(()), look)?;
        // As iptables-save prints a chain: `:NAME POLICY [0:0]`.
        let chain = |line: &str| line.strip_prefix(':')?.split(' ').next().map(str::to_owned);
        names.extend(texts.iter().flat_map(|text| text.lines()).filter_map(chain));
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// See [`super::verify`].
pub fn verify(
    places: Places<'_>,
    attachment: &Attachment,
    netns: &Netns,
    receipt: &Receipt,
) -> Result<(), Error> {
    let Receipt::Iptables { flavour, v6, generation, digest: expected, .. } = receipt else {
        return Ok(());
    };
    let name = attachment.pin_name();
    let marks = Marks::new(places.state_dir);
    let peers = marks
        .peers(&name, netns.identity())
        .failed(Kind::Verify, || "reading the marks of the container's rules")?;
    // A second attachment in the same namespace has written the rules anew.
    let newest = peers.iter().max_by_key(|mark| mark.generation).filter(|mark| mark.generation > *generation);
    let expected = newest.map_or(expected, |mark| &mark.digest);
    let deadline = Instant::now() + PATIENCE;
    let tools = tools(deadline);
    let set = tools
        .of(*flavour)
        .ok_or_else(|| no_iptables(&format!("the tools of the {} flavour are gone", flavour.as_str())))?;
    let families: &[Family] = if *v6 { &Family::ALL } else { &[Family::V4] };
    let found = inside(netns, deadline, || Ok(()), |room, ()| read(room, set, families))
        .failed(Kind::Verify, || "reading the pod's rules")?;
    let found: Vec<Vec<String>> = found.iter().map(crate::iptables::saved::Saved::state).collect();
    if digest(found.iter().map(Vec::as_slice)) == *expected {
        return Ok(());
    }
    let what = newest.map_or_else(|| first_difference(places, &name, &found), |_| None);
    Err(Error::new(
        Kind::Verify,
        what.unwrap_or_else(|| "the pod's rules are not those that were written".to_owned()),
    ))
}

/// Names what is wrong, from the plan in the record.
fn first_difference(places: Places<'_>, name: &str, found: &[Vec<String>]) -> Option<String> {
    let record = Records::new(places.state_dir).read(name).ok()??;
    Family::ALL.into_iter().zip(found).find_map(|(family, found)| {
        let wanted = state(&rendered(&record.plan, family).ok()?);
        Some(format!("{}: {}", family.name(), difference(&wanted, found)?))
    })
}

/// See [`super::remove`]. Without a mark there is nothing.
pub fn remove(places: Places<'_>, name: &str) -> Result<(), Error> {
    remove_until(places, name, Instant::now() + PATIENCE)
}

fn remove_until(places: Places<'_>, name: &str, deadline: Instant) -> Result<(), Error> {
    let marks = Marks::new(places.state_dir);
    if let Some(mark) = marks.read(name)
        && let Some(netns) = mark.open()
        && marks
            .peers(name, mark.identity)
            .failed(Kind::Io, || "reading the marks of the container's rules")?
            .is_empty()
    {
        clean(&netns, &mark.flavours, mark.generation > 0, deadline)?;
    }
    marks.remove(name).failed(Kind::Io, || "removing the mark of the attachment's rules")
}

/// Takes all of ours out of a namespace.
fn clean(netns: &Netns, flavours: &[Flavour], written: bool, deadline: Instant) -> Result<(), Error> {
    let tools = tools(deadline);
    let cleaned = inside(netns, deadline, held, |room, held| {
        let mut first = Ok(());
        for flavour in flavours {
            let has_tables = match flavour {
                Flavour::Nft => held.nft_tables == Some(true),
                Flavour::Legacy => held.legacy_tables,
            };
            let removed = match tools.of(*flavour) {
                _ if !has_tables => Ok(()),
                Some(set) => Writer { room, set, families: held.families() }.remove(written),
                None => Err(no_iptables(&format!("the tools of the {} flavour are gone", flavour.as_str()))),
            };
            first = first.and(removed);
        }
        Ok(first)
    });
    cleaned.failed(Kind::Netns, || "removing the rules from the pod's network namespace")?
}

/// See [`super::revert`].
pub fn revert(places: Places<'_>, netns: &Netns, receipt: &Receipt) -> Result<(), Error> {
    let Receipt::Iptables { flavour, name, netns: path, .. } = receipt else {
        return Ok(());
    };
    let peers = Marks::new(places.state_dir).peers(name, netns.identity());
    if !peers.failed(Kind::Io, || "reading the marks of the container's rules")?.is_empty() {
        return Ok(());
    }
    // The path of ADD may be gone while the namespace is not; then the rules are still there.
    if !Netns::open(path).is_ok_and(|opened| opened.identity() == netns.identity()) {
        clean(netns, &[*flavour], true, Instant::now() + PATIENCE)?;
    }
    Changes::of(receipt).revert(netns).failed(Kind::Netns, || "giving the namespace its settings back")
}

/// See [`super::attachments`].
pub fn attachments(places: Places<'_>) -> Result<Vec<String>, Error> {
    Marks::new(places.state_dir).names().failed(Kind::Io, || "listing the marks of rules")
}

/// Whether the namespace of an attachment is where its mark says.
pub fn presence(places: Places<'_>, name: &str) -> Presence {
    match Marks::new(places.state_dir).read(name) {
        Some(mark) => super::presence_at(&mark.netns, mark.identity),
        None if knows(places, name) => Presence::Unknown,
        None => Presence::Nothing,
    }
}

/// True if there may be rules of this attachment.
pub fn knows(places: Places<'_>, name: &str) -> bool {
    Marks::new(places.state_dir).exists(name)
}

/// Tries everything in a namespace of its own. See [`super::prepare`].
pub fn prepare(deadline: Instant) -> Result<(), Error> {
    let tools = tools(deadline);
    let plan = sample();
    let unavailable =
        |error: Error| Error::new(Kind::NotAvailable, "trying the iptables backend").because(error);
    let wanted = [rendered(&plan, Family::V4)?, rendered(&plan, Family::V6)?];
    let netns =
        Netns::scratch().failed(Kind::NotAvailable, || "making a network namespace to try rules in")?;
    let look = || -> Outcome<Look> {
        let held = held()?;
        Ok(Look { held, flavours: chosen(&seen(held, &tools, None)), has_address: true })
    };
    inside(&netns, deadline, look, |room, look| Ok(put(room, &tools, &wanted, look, false)))
        .failed(Kind::NotAvailable, || "working in a network namespace of its own")?
        .map(|_| ())
        .map_err(unavailable)
}

/// A plan that needs what every plan needs.
fn sample() -> Plan {
    Plan { exempt_gids: vec![1337], self_calls: true, ..Plan::of_everything(15001, 15006, vec![1337]) }
}
