//! CNI network configurations as text: read as runtimes read them, and edited by putting text in or cutting it out.
//!
//! What an owner wrote stays as it stands, to the byte: unknown keys, order, white space, numbers that no parser of ours could hold.
//! So a list with our entry in it, less our entry, is the owner's list again.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use shunt_api::paths::TYPE;

/// Configurations larger than this are not looked into.
pub const SIZE_MAX: usize = 1024 * 1024;

/// How a runtime reads a file, by the end of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `.conflist`: a list of plugins.
    List,
    /// `.conf` and `.json`: one plugin.
    Single,
}

impl Form {
    /// Of a file of this name; `None` for one that no runtime loads (containerd and CRI-O take these three endings).
    pub fn of(name: &str) -> Option<Self> {
        let (_, ending) = name.rsplit_once('.')?;
        match ending {
            "conflist" => Some(Self::List),
            "conf" | "json" => Some(Self::Single),
            _ => None,
        }
    }
}

/// Why a runtime would not take a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Half-written, or never right.
    #[error("it is not JSON as it should be: {0}")]
    NotJson(String),
    /// A list or plugin without a name.
    #[error("it has no \"name\"")]
    NoName,
    /// A list without plugins, or with none but ours.
    #[error("it has no plugin but ours")]
    NoPlugins,
    /// A plugin without a type; which, counted from 0.
    #[error("plugin {0} has no \"type\"")]
    NoType(usize),
    /// One of its plugins calls our list, so that a list made of it would call itself.
    #[error(
        "its plugin {0} hands on to a list that Shunt is in; name the list it is to hand on to (Multus: --multus-master-cni-file-name)"
    )]
    Nested(usize),
    /// Larger than [`SIZE_MAX`].
    #[error("it is larger than {SIZE_MAX} bytes")]
    TooLarge,
}

/// A configuration that a runtime would take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network<'a> {
    /// Name of the network.
    pub name: String,
    text: &'a str,
    form: Form,
    plugins: Vec<Plugin>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Plugin {
    start: usize,
    end: usize,
    ours: bool,
}

#[derive(Deserialize)]
struct Written<'a> {
    #[serde(default)]
    name: String,
    #[serde(borrow, default)]
    plugins: Option<Vec<&'a RawValue>>,
    // Read so that one of the wrong shape is an error here, as it is in libcni.
    #[serde(default, rename = "cniVersion")]
    version: Option<String>,
    #[serde(default, rename = "type")]
    kind: Option<String>,
}

/// Reads `text` as a runtime reads a file of this form.
///
/// # Errors
/// Why the runtime would refuse it, or why it is no list for ours to be made of.
pub fn parse<'a>(form: Form, text: &'a str, own_lists: &[&str]) -> Result<Network<'a>, Problem> {
    if text.len() > SIZE_MAX {
        return Err(Problem::TooLarge);
    }
    let written: Written<'a> =
        serde_json::from_str(text).map_err(|error| Problem::NotJson(error.to_string()))?;
    drop(written.version);
    if written.name.is_empty() {
        return Err(Problem::NoName);
    }
    let raw: Vec<&str> = match form {
        Form::List => written.plugins.unwrap_or_default().into_iter().map(RawValue::get).collect(),
        Form::Single if written.kind.is_some() => vec![text.trim()],
        Form::Single => return Err(Problem::NoType(0)),
    };
    let mut plugins = Vec::with_capacity(raw.len());
    for (index, plugin) in raw.iter().enumerate() {
        let value: Value =
            serde_json::from_str(plugin).map_err(|error| Problem::NotJson(error.to_string()))?;
        let kind = value.get("type").and_then(Value::as_str).filter(|kind| !kind.is_empty());
        let ours = kind.ok_or(Problem::NoType(index))? == TYPE;
        if !ours && calls_us(&value, own_lists) {
            return Err(Problem::Nested(index));
        }
        let start = offset(text, plugin);
        plugins.push(Plugin { start, end: start + plugin.len(), ours });
    }
    if plugins.iter().all(|plugin| plugin.ours) {
        return Err(Problem::NoPlugins);
    }
    Ok(Network { name: written.name, text, form, plugins })
}

/// Where `part`, a piece of `text`, begins in it.
fn offset(text: &str, part: &str) -> usize {
    part.as_ptr().addr().saturating_sub(text.as_ptr().addr())
}

/// Whether a plugin that is not ours holds our entry, or names a list of ours, somewhere in its configuration.
fn calls_us(value: &Value, own_lists: &[&str]) -> bool {
    match value {
        Value::Object(object) => {
            object.get("type").and_then(Value::as_str) == Some(TYPE)
                || object.values().any(|value| calls_us(value, own_lists))
        }
        Value::Array(list) => list.iter().any(|value| calls_us(value, own_lists)),
        Value::String(text) => {
            let file = text.rsplit('/').next().unwrap_or_default();
            own_lists.contains(&file)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

impl Network<'_> {
    /// How many entries of ours it has.
    pub fn entries(&self) -> usize {
        self.plugins.iter().filter(|plugin| plugin.ours).count()
    }

    /// Our first entry, as it stands there.
    pub fn entry(&self) -> Option<String> {
        let ours = self.plugins.iter().find(|plugin| plugin.ours)?;
        self.text.get(ours.start..ours.end).map(str::to_owned)
    }

    /// The list a runtime makes of it, without our entries.
    pub fn as_list(&self) -> String {
        match self.form {
            Form::List => self.without_entry(),
            Form::Single => self.list_of("", ""),
        }
    }

    /// The text without our entries: as its owner wrote it.
    pub fn without_entry(&self) -> String {
        let mut text = self.text.to_owned();
        let first = self.plugins.iter().position(|plugin| !plugin.ours).unwrap_or_default();
        // From the end, so that what comes before stays where it is. A cut begins where the plugin before ends: that is what an
        // appended entry had put there.
        for pair in self.plugins.get(first..).unwrap_or_default().windows(2).rev() {
            if let [before, plugin] = pair
                && plugin.ours
            {
                text.replace_range(before.end..plugin.end, "");
            }
        }
        // Those at the head have none before them and go with what separates them from the first that stays.
        if let (Some(head), Some(stays)) = (self.plugins.first(), self.plugins.get(first)) {
            text.replace_range(head.start..stays.start, "");
        }
        text
    }

    /// The list with our entry in it once, last. `entry` is one JSON object. A single plugin becomes a list of itself and ours,
    /// under its own name and version, as libcni makes one of it.
    pub fn with_entry(&self, entry: &str) -> String {
        match self.form {
            Form::List => {
                let text = self.without_entry();
                // What it is once ours is out decides where and how ours goes in: so doing it twice is doing it once.
                let bare = parse(Form::List, &text, &[]);
                let (end, separator) =
                    bare.as_ref().map_or((text.len(), ""), |bare| (bare.end(), bare.separator()));
                let (head, tail) = text.split_at_checked(end).unwrap_or((&text, ""));
                format!("{head},{separator}{entry}{tail}")
            }
            Form::Single => self.list_of(",", entry),
        }
    }

    /// A list of the one plugin there is, and what else is to be in it.
    fn list_of(&self, comma: &str, entry: &str) -> String {
        let value: Value = serde_json::from_str(self.text).unwrap_or_default();
        let of = |key: &str| value.get(key).map(|value| format!("\"{key}\":{value},")).unwrap_or_default();
        let (version, name, text) = (of("cniVersion"), of("name"), self.text.trim());
        format!("{{{version}{name}\"plugins\":[{text}{comma}{entry}]}}\n")
    }

    /// Where the last plugin ends.
    fn end(&self) -> usize {
        self.plugins.last().map_or(self.text.len(), |last| last.end)
    }

    /// The white space that stands before the second plugin, or, where there is one alone, before that: our entry gets the same.
    fn separator(&self) -> &str {
        let before = |plugin: &Plugin| {
            let head = self.text.get(..plugin.start).unwrap_or_default();
            head.get(head.trim_end().len()..).unwrap_or_default()
        };
        self.plugins.get(1).or(self.plugins.first()).map(before).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
