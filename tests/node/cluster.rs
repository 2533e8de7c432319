//! A cluster, as `kubectl` and `helm` show it: nothing here needs more than an API server.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sched::{CloneFlags, setns};
use serde_json::Value;
use shunt_tests::bin;
use shunt_tests::machine::image::PROBE;
use shunt_tests::web::Visit;

use crate::wait::{PATIENCE, until};

/// The namespace of the scenarios' pods.
pub(crate) const NAMESPACE: &str = "shunt-test";
/// The namespace of the release.
pub(crate) const SYSTEM: &str = "shunt-system";
/// The release.
pub(crate) const RELEASE: &str = "shunt";

/// Names of the images the cluster can get.
#[derive(Debug, Clone)]
pub(crate) struct Images {
    /// The installer's.
    pub(crate) installer: String,
    /// Another build of it, to upgrade to.
    pub(crate) next: String,
    /// What pods run: that of `shunt_tests::machine::image`.
    pub(crate) pod: String,
}

/// The cluster.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    /// How the clients reach the API server.
    pub(crate) kubeconfig: PathBuf,
    /// The network namespace they run in; none: ours.
    pub(crate) netns: Option<PathBuf>,
    pub(crate) images: Images,
    /// What the chart is given besides the image.
    pub(crate) values: Vec<String>,
}

/// The workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in the workspace").to_owned()
}

impl Cluster {
    /// Does something on a thread in the clients' network.
    pub(crate) fn there<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            if let Some(path) = &self.netns {
                let namespace =
                    File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                setns(namespace, CloneFlags::CLONE_NEWNET).expect("root may enter network namespaces");
            }
            work()
        };
        std::thread::scope(|scope| {
            scope.spawn(inside).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn client(&self, name: &str) -> Command {
        let mut command = Command::new(bin::tool(name));
        command.env("KUBECONFIG", &self.kubeconfig).env("HELM_NAMESPACE", SYSTEM).current_dir(root());
        // Nothing of the user's may have a say, and no proxy stands before a cluster of our own.
        if self.netns.is_some() {
            command.env("HOME", "/nonexistent").env("NO_PROXY", "*");
        }
        command
    }

    /// Starts `kubectl` for as long as the caller keeps it.
    pub(crate) fn start(&self, arguments: &[&str]) -> Child {
        let mut command = self.client("kubectl");
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.there(|| command.spawn().expect("kubectl can be run"))
    }

    fn run(&self, program: &str, arguments: &[&str], input: &str) -> Output {
        let mut command = self.client(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.there(|| {
            let mut child = command.spawn().unwrap_or_else(|error| panic!("{program}: {error}"));
            let written = child.stdin.take().expect("stdin is piped").write_all(input.as_bytes());
            let output = child.wait_with_output().expect("it ends");
            assert!(
                written.is_ok() || !output.status.success(),
                "{program} {arguments:?} did not read its input"
            );
            output
        })
    }

    /// What `kubectl` says; an error is what it complains of.
    pub(crate) fn try_kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        said(&self.run("kubectl", arguments, ""))
    }

    /// The same where it must work.
    #[track_caller]
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> String {
        self.try_kubectl(arguments).unwrap_or_else(|error| panic!("kubectl {}: {error}", arguments.join(" ")))
    }

    /// What `helm` says; it must work.
    #[track_caller]
    pub(crate) fn helm(&self, arguments: &[&str]) -> String {
        let output = self.run("helm", arguments, "");
        said(&output).unwrap_or_else(|error| panic!("helm {}: {error}", arguments.join(" ")))
    }

    /// `helm upgrade --install` with these values, and waits until every node is ready with them.
    #[track_caller]
    pub(crate) fn release(&self, image: &str, values: &[&str]) {
        let (repository, tag) = image.rsplit_once(':').expect("an image has a tag");
        let (repository, tag) = (format!("image.repository={repository}"), format!("image.tag={tag}"));
        let mut arguments = vec![
            "upgrade",
            "--install",
            RELEASE,
            "conf/chart",
            "--wait",
            "--timeout=5m",
            "--set",
            &repository,
        ];
        arguments.extend(["--set", &tag]);
        for value in self.values.iter().map(String::as_str).chain(values.iter().copied()) {
            arguments.extend(["--set", value]);
        }
        self.helm(&arguments);
        self.rolled_out();
    }

    /// Waits until every node has the installer that is wanted, ready.
    #[track_caller]
    pub(crate) fn rolled_out(&self) {
        self.kubectl(&["-n", SYSTEM, "rollout", "status", "daemonset/shunt", "--timeout=300s"]);
    }

    /// Makes objects, or changes them.
    #[track_caller]
    pub(crate) fn apply(&self, objects: &[Value]) {
        let list = serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": objects });
        let output = self.run("kubectl", &["apply", "-f", "-"], &list.to_string());
        said(&output).unwrap_or_else(|error| panic!("kubectl apply: {error}"));
    }

    /// Makes a namespace that takes pods of any kind.
    #[track_caller]
    pub(crate) fn namespace(&self, name: &str) {
        self.apply(&[serde_json::json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": name, "labels": { "pod-security.kubernetes.io/enforce": "privileged" } },
        })]);
        // Pods are refused until it is there.
        until("the namespace has its service account", PATIENCE, || {
            self.try_kubectl(&["-n", name, "get", "serviceaccount", "default"]).ok()
        });
    }

    /// An object of the scenarios' namespace as it is now; none when it is not there.
    pub(crate) fn pod(&self, name: &str) -> Option<Value> {
        let text = self.try_kubectl(&["-n", NAMESPACE, "get", "pod", name, "-o", "json"]).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// All pods of the scenarios' namespace.
    pub(crate) fn pods(&self) -> BTreeMap<String, Value> {
        let text = self.kubectl(&["-n", NAMESPACE, "get", "pods", "-o", "json"]);
        let list: Value = serde_json::from_str(&text).expect("kubectl prints JSON");
        let items = list["items"].as_array().cloned().unwrap_or_default();
        items
            .into_iter()
            .map(|pod| (pod["metadata"]["name"].as_str().unwrap_or_default().to_owned(), pod))
            .collect()
    }

    /// Waits until these pods are ready.
    #[track_caller]
    pub(crate) fn ready(&self, names: &[&str]) {
        let pods: Vec<String> = names.iter().map(|name| format!("pod/{name}")).collect();
        let mut arguments = vec!["-n", NAMESPACE, "wait", "--for=condition=Ready", "--timeout=120s"];
        arguments.extend(pods.iter().map(String::as_str));
        if let Err(error) = self.try_kubectl(&arguments) {
            panic!("not ready: {names:?}: {error}\n{}", self.why(names));
        }
    }

    /// Makes pods and waits until they are ready.
    #[track_caller]
    pub(crate) fn run_pods(&self, pods: &[Value]) {
        self.apply(pods);
        let names: Vec<&str> = pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str()).collect();
        self.ready(&names);
    }

    /// Deletes pods and waits until they are gone.
    #[track_caller]
    pub(crate) fn delete(&self, names: &[&str]) {
        let mut arguments = vec!["-n", NAMESPACE, "delete", "pod", "--ignore-not-found", "--timeout=120s"];
        arguments.extend(names);
        self.kubectl(&arguments);
    }

    /// The addresses of a pod.
    #[track_caller]
    pub(crate) fn addresses(&self, name: &str) -> Vec<IpAddr> {
        let pod = self.pod(name).unwrap_or_else(|| panic!("no pod {name}"));
        let list = pod["status"]["podIPs"].as_array().cloned().unwrap_or_default();
        let found: Vec<IpAddr> = list.iter().filter_map(|ip| ip["ip"].as_str()?.parse().ok()).collect();
        assert!(!found.is_empty(), "{name} has no address");
        found
    }

    /// What a container has said.
    #[track_caller]
    pub(crate) fn logs(&self, pod: &str, container: &str) -> String {
        self.kubectl(&["-n", NAMESPACE, "logs", pod, "-c", container])
    }

    /// The app of a pod asks once, by `kubectl exec`.
    #[track_caller]
    pub(crate) fn ask(&self, pod: &str, address: &str) -> Visit {
        let path = format!("/{pod}-exec");
        let arguments =
            ["-n", NAMESPACE, "exec", pod, "-c", "app", "--", PROBE, "pod", "try", &path, address];
        let text = self.kubectl(&arguments);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    /// Everything the API server knows that may tell why a pod is not as it should be.
    pub(crate) fn why(&self, names: &[&str]) -> String {
        let mut text = String::new();
        for name in names {
            let described = self.try_kubectl(&["-n", NAMESPACE, "describe", "pod", name]);
            text += &described.unwrap_or_else(|error| error);
        }
        text
    }

    /// A picture of the cluster for a failure.
    pub(crate) fn picture(&self) -> String {
        let mut text = String::new();
        for arguments in [
            &["get", "nodes,pods", "-A", "-o", "wide"][..],
            &["get", "events", "-A", "--sort-by=.lastTimestamp"][..],
            &["-n", SYSTEM, "logs", "-l", "app.kubernetes.io/name=shunt", "--tail=40", "--prefix"][..],
        ] {
            let answer = self.try_kubectl(arguments).unwrap_or_else(|error| error);
            let lines: Vec<&str> = answer.lines().collect();
            let last = lines.get(lines.len().saturating_sub(60)..).unwrap_or_default();
            text += &format!("$ kubectl {}\n{}\n", arguments.join(" "), last.join("\n"));
        }
        text
    }
}

fn said(output: &Output) -> Result<String, String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!("{}: {} {}", output.status, text(&output.stderr), text(&output.stdout)))
    }
}
