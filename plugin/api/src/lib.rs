//! What Shunt's entry in a CNI conflist looks like and where Shunt keeps its things on a host.
//!
//! The plugin reads these, the installer writes them; nothing here touches the system. [`Entry`] is the layer "as
//! written": every key has the right shape, but whether the values fit together is the plugin's business.

pub mod entry;
pub mod include;
pub mod network;
pub mod paths;
pub mod port_range;
pub mod report;

pub use entry::{
    Backend, BeforeProxy, Entry, EntryError, FailurePolicy, Level, Log, Mesh, Redirect, Select, Udp,
};
pub use include::Include;
pub use network::Network;
pub use port_range::PortRange;
