//! What the README tells a newcomer to type and to write is typed and read here, as it stands there.

#![expect(clippy::expect_used, reason = "a test stops where its ground gives way")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use shunt_tests::need;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The fenced blocks of one language, without the indentation of the list they may stand in.
fn blocks(language: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join("README.md")).expect("there is a README");
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim_start() != format!("```{language}") {
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        let inside = lines.by_ref().take_while(|line| line.trim_start() != "```");
        blocks.push(inside.map(|line| line.get(indent..).unwrap_or_default()).collect::<Vec<_>>().join("\n"));
    }
    assert!(!blocks.is_empty(), "no block of {language} in the README");
    blocks
}

/// The one shell block that mentions `word`.
fn script(word: &str) -> String {
    let found: Vec<String> = blocks("sh").into_iter().filter(|block| block.contains(word)).collect();
    assert_eq!(found.len(), 1, "shell blocks of the README with {word:?}");
    found.concat()
}

fn run(shell: &mut Command) -> String {
    let output = shell.current_dir(root()).output().expect("a shell runs");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}:\n{text}", output.status);
    text.into_owned()
}

#[test]
fn every_conflist_is_one_we_take() {
    let mut entries = 0;
    for block in blocks("json") {
        let list: Value = serde_json::from_str(&block).unwrap_or_else(|error| panic!("{error} in\n{block}"));
        for plugin in list.get("plugins").and_then(Value::as_array).expect("a conflist") {
            let object = plugin.as_object().expect("an entry");
            if object.get("type").and_then(Value::as_str) == Some("shunt") {
                let entry = shunt_api::Entry::from_object(object).expect("our entry");
                shunt::settings::Settings::new(entry).expect("settings that make sense");
                entries += 1;
            }
        }
    }
    assert!(entries >= 2, "after Calico and after Flannel");
}

/// In namespaces of its own: ptp makes links and addresses in the network it runs in.
#[test]
fn cnitool_by_hand() {
    need::root();
    let prepare = "mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /var/log; mkdir -p /var/lib/cni; \
                   mount -t tmpfs tmpfs /var/lib/cni; mount -t bpf bpf /sys/fs/bpf; export TMPDIR=/run; ip link set lo up";
    let text = run(Command::new("unshare").args(["--mount", "--net", "bash", "-euc"]).arg(format!(
        "{prepare}\n{}\necho \"left: $(ls /sys/fs/bpf /run/shunt/attachments)\"",
        script("cnitool")
    )));
    assert!(text.contains("Connection refused"), "the app's connection was not captured:\n{text}");
    assert!(text.contains("\"msg\":\"intercepted: ebpf\""), "the log says so:\n{text}");
    assert!(!text.contains("byhand@"), "something was left:\n{text}");
}

#[test]
fn what_the_node_can_do() {
    need::root();
    let prepare =
        "mount -t tmpfs tmpfs /run; mount -t bpf bpf /sys/fs/bpf; export PATH=$PWD/target/release:$PATH";
    let script = format!("{prepare}\n{}", script("shuntctl backend"));
    let text = run(Command::new("unshare").args(["--mount", "bash", "-euc", &script]));
    assert_eq!(text.matches("\"backend\": \"ebpf\"").count(), 1, "as JSON:\n{text}");
    assert_eq!(text.matches("backend  ebpf").count(), 2, "as text:\n{text}");
}

/// On a host of its own: directories that only this test sees.
#[test]
fn one_host_without_a_cluster() {
    need::root();
    let prepare = "for dir in /etc/cni /opt/cni /run /var/log; do mkdir -p $dir; mount -t tmpfs tmpfs $dir; done; \
        mkdir -p /etc/cni/net.d; mount -t bpf bpf /sys/fs/bpf; export PATH=$PWD/target/release:$PATH";
    let list = r#"{"name":"k8s-pod-network","cniVersion":"1.0.0","plugins":[{"type":"calico","mtu":0}]}"#;
    let lines = script("shunt-installer once");
    let (before, install): (Vec<&str>, Vec<&str>) =
        lines.lines().partition(|line| line.starts_with("shunt-installer status"));
    // A line each, without its comment; what is not there yet is exit code 3.
    let before: Vec<&str> =
        before.iter().map(|line| line.split(" #").next().unwrap_or_default().trim_end()).collect();
    let [install, uninstall] = install.as_slice() else { panic!("two lines that change the host:\n{lines}") };
    let script = format!(
        "{prepare}; printf '%s' '{list}' >/etc/cni/net.d/10-calico.conflist\n{} || [ $? = 3 ]\n\
         {install}\n{}\necho \"list: $(cat /etc/cni/net.d/00-shunt.conflist)\"\n{uninstall}\n\
         echo \"left: $(echo $(find /etc/cni /opt/cni /run /var/log /sys/fs/bpf -type f -not -name '*.debug')) $(cat /etc/cni/net.d/*)\"",
        before.join(" || [ $? = 3 ]; "),
        before.join("\n")
    );
    let text = run(Command::new("unshare").args(["--mount", "bash", "-euc", &script]));
    let first = |line: &str| text.lines().position(|other| other.starts_with(line)).unwrap_or(usize::MAX);
    assert!(first("ready    no") < first("ready    yes"), "before and after:\n{text}");
    assert!(text.contains("\"ready\": true") && text.contains("\"ready\": false"), "as JSON:\n{text}");
    assert!(text.contains(r#"{"type":"calico","mtu":0},{"type":"shunt","#), "our entry, last:\n{text}");
    let left = format!("left: /etc/cni/net.d/10-calico.conflist {list}");
    assert!(text.lines().any(|line| line == left), "as it was:\n{text}");
}

/// The cluster is somebody else's: what can be tried here is that the chart takes what is typed.
#[test]
fn the_chart_takes_what_is_typed() {
    let lines = script("helm install");
    let line = lines.lines().find(|line| line.starts_with("helm install")).expect("a line");
    let helm = root().join("target/tools/helm");
    need::tool(helm.to_str().expect("text"));
    let line = line.replace("helm install", &format!("{} template", helm.display()));
    let text =
        run(Command::new("bash").args(["-euc", &format!("{line} --set platform=gke --kube-version 1.34.0")]));
    assert!(text.contains("kind: DaemonSet") && text.contains("registry.example/mesh/shunt:"), "{text}");
    assert!(text.contains("/home/kubernetes/bin"), "the directories of the platform:\n{text}");
}
