//! Runs the rows of a group and compares what was seen with what stands in the row.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};

use shunt_tests::ask::{Dial, Try, plain};
use shunt_tests::datagram::{Script, Step};

use crate::case::{AS_BARE, Answer, Backend, Case, Does, Family, From, SILENCE, To, Way, Who};
use crate::scene::{Group, Scene};

/// What came of one row under one backend.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) case: &'static str,
    pub(crate) backend: Backend,
    /// What was not as expected, a line for each.
    pub(crate) failures: Vec<String>,
}

/// Runs one group under one backend. A harness that gives way fails the rows that could not run.
pub(crate) fn run(group: &Group, backend: Backend) -> Vec<Verdict> {
    let mut scene = match guarded(|| Scene::new(group, backend)) {
        Ok(scene) => scene,
        Err(error) => {
            let lost = |case: &Case| verdict(case, backend, vec![format!("the pod: {error}")]);
            return group.cases.iter().map(lost).collect();
        }
    };
    let each = |case: &'static Case| {
        let failures = case.families.iter().filter_map(|family| {
            let seen = guarded(|| cell(&mut scene, case, *family)).unwrap_or_else(Err);
            seen.err().map(|error| format!("{}: {error}", family.name()))
        });
        let failures = failures.collect();
        verdict(case, backend, failures)
    };
    group.cases.iter().map(each).collect()
}

fn verdict(case: &Case, backend: Backend, failures: Vec<String>) -> Verdict {
    Verdict { case: case.id, backend, failures }
}

/// What a test would have said by panicking.
fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "a panic without words".to_owned())
    })
}

fn cell(scene: &mut Scene, case: &Case, family: Family) -> Result<(), String> {
    let expected = case.expected(scene.backend);
    if let Does::Play(play) = case.does {
        let said = play(scene, family);
        return if said == expected.by {
            Ok(())
        } else {
            Err(format!("expected {:?}, saw {said:?}", expected.by))
        };
    }
    scene.nothing_new_beyond();
    if let Does::Ask { to, from, way } = case.does {
        return asked(scene, case, family, (to, from, way), expected);
    }
    let Some(dial) = scene.orders(case, family) else { return Ok(()) };
    let tries = scene.run(case.who, &dial);
    if expected.by == AS_BARE {
        return as_bare(scene, &dial, &tries);
    }
    for seen in &tries {
        compare(scene, case, seen, expected)?;
    }
    not_leaked(scene, expected)
}

/// Nothing got out beside what was meant to.
fn not_leaked(scene: &mut Scene, expected: Answer) -> Result<(), String> {
    let leaked = scene.nothing_new_beyond();
    if expected.by != "world" && !leaked.is_empty() {
        return Err(format!("it reached the world too: {}", leaked.join(", ")));
    }
    Ok(())
}

/// A datagram and its answer.
fn asked(
    scene: &mut Scene,
    case: &Case,
    family: Family,
    (to, from, way): (To, From, Way),
    expected: Answer,
) -> Result<(), String> {
    let to = to.address(&scene.pod, family);
    let word = || "q".to_owned();
    let steps = match way {
        Way::Connected => vec![Step::Connect(to), Step::Send(word()), Step::Receive],
        Way::To => vec![Step::SendTo(to, word()), Step::Receive],
        Way::Message => vec![Step::SendMessage(to, word()), Step::Receive],
        Way::Many => vec![Step::SendMany(vec![(to, word())]), Step::ReceiveMany(1)],
    };
    let bind = from.address(&scene.pod, family);
    let patience = if expected.by == SILENCE { 400 } else { 2000 };
    let script = Script { v6: to.is_ipv6(), bind, patience, ..Script::v4(steps) };
    let did = scene.play(case.who, &script);
    let fail = |what: &str, is: &str, wanted: &str| {
        Err(format!("{what}: expected {wanted:?}, saw {is:?} ({did:?})"))
    };
    let Some(decisive) = did.iter().find(|did| did.error.is_some()).or(did.last()) else {
        return fail("answer", "no step", expected.by);
    };
    let by = if decisive.outcome() == "EAGAIN" { SILENCE } else { decisive.outcome() };
    if by != expected.by {
        return fail("answer", by, expected.by);
    }
    if let Some(got) = decisive.got.first() {
        let server = got.from.map_or_else(|| "nobody".to_owned(), |at| at.to_string());
        if got.from != Some(reached(to)) && expected.peer == "dialled" {
            return fail("whose answer", &server, &reached(to).to_string());
        }
        if expected.peer == "own" && got.from.map(|at| at.ip()) != Some(scene.pod.ip(family.is_v6())) {
            return fail("whose answer", &server, expected.peer);
        }
        let peer = plain(got.answer.peer);
        let source = scene.whose(peer.ip());
        if source != expected.source && !expected.source.is_empty() {
            return fail("source", &source, expected.source);
        }
        if ![0, peer.port()].contains(&from.port()) {
            return fail("source port", &peer.port().to_string(), &from.port().to_string());
        }
    }
    not_leaked(scene, expected)
}

/// The error, where there is one, is that of a pod without us.
fn as_bare(scene: &mut Scene, dial: &Dial, ours: &[Try]) -> Result<(), String> {
    let bare = scene.run(Who::Bare, dial);
    scene.nothing_new_beyond();
    let errors = |tries: &[Try]| tries.iter().map(|seen| seen.error.clone()).collect::<Vec<_>>();
    let (ours, bare) = (errors(ours), errors(&bare));
    if ours == bare && ours.iter().all(Option::is_some) {
        Ok(())
    } else {
        Err(format!("without us {bare:?}, with us {ours:?}"))
    }
}

/// The outcome; a step that took all the time it had is silence, whatever the kernel calls it.
fn outcome(seen: &Try) -> &str {
    match &seen.error {
        Some((_, name)) if ["EINPROGRESS", "EAGAIN", "ETIMEDOUT"].contains(&name.as_str()) => SILENCE,
        _ => seen.outcome(),
    }
}

fn compare(scene: &Scene, case: &Case, seen: &Try, expected: Answer) -> Result<(), String> {
    let by = outcome(seen);
    let fail = |what: &str, is: &str, wanted: &str| {
        Err(format!("{what}: expected {wanted:?}, saw {is:?} ({})", brief(seen)))
    };
    if by != expected.by {
        return fail("answer", by, expected.by);
    }
    let (Some(greeting), Some(local), Some(peer)) = (&seen.greeting, seen.local, seen.peer) else {
        return Ok(());
    };
    let dialled = reached(seen.to);
    let source = scene.whose(local.ip());
    if source != expected.source && !expected.source.is_empty() {
        return fail("source", &source, expected.source);
    }
    if greeting.peer() != local {
        return fail("source at the server", &greeting.peer().to_string(), &local.to_string());
    }
    if let Does::Dial { from, .. } = case.does
        && ![0, local.port()].contains(&from.port())
    {
        return fail("source port", &local.port().to_string(), &from.port().to_string());
    }
    let name = |at: Option<SocketAddr>| match at {
        Some(at) if at == dialled => "dialled".to_owned(),
        Some(at) if Some(at.ip()) == Some(scene.pod.ip(at.is_ipv6())) => "own".to_owned(),
        Some(at) => at.to_string(),
        None => "none".to_owned(),
    };
    if name(Some(peer)) != expected.peer {
        return fail("getpeername", &name(Some(peer)), expected.peer);
    }
    let is_proxy = ["outbound", "inbound", "dns"].contains(&by);
    if is_proxy && name(greeting.original()) != expected.original {
        return fail("SO_ORIGINAL_DST", &name(greeting.original()), expected.original);
    }
    if !is_proxy && greeting.local() != dialled {
        return fail("the server's own address", &greeting.local().to_string(), &dialled.to_string());
    }
    Ok(())
}

/// The address a connection to `to` ends at: 0.0.0.0 and `::` mean this host.
fn reached(to: SocketAddr) -> SocketAddr {
    let to = plain(to);
    let ip = match to.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, to.port())
}

fn brief(seen: &Try) -> String {
    let Try { to, error, local, peer, greeting } = seen;
    let at = |at: &Option<SocketAddr>| at.map_or_else(|| "-".to_owned(), |at| at.to_string());
    let greeting = greeting.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
    let error = error.as_ref().map_or_else(String::new, |(step, name)| format!("{step} {name}, "));
    format!("{error}to {to} from {} at {}: {greeting}", at(local), at(peer))
}
