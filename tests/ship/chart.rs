//! The chart: it renders as it did, refuses what it does not know, and agrees with the code.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::{Map, Value};
use shunt_api::{Backend, BeforeProxy, Entry, FailurePolicy, Level, Mesh, Select, Udp};

use crate::tools::{bless, case, cases, helm, output, platforms, read, root, text};

#[test]
fn lint_finds_nothing() {
    let values = ["chained", "everything"].map(|name| format!("--values=tests/ship/{name}.yaml"));
    for arguments in [vec![], vec![values[0].as_str()], vec![values[1].as_str()]] {
        text(helm(&["lint", "--strict", "--kube-version", "1.34.0", "conf/chart"]).args(arguments));
    }
}

/// Goldens: the defaults in full, every other case as the lines that differ from them.
#[test]
fn renders_as_it_did() {
    let default = case("default");
    let folder = tempfile::tempdir().expect("a directory");
    let wrote = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("written");
        path
    };
    let before = wrote("default", &default.text);
    let mut stale: BTreeSet<_> = fs::read_dir(root().join("tests/ship/golden"))
        .expect("goldens")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    let mut differ = Vec::new();
    for case in cases() {
        let (name, made) = if case.name == "default" {
            ("default.yaml".to_owned(), case.text.clone())
        } else {
            let after = wrote(&case.name, &case.text);
            // Exit code 1 means that they differ, and platforms need not.
            let output = output(Command::new("diff").arg("-U1").arg(&before).arg(after));
            let text = String::from_utf8(output.stdout).expect("text");
            // Without the files' names and the lines' numbers, which change with everything before them.
            let lines: Vec<_> =
                text.lines().skip(2).map(|line| if line.starts_with("@@") { "@@" } else { line }).collect();
            (format!("{}.diff", case.name), lines.join("\n") + "\n")
        };
        stale.remove(&name);
        let path = root().join("tests/ship/golden").join(&name);
        if bless() {
            fs::write(path, made).expect("blessed");
        } else if fs::read_to_string(&path).ok().as_ref() != Some(&made) {
            let now = wrote("now", &made);
            let said = output(Command::new("diff").arg("-u").arg(path).arg(now)).stdout;
            differ.push(format!("{name}:\n{}", String::from_utf8_lossy(&said)));
        }
    }
    assert!(differ.is_empty(), "SHUNT_BLESS=1 writes these anew:\n{}", differ.join("\n"));
    assert!(stale.is_empty(), "no case has these goldens: {stale:?}");
}

#[test]
fn what_cannot_be_is_refused() {
    const REFUSALS: [(&str, &str); 24] = [
        ("platform=gkee", "at '/platform': value must be one of '', 'aks'"),
        ("mode=owner", "at '/mode': value must be one of 'owned', 'chained'"),
        ("entry.mesh=linkrd", "at '/entry/mesh': value must be one of 'istio', 'linkerd'"),
        ("entry.foo=1", "at '/entry': additional properties 'foo' not allowed"),
        ("entry.type=calico", "at '/entry/type': value must be 'shunt'"),
        ("entry.captureDns.nameservers=x", "at '/entry/captureDns': got object, want boolean"),
        ("entry.capabilities=null", "missing property 'capabilities'"),
        ("imag.tag=1", "additional properties 'imag' not allowed"),
        ("image.tagg=1", "at '/image': additional properties 'tagg' not allowed"),
        ("image.digest=sha256:12", "at '/image/digest': 'sha256:12' does not match"),
        ("image.pullPolicy=never", "at '/image/pullPolicy': value must be one of"),
        ("paths.confDir=etc/cni", "at '/paths/confDir': 'etc/cni' does not match"),
        ("paths.binDir=/opt/cni/bin/", "at '/paths/binDir': '/opt/cni/bin/' does not match"),
        ("primary=/etc/cni/net.d/10-calico.conflist", "at '/primary':"),
        ("port=0", "at '/port': minimum: got 0, want 1"),
        ("metrics.address=::", "at '/metrics/address': '::' does not match"),
        ("metrics.serviceMonitor.enabled=true", "need metrics.enabled"),
        (
            "metrics.enabled=true,metrics.serviceMonitor.enabled=true,metrics.podMonitor.enabled=true",
            "each node would be scraped twice",
        ),
        (
            "metrics.enabled=true,metrics.service.enabled=false,metrics.serviceMonitor.enabled=true",
            "needs metrics.service.enabled",
        ),
        ("updateStrategy.maxUnavailable=0", "at '/updateStrategy/maxUnavailable': minimum: got 0, want 1"),
        ("updateStrategy.maxSurge=1", "additional properties 'maxSurge' not allowed"),
        ("uninstall.pods=free", "at '/uninstall/pods': value must be one of 'keep', 'detach'"),
        ("uninstall.hook.port=9476", "uninstall.hook.port and port are both 9476"),
        ("resources.limits.cpu=1", "at '/resources': additional properties 'limits' not allowed"),
    ];
    for (value, reason) in REFUSALS {
        let output = output(&mut helm(&[
            "template",
            "shunt",
            "conf/chart",
            "--kube-version",
            "1.34.0",
            "--set",
            value,
        ]));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{value} is taken");
        assert!(said.contains(reason), "{value}: {reason:?} is not in:\n{said}");
    }
}

#[test]
fn an_old_cluster_is_refused() {
    let output = output(&mut helm(&["template", "shunt", "conf/chart", "--kube-version", "1.24.0"]));
    assert!(!output.status.success());
}

fn entry_of(case: &crate::tools::Case) -> Map<String, Value> {
    let maps: Vec<_> = case.of_kind("ConfigMap").collect();
    assert_eq!(maps.len(), 1, "{}", case.name);
    serde_json::from_str(maps[0]["data"]["entry.json"].as_str().expect("text")).expect("JSON")
}

/// The plugin takes every entry the chart passes on, with the values that were given.
#[test]
fn entries_are_read_by_the_plugin() {
    for case in cases() {
        let object = entry_of(case);
        let entry = Entry::from_object(&object).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        if case.name == "chained" {
            assert_eq!(entry.mesh, Mesh::Custom);
            assert_eq!(entry.redirect.proxy_uids, Some(vec![1337, 4_294_967_294]));
            shunt::settings::Settings::new(entry).expect("settings that make sense");
        } else {
            assert_eq!(entry, Entry::default(), "{}", case.name);
        }
    }
    let shipped: Value = serde_json::from_str(&read("conf/entry.json")).expect("JSON");
    assert_eq!(Value::Object(entry_of(case("default"))), shipped, "values.yaml and conf/entry.json");
}

/// The schema knows every key and word of the entry, and no other.
#[test]
fn the_schema_knows_the_entry() {
    let schema: Value = serde_json::from_str(&read("conf/chart/values.schema.json")).expect("JSON");
    let entry = &schema["properties"]["entry"]["properties"];
    let keys: BTreeSet<_> = entry.as_object().expect("keys").keys().map(String::as_str).collect();
    let own = serde_json::to_value(Entry::default()).expect("plain");
    let expected: BTreeSet<_> =
        own.as_object().expect("keys").keys().map(String::as_str).chain(["type", "capabilities"]).collect();
    assert_eq!(keys, expected);
    let words = |list: Vec<&str>| Value::from(list);
    assert_eq!(entry["mesh"]["enum"], words(Mesh::ALL.iter().map(|word| word.as_str()).collect()));
    assert_eq!(entry["backend"]["enum"], words(Backend::ALL.iter().map(|word| word.as_str()).collect()));
    assert_eq!(entry["select"]["enum"], words(Select::ALL.iter().map(|word| word.as_str()).collect()));
    assert_eq!(
        entry["failurePolicy"]["enum"],
        words(FailurePolicy::ALL.iter().map(|word| word.as_str()).collect())
    );
    assert_eq!(
        entry["beforeProxy"]["enum"],
        words(BeforeProxy::ALL.iter().map(|word| word.as_str()).collect())
    );
    assert_eq!(entry["udp"]["enum"], words(Udp::ALL.iter().map(|word| word.as_str()).collect()));
    let levels = words(Level::ALL.iter().map(|word| word.as_str()).collect());
    assert_eq!(entry["log"]["properties"]["level"]["enum"], levels);
    assert_eq!(schema["properties"]["logLevel"]["enum"], levels);
    assert_eq!(
        schema["properties"]["platform"]["enum"],
        words(platforms().keys().map(String::as_str).collect())
    );
}

#[test]
fn the_chart_is_of_this_version() {
    let chart = read("conf/chart/Chart.yaml");
    for key in ["version", "appVersion"] {
        assert!(chart.contains(&format!("\n{key}: {}\n", env!("CARGO_PKG_VERSION"))), "{key} in Chart.yaml");
    }
}
