//! Scenarios that need the node itself: its files, its power switch, its API server's.

mod away;
mod ctl;
mod leave;
mod reboot;
mod script;

use crate::scenario::{Bed, Scenario};

const fn scenario(name: &'static str, play: fn(&mut Bed) -> String) -> Scenario {
    Scenario { name, play }
}

/// In this order, after those that need a cluster only.
pub(crate) const SCENARIOS: [Scenario; 10] = [
    scenario("shuntctl on the node", ctl::answers),
    scenario("deleted pods leave nothing", leave::nothing_of_pods),
    scenario("API server away", away::api_away),
    scenario("reboot, static pods race nobody", reboot::before_the_installer),
    scenario("reboot, installer first", reboot::after_the_installer),
    scenario("reboots, everybody races", reboot::everybody_races),
    scenario("reboot, mode chained", reboot::chained_is_open),
    scenario("uninstall.enabled, keep", leave::uninstall_keep),
    scenario("helm uninstall, detach", leave::uninstall_detach),
    scenario("test-cluster on this API server", script::test_cluster),
];
