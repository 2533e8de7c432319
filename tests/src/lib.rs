//! The harness of the suites: scratch nodes, pods, cgroups and processes, and a runtime that calls the plugin.
//!
//! A suite makes a [`node::Node`], a [`net::World`] beyond it and pods on it, runs servers, a proxy and clients as
//! processes of those pods ([`process`]) and calls the plugin as a container runtime does ([`runtime_call`]). Whatever a
//! test makes is its own and is gone when the test ends, after a panic too; what a killed run left is removed by the next.

#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    clippy::panic,
    reason = "a harness stops the test where its ground gives way"
)]
#![expect(clippy::format_push_string, reason = "scripts for `ip` are put together line by line")]
#![expect(clippy::indexing_slicing, reason = "JSON objects take keys by index")]

pub mod ask;
pub mod bin;
pub mod cgroup;
pub mod cost;
pub mod crowd;
pub mod datagram;
pub mod envoy;
pub mod errand;
pub mod figures;
pub mod foreign;
pub mod held;
pub mod hooked;
pub mod host;
pub mod kernel;
pub mod load;
pub mod machine;
pub mod need;
pub mod net;
pub mod node;
pub mod process;
pub mod program;
pub mod redirect;
pub mod runtime_call;
pub mod schema;
pub mod scratch;
pub mod sidecar;
pub mod trace;
pub mod validation;
pub mod watching;
pub mod web;
