//! Shunt, the plugin: a chained CNI plugin that makes a pod's traffic go through its mesh proxy.
//!
//! One ADD, as a straight line through the files: `main` → [`host`] → [`cni::dispatch`] ([`cni::command`] checks the
//! environment, [`cni::request`] reads standard input, [`cni::netconf`] decodes it, [`settings`] says what it means) →
//! [`verb`] → [`policy`] decides with [`profile`] and [`annotation`] and makes a [`plan`] → [`verb`] opens the namespace ([`netns`]) and takes the lock ([`lock`]) → [`backend`] installs: [`cgroup`],
//! [`bpf::programs`], [`bpf::rules`], [`bpf::pod`] → [`record`] → the answer
//! ([`cni::reply`]).
//!
//! Words: an *attachment* is a container id and an interface name; a *profile* says what a mesh's proxy looks like; a
//! *plan* is what one pod gets; a *backend* carries it out (ebpf or iptables); a *receipt* is what a backend did, enough
//! to undo it.

pub mod annotation;
pub mod attachment;
pub mod backend;
pub mod bpf;
mod bytes;
pub mod cgroup;
pub mod choice;
pub mod cni;
pub mod ctl;
pub mod error;
pub mod fault;
pub mod grounds;
pub mod host;
pub mod iptables;
pub mod link;
pub mod lock;
pub mod log;
pub mod netns;
pub mod node;
pub mod note;
pub mod plan;
pub mod policy;
pub mod ports;
pub mod probe;
pub mod profile;
pub mod record;
pub mod settings;
pub mod sockets;
pub mod tally;
pub mod userns;
pub mod verb;
