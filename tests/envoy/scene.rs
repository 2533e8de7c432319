//! A world and two pods with a sidecar each, as Istio has them.
//!
//! ```text
//!   world                    pod a                        pod b
//!   servers, a client        client → Envoy ⇄ servers     Envoy → servers
//! ```

use std::net::IpAddr;

use serde_json::json;
use shunt_tests::net::{Shape, World};
use shunt_tests::node::{Node, Pod};

use crate::peers::{Certificate, Servers};
use crate::proxy::Envoy;

/// A service that the world answers for, in both families.
pub(crate) const SERVICE: [&str; 2] = ["10.96.0.10", "fd96::10"];

/// Field order is the order of the end: processes, pods, world, node.
pub(crate) struct Scene {
    pub(crate) envoys: [Envoy; 2],
    _servers: [Servers; 3],
    pub(crate) certificate: Certificate,
    pub(crate) pods: [Pod; 2],
    pub(crate) world: World,
    _node: Node,
}

impl Scene {
    /// Under a backend, all of it running.
    pub(crate) fn on(backend: &str) -> Self {
        let node = istio_node(backend);
        let world = node.world();
        let pods = [2, 3].map(|number| istio_pod(&node, &world, number));
        let certificate = Certificate::new(node.directory());
        for pod in &pods {
            node.add(pod);
        }
        let envoys = pods.each_ref().map(|pod| Envoy::start(&node, pod));
        let [a, b] = &pods;
        let servers = [world.place(), a.app(), b.app()].map(|place| Servers::start(&place, &certificate));
        Self { envoys, _servers: servers, certificate, pods, world, _node: node }
    }
}

/// A node whose plugin serves Istio, its DNS too.
pub(crate) fn istio_node(backend: &str) -> Node {
    let node = Node::on(backend);
    node.configure(|entry| {
        entry["mesh"] = json!("istio");
        entry["redirect"] = json!({});
        entry["captureDns"] = json!(true);
    });
    node
}

/// A pod that Istio's injector has marked.
pub(crate) fn istio_pod(node: &Node, world: &World, number: u8) -> Pod {
    let mut pod = node.pod(world, Shape::dual().numbered(number));
    let status = r#"{"containers":["istio-proxy"]}"#;
    pod.annotations = [("sidecar.istio.io/status".to_owned(), status.to_owned())].into();
    pod
}

/// An address written in a test.
pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}
