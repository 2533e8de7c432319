//! Everything that is run, and what comes before each run so that it is always the same one.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Map, Value, json};
use shunt_tests::net::World;
use shunt_tests::node::{Node, Pod};
use shunt_tests::{bin, redirect};

use crate::run::Run;

pub(crate) const NOTHING: &str = "nothing (static, reads stdin)";
/// Reads stdin, prints `{}`: what any static program costs.
const SOURCE: &str = "use std::io::Read;\nfn main() { let mut s = String::new(); \
                      std::io::stdin().read_to_string(&mut s).ok(); print!(\"{{}}\"); }\n";

/// Calls about one pod.
pub(crate) struct Calls<'a> {
    node: &'a Node,
    pod: &'a Pod,
    world: &'a World,
    nothing: PathBuf,
}

impl<'a> Calls<'a> {
    pub(crate) fn new(node: &'a Node, pod: &'a Pod, world: &'a World) -> Self {
        Self { node, pod, world, nothing: node.directory().join("nothing") }
    }

    pub(crate) fn nothing(&self) -> Run {
        if !self.nothing.exists() {
            compile(&self.nothing);
        }
        self.plugin(NOTHING, self.nothing.clone(), "ADD", &json!({}))
    }

    /// Ours; an ADD is of a pod it has not seen, a CHECK and a DEL of one it has added.
    pub(crate) fn shunt(&self, name: &'static str, verb: &str) -> Run {
        let run = |verb: &str| self.plugin(name, bin::shunt(), verb, &self.node.config(self.pod, true));
        in_turn(verb, run)
    }

    pub(crate) fn shunt_version(&self) -> Run {
        self.plugin("shunt, VERSION", bin::shunt(), "VERSION", &json!({ "cniVersion": "1.0.0" }))
    }

    /// ADD of a pod that no selector takes: all but the installing.
    pub(crate) fn shunt_not_selected(&self) -> Run {
        let mut config = self.node.config(self.pod, true);
        config["runtimeConfig"]["io.kubernetes.cri.pod-annotations"] = json!({});
        let before = vec![self.plugin("shunt", bin::shunt(), "DEL", &self.node.config(self.pod, true))];
        Run { before, ..self.plugin("shunt, ADD of a pod not selected", bin::shunt(), "ADD", &config) }
    }

    /// One sysctl of the pod's namespace.
    pub(crate) fn tuning(&self, verb: &str) -> Run {
        let settings = json!({
            "type": "tuning",
            "sysctl": { "net.ipv4.conf.eth0.log_martians": "1" },
            "dataDir": self.node.directory().join("tuning"),
        });
        let run = |verb: &str| self.plugin("tuning", bin::tool("tuning"), verb, &self.conf(&settings));
        in_turn(verb, run)
    }

    pub(crate) fn tuning_version(&self) -> Run {
        self.plugin("tuning, VERSION", bin::tool("tuning"), "VERSION", &json!({ "cniVersion": "1.0.0" }))
    }

    /// Istio's plugin asks the API server in ADD; without one, all that can be seen is its start.
    pub(crate) fn istio_cni_version(&self) -> Run {
        self.plugin(
            "istio-cni, VERSION",
            bin::tool("istio-cni"),
            "VERSION",
            &json!({ "cniVersion": "1.0.0" }),
        )
    }

    /// One port of the pod, for both families; in the node's namespace, which here is the world's.
    pub(crate) fn portmap(&self, verb: &str) -> Run {
        let settings = json!({
            "type": "portmap",
            "backend": "iptables",
            "capabilities": { "portMappings": true },
            "runtimeConfig": { "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }] },
        });
        let run = |verb: &str| Run {
            netns: Some(self.world.netns().path().to_owned()),
            ..self.plugin("portmap", bin::tool("portmap"), verb, &self.conf(&settings))
        };
        in_turn(verb, run)
    }

    /// A limit each way.
    pub(crate) fn bandwidth(&self, verb: &str) -> Run {
        let settings = json!({
            "type": "bandwidth",
            "ingressRate": 1_000_000_000, "ingressBurst": 1_000_000_000,
            "egressRate": 1_000_000_000, "egressBurst": 1_000_000_000,
        });
        // It looks for the pair's other end among the result's interfaces.
        let mut conf = self.conf(&settings);
        let outside = self.pod.name.replace("pod-", "v") + "-0";
        conf["prevResult"]["interfaces"]
            .as_array_mut()
            .expect("interfaces")
            .push(json!({ "name": &outside }));
        let run = |verb: &str| Run {
            netns: Some(self.world.netns().path().to_owned()),
            ..self.plugin("bandwidth", bin::tool("bandwidth"), verb, &conf)
        };
        // Its DEL leaves to the interface's end what hangs on the interface.
        let script = format!("tc qdisc del dev {outside} root; tc qdisc del dev {outside} ingress; true");
        let clean = Run { program: "/bin/sh".into(), arguments: vec!["-c".to_owned(), script], ..run("DEL") };
        let mut before = vec![run("DEL"), clean];
        if verb != "ADD" {
            before.push(run("ADD"));
        }
        Run { before, ..run(verb) }
    }

    /// Istio's own tool, with the rules that its injector asks for, for both families.
    pub(crate) fn istio_iptables(&self, verb: &str) -> Run {
        let run = |verb: &str| {
            let mut arguments = redirect::istio_arguments();
            if verb == "DEL" {
                arguments.push("--cleanup-only".to_owned());
            }
            Run {
                name: "istio-iptables",
                program: bin::tool("istio-iptables"),
                arguments,
                environment: Vec::new(),
                input: String::new(),
                netns: Some(self.pod.netns.path().to_owned()),
                before: Vec::new(),
            }
        };
        in_turn(verb, run)
    }

    fn plugin(&self, name: &'static str, program: PathBuf, verb: &str, config: &Value) -> Run {
        let mut environment = vec![("CNI_COMMAND", verb.to_owned()), ("CNI_PATH", "/nowhere".to_owned())];
        environment.extend(self.pod.environment("eth0"));
        Run {
            name,
            program,
            arguments: Vec::new(),
            environment,
            input: config.to_string(),
            netns: None,
            before: Vec::new(),
        }
    }

    /// What a plugin of others gets: settings, and the result of the plugin before it.
    fn conf(&self, settings: &Value) -> Value {
        let ours = self.node.config(self.pod, true);
        let mut config: Map<String, Value> = Map::new();
        for key in ["cniVersion", "name", "prevResult"] {
            config.insert(key.to_owned(), ours[key].clone());
        }
        if let Some(settings) = settings.as_object() {
            config.extend(settings.clone());
        }
        Value::Object(config)
    }
}

/// A verb of something that can be there or not: an ADD is of what is not there, all else of what is.
fn in_turn(verb: &str, run: impl Fn(&str) -> Run) -> Run {
    let before = if verb == "ADD" { run("DEL") } else { run("ADD") };
    Run { before: vec![before], ..run(verb) }
}

/// Compiles the do-nothing program, static as the plugin is.
fn compile(program: &PathBuf) {
    let source = program.with_extension("rs");
    std::fs::write(&source, SOURCE).expect("a scratch file");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let built = Command::new(rustc)
        .args([
            "--edition=2024",
            "-Copt-level=3",
            "-Cpanic=abort",
            "-Cstrip=symbols",
            "-Ctarget-feature=+crt-static",
            "-o",
        ])
        .arg(program)
        .arg(&source)
        .status()
        .expect("rustc runs");
    assert!(built.success(), "the do-nothing program builds");
}
