//! The overlays: made of the chart, and the same objects as the chart gives.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::tools::{NAMESPACE, helm, parsed, platforms, read, root, text, tool};

/// Every file below a directory, by its path in it.
fn files(directory: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![directory.to_owned()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(&next).unwrap_or_else(|error| panic!("{}: {error}", next.display())) {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                left.push(path);
            } else {
                let text = fs::read_to_string(&path).expect("text");
                found.insert(path.strip_prefix(directory).expect("below").to_owned(), text);
            }
        }
    }
    found
}

#[test]
fn overlays_are_those_of_the_chart() {
    let folder = tempfile::tempdir().expect("a directory");
    let made = folder.path().join("kustomize");
    text(Command::new("python3").arg(root().join("conf/manifests.py")).arg(&made));
    let (made, kept) = (files(&made), files(&root().join("conf/kustomize")));
    assert_eq!(made.keys().collect::<Vec<_>>(), kept.keys().collect::<Vec<_>>(), "run `make manifests`");
    for (path, text) in made {
        assert!(kept[&path] == text, "{} is not what the chart gives: run `make manifests`", path.display());
    }
}

/// The same objects, without what Helm and kustomize each put there or order in their own way.
fn normal(objects: Vec<Value>) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    for mut object in objects {
        if let Some(labels) = object["metadata"]["labels"].as_object_mut() {
            labels.remove("helm.sh/chart");
            labels.remove("app.kubernetes.io/managed-by");
        }
        match object["kind"].as_str().expect("a kind") {
            "Namespace" => continue,
            "ConfigMap" => {
                object["metadata"] = json!({"name": unhashed(&object["metadata"]["name"])});
                let entry = object["data"]["entry.json"].as_str().expect("text");
                object["data"]["entry.json"] = serde_json::from_str(entry).expect("JSON");
            }
            "DaemonSet" => {
                let pod = &mut object["spec"]["template"]["spec"];
                let sorted = |list: &mut Value, key: &str| {
                    list.as_array_mut().expect("a list").sort_by_key(|one| one[key].to_string());
                };
                for volume in pod["volumes"].as_array_mut().expect("volumes") {
                    if volume["configMap"].is_object() {
                        volume["configMap"]["name"] = unhashed(&volume["configMap"]["name"]);
                    }
                }
                sorted(&mut pod["volumes"], "name");
                sorted(&mut pod["containers"][0]["env"], "name");
                sorted(&mut pod["containers"][0]["volumeMounts"], "mountPath");
            }
            _ => {}
        }
        let key = format!("{} {}", object["kind"], object["metadata"]["name"]);
        assert!(found.insert(key.clone(), object).is_none(), "{key} twice");
    }
    found
}

fn unhashed(name: &Value) -> Value {
    let (name, hash) = name.as_str().and_then(|name| name.rsplit_once('-')).expect("a name with a hash");
    assert_eq!(hash.len(), 10, "{name}-{hash}");
    name.into()
}

fn built(path: &str) -> String {
    text(tool("kustomize").args(["build", path]))
}

fn charted(platform: &str, values: &str) -> String {
    let arguments = ["template", "shunt", "conf/chart", "--no-hooks", "--kube-version", "1.30.0"];
    text(helm(&arguments).arg(format!("--set=platform={platform},{values}")))
}

/// Every overlay, also with the uninstall component, beside the chart for that platform.
#[test]
fn overlays_give_what_the_chart_gives() {
    let mut texts = BTreeMap::new();
    // Below the workspace: kustomize takes no absolute path to a base.
    fs::create_dir_all(root().join("target")).expect("a directory");
    let folder = tempfile::tempdir_in(root().join("target")).expect("a directory");
    let here = folder.path().strip_prefix(root()).expect("below").display().to_string();
    for platform in platforms().keys() {
        let overlay = if platform.is_empty() { "base".to_owned() } else { format!("overlays/{platform}") };
        texts.insert(format!("{platform}+run+kustomize"), built(&format!("conf/kustomize/{overlay}")));
        texts.insert(format!("{platform}+run+helm"), charted(platform, "uninstall.enabled=false"));
        // The component does not look at what the overlay has changed: the plainest and the fullest stand for all.
        if !platform.is_empty() && platform != "openshift" {
            continue;
        }
        let content = format!(
            "resources: [../../conf/kustomize/{overlay}]\ncomponents: [../../conf/kustomize/uninstall]\n"
        );
        fs::write(folder.path().join("kustomization.yaml"), content).expect("written");
        texts.insert(format!("{platform}+uninstall+kustomize"), built(&here));
        texts.insert(format!("{platform}+uninstall+helm"), charted(platform, "uninstall.enabled=true"));
    }
    let mut objects = parsed(&texts);
    assert_eq!(objects.len(), 2 * platforms().len() + 4);
    while let Some((name, ours)) = objects.pop_first() {
        let (name, by) = name.rsplit_once('+').expect("a name");
        assert_eq!(by, "helm");
        let (_, theirs) = objects.pop_first().expect("in pairs");
        let namespace = theirs.iter().find(|object| object["kind"] == "Namespace").expect("a namespace");
        assert_eq!(namespace["metadata"]["name"], NAMESPACE);
        assert_eq!(namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "privileged");
        let (ours, theirs) = (normal(ours), normal(theirs));
        for (key, object) in &ours {
            let theirs = theirs.get(key).unwrap_or_else(|| panic!("{name}: kustomize has no {key}"));
            assert_eq!(theirs, object, "{name}: {key}");
        }
        assert_eq!(ours.len(), theirs.len(), "{name}");
    }
}

/// The kustomization that conf/operators.md shows works as it stands there.
#[test]
fn the_kustomization_on_the_page_builds() {
    let page = read("conf/operators.md");
    let block = page
        .split("```yaml\n")
        .skip(1)
        .filter_map(|rest| rest.split_once("```"))
        .map(|(block, _)| block)
        .find(|block| block.contains("configMapGenerator"))
        .expect("a kustomization on the page");
    let folder = tempfile::tempdir_in(root().join("target")).expect("a directory");
    fs::write(folder.path().join("kustomization.yaml"), block.replace("shunt/conf/", "../../conf/"))
        .expect("written");
    fs::write(folder.path().join("entry.json"), r#"{"type": "shunt", "mesh": "linkerd"}"#).expect("written");
    let here = folder.path().strip_prefix(root()).expect("below").display().to_string();
    let built = built(&here);
    assert_eq!(built.matches("linkerd").count(), 1, "{built}");
    assert!(built.contains("image: registry.example/mesh/shunt:"), "{built}");
    assert!(built.contains("value: /home/kubernetes/bin"), "{built}");
}
