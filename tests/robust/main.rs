//! What runtimes, kernels and power cuts do to the plugin: bad input, broken state, races, SIGKILL and errors at every system
//! call, reboots and upgrades. After each of them nothing is left behind, nobody else is touched, and the next ADD works.
//!
//! No traffic here: pods are a namespace and a cgroup.

#![expect(clippy::panic, clippy::expect_used, reason = "a test that cannot be judged must fail")]

mod bed;
mod inject;
mod kernel;
mod kill;
mod proof;
mod trace;
