//! Library.
pub mod attachment;
pub mod backend;
pub mod bpf;
pub mod cgroup;
pub mod error;
pub mod fault;
pub mod link;
pub mod lock;
pub mod netns;
pub mod plan;
pub mod ports;
pub mod record;
pub mod userns;
