//! ADD: decide; open the namespace; take the attachment's lock; install; record. Whole or not at all.

use nix::net::if_::if_nametoindex;
use shunt_api::FailurePolicy;
use slog::{debug, warn};

use super::{known, lock_name, places, pod_netns, remove, tell_of_earlier};
use crate::backend::{self, Job, ebpf};
use crate::choice::{self, Ask, Choice};
use crate::cni::{AddRequest, Outcome, PodRef};
use crate::error::{Error, Failed as _, Kind, chain};
use crate::grounds::Grounds;
use crate::lock::Lock;
use crate::netns::Netns;
use crate::note::{Notes, What};
use crate::plan::Plan;
use crate::policy::{Decision, decide};
use crate::record::{self, Record, Records};
use crate::tally::End;

pub(super) fn run(request: &AddRequest) -> Result<Outcome, Error> {
    let settings = &request.conf.settings;
    match decide(&request.pod, &request.conf.annotations, settings)? {
        Decision::Skip(reason) => {
            Notes::new(&settings.state_dir).left_alone(request, What::skipped(&reason));
            forget(request)?;
            Ok(Outcome::new(End::Skipped(reason.label()), format!("not intercepted: {reason}")))
        }
        Decision::Intercept(plan) => match intercept(request, *plan) {
            Ok(outcome) => {
                Notes::new(&settings.state_dir).captured(request);
                Ok(outcome)
            }
            Err(error) if settings.failure_policy == FailurePolicy::Open && may_pass(error.kind()) => {
                warn!(request.log, "the pod runs without interception: failurePolicy is open";
                    "kind" => error.kind().as_str(), "details" => error.details());
                Notes::new(&settings.state_dir).left_alone(request, What::open(&error));
                Ok(Outcome::new(End::Passed, "not intercepted: failurePolicy is open").by(error.backend()))
            }
            Err(error) => Err(error),
        },
    }
}

/// `failurePolicy: open` is about what this node cannot do. A namespace that cannot be used, or is the host's, is an error of
/// the call whatever the policy.
fn may_pass(kind: Kind) -> bool {
    !matches!(kind, Kind::Netns | Kind::Config | Kind::Unsupported)
}

/// A repeated ADD of a pod that is no longer selected replaces what the earlier one did: with nothing.
fn forget(request: &AddRequest) -> Result<(), Error> {
    let places = places(&request.conf.settings);
    let name = request.attachment.pin_name();
    // An ADD that was killed may have left pins and no record.
    if !known(places, &name)? {
        return Ok(());
    }
    let locks = Lock::new(places.state_dir, request.deadline.at());
    let held = locks
        .take(&lock_name(&name))
        .failed(Kind::TryAgain, || "waiting for another run of this container")?;
    remove(places, &locks, &name, None)?;
    held.discard();
    Ok(())
}

fn intercept(request: &AddRequest, plan: Plan) -> Result<Outcome, Error> {
    let places = places(&request.conf.settings);
    let netns = pod_netns(&request.netns)?;
    let name = request.attachment.pin_name();
    let locks = Lock::new(places.state_dir, request.deadline.at());
    let held = locks
        .take(&lock_name(&name))
        .failed(Kind::TryAgain, || "waiting for another run of this container")?;
    let outcome = installed(request, plan, &netns, &locks);
    // No DEL need come for a sandbox that was never made: the lock's file would stay.
    if outcome.is_err() && known(places, &name).is_ok_and(|known| !known) {
        held.discard();
    }
    outcome
}

/// The part of [`intercept`] that holds the lock.
fn installed(request: &AddRequest, plan: Plan, netns: &Netns, locks: &Lock<'_>) -> Result<Outcome, Error> {
    let places = places(&request.conf.settings);
    let name = request.attachment.pin_name();
    let before = earlier(request, &Records::new(places.state_dir), &name);
    let deadline = request.deadline.at();
    let wanted = request.conf.settings.backend;
    // Also where its record is lost.
    let has = backend::held(places, &name, before.as_ref().map(|record| &record.receipt))?;
    // Where nothing can be asked nothing can be attached either, and that error is the one to tell.
    let kept_out = || {
        let found = ebpf::obstacle(places, request.conf.cgroup_path.as_deref(), request.pod.uid.as_deref());
        found.ok().flatten().map(|fault| chain(&fault))
    };
    let ask = Ask { places, deadline, log: &request.log };
    let choice = choice::for_pod(&ask, wanted, &plan, has, kept_out)?;
    let before = Before { record: before, captured: has.is_some() };
    put(request, plan, netns, locks, &before, &choice).map_err(|error| error.under(choice.backend()))
}

/// What an attachment has from an earlier ADD.
struct Before {
    record: Option<Record>,
    captured: bool,
}

/// The part of [`installed`] that the chosen backend does, and its record.
fn put(
    request: &AddRequest,
    plan: Plan,
    netns: &Netns,
    locks: &Lock<'_>,
    before: &Before,
    choice: &Choice,
) -> Result<Outcome, Error> {
    let places = places(&request.conf.settings);
    let job = Job {
        attachment: &request.attachment,
        netns,
        cgroup_path: request.conf.cgroup_path.as_deref(),
        pod_uid: request.pod.uid.as_deref(),
        plan: &plan,
        backend: choice.backend(),
        before: before.record.as_ref().map(|record| &record.receipt),
        deadline: request.deadline.at(),
    };
    let wanted = request.conf.settings.backend;
    let receipt = backend::install(places, &job).map_err(|error| choice.failed(places, wanted, error))?;
    if *choice == Choice::Ebpf {
        tell_of_missing(request, netns, &plan);
        tell_of_earlier(places, &receipt, &request.log);
    }
    let record = Record {
        version: record::VERSION,
        attachment: request.attachment.clone(),
        network: request.conf.name.clone(),
        pod: described(&request.pod),
        netns: request.netns.clone(),
        netns_identity: netns.identity(),
        plan,
        receipt,
        grounds: Some(Grounds::new(&request.conf.settings, &request.conf.annotations, choice.words())),
    };
    let finished = request.deadline.before("recording the attachment").and_then(|_| {
        Records::new(places.state_dir).write(&record).failed(Kind::Record, || "recording the attachment")
    });
    match finished {
        Ok(()) => Ok(Outcome::new(End::Intercepted, format!("intercepted: {}", choice.words()))
            .by(Some(choice.backend()))),
        // A pod that was captured before stays captured: its processes run.
        Err(error) if before.captured => Err(error),
        Err(error) => {
            let removed = remove(places, locks, &request.attachment.pin_name(), Some(netns));
            let reverted = backend::revert(places, netns, &record.receipt);
            Err(removed.and(reverted).err().into_iter().fold(error, Error::with_undo))
        }
    }
}

/// Programs know interfaces by the addresses and routes they have at ADD. One that comes later is captured until another ADD.
fn tell_of_missing(request: &AddRequest, netns: &Netns, plan: &Plan) {
    if plan.exclude_interfaces.is_empty() {
        return;
    }
    let names = plan.exclude_interfaces.iter();
    let missing = netns
        .run(|| Ok(names.filter(|name| if_nametoindex(name.as_str()).is_err()).cloned().collect::<Vec<_>>()));
    let missing = missing.unwrap_or_default();
    if !missing.is_empty() {
        warn!(request.log, "excluded interfaces are not there yet; they are captured until an ADD finds them";
            "interfaces" => missing.join(","));
    }
}

/// What an earlier ADD recorded. A record that cannot be read is as good as none: its pins are found by name.
fn earlier(request: &AddRequest, records: &Records<'_>, name: &str) -> Option<Record> {
    records.read(name).unwrap_or_else(|fault| {
        debug!(request.log, "the attachment's earlier record is of no use"; "details" => fault.to_string());
        None
    })
}

fn described(pod: &PodRef) -> String {
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    format!("{}/{} {}", part(&pod.namespace), part(&pod.name), part(&pod.uid))
}
