//! The pods of the scenarios.

use serde_json::{Value, json};
use shunt_tests::sidecar::{HEALTH, USER};

use crate::cluster::NAMESPACE;

/// Where apps serve.
pub(crate) const APP_PORT: u16 = 8080;

/// A container that runs a job of `probe pod`.
pub(crate) fn container(name: &str, image: &str, user: u32, job: &[&str]) -> Value {
    let arguments = [&["pod"], job].concat();
    json!({
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": arguments,
        "securityContext": {
            "runAsUser": user, "runAsGroup": user, "allowPrivilegeEscalation": false,
            "capabilities": { "drop": ["ALL"] },
        },
    })
}

/// The app: serves, and asks each of these addresses from its first moment.
pub(crate) fn app(name: &str, image: &str, asks: &[String]) -> Value {
    let (port, path) = (APP_PORT.to_string(), format!("/{name}"));
    let mut job = vec!["app", &port, &path];
    job.extend(asks.iter().map(String::as_str));
    let mut app = container("app", image, 1000, &job);
    // For a meshed pod the kubelet's question goes through the proxy.
    app["readinessProbe"] =
        json!({ "httpGet": { "port": APP_PORT, "path": "/readiness" }, "periodSeconds": 1 });
    app
}

/// The sidecar.
pub(crate) fn proxy(image: &str) -> Value {
    container("istio-proxy", image, USER, &["proxy"])
}

/// The sidecar as a native one: an init container that goes on, and the next one waits for it.
pub(crate) fn native_proxy(image: &str) -> Value {
    let mut proxy = proxy(image);
    proxy["restartPolicy"] = json!("Always");
    proxy["startupProbe"] = json!({ "httpGet": { "port": HEALTH, "path": "/healthz/ready" }, "periodSeconds": 1, "failureThreshold": 60 });
    proxy
}

/// A pod. What Istio's webhook writes on a meshed one is all that tells them apart.
pub(crate) fn pod(name: &str, meshed: bool, init: &[Value], containers: &[Value]) -> Value {
    let annotations = if meshed {
        json!({ "sidecar.istio.io/status": r#"{"containers":["istio-proxy"]}"# })
    } else {
        json!({})
    };
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "namespace": NAMESPACE, "labels": { "app": name }, "annotations": annotations },
        "spec": {
            "initContainers": init,
            "containers": containers,
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "tolerations": [{ "operator": "Exists" }],
        },
    })
}

/// An app with its sidecar beside it.
pub(crate) fn meshed(name: &str, image: &str, asks: &[String]) -> Value {
    pod(name, true, &[], &[app(name, image, asks), proxy(image)])
}

/// An app alone.
pub(crate) fn plain(name: &str, image: &str, asks: &[String]) -> Value {
    pod(name, false, &[], &[app(name, image, asks)])
}
