//! What must hold of every pod the chart makes, whatever the values.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::tools::{Case, NAMESPACE, case, cases, platforms, read};

/// What the installer's container may do, and nothing else.
pub(crate) const CAPABILITIES: [&str; 9] = [
    "SYS_ADMIN",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "NET_ADMIN",
    "NET_RAW",
    "SETUID",
    "DAC_OVERRIDE",
    "CHOWN",
    "FOWNER",
];

fn env(container: &Value) -> BTreeMap<&str, &str> {
    let list = container["env"].as_array().expect("variables");
    list.iter()
        .map(|one| (one["name"].as_str().expect("a name"), one["value"].as_str().expect("text")))
        .collect()
}

fn only_container(pod: &Value) -> &Value {
    assert_eq!(pod["containers"].as_array().map(Vec::len), Some(1));
    assert!(pod["initContainers"].is_null());
    &pod["containers"][0]
}

/// The pods' specs of all workloads, by kind and name.
fn pods(case: &Case) -> Vec<(String, &Value)> {
    let mut pods = Vec::new();
    for object in &case.objects {
        let pod = match object["kind"].as_str() {
            Some("Pod") => &object["spec"],
            Some("DaemonSet" | "Job") => &object["spec"]["template"]["spec"],
            _ => continue,
        };
        let at = format!("{}: {} {}", case.name, object["kind"], object["metadata"]["name"]);
        pods.push((at, pod));
    }
    pods
}

fn daemonsets() -> impl Iterator<Item = (String, &'static Value)> {
    cases().iter().flat_map(|case| {
        case.of_kind("DaemonSet").map(|set| (format!("{}: {}", case.name, set["metadata"]["name"]), set))
    })
}

#[test]
fn no_pod_may_more_than_it_must() {
    for case in cases() {
        for (at, pod) in pods(case) {
            let container = only_container(pod);
            let context = &container["securityContext"];
            assert_eq!(context["privileged"], false, "{at}");
            assert_eq!(context["allowPrivilegeEscalation"], false, "{at}");
            assert_eq!(context["readOnlyRootFilesystem"], true, "{at}");
            assert_eq!(context["capabilities"]["drop"], json!(["ALL"]), "{at}");
            for host in ["hostPID", "hostIPC", "shareProcessNamespace", "securityContext"] {
                assert!(pod[host].is_null(), "{at}: {host}");
            }
            let resources = &container["resources"];
            for key in ["cpu", "memory"] {
                assert!(resources["requests"][key].is_string(), "{at}");
            }
            assert_eq!(resources["requests"], resources["limits"], "{at}: not Guaranteed");
            assert_eq!(pod["nodeSelector"]["kubernetes.io/os"], "linux", "{at}");
            assert!(container["command"].is_null(), "{at}: the image has an entry point");
        }
    }
}

#[test]
fn daemonsets_are_what_the_node_needs() {
    for (at, set) in daemonsets() {
        let template = &set["spec"]["template"];
        let pod = &template["spec"];
        let container = only_container(pod);
        assert_eq!(pod["hostNetwork"], true, "{at}");
        assert_eq!(pod["automountServiceAccountToken"], false, "{at}");
        assert_eq!(set["spec"]["updateStrategy"]["rollingUpdate"]["maxSurge"], 0, "{at}");
        let own = at.starts_with("everything");
        assert_eq!(pod["priorityClassName"], if own { "mine" } else { "system-node-critical" }, "{at}");
        if !own {
            assert_eq!(pod["tolerations"], json!([{"operator": "Exists"}]), "{at}");
        }
        assert_eq!(container["securityContext"]["runAsUser"], 0, "{at}");
        // The API server compares with "CAP_SYS_ADMIN": spelled so, it refuses allowPrivilegeEscalation false.
        assert_eq!(container["securityContext"]["capabilities"]["add"], json!(CAPABILITIES), "{at}");
        assert_eq!(set["spec"]["selector"]["matchLabels"]["app.kubernetes.io/instance"], "shunt", "{at}");
        for (label, value) in set["spec"]["selector"]["matchLabels"].as_object().expect("labels") {
            assert_eq!(&template["metadata"]["labels"][label], value, "{at}");
        }
    }
}

#[test]
fn apparmor_is_off_in_the_way_the_version_knows() {
    const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/installer";
    let of = |name: &str| {
        let template = &case(name).the("DaemonSet", "shunt")["spec"]["template"];
        let field = template["spec"]["containers"][0]["securityContext"]["appArmorProfile"]["type"].clone();
        (field, template["metadata"]["annotations"][ANNOTATION].clone())
    };
    assert_eq!(of("default"), (json!("Unconfined"), Value::Null));
    assert_eq!(of("older"), (Value::Null, json!("unconfined")));
}

#[test]
fn only_four_places_of_the_host_are_mounted() {
    for (at, set) in daemonsets() {
        let pod = &set["spec"]["template"]["spec"];
        let container = only_container(pod);
        let env = env(container);
        let mut mounts = BTreeMap::new();
        for mount in container["volumeMounts"].as_array().expect("mounts") {
            mounts.insert(mount["name"].as_str().expect("a name"), mount);
        }
        let volumes = pod["volumes"].as_array().expect("volumes");
        assert_eq!(volumes.len(), 5, "{at}");
        let expected = [
            ("conf-dir", env["SHUNT_CONF_DIR"], "Directory", Value::Null),
            ("bin-dir", env["SHUNT_BIN_DIR"], "Directory", Value::Null),
            ("state-dir", env["SHUNT_STATE_DIR"], "DirectoryOrCreate", Value::Null),
            ("proc", "/proc", "Directory", json!(true)),
        ];
        for ((name, path, kind, read_only), volume) in expected.into_iter().zip(volumes) {
            assert_eq!(*volume, json!({"name": name, "hostPath": {"path": path, "type": kind}}), "{at}");
            assert!(path.len() > 1 && path.starts_with('/'), "{at}: {path}");
            // Where the installer looks for it: below its host root.
            assert_eq!(mounts[name]["mountPath"], format!("{}{path}", env["SHUNT_HOST_ROOT"]), "{at}");
            assert_eq!(mounts[name]["readOnly"], read_only, "{at}");
            assert!(mounts[name]["mountPropagation"].is_null(), "{at}");
        }
        assert_eq!(env["SHUNT_HOST_NS"], "/host/proc/1/ns", "{at}");
        assert_eq!(
            env["SHUNT_ENTRY"],
            format!("{}/entry.json", mounts["entry"]["mountPath"].as_str().expect("a path"))
        );
        assert_eq!(mounts["entry"]["readOnly"], true, "{at}");
    }
}

#[test]
fn an_entry_is_rolled_out_and_not_swapped() {
    for case in cases() {
        let map = case.of_kind("ConfigMap").next().expect("a ConfigMap");
        assert_eq!(map["immutable"], true, "{}", case.name);
        for set in case.of_kind("DaemonSet") {
            let volume = &set["spec"]["template"]["spec"]["volumes"][4];
            assert_eq!(*volume, json!({"name": "entry", "configMap": {"name": map["metadata"]["name"]}}));
        }
    }
    let name = |case: &'static Case| case.of_kind("ConfigMap").next().map(|map| &map["metadata"]["name"]);
    assert_eq!(name(case("default")), name(case("metrics")));
    assert_ne!(name(case("default")), name(case("chained")));
}

#[test]
fn the_entry_says_where_records_and_pins_are() {
    let container = only_container(&case("chained").the("DaemonSet", "shunt")["spec"]["template"]["spec"]);
    let env = env(container);
    assert_eq!((env["SHUNT_STATE_DIR"], env["SHUNT_BPF_DIR"]), ("/run/other", "/sys/fs/bpf/other"));
    assert_eq!((env["SHUNT_MODE"], env["SHUNT_PRIMARY"]), ("chained", "10-calico.conflist"));
}

/// The kubelet is on the node, so it asks on the loopback address, and only metrics open the port to others.
#[test]
fn probes_ask_where_it_listens() {
    for (at, set) in daemonsets() {
        let container = only_container(&set["spec"]["template"]["spec"]);
        let listen = env(container)["SHUNT_LISTEN"];
        let (address, port) = listen.rsplit_once(':').expect("an address");
        let port: u16 = port.parse().expect("a port");
        let expected = match at.split_once(':').expect("a case").0 {
            "metrics" if !at.contains("uninstall") => "0.0.0.0",
            "pod-monitor" if !at.contains("uninstall") => "[::]",
            _ => "127.0.0.1",
        };
        assert_eq!(address, expected, "{at}");
        let ports = json!([{"name": "http", "containerPort": port, "hostPort": port, "protocol": "TCP"}]);
        assert_eq!(container["ports"], ports, "{at}");
        for (probe, path) in
            [("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")]
        {
            let get = json!({"host": "127.0.0.1", "port": port, "path": path});
            assert_eq!(container[probe]["httpGet"], get, "{at}: {probe}");
        }
    }
}

#[test]
fn platforms_have_their_paths() {
    for (platform, row) in platforms() {
        let case = if platform.is_empty() { case("default") } else { case(&format!("platform-{platform}")) };
        for set in case.of_kind("DaemonSet") {
            let container = only_container(&set["spec"]["template"]["spec"]);
            let env = env(container);
            assert_eq!(row["confDir"], env["SHUNT_CONF_DIR"], "{platform}");
            assert_eq!(row["binDir"], env["SHUNT_BIN_DIR"], "{platform}");
            assert_eq!(
                container["securityContext"]["seLinuxOptions"]["type"], row["seLinuxType"],
                "{platform}"
            );
        }
        let quotas = case.of_kind("ResourceQuota").count();
        assert_eq!(quotas == 1, row["resourceQuota"] == true, "{platform}");
        let constraints: Vec<_> = case
            .of_kind("RoleBinding")
            .filter(|binding| binding["metadata"]["name"] == "shunt-scc")
            .collect();
        if let Some(constraint) = row["securityContextConstraint"].as_str() {
            assert_eq!(constraints[0]["roleRef"]["name"], format!("system:openshift:scc:{constraint}"));
        } else {
            assert!(constraints.is_empty(), "{platform}");
        }
        for key in row.as_object().expect("a row").keys() {
            let known =
                ["note", "confDir", "binDir", "seLinuxType", "resourceQuota", "securityContextConstraint"];
            assert!(known.contains(&key.as_str()), "{platform}: {key} has no effect");
        }
    }
    let quota = case("platform-gke").the("ResourceQuota", "shunt");
    assert_eq!(
        quota["spec"]["scopeSelector"]["matchExpressions"],
        json!([{"scopeName": "PriorityClass", "operator": "In", "values": ["system-node-critical"]}])
    );
}

fn args(case: &str, kind: &str, name: &str) -> Vec<String> {
    let object = self::case(case).the(kind, name);
    let pod = if kind == "Pod" { &object["spec"] } else { &object["spec"]["template"]["spec"] };
    let list = only_container(pod)["args"].as_array().expect("arguments");
    list.iter().map(|one| one.as_str().expect("text").to_owned()).collect()
}

#[test]
fn uninstalling_is_said_and_never_happens_by_stopping() {
    assert_eq!(args("default", "DaemonSet", "shunt"), ["run"]);
    assert_eq!(args("default", "DaemonSet", "shunt-uninstall"), ["uninstall", "--keep-pods", "--stay"]);
    assert_eq!(args("uninstall", "DaemonSet", "shunt"), ["uninstall", "--detach", "--stay"]);
    for case in cases() {
        for (at, pod) in pods(case) {
            assert!(only_container(pod)["lifecycle"].is_null(), "{at}: stopping does nothing");
        }
    }
    // Done already, or not wanted: no hook.
    for name in ["uninstall", "no-hook"] {
        assert!(!case(name).text.contains("pre-delete"), "{name}");
    }
}

/// Before the release is deleted: who may wait, then the `DaemonSet`, then the Job that waits for it.
#[test]
fn helm_uninstall_is_wired() {
    const POLICY: &str = "before-hook-creation,hook-succeeded";
    let default = case("default");
    let hook = |kind: &str, name: &str| {
        let annotations = &default.the(kind, name)["metadata"]["annotations"];
        assert_eq!(annotations["helm.sh/hook-delete-policy"], POLICY, "{kind} {name}");
        let weight: i32 = annotations["helm.sh/hook-weight"]
            .as_str()
            .and_then(|weight| weight.parse().ok())
            .expect("a weight");
        (annotations["helm.sh/hook"].as_str().expect("a hook"), weight)
    };
    for kind in ["ServiceAccount", "Role", "RoleBinding"] {
        assert_eq!(hook(kind, "shunt-wait"), ("pre-delete,test", -20));
    }
    assert_eq!(hook("DaemonSet", "shunt-uninstall"), ("pre-delete", -10));
    assert_eq!(hook("Job", "shunt-uninstall-wait"), ("pre-delete", 0));
    assert_eq!(hook("Pod", "shunt-ready"), ("test", 0));

    let daemonset = format!("{NAMESPACE}/shunt-uninstall");
    assert_eq!(
        args("default", "Job", "shunt-uninstall-wait"),
        ["wait", "--daemonset", &daemonset, "--timeout", "240s"]
    );
    let daemonset = format!("{NAMESPACE}/shunt");
    assert_eq!(
        args("default", "Pod", "shunt-ready"),
        ["wait", "--daemonset", &daemonset, "--timeout", "240s"]
    );
    let job = &default.the("Job", "shunt-uninstall-wait")["spec"];
    assert!(job["activeDeadlineSeconds"].as_u64() > Some(240), "the waiter says it first");
    assert!(job["activeDeadlineSeconds"].as_u64() < Some(300), "helm gives up after 5 minutes");

    // The waiter may read these two and nothing else, and needs nothing of the node.
    let rules = &default.the("Role", "shunt-wait")["rules"];
    assert_eq!(
        *rules,
        json!([{"apiGroups": ["apps"], "resources": ["daemonsets"],
                "resourceNames": ["shunt", "shunt-uninstall"], "verbs": ["get"]}])
    );
    for pod in [&job["template"]["spec"], &default.the("Pod", "shunt-ready")["spec"]] {
        assert_eq!(pod["serviceAccountName"], "shunt-wait");
        assert_eq!(pod["automountServiceAccountToken"], true);
        assert!(pod["volumes"].is_null());
        let context = &only_container(pod)["securityContext"];
        assert_eq!(context["runAsNonRoot"], true);
        assert!(context["capabilities"]["add"].is_null());
    }

    // The two DaemonSets of a node do not take each other's pods or port.
    let [run, uninstall] = ["shunt", "shunt-uninstall"].map(|name| &default.the("DaemonSet", name)["spec"]);
    assert_ne!(run["selector"], uninstall["selector"]);
    let port = |set: &Value| only_container(&set["template"]["spec"])["ports"][0]["hostPort"].clone();
    assert_ne!(port(run), port(uninstall));
}

/// Names stay below 63 characters, whatever the release is called.
#[test]
fn long_names_are_cut() {
    for object in &case("everything").objects {
        let name = object["metadata"]["name"].as_str().expect("a name");
        assert!(name.len() <= 63 && !name.ends_with('-'), "{name}");
        assert!(name.starts_with("a-name-that-is-rather-long-so-that-it-is-cut"), "{name}");
    }
}

/// Labels that come and go with a version are in no selector: it cannot be changed later.
#[test]
fn selectors_last() {
    for (at, set) in daemonsets() {
        let labels = set["spec"]["selector"]["matchLabels"].as_object().expect("labels");
        let keys: BTreeSet<_> = labels.keys().map(String::as_str).collect();
        let prefixed = ["component", "instance", "name"].map(|key| format!("app.kubernetes.io/{key}"));
        assert_eq!(keys, prefixed.iter().map(String::as_str).collect(), "{at}");
    }
}

#[test]
fn metrics_are_found() {
    let service = &case("metrics").the("Service", "shunt-metrics")["spec"];
    let template = &case("metrics").the("DaemonSet", "shunt")["spec"]["template"];
    for (label, value) in service["selector"].as_object().expect("a selector") {
        assert_eq!(&template["metadata"]["labels"][label], value);
    }
    assert_eq!(service["clusterIP"], "None");
    assert_eq!(service["ports"][0]["targetPort"], template["spec"]["containers"][0]["ports"][0]["name"]);
    let monitor = &case("metrics").the("ServiceMonitor", "shunt")["spec"];
    let labels = &case("metrics").the("Service", "shunt-metrics")["metadata"]["labels"];
    for (label, value) in monitor["selector"]["matchLabels"].as_object().expect("a selector") {
        assert_eq!(&labels[label], value);
    }
    assert_eq!(monitor["endpoints"][0]["port"], service["ports"][0]["name"]);
    let monitor = &case("pod-monitor").the("PodMonitor", "shunt")["spec"];
    for (label, value) in monitor["selector"]["matchLabels"].as_object().expect("a selector") {
        assert_eq!(&template["metadata"]["labels"][label], value);
    }
    assert_eq!(monitor["podMetricsEndpoints"][0]["port"], "http");
}

/// The table in conf/operators.md has a row for each capability, in the chart's order.
#[test]
fn the_page_lists_the_capabilities() {
    let page = read("conf/operators.md");
    let rows: Vec<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|line| line.split_once("` |"))
        .map(|(word, _)| word)
        .filter(|word| word.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
        .collect();
    assert_eq!(rows, CAPABILITIES);
}
