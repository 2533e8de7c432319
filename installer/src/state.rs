//! How the node is, beside how it is wanted: for `status`, for the health endpoints and for the log.

use std::fmt::Write as _;

use serde::Serialize;

/// Version of the JSON form. A key keeps its meaning; new keys may come.
pub const VERSION: u32 = 1;

/// The node at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// [`VERSION`]
    pub version: u32,
    /// Plugin, list and STATUS are as wanted.
    pub ready: bool,
    /// `ours`, `another` or `over`: which installer works on this node.
    pub turn: &'static str,
    /// `owned` or `chained`.
    pub mode: &'static str,
    /// The plugin on the host.
    pub plugin: PluginState,
    /// The list that pods get.
    pub list: ListState,
    /// Whether the entry that is wanted can be used.
    pub entry: Checked,
    /// What the plugin said to STATUS.
    pub status: Checked,
    /// Why it is not as wanted; empty when it is.
    pub problems: Vec<String>,
    /// What is worth knowing and no fault.
    pub notes: Vec<String>,
    /// Files that somebody else insists on changing.
    pub fights: Vec<String>,
}

/// The plugin on the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PluginState {
    /// Its place.
    pub file: String,
    /// The beginning of the SHA-256 of the one to install.
    pub wanted: String,
    /// `same`, `missing`, `differs` or `mode`.
    pub found: &'static str,
}

/// The list that pods get.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListState {
    /// The directory it is in.
    pub directory: String,
    /// The file our entry is to be in; empty when there is nothing to make it of.
    pub file: String,
    /// The primary CNI's file that it is made of; empty when it is not there.
    pub follows: String,
    /// Name of the network.
    pub network: String,
    /// True if the file holds what it is to hold.
    pub as_wanted: bool,
}

/// Whether something is right, and what there is to say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Checked {
    /// It is.
    pub ok: bool,
    /// For people.
    pub words: String,
}

impl State {
    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: &str| {
            // Writing to a text does not fail.
            let _written = writeln!(text, "{name:<8} {value}");
        };
        line("ready", if self.ready { "yes" } else { "no" });
        line("plugin", &format!("{} {} ({})", self.plugin.file, self.plugin.found, self.plugin.wanted));
        let list = &self.list;
        let shown = match (list.file.is_empty(), list.as_wanted) {
            (true, _) => format!("{}: none", list.directory),
            (false, true) => format!("{}/{} as wanted", list.directory, list.file),
            (false, false) => format!("{}/{} not as wanted", list.directory, list.file),
        };
        line("list", &format!("{shown}, mode {}", self.mode));
        if !list.network.is_empty() {
            let from = if list.follows.is_empty() { "no file now" } else { &list.follows };
            line("primary", &format!("{from}, network {}", list.network));
        }
        line("entry", &self.entry.words);
        line("STATUS", &self.status.words);
        if self.turn != "ours" && !self.turn.is_empty() {
            line("turn", &format!("{}: this installer does nothing", self.turn));
        }
        for file in &self.fights {
            line("fight", &format!("somebody else insists on changing {file}"));
        }
        for problem in &self.problems {
            line("problem", problem);
        }
        for note in &self.notes {
            line("note", note);
        }
        text
    }
}
