//! One pod under one plan and one backend, with everyone in it who plays a part.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Value, json};
use shunt_abi::Address;
use shunt_tests::ask::{Close, Dial, Place, Serve, Try};
use shunt_tests::datagram::{Answering, Did, Oracle, Script};
use shunt_tests::errand::Errands;
use shunt_tests::net::{Shape, World};
use shunt_tests::node::{APP, INBOUND_PORT, Node, OUTBOUND_PORT, PROXY, Pod};
use shunt_tests::process::Server;

use crate::case::{Backend, Case, Family, From, SILENCE, To, Who};

/// Ports the world answers on, for every service address.
const WORLD_PORTS: [u16; 13] = [53, 80, 443, 2525, 3306, 8000, 8080, 8500, 9000, 15001, 15008, 15020, 20000];
/// Ports the app answers on. No proxy listens on these.
pub(crate) const APP_PORTS: [u16; 10] = [53, 80, 8080, 8081, 9090, 15008, 15020, 15021, 15090, 4191];

/// Ports at which the world answers UDP, and the app.
const UDP_PORTS: [u16; 4] = [53, 443, 8080, 9999];
const APP_UDP_PORTS: [u16; 3] = [53, 8080, 9999];

/// Rows that share a plan and the shape of a pod.
#[derive(Clone, Copy)]
pub(crate) struct Group {
    pub(crate) id: &'static str,
    pub(crate) shape: fn() -> Shape,
    /// The plan: what the entry and the pod's annotations say beyond mesh `custom` with the usual ports.
    pub(crate) plan: fn(&Node, &mut Pod),
    pub(crate) proxy: Proxy,
    /// Whether an app listens.
    pub(crate) app: bool,
    pub(crate) cases: &'static [Case],
}

/// Where the proxy listens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Proxy {
    /// Addresses; none, and there is no proxy.
    pub(crate) ips: &'static [&'static str],
    pub(crate) outbound: u16,
    pub(crate) inbound: u16,
    pub(crate) uid: u32,
    /// Whether an IPv6 socket takes IPv4 too.
    pub(crate) both_families: bool,
    /// Where it listens for DNS, UDP and TCP, and on which addresses.
    pub(crate) dns: Option<(u16, &'static [&'static str])>,
}

/// What most meshes have.
pub(crate) const EVERYWHERE: Proxy = Proxy {
    ips: &["0.0.0.0", "[::]"],
    outbound: OUTBOUND_PORT,
    inbound: INBOUND_PORT,
    uid: PROXY,
    both_families: false,
    dns: None,
};

/// A dual-stack pod with the usual proxy and an app, under the plan `custom` has without further words.
pub(crate) const PLAIN: Group =
    Group { id: "plain", shape: Shape::dual, plan: |_, _| {}, proxy: EVERYWHERE, app: true, cases: &[] };

/// Field order is the order of the end: processes, pods, world, node.
pub(crate) struct Scene {
    clients: BTreeMap<Who, Errands>,
    pub(crate) proxy: Option<Server>,
    app: Option<Server>,
    beyond: Server,
    beyond_datagrams: Oracle,
    oracles: Vec<Oracle>,
    bare: Pod,
    pub(crate) pod: Pod,
    pub(crate) world: World,
    pub(crate) node: Node,
    pub(crate) group: Group,
    pub(crate) backend: Backend,
}

impl Scene {
    /// ADD done, everyone listening.
    pub(crate) fn new(group: &Group, backend: Backend) -> Self {
        let mut scene = Self::before_add(group, backend);
        scene.node.add(&scene.pod);
        scene.start_proxy();
        scene.start_app();
        scene
    }

    /// A pod the plugin has not seen.
    pub(crate) fn before_add(group: &Group, backend: Backend) -> Self {
        let node = Node::on(backend.name());
        let world = node.world();
        let mut pod = node.pod(&world, (group.shape)());
        let bare = node.pod(&world, (group.shape)().numbered(3));
        // Apps and proxies of the table listen on low ports without being root.
        pod.netns.set("ipv4/ip_unprivileged_port_start", "0");
        (group.plan)(&node, &mut pod);
        let beyond = Server::start(&world.place(), &both(&[("world", &WORLD_PORTS)]));
        let beyond_datagrams = Oracle::start(&world.place(), &answering(&both(&[("world", &UDP_PORTS)])));
        let group = *group;
        Self {
            clients: BTreeMap::new(),
            proxy: None,
            app: None,
            beyond,
            beyond_datagrams,
            oracles: Vec::new(),
            bare,
            pod,
            world,
            node,
            group,
            backend,
        }
    }

    pub(crate) fn start_app(&mut self) {
        if self.group.app {
            self.app = Some(self.pod.serve(&both(&[("app", &APP_PORTS)])));
            let answering = answering(&both(&[("app", &APP_UDP_PORTS)]));
            self.oracles.push(Oracle::start(&self.pod.app(), &answering));
        }
    }

    pub(crate) fn start_proxy(&mut self) {
        let Proxy { ips, outbound, inbound, uid, both_families, dns } = self.group.proxy;
        if ips.is_empty() {
            return;
        }
        let mut sockets: Vec<(&str, String)> = ips
            .iter()
            .flat_map(|ip| [("outbound", format!("{ip}:{outbound}")), ("inbound", format!("{ip}:{inbound}"))])
            .collect();
        if let Some((port, ips)) = dns {
            let queries: Vec<_> = ips.iter().map(|ip| ("dns", format!("{ip}:{port}"))).collect();
            let listening = Serve::at(queries.iter().map(|(name, at)| (*name, at.as_str())));
            // As a proxy answers: from the address the kernel chooses.
            let answering = Answering { exact: false, ..answering(&listening) };
            self.oracles.push(Oracle::start(&self.pod.place(uid, uid), &answering));
            sockets.extend(queries);
        }
        let serve = Serve {
            only_v6: !both_families,
            ..Serve::at(sockets.iter().map(|(name, at)| (*name, at.as_str())))
        };
        self.proxy = Some(Server::start(&self.pod.place(uid, uid), &serve));
    }

    /// Where somebody is.
    pub(crate) fn place(&self, who: Who) -> Place {
        let pod = &self.pod;
        let proxy = self.group.proxy.uid;
        match who {
            Who::App => pod.app(),
            Who::Proxy => pod.place(proxy, proxy),
            Who::Ids(uid, gid) => pod.place(uid, gid),
            Who::Setuid => Place { euid: Some(proxy), ..pod.app() },
            Who::Pretender => Place { pretend: Some(proxy), ..pod.app() },
            Who::Outside => self.world.place(),
            Who::Visitor => Place { cgroup: Some(self.node.system_cgroup()), ..pod.app() },
            Who::Bare => self.bare.place(APP, APP),
        }
    }

    /// Somebody dials.
    pub(crate) fn run(&mut self, who: Who, dial: &Dial) -> Vec<Try> {
        let place = self.place(who);
        self.clients.entry(who).or_insert_with(|| Errands::start(&place)).dial(dial)
    }

    /// Somebody follows the steps of one socket of UDP.
    pub(crate) fn play(&mut self, who: Who, script: &Script) -> Vec<Did> {
        let place = self.place(who);
        self.clients.entry(who).or_insert_with(|| Errands::start(&place)).play(script)
    }

    /// What has reached the world since the last time asked.
    pub(crate) fn nothing_new_beyond(&mut self) -> Vec<String> {
        let connections = self.beyond.seen().iter().map(ToString::to_string).collect::<Vec<_>>();
        let datagrams = self.beyond_datagrams.asked().iter().map(ToString::to_string).collect::<Vec<_>>();
        [connections, datagrams].concat()
    }

    /// Somebody dials once, plainly; says who answers, or the error.
    pub(crate) fn outcome(&mut self, who: Who, to: To, family: Family) -> String {
        let to = to.address(&self.pod, family).to_string();
        let dial = Dial { patience: PATIENCE, ..Dial::to([to]) };
        self.run(who, &dial).first().map_or("nothing", Try::outcome).to_owned()
    }

    /// The orders for a row.
    pub(crate) fn orders(&self, case: &Case, family: Family) -> Option<Dial> {
        let crate::case::Does::Dial { to, from, how, times } = case.does else { return None };
        let address = to.address(&self.pod, family);
        let device = if let From::Device(name) = from { Some(name.to_owned()) } else { None };
        let bind = from.address(&self.pod, family);
        Some(Dial {
            to: vec![address; times],
            bind,
            device,
            // A port that other rows use too is free again at once.
            reuse_address: bind.is_some(),
            close: if bind.is_some() { Close::Abort } else { Close::First },
            patience: if case.expected(self.backend).by == SILENCE { 2 } else { PATIENCE },
            ..Dial::to::<&str>([]).how(how)
        })
    }

    /// Who has this address, as a word of the table.
    pub(crate) fn whose(&self, ip: IpAddr) -> String {
        let v6 = ip.is_ipv6();
        let first = |pod: &Pod| pod.shape.interfaces.first().is_some_and(|interface| has(interface, ip));
        let second = |pod: &Pod| pod.shape.interfaces.get(1).is_some_and(|interface| has(interface, ip));
        let passthrough = if v6 { "::6" } else { "127.0.0.6" };
        if first(&self.pod) || first(&self.bare) {
            "own".to_owned()
        } else if second(&self.pod) || second(&self.bare) {
            "own, second".to_owned()
        } else if ip.to_string() == passthrough {
            "passthrough".to_owned()
        } else if shunt_abi::dns::marked(Address::from_ip(ip)).is_some() {
            "marker".to_owned()
        } else if ip.is_loopback() {
            "loopback".to_owned()
        } else if ["10.77.0.1", "10.78.0.1", "fd77::1", "fd78::1"].contains(&ip.to_string().as_str()) {
            "gateway".to_owned()
        } else {
            ip.to_string()
        }
    }
}

/// Seconds until a step that does not end counts as silence.
const PATIENCE: u64 = 10;

fn has(interface: &shunt_tests::net::Interface, ip: IpAddr) -> bool {
    interface.v4.is_some_and(|v4| ip == v4) || interface.v6.is_some_and(|v6| ip == v6)
}

/// A server that listens on these ports, in both families.
pub(crate) fn both(listeners: &[(&str, &[u16])]) -> Serve {
    let sockets: Vec<(&str, String)> = listeners
        .iter()
        .flat_map(|(name, ports)| ports.iter().map(move |port| (*name, *port)))
        .flat_map(|(name, port)| [(name, format!("0.0.0.0:{port}")), (name, format!("[::]:{port}"))])
        .collect();
    Serve::at(sockets.iter().map(|(name, at)| (*name, at.as_str())))
}

/// The same sockets, of UDP; they answer from the address they were asked at.
fn answering(serve: &Serve) -> Answering {
    Answering { listeners: serve.listeners.clone(), exact: true, only_v6: true }
}

/// Serves Istio, whose injector has marked the pod.
pub(crate) fn istio(node: &Node, pod: &mut Pod) {
    mesh(node, "istio");
    pod.annotations = annotated(&[("sidecar.istio.io/status", r#"{"containers":["istio-proxy"]}"#)]);
}

/// Serves a mesh as its profile says.
pub(crate) fn mesh(node: &Node, name: &str) {
    node.configure(|entry| {
        entry["mesh"] = json!(name);
        entry["redirect"] = json!({});
    });
}

/// Annotations as a pod has them.
pub(crate) fn annotated(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// Sets keys of `redirect`.
pub(crate) fn redirect(node: &Node, keys: Value) {
    if let Value::Object(keys) = keys {
        for (key, value) in keys {
            node.redirect(&key, value);
        }
    }
}
