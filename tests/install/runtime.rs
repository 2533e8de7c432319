//! What a container runtime makes of a directory of network configurations, written after libcni and go-cni and with nothing of the
//! installer's: what it is judged by.

use std::fs;
use std::io;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// Type of our entry.
pub(crate) const OURS: &str = "shunt";

/// What a runtime would use.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Loaded {
    /// The directory is empty or not there: the node is not ready, pods wait.
    Nothing,
    /// The first file is not a network: containerd is not ready, pods wait.
    Broken(String, String),
    /// A list.
    List(List),
}

/// A list in use.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct List {
    /// The file it is from.
    pub(crate) file: String,
    /// The file as it stands.
    pub(crate) text: String,
    /// The network's name.
    pub(crate) name: String,
    /// The version, as written.
    pub(crate) version: String,
    /// The plugins, each as it stands.
    pub(crate) plugins: Vec<String>,
}

/// A list, or one plugin, as far as libcni reads it.
#[derive(Deserialize)]
struct Written<'a> {
    name: Option<String>,
    #[serde(rename = "cniVersion")]
    version: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(borrow)]
    plugins: Option<Vec<&'a RawValue>>,
}

impl List {
    fn read(file: &str, text: String) -> Result<Self, String> {
        let written: Written<'_> = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let name = written.name.filter(|name| !name.is_empty()).ok_or("no name")?;
        let plugins = if Path::new(file).extension().is_some_and(|ending| ending == "conflist") {
            written.plugins.unwrap_or_default().iter().map(|plugin| plugin.get().to_owned()).collect()
        } else {
            written.kind.ok_or("no type")?;
            vec![text.trim().to_owned()]
        };
        if plugins.is_empty() {
            return Err("no plugins".to_owned());
        }
        for plugin in &plugins {
            if kind(plugin).is_empty() {
                return Err("a plugin without a type".to_owned());
            }
        }
        let version = written.version.unwrap_or_default();
        Ok(Self { file: file.to_owned(), text, name, version, plugins })
    }

    /// Types of the plugins.
    pub(crate) fn kinds(&self) -> Vec<String> {
        self.plugins.iter().map(|plugin| kind(plugin)).collect()
    }

    /// How many entries of ours.
    pub(crate) fn ours(&self) -> usize {
        self.kinds().iter().filter(|kind| *kind == OURS).count()
    }

    /// The text with its last plugin, which must be ours, and what separates it from the one before cut out.
    pub(crate) fn less_ours(&self) -> String {
        let last = self.plugins.last().map(String::as_str).unwrap_or_default();
        assert_eq!(kind(last), OURS, "the last plugin is ours: {}", self.text);
        let start = self.text.rfind(last).expect("it is part of the text");
        let comma = self.text[..start].rfind(',').expect("it follows another");
        assert!(self.text[comma + 1..start].trim().is_empty(), "{}", self.text);
        format!("{}{}", &self.text[..comma], &self.text[start + last.len()..])
    }
}

fn kind(plugin: &str) -> String {
    let value: Value = serde_json::from_str(plugin).expect("a part of JSON");
    value["type"].as_str().unwrap_or_default().to_owned()
}

/// The files that a runtime looks at, in its order: `.conf`, `.conflist` and `.json`, by name.
pub(crate) fn candidates(directory: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok) {
        let name = entry.file_name().into_string().expect("names here are text");
        let ending = name.rsplit_once('.').map(|(_, ending)| ending);
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if matches!(ending, Some("conf" | "conflist" | "json")) && !is_directory {
            names.push(name);
        }
    }
    names.sort_unstable();
    names
}

/// What containerd loads: the first file, or nothing if that is broken.
pub(crate) fn containerd(directory: &Path) -> Loaded {
    loop {
        let Some(first) = candidates(directory).into_iter().next() else { return Loaded::Nothing };
        let path = directory.join(&first);
        match fs::read_to_string(&path) {
            Ok(text) => {
                return match List::read(&first, text) {
                    Ok(list) => Loaded::List(list),
                    Err(why) => Loaded::Broken(first, why),
                };
            }
            // Gone since it was listed: a runtime is told, and loads again.
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.symlink_metadata().is_err() => {}
            Err(error) => return Loaded::Broken(first, error.to_string()),
        }
    }
}

/// What CRI-O loads: the first file that is not broken.
pub(crate) fn crio(directory: &Path) -> Option<List> {
    candidates(directory).into_iter().find_map(|file| {
        let text = fs::read_to_string(directory.join(&file)).ok()?;
        List::read(&file, text).ok()
    })
}
