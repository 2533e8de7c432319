//! A real Envoy in the path, set up as Istio sets up its own: every protocol each way, a proxy that restarts, drains and dies under
//! traffic, what the meshes' validators do, and what the node tool says of it all.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot be judged must fail, and JSON takes keys by index"
)]

mod hops;
mod istio;
mod life;
mod peers;
#[expect(dead_code, reason = "the bench with an Envoy uses the rest")]
mod proxy;
mod report;
mod scene;
mod tool;
mod traffic;
mod validators;
mod witness;
