//! What runtimes, kernels and power cuts do to the plugin: bad input, broken state, races, SIGKILL and errors at every system
//! call, reboots and upgrades. After each of them nothing is left behind, nobody else is touched, and the next ADD works.
//!
//! No traffic here: pods are a namespace and a cgroup.

#![expect(
    clippy::panic,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot be judged must fail"
)]

mod bed;
mod check;
mod conformance;
mod del;
mod deny;
mod inject;
mod input;
mod kill;
mod leave;
mod many;
mod node;
mod pins;
mod probe;
mod proof;
mod races;
mod rules;
mod state;
mod tally;
mod time;
mod trace;
