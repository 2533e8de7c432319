//! The iptables backend: rules in real namespaces, what they do to traffic, and what disturbs them.
//!
//! The traffic scene is that of the suite `netns`.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot be judged must fail"
)]

mod datagrams;
mod host;
mod hostile;
mod life;
#[path = "../netns/mesh.rs"]
#[expect(dead_code, reason = "made for another suite, which needs more of it")]
mod mesh;
mod scene;
mod traffic;
