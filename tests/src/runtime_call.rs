//! Calls the plugin as a container runtime does.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::bin;

/// One call: the environment and what is on stdin.
#[derive(Debug, Clone)]
pub struct Call {
    /// What stands behind the program's name: nothing, unless the installer calls.
    pub arguments: Vec<String>,
    /// `CNI_COMMAND` and the other variables.
    pub environment: BTreeMap<String, String>,
    /// What is on stdin.
    pub stdin: Vec<u8>,
    /// The plugin, where it is not the one that was built.
    pub plugin: Option<PathBuf>,
}

impl Call {
    /// A call of a verb with its network configuration.
    pub fn new(verb: &str, config: &Value) -> Self {
        let mut environment = BTreeMap::new();
        environment.insert("CNI_COMMAND".to_owned(), verb.to_owned());
        environment.insert("CNI_PATH".to_owned(), "/opt/cni/bin".to_owned());
        Self { arguments: Vec::new(), environment, stdin: config.to_string().into_bytes(), plugin: None }
    }

    /// Sets a variable.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.insert(name.to_owned(), value.into());
        self
    }

    /// Runs the plugin and checks what every answer must be: one JSON document or, where the protocol has nothing to
    /// say, nothing; an error document with a non-zero exit and only then.
    pub fn run(&self) -> Answer {
        let mut child = Command::new(self.plugin.clone().unwrap_or_else(bin::shunt))
            .args(&self.arguments)
            .env_clear()
            .envs(&self.environment)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the plugin can be run");
        let mut stdin = child.stdin.take().expect("stdin is piped");
        // A plugin may answer without reading all of its input.
        let _unread = stdin.write_all(&self.stdin);
        drop(stdin);
        let done = child.wait_with_output().expect("the plugin ends");
        let answer = Answer {
            code: done.status.code().unwrap_or(-1),
            json: documents(&done.stdout),
            stderr: String::from_utf8_lossy(&done.stderr).into_owned(),
        };
        self.must_be_well_formed(&answer);
        answer
    }

    fn must_be_well_formed(&self, answer: &Answer) {
        let verb = self.environment.get("CNI_COMMAND").map_or("", String::as_str);
        let speaks = !self.arguments.is_empty() || matches!(verb, "ADD" | "VERSION") || answer.code != 0;
        match (&answer.json, speaks) {
            (None, true) => panic!("{verb} printed no document: {answer:?}"),
            (Some(json), _) if answer.code != 0 => {
                for key in ["cniVersion", "code", "msg"] {
                    assert!(json.get(key).is_some(), "{verb}: an error document without `{key}`: {answer:?}");
                }
            }
            (Some(json), _) => {
                assert!(json.get("code").is_none(), "{verb}: an error document with exit 0: {answer:?}");
            }
            (None, false) => {}
        }
    }
}

/// What is on stdout: nothing, or exactly one JSON document.
fn documents(stdout: &[u8]) -> Option<Value> {
    let mut documents = Vec::new();
    for document in serde_json::Deserializer::from_slice(stdout).into_iter::<Value>() {
        match document {
            Ok(document) => documents.push(document),
            Err(error) => panic!("stdout is not JSON ({error}): {}", String::from_utf8_lossy(stdout)),
        }
    }
    assert!(documents.len() <= 1, "several documents on stdout: {}", String::from_utf8_lossy(stdout));
    documents.pop()
}

/// What the plugin answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Exit code; -1 when a signal ended it.
    pub code: i32,
    /// The document on stdout.
    pub json: Option<Value>,
    /// What it printed for people.
    pub stderr: String,
}

impl Answer {
    /// The answer of a call that must work.
    #[track_caller]
    pub fn ok(self) -> Option<Value> {
        assert_eq!(self.code, 0, "the call failed: {self:?}");
        self.json
    }

    /// The CNI error code and message of a call that must fail.
    #[track_caller]
    pub fn refused(&self) -> (u64, String) {
        assert_ne!(self.code, 0, "the call worked: {self:?}");
        let text = |key: &str| self.json.as_ref().and_then(|json| json.get(key)).cloned().unwrap_or_default();
        let code = text("code").as_u64().unwrap_or(0);
        (
            code,
            format!(
                "{}: {}",
                text("msg").as_str().unwrap_or_default(),
                text("details").as_str().unwrap_or_default()
            ),
        )
    }
}

/// Reads a file that may not be there, for messages.
pub fn tail(path: &std::path::Path) -> String {
    let mut text = String::new();
    let _absent = std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text));
    let lines: Vec<&str> = text.lines().rev().take(20).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}
