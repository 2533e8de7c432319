//! Programs of others on the cgroups ours are on: a socket load balancer as Cilium's and Calico's, old-style attachments that
//! suffer no other, programs that come before and after ours, and one that denies.
//!
//! The cgroup `above` plays the root of a node: nothing is attached outside the test's own.

#![expect(
    clippy::panic,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot be judged must fail"
)]

#[path = "../netns/mesh.rs"]
#[expect(dead_code, reason = "made for another suite, which needs more of it")]
mod mesh;
mod order;
mod scene;
mod steer;
