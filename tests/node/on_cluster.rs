//! Scenarios that need no more than an API server: they play on a node of ours and on any cluster.

mod change;
mod install;
mod pods;
mod tools;
mod traffic;

use crate::scenario::{Bed, Scenario};
pub(crate) use install::uninstall;

const fn scenario(name: &'static str, play: fn(&mut Bed) -> String) -> Scenario {
    Scenario { name, play }
}

/// The first: nothing works without it.
pub(crate) const INSTALL: Scenario = scenario("install by helm", install::install);
/// In this order, after [`INSTALL`].
pub(crate) const SCENARIOS: [Scenario; 8] = [
    scenario("captured and direct", traffic::captured_and_direct),
    scenario("a meshed pod without its proxy", traffic::without_proxy),
    scenario("native sidecar", pods::native_sidecar),
    scenario("init container, beforeProxy closed", pods::init_closed),
    scenario("kubelet probes", pods::probes),
    scenario("exec, logs, port-forward", tools::tools),
    scenario("upgrade under churn", change::upgrade_under_churn),
    scenario("beforeProxy bypass by upgrade", pods::init_bypass),
];
/// The last on a cluster of somebody else's.
pub(crate) const UNINSTALL: Scenario = scenario("helm uninstall, detach", uninstall);
