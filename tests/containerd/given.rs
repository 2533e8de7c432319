//! What ADD is given: pod annotations in every version, the pod's cgroup from 1.7 on, and who the pod is.

use serde_json::{Value, json};
use shunt_tests::machine::containerd::{self, Version};

use crate::host::Host;
use crate::pods::Spec;

const SCRIBE: &str = "scribe";

pub(crate) fn run(host: &mut Host) -> String {
    let host = &*host;
    containerd::install_scribe(&host.machine, SCRIBE);
    host.edit(|list| list["plugins"].as_array_mut().expect("plugins").insert(1, containerd::scribe(SCRIBE)));
    let spec = Spec::meshed("given");
    let pod = host.pod(&spec, true);
    let bare = Spec::plain("not-annotated");
    let other = host.pod(&bare, false);
    let calls = host.calls(SCRIBE);
    let add = |spec: &Spec| -> Value {
        let uid = format!("K8S_POD_UID={}", spec.uid());
        let of_pod =
            |call: &&Value| call["arguments"].as_str().unwrap_or_default().split(';').any(|one| one == uid);
        let mut adds = calls.iter().filter(of_pod).filter(|call| call["command"] == "ADD");
        let first = adds.next().unwrap_or_else(|| panic!("no ADD with {uid}: {calls:#?}"));
        assert!(adds.next().is_none(), "one ADD: {calls:#?}");
        first.clone()
    };
    let (given, without) = (add(&spec), add(&bare));
    let runtime = |call: &Value, key: &str| call["config"]["runtimeConfig"].get(key).cloned();
    let annotations = "io.kubernetes.cri.pod-annotations";
    assert_eq!(runtime(&given, annotations), Some(spec.annotations.clone()), "{given}");
    // A pod without any: JSON null.
    let nothing = runtime(&without, annotations);
    assert!(matches!(nothing, Some(Value::Null)) || nothing == Some(json!({})), "{without}");
    let cgroup = match host.version {
        Version::V1_6 => None,
        Version::V2 => Some(json!(spec.cgroup())),
    };
    assert_eq!(runtime(&given, "cgroupPath"), cgroup, "{given}");
    let arguments = given["arguments"].as_str().unwrap_or_default();
    for wanted in [
        "K8S_POD_NAMESPACE=default".to_owned(),
        "K8S_POD_NAME=given".to_owned(),
        format!("K8S_POD_INFRA_CONTAINER_ID={}", pod.sandbox),
        format!("K8S_POD_UID={}", spec.uid()),
    ] {
        assert!(arguments.split(';').any(|one| one == wanted), "{wanted}: {arguments}");
    }
    assert_eq!(given["container"], json!(pod.sandbox));
    // The older one hands over no cgroup: the programs hang on the root of all cgroups then.
    assert_eq!(pod.captured(), Ok(()));
    assert_eq!(other.direct(), Ok(()));
    pod.remove();
    other.remove();
    let dels = host.calls(SCRIBE).iter().filter(|call| call["command"] == "DEL").count();
    host.nothing_left();
    format!(
        "annotations: yes; cgroupPath: {}; none at all: {}; DELs for two pods: {dels}",
        if cgroup.is_some() { "yes" } else { "no" },
        nothing.unwrap_or_default()
    )
}
