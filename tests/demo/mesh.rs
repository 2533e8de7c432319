//! What the demo knows of each mesh: where its proxy listens, who it is, how it reaches the app, and what its injector writes on a
//! pod. Envoy plays the proxy of all of them.

use serde_json::{Value, json};

use crate::outcome::Outcome;

/// One mesh's sidecar.
#[derive(Debug, Clone)]
pub(crate) struct Mesh {
    /// As the entry names it.
    pub(crate) name: &'static str,
    /// Where the app's own connections go.
    pub(crate) outbound: u16,
    /// Where connections to the app go.
    pub(crate) inbound: u16,
    /// The user it runs as, which is exempt.
    pub(crate) uid: u32,
    /// How it hands an inbound connection to the app.
    pub(crate) to_app: ToApp,
    /// The pod's annotations.
    pub(crate) annotations: Value,
    /// The entry's `redirect`, where the profile does not know it all.
    pub(crate) redirect: Value,
}

/// How a proxy hands an inbound connection to the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ToApp {
    /// To where it was going, from 127.0.0.6 or `::6`.
    PassThrough,
    /// To where it was going, from the pod's own address.
    OwnAddress,
    /// To the loopback address.
    Loopback,
}

/// Every mesh the demo can show.
pub(crate) const NAMES: [&str; 8] = ["istio", "linkerd", "kuma", "consul", "osm", "fsm", "appmesh", "custom"];

impl Mesh {
    /// By name. `app_port` is where the app listens: App Mesh captures declared ports only.
    pub(crate) fn named(name: &str, app_port: u16) -> Outcome<Self> {
        let mesh = |name, (outbound, inbound), uid, to_app, annotations| Self {
            name,
            outbound,
            inbound,
            uid,
            to_app,
            annotations,
            redirect: json!({}),
        };
        Ok(match name {
            "istio" => mesh(
                "istio",
                (15001, 15006),
                1337,
                ToApp::PassThrough,
                json!({ "sidecar.istio.io/status": r#"{"containers":["istio-proxy"]}"# }),
            ),
            "linkerd" => mesh(
                "linkerd",
                (4140, 4143),
                2102,
                ToApp::OwnAddress,
                json!({ "linkerd.io/proxy-version": "edge-26.8.1", "linkerd.io/created-by": "linkerd/proxy-injector edge-26.8.1" }),
            ),
            "kuma" => mesh("kuma", (15001, 15006), 5678, ToApp::PassThrough, kuma()),
            "consul" => mesh("consul", (15001, 20000), 5995, ToApp::Loopback, consul()),
            "osm" => mesh(
                "osm",
                (15001, 15003),
                1500,
                ToApp::Loopback,
                json!({ "openservicemesh.io/sidecar-injection": "enabled" }),
            ),
            "fsm" => mesh(
                "fsm",
                (15001, 15003),
                1500,
                ToApp::Loopback,
                json!({ "flomesh.io/sidecar-injection": "enabled" }),
            ),
            "appmesh" => mesh("appmesh", (15001, 15000), 1337, ToApp::Loopback, appmesh(app_port)),
            "custom" => Self {
                redirect: json!({ "outboundPort": 7001, "inboundPort": 7002, "proxyUids": [7777] }),
                ..mesh(
                    "custom",
                    (7001, 7002),
                    7777,
                    ToApp::PassThrough,
                    json!({ "shunt-cni.io/intercept": "true" }),
                )
            },
            other => return Err(format!("no mesh {other}: one of {}", NAMES.join(" "))),
        })
    }
}

/// What Kuma's webhook computes for a pod.
fn kuma() -> Value {
    let document = "kumaDPUser: \"5678\"\nipFamilyMode: dualstack\nredirect:\n  inbound:\n    enabled: true\n    port: 15006\n  \
                    outbound:\n    enabled: true\n    port: 15001\n";
    json!({ "kuma.io/sidecar-injected": "true", "traffic.kuma.io/transparent-proxy-config": document })
}

fn consul() -> Value {
    let document = json!({ "ProxyUserID": "5995", "ProxyInboundPort": 20000, "ProxyOutboundPort": 15001 });
    json!({
        "consul.hashicorp.com/connect-inject-status": "injected",
        "consul.hashicorp.com/transparent-proxy-status": "enabled",
        "consul.hashicorp.com/redirect-traffic-config": document.to_string(),
        "consul.hashicorp.com/dual-stack": "true",
    })
}

fn appmesh(app_port: u16) -> Value {
    json!({
        "appmesh.k8s.aws/appmeshCNI": "enabled",
        "appmesh.k8s.aws/ports": app_port.to_string(),
        "appmesh.k8s.aws/proxyEgressPort": "15001",
        "appmesh.k8s.aws/proxyIngressPort": "15000",
        "appmesh.k8s.aws/ignoredUID": "1337",
        "appmesh.k8s.aws/egressIgnoredIPs": "169.254.169.254",
        "appmesh.k8s.aws/egressIgnoredPorts": "22",
        "appmesh.k8s.aws/sidecarInjectorWebhook": "enabled",
    })
}
