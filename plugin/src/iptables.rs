//! Rules of the host's iptables: what a plan becomes, which tool writes it, and how the tool is run.
//!
//! Plan → [`render`] → [`rules::Rules`] → [`rules::transaction`] → the tool of [`tools`], chosen by [`choice`] from what
//! [`observe`] saw, run in a [`room`]. What the kernel then has comes back through [`saved`] as the same [`rules::Rules`].

pub mod choice;
pub mod networks;
pub mod observe;
pub mod render;
pub mod room;
pub mod rules;
pub mod saved;
pub mod tools;

use serde::{Deserialize, Serialize};

/// What every chain of ours begins with.
pub const PREFIX: &str = "SHUNT_";

/// An IP family: each has its own tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// Which of the kernel's two rule stores a tool writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Flavour {
    /// `nf_tables`, through `xtables-nft-multi`.
    Nft,
    /// `ip_tables` and `ip6_tables`.
    Legacy,
}

impl Flavour {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Nft, Self::Legacy];

    /// As the tools' names have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        }
    }
}
