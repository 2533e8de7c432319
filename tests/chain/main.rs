//! Our plugin in a chain, called through libcni: with the reference plugins before and after it, in each version of the
//! specification, under both backends; and what is left when a neighbour fails, a cache is lost or a list changes.
//!
//! libcni is the one containerd and CRI-O are built with, behind `runtime/main.go` and cnitool. Pods have traffic: what a
//! chain made is tried by a proxy, an app and clients. At its end the suite leaves a table in `target/chain.txt`.

#![expect(
    clippy::panic,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot be judged must fail"
)]

mod again;
mod broken;
mod collect;
mod matrix;
mod multus;
mod neighbours;
mod network;
mod plugins;
mod primaries;
mod report;
mod sandbox;
mod site;
mod unwind;
mod versions;

/// Both backends.
pub(crate) const BACKENDS: [&str; 2] = ["ebpf", "iptables"];

/// Versions in which chains exist.
pub(crate) const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Whether one version is as new as another.
pub(crate) fn at_least(version: &str, other: &str) -> bool {
    let place = |version: &str| VERSIONS.iter().position(|one| *one == version);
    place(version) >= place(other)
}
