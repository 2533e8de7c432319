//! A runtime on a host: it makes pods with the list it would load, plugin after plugin, and ends them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use shunt_tests::ask::{Dial, Serve};
use shunt_tests::net::{Shape, World};
use shunt_tests::node::{INBOUND_PORT, Node, OUTBOUND_PORT, PROXY, Pod};
use shunt_tests::process::Server;

use crate::host::{Host, replace};
use crate::runtime::{List, Loaded, OURS};

/// The primary CNI of these hosts: one plugin, which says what the harness has made.
pub(crate) const PRIMARY: &str = "{\n  \"cniVersion\": \"1.0.0\",\n  \"name\": \"first\",\n  \"plugins\": [\n    { \"type\": \"first\" }\n  ]\n}\n";

/// The file it writes.
pub(crate) const PRIMARY_FILE: &str = "10-first.conflist";

/// Hands the result that lies beside the namespace on.
const FIRST: &str =
    "#!/bin/sh\ncat >/dev/null\n[ \"$CNI_COMMAND\" = ADD ] && cat \"$CNI_NETNS.result\"\nexit 0\n";

/// How an ADD went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Made {
    /// There is no list, or a plugin is missing or says no: the pod waits, and is tried again.
    Waits(String),
    /// It runs, and our plugin has it.
    Captured,
    /// It runs without us.
    Bare,
}

/// Field order is the order of the end: processes, the world, the node.
pub(crate) struct Runtime {
    beyond: Server,
    world: World,
    node: Node,
    next: std::cell::Cell<u8>,
}

impl Runtime {
    /// A runtime for a host with the primary CNI of this file: its plugin is there, its list is the test's to write.
    pub(crate) fn new(host: &Host) -> Self {
        let entry = json!({
            "type": "shunt", "mesh": "custom", "backend": "ebpf",
            "redirect": { "outboundPort": OUTBOUND_PORT, "inboundPort": INBOUND_PORT, "proxyUids": [PROXY] },
        });
        fs::write(&host.entry, entry.to_string()).expect("own file");
        replace(&host.path("opt/cni/bin/first"), FIRST.as_bytes(), 0o755);
        let node = Node::new();
        let world = node.world();
        let beyond =
            Server::start(&world.place(), &Serve::at([("world", "0.0.0.0:80"), ("world", "[::]:80")]));
        Self { beyond, world, node, next: std::cell::Cell::new(2) }
    }

    /// A pod that is of the mesh, before its ADD.
    pub(crate) fn pod(&self) -> Pod {
        let number = self.next.get();
        self.next.set(number + 1);
        let pod = self.node.pod(&self.world, Shape::dual().numbered(number));
        let result = self.node.config(&pod, true)["prevResult"].to_string();
        let mut beside = pod.netns.path().as_os_str().to_owned();
        beside.push(".result");
        fs::write(beside, result).expect("own file");
        pod
    }

    /// ADD through whatever list a runtime would load now.
    pub(crate) fn add(&self, host: &Host, pod: &Pod) -> Made {
        let list = match host.loaded() {
            Loaded::List(list) => list,
            other => return Made::Waits(format!("{other:?}")),
        };
        if let Err(why) = self.through(host, &list, "ADD", pod) {
            // As a runtime unwinds it; that may fail as well, and is tried again later.
            let _later = self.through(host, &list, "DEL", pod);
            return Made::Waits(why);
        }
        if has(host, pod) { Made::Captured } else { Made::Bare }
    }

    /// DEL through the list of the pod's ADD.
    #[track_caller]
    pub(crate) fn del(&self, host: &Host, list: &List, pod: &Pod) {
        self.through(host, list, "DEL", pod).expect("DEL works");
    }

    /// All plugins of a list: first to last, or last to first.
    fn through(&self, host: &Host, list: &List, command: &str, pod: &Pod) -> Result<(), String> {
        let mut plugins: Vec<Value> =
            list.plugins.iter().map(|plugin| serde_json::from_str(plugin).expect("JSON")).collect();
        if command == "DEL" {
            plugins.reverse();
        }
        let known = self.node.config(pod, true);
        let mut result = if command == "DEL" { known["prevResult"].clone() } else { Value::Null };
        for mut plugin in plugins {
            let kind = plugin["type"].as_str().expect("a plugin has a type").to_owned();
            plugin["name"] = json!(list.name);
            plugin["cniVersion"] = json!(list.version);
            plugin["runtimeConfig"] = known["runtimeConfig"].clone();
            if !result.is_null() {
                plugin["prevResult"] = result.clone();
            }
            if kind == OURS {
                as_the_host_sees(host, &mut plugin);
            }
            let said = run(host, &kind, &[], command, &pod.environment("eth0"), &plugin)?;
            if command == "ADD" {
                result = serde_json::from_str(&said).map_err(|error| format!("{kind}: {error}: {said}"))?;
            }
        }
        Ok(())
    }

    /// The pod's proxy.
    pub(crate) fn proxy(pod: &Pod) -> Server {
        let sockets = [
            ("outbound", format!("0.0.0.0:{OUTBOUND_PORT}")),
            ("outbound", format!("[::]:{OUTBOUND_PORT}")),
            ("inbound", format!("0.0.0.0:{INBOUND_PORT}")),
            ("inbound", format!("[::]:{INBOUND_PORT}")),
        ];
        Server::start(&pod.proxy(), &Serve::at(sockets.iter().map(|(name, at)| (*name, at.as_str()))))
    }

    /// Who answers the pod's app when it asks the world, in both families: `outbound`, its proxy, or `world`.
    pub(crate) fn answers(&mut self, pod: &Pod) -> Vec<String> {
        let tries = pod.dial(&Dial::to(["10.96.0.10:80", "[fd96::10]:80"]));
        self.beyond.seen();
        tries.iter().map(|one| one.outcome().to_owned()).collect()
    }
}

/// Whether our plugin says that it has the pod.
pub(crate) fn has(host: &Host, pod: &Pod) -> bool {
    let mut config = json!({ "type": OURS });
    as_the_host_sees(host, &mut config);
    let said = run(host, OURS, &["report"], "", &[], &config).expect("it reports");
    let report: Value = serde_json::from_str(&said).expect("JSON");
    let [(_, container), ..] = pod.environment("eth0");
    report["attachments"].as_array().is_some_and(|all| {
        all.iter().any(|one| one["containerId"] == json!(container) && one["alive"] == json!(true))
    })
}

/// On the host its root is the root; here that is a directory, so the plugin's paths are led below it.
fn as_the_host_sees(host: &Host, plugin: &mut Value) {
    plugin["stateDir"] = json!(host.path("run/shunt"));
    plugin["bpfDir"] = json!(host.path("sys/fs/bpf/shunt"));
    plugin["log"] = json!({ "level": "debug", "file": host.path("var/log/shunt/shunt.log") });
}

fn run(
    host: &Host,
    kind: &str,
    words: &[&str],
    command: &str,
    environment: &[(&str, String)],
    config: &Value,
) -> Result<String, String> {
    let program = host.path("opt/cni/bin").join(kind);
    let mut variables: BTreeMap<&str, String> = environment.iter().cloned().collect();
    if !command.is_empty() {
        variables.insert("CNI_COMMAND", command.to_owned());
    }
    variables.insert("CNI_PATH", Path::new("/opt/cni/bin").display().to_string());
    variables.insert("PATH", "/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    let mut child = Command::new(&program)
        .args(words)
        .env_clear()
        .envs(variables)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    let mut stdin = child.stdin.take().expect("piped");
    let _unread = stdin.write_all(config.to_string().as_bytes());
    drop(stdin);
    let done = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    if done.status.success() { Ok(said) } else { Err(format!("{kind} {command}: {said}")) }
}
