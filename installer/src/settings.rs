//! What the command line means: host paths that are whole, and an entry that is ours.

use std::fs::File;
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Map, Value, json};
use shunt_api::{Entry, paths};

use crate::cli::{Mode, Options};

/// Largest entry that is read; 100,000 networks need less.
const ENTRY_MAX: u64 = 8 * 1024 * 1024;

/// Validated options.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The host's root as it is seen from here.
    pub host_root: PathBuf,
    /// Host path of the directory with the plugins.
    pub bin_dir: PathBuf,
    /// Host path of the directory with the network configurations.
    pub conf_dir: PathBuf,
    /// Where our entry stands.
    pub mode: Mode,
    /// The plugin to install, as it is seen from here.
    pub plugin: PathBuf,
    /// Which configuration to follow.
    pub primary: Option<String>,
    /// Directory with the host's namespaces.
    pub host_ns: Option<PathBuf>,
    /// Where the entry is written.
    pub entry: EntrySource,
}

/// Where the entry comes from, and what options say about it.
#[derive(Debug, Clone)]
pub struct EntrySource {
    /// A file; none: the default.
    pub file: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    bpf_dir: Option<PathBuf>,
}

/// Our entry, read and checked as far as its shape goes; whether its values make sense together is the plugin's to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The entry as it goes into a list: one line of JSON.
    pub text: String,
    /// The same, to be read.
    pub object: Map<String, Value>,
    /// Host path of the plugin's records.
    pub state_dir: PathBuf,
    /// Host path of the plugin's pins.
    pub bpf_dir: PathBuf,
    /// Host path of the plugin's log.
    pub log_file: PathBuf,
}

impl Settings {
    /// Checks what was typed.
    ///
    /// # Errors
    /// The first option that makes no sense.
    pub fn new(options: &Options) -> Result<Self> {
        let host = |name: &str, path: &Path| {
            absolute(path)
                .with_context(|| format!("--{name} {}: not an absolute path without `..`", path.display()))
        };
        let optional =
            |name: &str, path: &Option<PathBuf>| path.as_deref().map(|path| host(name, path)).transpose();
        ensure!(options.primary.as_deref() != Some(""), "--primary is empty");
        let own = options.primary.as_deref().is_some_and(|name| OWN_LISTS.contains(&name));
        ensure!(!own, "--primary names our own list; it has to be the primary CNI's");
        Ok(Self {
            host_root: options.host_root.clone(),
            bin_dir: host("bin-dir", &options.bin_dir)?,
            conf_dir: host("conf-dir", &options.conf_dir)?,
            mode: options.mode,
            plugin: options.plugin.clone(),
            primary: options.primary.clone(),
            host_ns: options.host_ns.clone(),
            entry: EntrySource {
                file: options.entry.clone(),
                state_dir: optional("state-dir", &options.state_dir)?,
                bpf_dir: optional("bpf-dir", &options.bpf_dir)?,
            },
        })
    }
}

/// Names a list of ours can have: the first, or where a file of another sorts before that, the first that sorts before it.
pub const OWN_LISTS: [&str; 3] = ["00-shunt.conflist", "00-0-shunt.conflist", "0-shunt.conflist"];

/// A path from the root, with nothing in it that leads back.
fn absolute(path: &Path) -> Option<PathBuf> {
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    (path.is_absolute() && plain && path.to_str().is_some()).then(|| path.components().collect())
}

impl EntrySource {
    /// The default entry, with what options say.
    #[must_use]
    pub fn without_file(&self) -> Self {
        Self { file: None, ..self.clone() }
    }

    /// Reads the entry.
    ///
    /// # Errors
    /// It cannot be read, or is not an entry of ours.
    pub fn read(&self) -> Result<Wanted> {
        let Some(file) = &self.file else { return self.wanted(Map::new()) };
        let what = || format!("read our conflist entry from {} (--entry)", file.display());
        let mut text = String::new();
        File::open(file).with_context(what)?.take(ENTRY_MAX).read_to_string(&mut text).with_context(what)?;
        match serde_json::from_str(&text).with_context(what)? {
            Value::Object(object) => self.wanted(object).with_context(what),
            _ => bail!("{}: it is not a JSON object", what()),
        }
    }

    /// Completes what was written: `type`, the capabilities without which the runtime tells us nothing, and the directories that
    /// options name.
    fn wanted(&self, mut object: Map<String, Value>) -> Result<Wanted> {
        let kind = object.get("type").cloned().unwrap_or_else(|| json!(paths::TYPE));
        ensure!(kind == paths::TYPE, "key \"type\": it is {kind}, ours is {:?}", paths::TYPE);
        for key in ["plugins", "name", "cniVersion"] {
            ensure!(
                !object.contains_key(key),
                "key {key:?}: this is of a list; what is wanted is our entry in its \"plugins\" alone"
            );
        }
        object.insert("type".to_owned(), kind);
        object.entry("capabilities").or_insert_with(
            || json!({ paths::CAPABILITY_ANNOTATIONS: true, paths::CAPABILITY_CGROUP: true }),
        );
        for (key, option, value) in
            [("stateDir", "state-dir", &self.state_dir), ("bpfDir", "bpf-dir", &self.bpf_dir)]
        {
            let Some(value) = value else { continue };
            let value = json!(value);
            let written = object.entry(key).or_insert_with(|| value.clone());
            ensure!(*written == value, "key {key:?}: it is {written}, and --{option} is {value}");
        }
        let entry = Entry::from_object(&object)?;
        for (key, path) in
            [("stateDir", &entry.state_dir), ("bpfDir", &entry.bpf_dir), ("log.file", &entry.log.file)]
        {
            ensure!(absolute(path).is_some(), "key {key:?}: not an absolute path without `..`");
        }
        Ok(Wanted {
            text: serde_json::to_string(&object)?,
            object,
            state_dir: entry.state_dir,
            bpf_dir: entry.bpf_dir,
            log_file: entry.log.file,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;

    fn settings(arguments: &[&str]) -> Result<Settings> {
        let cli = Cli::parse_from(["shunt-installer", "once"].iter().chain(arguments));
        Settings::new(&cli.options)
    }

    fn entry(text: &str, arguments: &[&str]) -> Result<Wanted> {
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), text).expect("written");
        let path = file.path().to_str().expect("text");
        settings(&[&["--entry", path], arguments].concat()).expect("settings").entry.read()
    }

    #[test]
    fn what_is_not_said() {
        let settings = settings(&[]).expect("settings");
        assert_eq!(settings.conf_dir, Path::new("/etc/cni/net.d"));
        let wanted = settings.entry.read().expect("default");
        assert_eq!(
            wanted.text,
            r#"{"type":"shunt","capabilities":{"io.kubernetes.cri.pod-annotations":true,"cgroupPath":true}}"#
        );
        assert_eq!(wanted.state_dir, Path::new("/run/shunt"));
        let shipped = entry(include_str!("../../conf/entry.json"), &[]).expect("as shipped");
        assert_eq!((&shipped.state_dir, &shipped.log_file), (&wanted.state_dir, &wanted.log_file));
    }

    #[test]
    fn paths_are_whole() {
        assert_eq!(settings(&["--conf-dir", "/a//b/"]).expect("settings").conf_dir, Path::new("/a/b"));
        for arguments in [
            ["--bin-dir", "opt/cni"],
            ["--conf-dir", "/etc/../x"],
            ["--state-dir", "run"],
            ["--primary", ""],
            ["--primary", "00-shunt.conflist"],
        ] {
            let error = settings(&arguments).expect_err("refused").to_string();
            assert!(error.contains(arguments[0]), "{error}");
        }
    }

    #[test]
    fn options_go_into_the_entry() {
        let wanted =
            entry(r#"{"mesh":"kuma"}"#, &["--state-dir", "/x/s", "--bpf-dir", "/x/b"]).expect("entry");
        assert_eq!((wanted.state_dir, wanted.bpf_dir), ("/x/s".into(), "/x/b".into()));
        assert!(wanted.text.starts_with(r#"{"mesh":"kuma","type":"shunt","#), "{}", wanted.text);
        assert!(wanted.text.contains(r#""stateDir":"/x/s","bpfDir":"/x/b""#), "{}", wanted.text);
    }

    #[test]
    fn a_bad_entry_is_named() {
        for (text, word) in [
            ("{", "--entry"),
            ("[]", "JSON object"),
            (r#"{"type":"calico"}"#, "type"),
            (r#"{"mesh":"x"}"#, "mesh"),
            (r#"{"mash":"istio"}"#, "mash"),
            (r#"{"plugins":[]}"#, "plugins"),
            (r#"{"stateDir":"run"}"#, "stateDir"),
            (r#"{"stateDir":"/y"}"#, "--state-dir"),
            (r#"{"log":{"file":"/a/../b"}}"#, "log.file"),
        ] {
            let error = format!("{:#}", entry(text, &["--state-dir", "/x"]).expect_err(text));
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
