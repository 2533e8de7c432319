//! A node with an installer and a crowd of pods. Its root is a directory in memory, as `/run` is on every node.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shunt_tests::bin;
use shunt_tests::crowd::{at_once, timed};
use shunt_tests::node::{Node, Pod};
use shunt_tests::runtime_call::Call;

use crate::host::{Host, PATIENCE, moment, owned};
use crate::live::Live;

const PRIMARY: &str = r#"{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"first"}]}"#;

/// Field order is the order of the end.
pub(crate) struct Site {
    pods: Vec<Pod>,
    node: Node,
    pub(crate) host: Host,
}

impl Site {
    /// With so many pods that the plugin has not seen yet.
    pub(crate) fn new(pods: usize) -> Self {
        let node = Node::new();
        let host = Host::new();
        node.configure(|entry| {
            entry["stateDir"] = json!(host.path("run/shunt"));
            entry["bpfDir"] = json!(host.path("sys/fs/bpf/shunt"));
            entry["log"] = json!({ "file": host.path("var/log/shunt/shunt.log") });
        });
        owned(&host.conf("10-first.conflist"), PRIMARY, 0o644, 0);
        let site = Self { pods: node.crowd(pods), node, host };
        site.entry("ebpf");
        site.host.once();
        site
    }

    fn entry(&self, backend: &str) {
        let redirect = json!({ "outboundPort": 15001, "inboundPort": 15006, "proxyUids": [1337] });
        let entry = json!({ "type": "shunt", "mesh": "custom", "backend": backend, "redirect": redirect });
        fs::write(&self.host.entry, entry.to_string()).expect("own file");
    }

    /// Pods are served by this one from here on.
    pub(crate) fn backend(&self, backend: &str) {
        self.node.configure(|entry| entry["backend"] = json!(backend));
        self.entry(backend);
    }

    pub(crate) fn len(&self) -> usize {
        self.pods.len()
    }

    /// A verb for one of its pods.
    pub(crate) fn prepared(&self, verb: &str, index: usize) -> Call {
        self.node.prepared(verb, &self.pods[index], "eth0")
    }

    /// ADD of these.
    pub(crate) fn add(&self, pods: std::ops::Range<usize>) {
        for index in pods {
            timed(&self.prepared("ADD", index));
        }
    }

    /// ADD of these at once.
    pub(crate) fn at_once(&self, pods: &[usize]) {
        let calls: Vec<Call> = pods.iter().map(|index| self.prepared("ADD", *index)).collect();
        at_once(&calls);
    }

    pub(crate) fn status(&self) -> Call {
        self.node.bare("STATUS", |_| {})
    }

    /// GC, with the first few valid.
    pub(crate) fn collect(&self, valid: usize) -> Call {
        let valid: Vec<Value> = self.pods[..valid]
            .iter()
            .map(|pod| json!({ "containerID": pod.container(), "ifname": "eth0" }))
            .collect();
        self.node.bare("GC", |config| config["cni.dev/valid-attachments"] = json!(valid))
    }

    /// How many attachments the plugin has, as it says.
    pub(crate) fn attachments(&self) -> usize {
        let report = self.node.ask(&["report"]);
        report["attachments"].as_array().map_or(0, Vec::len)
    }

    /// `shunt report`: what the installer's metrics are made of.
    pub(crate) fn report(&self) -> Duration {
        let started = Instant::now();
        assert_eq!(self.attachments(), self.len(), "it says all");
        started.elapsed()
    }

    pub(crate) fn shuntctl_status(&self) -> Duration {
        let mut command = Command::new(bin::shuntctl());
        command.args(["status", "--output", "json"]);
        for (option, path) in [
            ("--state-dir", self.host.path("run/shunt")),
            ("--bpf-dir", self.host.path("sys/fs/bpf/shunt")),
            ("--conf-dir", self.host.net_d()),
            ("--bin-dir", self.host.path("opt/cni/bin")),
        ] {
            command.arg(option).arg(path);
        }
        let started = Instant::now();
        let done = command.stdin(Stdio::null()).output().expect("shuntctl can be run");
        let took = started.elapsed();
        let said: Value =
            serde_json::from_slice(&done.stdout).unwrap_or_else(|error| panic!("{error}: {done:?}"));
        let all: u64 =
            ["ebpf", "iptables"].iter().filter_map(|backend| said["attachments"][backend].as_u64()).sum();
        assert_eq!(usize::try_from(all).ok(), Some(self.len()), "it says all: {done:?}");
        took
    }

    /// `run` of the installer, from its start until it says that it is ready.
    pub(crate) fn restart(&self) -> Duration {
        let started = Instant::now();
        let live = Live::start(&self.host);
        while live.readyz().0 != 200 {
            assert!(started.elapsed() < PATIENCE, "never ready: {:?}\n{}", live.readyz(), live.log());
            moment(1);
        }
        let took = started.elapsed();
        live.end();
        took
    }
}
