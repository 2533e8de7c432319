//! What the first process of a machine is told; spoken as JSON between a test and the `probe` program.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Something of the host that is seen inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// On the host.
    pub from: PathBuf,
    /// Inside, from the root. Made if it is not there, as a file or a directory as `from` is.
    pub to: PathBuf,
    /// Whether it can be written to.
    pub writable: bool,
}

/// How the machine is put together.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Orders {
    /// Directory of its cgroup, which is the root of all cgroups inside.
    pub cgroup: PathBuf,
    /// An empty directory its root is mounted on.
    pub root: PathBuf,
    /// What survives a reboot: `etc`, `var`, `opt` and `root` are in it.
    pub disk: PathBuf,
    /// More of the host, bound in this order when all else is in place.
    pub binds: Vec<Bind>,
    /// Its name.
    pub hostname: String,
    /// `ip` commands, one a line, run in its network once `lo` is up.
    pub network: String,
}
