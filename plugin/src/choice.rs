//! Which backend a pod gets, and why.
//!
//! | `backend` | gets |
//! |---|---|
//! | `ebpf`, `iptables` | that one, or an error |
//! | `auto` | what the attachment has already; else iptables if eBPF cannot express the plan, the node cannot run it, or a program of another keeps ours from the pod's cgroups; else eBPF |

use std::time::Instant;

use shunt_api::Backend;
use slog::{Logger, info};

use crate::backend::Places;
use crate::error::{Error, Kind};
use crate::plan::Plan;
use crate::probe::{self, cache::Answer};

/// A backend, and why it is not the other one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// The eBPF backend.
    Ebpf,
    /// The iptables backend.
    Iptables {
        /// Why not eBPF.
        why: Why,
    },
}

/// Why a pod gets iptables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// The configuration says so.
    Configured,
    /// The attachment has it from an earlier ADD.
    Before,
    /// eBPF cannot do it.
    Obstacle(String),
}

impl Choice {
    /// For the log: `ebpf`, `iptables: <why>`.
    pub fn words(&self) -> String {
        match self {
            Self::Ebpf => "ebpf".to_owned(),
            Self::Iptables { why: Why::Configured } => "iptables: as configured".to_owned(),
            Self::Iptables { why: Why::Before } => "iptables: as at the ADD before".to_owned(),
            Self::Iptables { why: Why::Obstacle(why) } => format!("iptables: {why}"),
        }
    }

    /// The backend: never `auto`.
    pub const fn backend(&self) -> Backend {
        match self {
            Self::Ebpf => Backend::Ebpf,
            Self::Iptables { .. } => Backend::Iptables,
        }
    }

    /// The chosen backend's error: with both reasons where it was chosen because eBPF cannot. Where eBPF fails on a node that is
    /// said to be able to, the next ADD finds out anew.
    #[must_use]
    pub fn failed(&self, places: Places<'_>, wanted: Backend, error: Error) -> Error {
        let doubtful = matches!(error.kind(), Kind::Load | Kind::Capability | Kind::NotAvailable);
        if *self == Self::Ebpf && wanted == Backend::Auto && doubtful {
            probe::cache::forget(places.state_dir);
        }
        self.explain(error)
    }

    fn explain(&self, error: Error) -> Error {
        match self {
            Self::Iptables { why: Why::Obstacle(why) } => {
                error.within(&format!("no backend works; ebpf: {why}; iptables"))
            }
            _ => error,
        }
    }
}

/// What a choice depends on.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances<'a> {
    /// Key `backend`.
    pub wanted: Backend,
    /// The backend the attachment has from an earlier ADD.
    pub before: Option<Backend>,
    /// Why eBPF cannot express the plan, if it cannot.
    pub inexpressible: Option<&'a str>,
}

/// Chooses. `obstacle` says why eBPF does not work on this node, if it does not; asked only when it matters.
///
/// # Errors
/// [`Kind::Unsupported`] for a plan that the configured backend cannot express.
pub fn choose(
    circumstances: Circumstances<'_>,
    obstacle: impl FnOnce() -> Option<String>,
) -> Result<Choice, Error> {
    let Circumstances { wanted, before, inexpressible } = circumstances;
    let iptables = |why| Ok(Choice::Iptables { why });
    match (wanted, before, inexpressible) {
        (Backend::Iptables, _, _) => iptables(Why::Configured),
        (Backend::Ebpf, _, Some(why)) => {
            Err(Error::new(Kind::Unsupported, format!("key \"backend\": \"ebpf\" cannot do this: {why}")))
        }
        (Backend::Ebpf, _, None) | (Backend::Auto, Some(Backend::Ebpf), None) => Ok(Choice::Ebpf),
        (Backend::Auto, Some(Backend::Iptables), _) => iptables(Why::Before),
        (Backend::Auto, _, Some(why)) => iptables(Why::Obstacle(why.to_owned())),
        (Backend::Auto, _, None) => match obstacle() {
            Some(why) => iptables(Why::Obstacle(why)),
            None => Ok(Choice::Ebpf),
        },
    }
}

/// Says why the eBPF backend cannot express a plan. It can express every plan there is today.
///
/// # Errors
/// What it cannot do, for people.
pub fn expressible(_plan: &Plan) -> Result<(), String> {
    Ok(())
}

/// The choice for one pod on this node. `before` is the backend the attachment has already; `kept_out` says whether programs of
/// others keep ours from the pod's cgroups.
///
/// # Errors
/// See [`choose`].
pub fn for_pod(
    ask: &Ask<'_>,
    wanted: Backend,
    plan: &Plan,
    before: Option<Backend>,
    kept_out: impl FnOnce() -> Option<String>,
) -> Result<Choice, Error> {
    let inexpressible = expressible(plan).err();
    let circumstances = Circumstances { wanted, before, inexpressible: inexpressible.as_deref() };
    choose(circumstances, || obstacle(ask).or_else(kept_out))
}

/// The choice for pods to come, as far as the node decides it.
///
/// # Errors
/// See [`choose`].
pub fn for_node(ask: &Ask<'_>, wanted: Backend) -> Result<Choice, Error> {
    choose(Circumstances { wanted, before: None, inexpressible: None }, || obstacle(ask))
}

/// Whom the node is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// Directories of the configuration.
    pub places: Places<'a>,
    /// When the caller's time is up.
    pub deadline: Instant,
    /// Told of a probe.
    pub log: &'a Logger,
}

fn obstacle(ask: &Ask<'_>) -> Option<String> {
    let (answer, fresh) = probe::answer(ask.places, ask.deadline);
    if fresh {
        tell(ask.log, &answer);
    }
    answer.obstacle()
}

/// Once per boot, or as often as nothing can be found out.
fn tell(log: &Logger, answer: &Answer) {
    let obstacle = answer.obstacle().unwrap_or_default();
    info!(log, "probed this node for backend auto: {}", answer.backend();
        "reason" => obstacle, "kept" => !answer.transient, "probe_us" => answer.took_us);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(
        wanted: Backend,
        before: Option<Backend>,
        inexpressible: Option<&str>,
        obstacle: Option<&str>,
    ) -> Result<String, String> {
        let circumstances = Circumstances { wanted, before, inexpressible };
        choose(circumstances, || obstacle.map(str::to_owned))
            .map(|choice| choice.words())
            .map_err(|error| format!("{}: {}", error.kind().as_str(), error.details()))
    }

    #[test]
    fn the_whole_table() {
        use Backend::{Auto, Ebpf, Iptables};
        let kept = "iptables: as at the ADD before";
        for (wanted, before, inexpressible, obstacle, choice) in [
            (Auto, None, None, None, "ebpf"),
            (Auto, None, None, Some("no bpf"), "iptables: no bpf"),
            (Auto, None, Some("no key"), None, "iptables: no key"),
            (Auto, None, Some("no key"), Some("no bpf"), "iptables: no key"),
            // What the attachment has, it keeps, whatever the node says now.
            (Auto, Some(Ebpf), None, None, "ebpf"),
            (Auto, Some(Ebpf), None, Some("no bpf"), "ebpf"),
            (Auto, Some(Iptables), None, None, kept),
            (Auto, Some(Iptables), Some("no key"), Some("no bpf"), kept),
            // Unless it cannot have what it asks for now.
            (Auto, Some(Ebpf), Some("no key"), None, "iptables: no key"),
            // A configured backend is that one.
            (Iptables, None, None, None, "iptables: as configured"),
            (Iptables, Some(Ebpf), Some("no key"), Some("no bpf"), "iptables: as configured"),
            (Ebpf, None, None, Some("no bpf"), "ebpf"),
            (Ebpf, Some(Iptables), None, None, "ebpf"),
        ] {
            assert_eq!(
                chosen(wanted, before, inexpressible, obstacle).as_deref(),
                Ok(choice),
                "{wanted} {before:?} {inexpressible:?} {obstacle:?}"
            );
        }
        let refused = chosen(Ebpf, None, Some("no key"), None).unwrap_err();
        assert!(refused.starts_with("unsupported: ") && refused.contains("no key"), "{refused}");
    }

    #[test]
    fn the_node_is_asked_only_where_it_matters() {
        use Backend::{Auto, Ebpf, Iptables};
        for (wanted, before) in [(Ebpf, None), (Iptables, None), (Auto, Some(Ebpf)), (Auto, Some(Iptables))] {
            let circumstances = Circumstances { wanted, before, inexpressible: None };
            choose(circumstances, || panic!("{wanted} {before:?}")).unwrap();
        }
    }

    #[test]
    fn an_error_after_an_obstacle_gives_both_reasons() {
        let choice = Choice::Iptables { why: Why::Obstacle("attach sk_lookup: no".to_owned()) };
        let failed = Error::new(Kind::Rules, "running iptables-restore").because("no such file");
        let error = choice.explain(failed.with_undo(Error::new(Kind::Io, "removing a mark")));
        assert_eq!(error.kind(), Kind::Rules);
        assert_eq!(
            error.details(),
            "no backend works; ebpf: attach sk_lookup: no; iptables: running iptables-restore: no such file; \
             undo: removing a mark"
        );
        let error = Choice::Ebpf.explain(Error::new(Kind::Load, "loading"));
        assert_eq!(error.details(), "loading");
    }
}
