//! A node with a directory for lists and one for plugins, as a runtime has them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::node::Node;
use crate::{bin, schema};

/// What a command said.
#[derive(Debug)]
pub struct Said {
    /// Its exit code; -1 when a signal ended it.
    pub code: i32,
    /// What it said.
    pub out: String,
    /// What it said on standard error.
    pub err: String,
}

/// The directories.
#[derive(Debug)]
pub struct Host {
    /// Where the runtime's lists are.
    pub lists: PathBuf,
    /// Where its plugins are.
    pub plugins_at: PathBuf,
    /// Where namespaces have names.
    pub namespaces: PathBuf,
}

impl Host {
    /// With a list that has our entry, last, and the plugin.
    pub fn new(node: &Node) -> Self {
        let place = |name: &str| {
            let path = node.directory().join(name);
            fs::create_dir_all(&path).expect("a directory");
            path
        };
        let host = Self { lists: place("net.d"), plugins_at: place("bin"), namespaces: place("netns") };
        symlink(bin::shunt(), host.plugins_at.join("shunt")).expect("a link");
        host.list("10-calico.conflist", &Self::plugins());
        host
    }

    /// The primary's plugin and ours.
    pub fn plugins() -> Value {
        let capabilities = json!({"io.kubernetes.cri.pod-annotations": true, "cgroupPath": true});
        let redirect = json!({"outboundPort": 15001, "inboundPort": 15006, "proxyUids": [1337]});
        json!([
            {"type": "calico"},
            {"type": "shunt", "capabilities": capabilities, "mesh": "custom", "redirect": redirect}
        ])
    }

    /// Writes a list.
    pub fn list(&self, name: &str, plugins: &Value) {
        let text = json!({"name": "pods", "cniVersion": "1.0.0", "plugins": plugins}).to_string();
        fs::write(self.lists.join(name), text).expect("a list");
    }

    /// Runs a command that looks at lists.
    pub fn ctl(&self, node: &Node, words: &[&str]) -> Said {
        let state = node.directory().join("state");
        let mut command = Command::new(bin::shuntctl());
        command.args(words).arg("--state-dir").arg(state).arg("--bpf-dir").arg(node.bpf_dir());
        if matches!(words[0], "status" | "check" | "dump") {
            command.arg("--conf-dir").arg(&self.lists).arg("--bin-dir").arg(&self.plugins_at);
        }
        match words[0] {
            "check" => _ = command.arg("--netns-dir").arg(&self.namespaces),
            "dump" => _ = command.arg("--log-file").arg(node.directory().join("shunt.log")),
            _ => {}
        }
        let done = command.output().expect("shuntctl can be run");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Said { code: done.status.code().unwrap_or(-1), out: text(&done.stdout), err: text(&done.stderr) }
    }

    /// The same as JSON, which must be as its schema says.
    #[track_caller]
    pub fn ctl_json(&self, node: &Node, words: &[&str]) -> (i32, Value) {
        let format: &[&str] = if words[0] == "dump" { &[] } else { &["--output", "json"] };
        let said = self.ctl(node, &[words, format].concat());
        let value: Value =
            serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"));
        schema::hold(&schema::of(words[0]), &value);
        (said.code, value)
    }
}
