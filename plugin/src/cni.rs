//! The CNI protocol and nothing else: what comes in, what goes out, and who is called in between.
//!
//! Modelled on CNI's own `pkg/skel`, with the facts of `cni-contract.md` sections 3 to 6. Knows no kernel, no mesh and no
//! backend; calls the work through [`Verbs`].

pub mod args;
pub mod command;
pub mod dispatch;
pub mod netconf;
pub mod reply;
pub mod request;
pub mod version;

pub use args::PodRef;
pub use command::Command;
pub use dispatch::{Verbs, run};
pub use netconf::{Annotations, DelConf, NetConf, PrevResult};
pub use request::{AddRequest, CheckRequest, Deadline, DelRequest, GcRequest, Outcome, StatusRequest};
pub use version::Version;
