//! The usual scene: a world with a server, a pod with ADD done, a proxy in it.

use serde_json::json;
use shunt_tests::ask::{Dial, Place, Serve, Sum, Try, address, at};
use shunt_tests::net::{Shape, World};
use shunt_tests::node::{INBOUND_PORT, Node, OUTBOUND_PORT, Pod};
use shunt_tests::process::{self, Server};

/// A service, in the three ways an app can name one.
pub(crate) const SERVICE4: &str = "10.96.0.10:80";
pub(crate) const SERVICE6: &str = "[fd96::10]:80";
pub(crate) const SERVICE_MAPPED: &str = "[::ffff:10.96.0.10]:80";
pub(crate) const SERVICES: [&str; 3] = [SERVICE4, SERVICE6, SERVICE_MAPPED];

/// Ports the world answers on, for every service address.
const WORLD_PORTS: [u16; 5] = [80, 443, 8080, 8500, 9000];

/// Field order is the order of the end: processes, pods, world, node.
pub(crate) struct Mesh {
    pub(crate) proxy: Option<Server>,
    pub(crate) beyond: Server,
    pub(crate) pod: Pod,
    pub(crate) world: World,
    pub(crate) node: Node,
}

impl Mesh {
    /// A dual-stack pod, ADD done, its proxy running.
    pub(crate) fn new() -> Self {
        Self::of(Shape::dual())
    }

    /// The same for a pod of another shape.
    pub(crate) fn of(shape: Shape) -> Self {
        let mut mesh = Self::before_add(shape);
        mesh.add();
        mesh.start_proxy();
        mesh
    }

    /// A pod the plugin has not seen.
    pub(crate) fn before_add(shape: Shape) -> Self {
        Self::around_node(Node::new(), shape)
    }

    /// The same on a node that was made otherwise.
    pub(crate) fn around_node(node: Node, shape: Shape) -> Self {
        let world = node.world();
        let pod = node.pod(&world, shape);
        Self::around(node, world, pod)
    }

    /// A scene around a pod.
    pub(crate) fn around(node: Node, world: World, pod: Pod) -> Self {
        let ports: Vec<String> =
            WORLD_PORTS.iter().flat_map(|port| [format!("0.0.0.0:{port}"), format!("[::]:{port}")]).collect();
        let beyond =
            Server::start(&outside(&world), &Serve::at(ports.iter().map(|at| ("world", at.as_str()))));
        Self { proxy: None, beyond, pod, world, node }
    }

    pub(crate) fn add(&self) {
        self.node.add(&self.pod);
    }

    /// The plugin serves Istio, whose injector has marked the pod.
    pub(crate) fn istio(&mut self) {
        self.node.configure(|entry| {
            entry["mesh"] = json!("istio");
            entry["redirect"] = json!({});
        });
        let status = r#"{"containers":["istio-proxy"]}"#;
        self.pod.annotations = [("sidecar.istio.io/status".to_owned(), status.to_owned())].into();
    }

    pub(crate) fn start_proxy(&mut self) {
        self.proxy = Some(Server::start(&self.pod.proxy(), &everywhere()));
    }

    /// The app dials these, plainly.
    pub(crate) fn app<T: AsRef<str>>(&self, to: impl IntoIterator<Item = T>) -> Vec<Try> {
        self.pod.dial(&Dial::to(to))
    }

    /// Who answers the app there, or which error it gets.
    pub(crate) fn outcome(&self, to: &str) -> String {
        outcome(&self.app([to]))
    }

    /// Somebody outside dials a port of the pod.
    pub(crate) fn arriving(&self, v6: bool, port: u16) -> Try {
        let dial = Dial::to([at(self.pod.ip(v6), port)]);
        only(process::dial(&outside(&self.world), &dial))
    }

    /// A second pod of the same shape that the plugin never sees, to compare with.
    pub(crate) fn bare_twin(&self) -> Pod {
        self.node.pod(&self.world, self.pod.shape.clone().numbered(3))
    }

    /// No connection has reached the world since the last time asked.
    #[track_caller]
    pub(crate) fn nothing_got_out(&mut self) {
        let seen = self.beyond.seen();
        assert!(seen.is_empty(), "these went past the proxy: {seen:?}");
    }
}

/// The proxy's sockets as most meshes have them.
pub(crate) fn everywhere() -> Serve {
    proxy_at(&["0.0.0.0", "[::]"])
}

/// The proxy's two ports at these addresses.
pub(crate) fn proxy_at(ips: &[&str]) -> Serve {
    let sockets: Vec<(&str, String)> = ips
        .iter()
        .flat_map(|ip| {
            [("outbound", format!("{ip}:{OUTBOUND_PORT}")), ("inbound", format!("{ip}:{INBOUND_PORT}"))]
        })
        .collect();
    Serve::at(sockets.iter().map(|(name, at)| (*name, at.as_str())))
}

/// A place in the world.
pub(crate) fn outside(world: &World) -> Place {
    world.place()
}

/// The one connection of a client with one destination.
#[track_caller]
pub(crate) fn only(tries: Vec<Try>) -> Try {
    assert_eq!(tries.len(), 1, "one was asked for: {tries:?}");
    tries.into_iter().next().unwrap_or_else(|| panic!("one was there"))
}

#[track_caller]
pub(crate) fn outcome(tries: &[Try]) -> String {
    only(tries.to_vec()).outcome().to_owned()
}

pub(crate) fn outcomes(tries: &[Try]) -> Vec<&str> {
    tries.iter().map(Try::outcome).collect()
}

/// The proxy took it, and was told exactly where it was going.
#[track_caller]
pub(crate) fn captured(seen: &Try) {
    assert_eq!(seen.outcome(), "outbound", "not captured: {seen:?}");
    assert_eq!(
        seen.greeted().original(),
        Some(shunt_tests::ask::plain(seen.to)),
        "the proxy was told another destination: {seen:?}"
    );
}

/// All of many were taken by this listener with the exact destination.
#[track_caller]
pub(crate) fn all_exact(sum: &Sum, by: &str, count: usize) {
    assert!(
        sum.exact == count && sum.by.get(by) == Some(&count) && sum.failed.is_empty(),
        "expected {count} by {by}: {sum:?}"
    );
}

/// A v4 address as a v6 socket writes it.
pub(crate) fn mapped(to: &str) -> String {
    match address(to) {
        std::net::SocketAddr::V4(v4) => at(v4.ip().to_ipv6_mapped(), v4.port()),
        std::net::SocketAddr::V6(_) => to.to_owned(),
    }
}
