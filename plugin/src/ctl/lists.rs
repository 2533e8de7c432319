//! The network configurations of this host, as a runtime loads them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};
use shunt_api::{Entry, paths};

use crate::bpf::pins::children;
use crate::error::{Error, Kind, chain};
use crate::settings::Settings;

/// Where runtimes look for lists and plugins.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub(super) struct Host {
    /// Where the runtime looks for network configurations.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d", value_parser = super::directory)]
    pub(super) conf_dir: PathBuf,
    /// Where it looks for plugins.
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin", value_parser = super::directory)]
    pub(super) bin_dir: PathBuf,
}

/// Files larger than this no runtime's owner has written.
const LIMIT: u64 = 1024 * 1024;

/// A file that a runtime loads.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct List {
    /// Its name.
    pub(super) file: String,
    /// Name of the network.
    pub(super) network: Option<String>,
    /// Types of its plugins, in their order.
    pub(super) plugins: Vec<String>,
    /// Why a runtime does not take it; none: it does.
    pub(super) broken: Option<String>,
    /// Our entry, the first of them.
    #[serde(skip)]
    pub(super) entry: Option<Map<String, Value>>,
    /// What is in it, if it is JSON.
    #[serde(skip)]
    pub(super) content: Option<Value>,
}

impl List {
    /// How many entries of ours it has.
    pub(super) fn entries(&self) -> usize {
        self.plugins.iter().filter(|kind| *kind == paths::TYPE).count()
    }

    /// Our entry as it is meant, or why it is refused; none: there is no entry.
    pub(super) fn settings(&self) -> Option<Result<Settings, String>> {
        let entry = self.entry.as_ref()?;
        let settings = Entry::from_object(entry)
            .map_err(|error| Error::new(Kind::Config, error.to_string()))
            .and_then(Settings::new);
        Some(settings.map_err(|error| error.details()))
    }

    fn read(directory: &Path, file: String) -> Self {
        let mut list =
            Self { file, network: None, plugins: Vec::new(), broken: None, entry: None, content: None };
        if let Err(why) = list.fill(directory) {
            list.broken = Some(why);
        }
        list
    }

    fn fill(&mut self, directory: &Path) -> Result<(), String> {
        let path = directory.join(&self.file);
        // A link is followed, as runtimes do.
        let size = fs::metadata(&path).map_err(|error| error.to_string())?.len();
        if size > LIMIT {
            return Err(format!("it is larger than {LIMIT} bytes"));
        }
        let text = fs::read_to_string(&path).map_err(|error| error.to_string())?;
        let value: Value = serde_json::from_str(&text).map_err(|error| format!("it is not JSON: {error}"))?;
        let word = |value: &Value, key: &str| {
            value.get(key).and_then(Value::as_str).filter(|word| !word.is_empty()).map(str::to_owned)
        };
        self.network = word(&value, "name");
        let plugins = if self.file.ends_with(".conflist") {
            value.get("plugins").and_then(Value::as_array).cloned().unwrap_or_default()
        } else {
            vec![value.clone()]
        };
        self.content = Some(value);
        self.plugins = plugins.iter().map(|plugin| word(plugin, "type").unwrap_or_default()).collect();
        let is_ours = |plugin: &&Value| word(plugin, "type").as_deref() == Some(paths::TYPE);
        self.entry = plugins.iter().find(is_ours).and_then(Value::as_object).cloned();
        if self.network.is_none() {
            return Err("it has no \"name\"".to_owned());
        }
        if self.plugins.is_empty() {
            return Err("it has no plugins".to_owned());
        }
        match self.plugins.iter().position(String::is_empty) {
            Some(index) => Err(format!("plugin {index} has no \"type\"")),
            None => Ok(()),
        }
    }
}

/// What a runtime finds.
#[derive(Debug, Clone, Default)]
pub(super) struct Lists {
    /// In byte order of names, which is the order of runtimes.
    pub(super) files: Vec<List>,
}

impl Lists {
    /// Reads a directory; one that is not there has none.
    pub(super) fn read(directory: &Path) -> Result<Self, String> {
        let is_one = |name: &String| {
            let ends = name.rsplit_once('.').map(|(_, end)| end);
            matches!(ends, Some("conf" | "conflist" | "json"))
        };
        let names = children(directory).map_err(|fault| chain(&fault))?;
        let files = names.into_iter().filter(is_one).map(|name| List::read(directory, name)).collect();
        Ok(Self { files })
    }

    /// The one pods get: the first that is not broken. containerd does not get past a broken one.
    pub(super) fn taken(&self) -> Option<&List> {
        self.files.iter().find(|list| list.broken.is_none())
    }

    /// The one pods get if it has our entry, else the first that has.
    pub(super) fn ours(&self) -> Option<&List> {
        let has = |list: &&List| list.entries() > 0;
        self.taken().filter(has).or_else(|| self.files.iter().find(has))
    }
}

/// Whether a plugin's file can be run; what is wrong with it otherwise.
pub(super) fn runnable(path: &Path) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt as _;
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => Err("it is not a file".to_owned()),
        Ok(found) if found.permissions().mode() & 0o111 == 0 => Err("it cannot be run".to_owned()),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err("it is not there".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::Lists;

    #[test]
    fn as_a_runtime_reads_them() {
        let directory = tempfile::tempdir().expect("a directory");
        for (name, text) in [
            ("05-a.conflist", "{"),
            ("06-b.conf", r#"{"name": "b"}"#),
            ("07-c.conflist", r#"{"name": "c", "plugins": []}"#),
            ("08-d.conflist", r#"{"plugins": [{"type": "x"}]}"#),
            (
                "10-e.conflist",
                r#"{"name": "e", "plugins": [{"type": "x"}, {"type": "shunt", "captureDns": 3}]}"#,
            ),
            ("11-f.json", r#"{"name": "f", "type": "shunt"}"#),
            ("12-g.conflist.bak", "{}"),
        ] {
            fs::write(directory.path().join(name), text).expect("written");
        }
        let lists = Lists::read(directory.path()).expect("read");
        let broken: Vec<(&str, bool)> =
            lists.files.iter().map(|list| (list.file.as_str(), list.broken.is_some())).collect();
        assert_eq!(
            broken,
            [
                ("05-a.conflist", true),
                ("06-b.conf", true),
                ("07-c.conflist", true),
                ("08-d.conflist", true),
                ("10-e.conflist", false),
                ("11-f.json", false)
            ]
        );
        let taken = lists.taken().expect("one");
        assert_eq!((taken.file.as_str(), taken.entries()), ("10-e.conflist", 1));
        assert!(taken.settings().expect("an entry").is_err_and(|why| why.contains("captureDns")));
        assert!(Lists::read(&directory.path().join("none")).expect("read").files.is_empty());
    }
}
