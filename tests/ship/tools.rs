//! The tools, and what the chart gives in each case.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::Value;
use shunt_tests::need;

/// What the manifests must be good for.
const VERSIONS: &str = "1.30,1.34,1.37";

/// The namespace everything is rendered for; `make manifests` has the same.
pub(crate) const NAMESPACE: &str = "shunt-system";

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in the workspace").to_owned()
}

pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A tool that `make deps` has put into target/tools.
pub(crate) fn tool(name: &str) -> Command {
    let path = root().join("target/tools").join(name);
    assert!(path.exists(), "{} is not there: run `make deps`", path.display());
    let mut command = Command::new(path);
    command.current_dir(root());
    command
}

pub(crate) fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// What a command prints; it must succeed.
pub(crate) fn text(command: &mut Command) -> String {
    let output = output(command);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}

pub(crate) fn helm(arguments: &[&str]) -> Command {
    let mut command = tool("helm");
    // Nothing of the user's may have a say.
    command.env("HELM_NAMESPACE", NAMESPACE).env("KUBECONFIG", "/dev/null").args(arguments);
    command
}

/// The objects of YAML files, checked against the schemas.
fn objects(versions: &str, files: &[PathBuf]) -> BTreeMap<PathBuf, Vec<Value>> {
    need::tool("python3");
    let schemas = root().join("target/tools/schemas");
    assert!(schemas.exists(), "{} is not there: run `make deps`", schemas.display());
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", schemas).env("PYTHONDONTWRITEBYTECODE", "1");
    command.arg(root().join("tests/ship/objects.py")).arg(versions).args(files);
    serde_json::from_str(&text(&mut command)).expect("objects.py prints JSON")
}

/// One way to use the chart, and what came of it.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) text: String,
    pub(crate) objects: Vec<Value>,
}

impl Case {
    pub(crate) fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.objects.iter().filter(move |object| object["kind"] == kind)
    }

    /// The only object of a kind.
    pub(crate) fn the(&self, kind: &str, name: &str) -> &Value {
        let found: Vec<_> = self.of_kind(kind).filter(|object| object["metadata"]["name"] == name).collect();
        assert_eq!(found.len(), 1, "{}: {kind} {name}", self.name);
        found[0]
    }
}

pub(crate) fn platforms() -> BTreeMap<String, Value> {
    serde_json::from_str(&read("conf/chart/platforms.json")).expect("JSON")
}

/// Name, Kubernetes, and values of every case.
fn wanted() -> Vec<(String, &'static str, Vec<String>)> {
    let values = |list: &[&str]| list.iter().map(|value| format!("--set={value}")).collect::<Vec<_>>();
    let mut cases = vec![
        ("default".to_owned(), "1.34.0", vec![]),
        ("older".to_owned(), "1.29.0", vec![]),
        ("uninstall".to_owned(), "1.34.0", values(&["uninstall.enabled=true,uninstall.pods=detach"])),
        ("no-hook".to_owned(), "1.34.0", values(&["uninstall.hook.enabled=false"])),
        (
            "metrics".to_owned(),
            "1.34.0",
            values(&["metrics.enabled=true,metrics.serviceMonitor.enabled=true"]),
        ),
        (
            "pod-monitor".to_owned(),
            "1.34.0",
            values(&["metrics.enabled=true,metrics.address=[::],metrics.podMonitor.enabled=true"]),
        ),
        (
            "chained".to_owned(),
            "1.34.0",
            vec!["--values=tests/ship/chained.yaml".to_owned(), "--set=mode=chained".to_owned()],
        ),
        ("everything".to_owned(), "1.34.0", vec!["--values=tests/ship/everything.yaml".to_owned()]),
    ];
    for platform in platforms().keys().filter(|platform| !platform.is_empty()) {
        cases.push((format!("platform-{platform}"), "1.34.0", values(&[&format!("platform={platform}")])));
    }
    cases
}

/// All cases, rendered and checked once.
pub(crate) fn cases() -> &'static [Case] {
    static CASES: OnceLock<Vec<Case>> = OnceLock::new();
    CASES.get_or_init(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let mut rendered = Vec::new();
        for (name, version, values) in wanted() {
            let text =
                text(helm(&["template", "shunt", "conf/chart", "--kube-version", version]).args(values));
            let file = directory.path().join(&name);
            fs::write(&file, &text).expect("written");
            rendered.push((name, version, text, file));
        }
        // What is made for an older version need not be good for the newer ones, and the other way round.
        let (older, newer): (Vec<_>, Vec<_>) = rendered
            .iter()
            .map(|(_, version, _, file)| (*version, file.clone()))
            .partition(|(v, _)| *v == "1.29.0");
        let files = |list: Vec<(&str, PathBuf)>| list.into_iter().map(|(_, file)| file).collect::<Vec<_>>();
        let mut found = objects("1.25,1.29", &files(older));
        found.append(&mut objects(VERSIONS, &files(newer)));
        rendered
            .into_iter()
            .map(|(name, _, text, file)| Case { name, text, objects: found.remove(&file).expect("read") })
            .collect()
    })
}

pub(crate) fn case(name: &str) -> &'static Case {
    cases().iter().find(|case| case.name == name).unwrap_or_else(|| panic!("no case {name}"))
}

/// The objects of texts in YAML, by the names they are given.
pub(crate) fn parsed(texts: &BTreeMap<String, String>) -> BTreeMap<String, Vec<Value>> {
    let directory = tempfile::tempdir().expect("a directory");
    let mut files = Vec::new();
    for (name, text) in texts {
        let file = directory.path().join(name);
        fs::write(&file, text).expect("written");
        files.push(file);
    }
    let found = objects(VERSIONS, &files);
    let name = |path: PathBuf| path.file_name().expect("a name").to_string_lossy().into_owned();
    found.into_iter().map(|(path, objects)| (name(path), objects)).collect()
}

/// Whether goldens are to be written anew.
pub(crate) fn bless() -> bool {
    std::env::var_os("SHUNT_BLESS").is_some()
}
