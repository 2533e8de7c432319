//! One pod for each backend, which takes one plan after the other, and everyone who connects.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde_json::Value;
use shunt::link::{self, Interfaces, Wishes};
use shunt_tests::ask::{Close, Dial, Greeting, Serve};
use shunt_tests::datagram::{Answering, Oracle, Script, Step};
use shunt_tests::errand::{Came, Errand, Errands};
use shunt_tests::net::{Shape, World};
use shunt_tests::node::{INBOUND_PORT, Node, OUTBOUND_PORT, Pod};
use shunt_tests::process::Server;

use crate::generate::{Case, Connection, DNS_PORT, IDS, UDP_PORTS, Way};
use crate::model::{APP_PORTS, Expected, Model, WORLD_PORTS};

/// A pod under one backend. Field order is the order of the end.
pub(crate) struct Bed {
    clients: BTreeMap<Option<(u32, u32)>, Errands>,
    _servers: Vec<Server>,
    _oracles: Vec<Oracle>,
    pod: Pod,
    _world: World,
    node: Node,
    backend: &'static str,
    interfaces: Option<Interfaces>,
    /// How often each reason was given.
    pub(crate) reasons: BTreeMap<String, usize>,
}

impl Bed {
    pub(crate) fn new(backend: &'static str) -> Self {
        let node = Node::on(backend);
        let world = node.world();
        // Callers from addresses the world only routes.
        world.netns().set("ipv6/ip_nonlocal_bind", "1");
        let mut pod = node.pod(&world, Shape::two_interfaces());
        pod.annotations.clear();
        node.configure(|entry| {
            entry["select"] = Value::from("all");
            entry["captureDns"] = Value::from(true);
        });
        node.redirect("dnsPort", Value::from(DNS_PORT));
        pod.netns.set("ipv4/ip_unprivileged_port_start", "0");
        // The proxy's listeners are found when they begin to listen, so the pod is a meshed one before.
        node.add(&pod);
        let proxy =
            both(&[("outbound", &[OUTBOUND_PORT]), ("inbound", &[INBOUND_PORT]), ("dns", &[DNS_PORT])]);
        let servers = vec![
            Server::start(&world.place(), &both(&[("world", &WORLD_PORTS)])),
            pod.serve(&both(&[("app", &APP_PORTS)])),
            Server::start(&pod.proxy(), &proxy),
        ];
        let oracles = vec![
            Oracle::start(&world.place(), &answering(&both(&[("world", &UDP_PORTS)]))),
            Oracle::start(&pod.app(), &answering(&both(&[("app", &UDP_PORTS)]))),
            Oracle::start(&pod.proxy(), &answering(&both(&[("dns", &[DNS_PORT])]))),
        ];
        let place = |ids: Option<(u32, u32)>| match ids {
            Some((uid, gid)) => pod.place(uid, gid),
            None => world.place(),
        };
        let everybody = IDS.into_iter().map(Some).chain([None]);
        let clients = everybody.map(|ids| (ids, Errands::start(&place(ids)))).collect();
        Self {
            clients,
            _servers: servers,
            _oracles: oracles,
            pod,
            _world: world,
            node,
            backend,
            interfaces: None,
            reasons: BTreeMap::new(),
        }
    }

    /// Puts the plan into effect, tries every connection, and says which went otherwise than decided.
    pub(crate) fn disagreements(&mut self, case: &Case) -> Vec<Wrong> {
        self.node.configure(|entry| merge(entry, &case.entry));
        self.pod.annotations.clone_from(&case.annotations);
        let answer = self.node.call("ADD", &self.pod, "eth0");
        if answer.code != 0 {
            return vec![Wrong {
                connection: None,
                text: format!("{}: ADD failed: {answer:?}", self.backend),
            }];
        }
        let interfaces = self.interfaces.get_or_insert_with(|| {
            let found =
                self.pod.netns.enter(|| link::prepared(Wishes { all_routes: true, ..Wishes::default() }));
            found.unwrap_or_else(|fault| panic!("the pod's interfaces: {fault}")).0
        });
        let model = Model::new(case, interfaces);
        let mut wrong = Vec::new();
        for (ids, client) in &mut self.clients {
            let theirs: Vec<&Connection> =
                case.connections.iter().filter(|connection| connection.ids == *ids).collect();
            let expected: Vec<Expected> =
                theirs.iter().map(|connection| model.expected(connection, self.backend)).collect();
            let orders: Vec<Errand> = theirs
                .iter()
                .zip(&expected)
                .map(|(connection, expected)| errand(connection, expected))
                .collect();
            let results = client.run(&orders);
            for (index, (connection, expected)) in theirs.into_iter().zip(expected).enumerate() {
                *self.reasons.entry(format!("{:?}", expected.reason)).or_default() += 1;
                let judged = |came: &Came| disagreement(self.backend, &expected, connection, &Seen::of(came));
                let mut judgement = results.get(index).and_then(judged);
                if judgement.is_some() && connection.way != Way::Tcp {
                    // Connection tracking knows a query under an earlier plan for half a minute, and takes one from the
                    // same port for that. The next one is from another port.
                    let again = client.run(orders.get(index..=index).unwrap_or_default());
                    judgement = again.first().and_then(judged);
                }
                wrong.extend(judgement);
            }
        }
        wrong
    }
}

/// Something that went otherwise than decided.
#[derive(Debug)]
pub(crate) struct Wrong {
    pub(crate) connection: Option<Connection>,
    pub(crate) text: String,
}

/// What a connection came to.
struct Seen {
    by: String,
    /// The step that failed.
    at: String,
    /// The destination, as the proxy is told; of UDP, the sender of the answer, as the client is told.
    told: Option<SocketAddr>,
}

impl Seen {
    fn of(came: &Came) -> Self {
        match came {
            Came::Tries(tries) => {
                let Some(seen) = tries.first() else { panic!("an errand without an outcome") };
                Self {
                    by: seen.outcome().to_owned(),
                    at: seen.error.as_ref().map_or_else(String::new, |(step, _)| format!(" at {step}")),
                    told: seen.greeting.as_ref().and_then(Greeting::original),
                }
            }
            Came::Did(steps) => {
                let failed = steps.iter().position(|did| did.error.is_some());
                let decisive = failed.and_then(|index| steps.get(index)).or(steps.last());
                let Some(did) = decisive else { panic!("an errand without an outcome") };
                Self {
                    by: did.outcome().to_owned(),
                    at: failed.map_or_else(String::new, |index| format!(" at step {}", index + 1)),
                    told: did.got.first().and_then(|got| got.from),
                }
            }
        }
    }
}

fn disagreement(backend: &str, expected: &Expected, connection: &Connection, seen: &Seen) -> Option<Wrong> {
    let same = |told: SocketAddr, meant: SocketAddr| told == meant || told == reached(meant);
    let right = expected.original.is_none_or(|meant| seen.told.is_some_and(|told| same(told, meant)));
    if seen.by == expected.by && right {
        return None;
    }
    let told = seen.told.map_or_else(String::new, |told| format!(", told {told}"));
    let text = format!(
        "{backend}: {}: decided {} ({:?}), saw {}{}{told}",
        serde_json::json!(connection),
        expected.by,
        expected.reason,
        seen.by,
        seen.at,
    );
    Some(Wrong { connection: Some(*connection), text })
}

/// 0.0.0.0 and `::` mean this host, and may be called so.
fn reached(to: SocketAddr) -> SocketAddr {
    let ip = match to.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, to.port())
}

fn errand(connection: &Connection, expected: &Expected) -> Errand {
    let in_family = |at: SocketAddr| match at {
        SocketAddr::V4(v4) if connection.mapped => (v4.ip().to_ipv6_mapped(), v4.port()).into(),
        other => other,
    };
    let to = in_family(connection.to);
    let word = || "q".to_owned();
    let steps = match connection.way {
        Way::Tcp => {
            return Errand::Dial(Dial {
                to: vec![to],
                bind: connection.source.map(|ip| in_family((ip, 0).into())),
                close: Close::Abort,
                patience: 10,
                ..Dial::to::<&str>([])
            });
        }
        Way::Udp => vec![Step::SendTo(to, word()), Step::Receive],
        Way::Connected => vec![Step::Connect(to), Step::Send(word()), Step::Receive],
    };
    // After a refusal nothing comes.
    let patience = if expected.by.starts_with('E') { 50 } else { 2000 };
    Errand::Play(Script { v6: to.is_ipv6(), patience, ..Script::v4(steps) })
}

/// The keys of a case over those of the node.
fn merge(entry: &mut Value, keys: &Value) {
    for (key, value) in keys.as_object().into_iter().flatten() {
        if let Value::Object(entry) = entry {
            entry.insert(key.clone(), value.clone());
        }
    }
}

fn both(listeners: &[(&str, &[u16])]) -> Serve {
    let sockets: Vec<(&str, String)> = listeners
        .iter()
        .flat_map(|(name, ports)| ports.iter().map(move |port| (*name, *port)))
        .flat_map(|(name, port)| [(name, format!("0.0.0.0:{port}")), (name, format!("[::]:{port}"))])
        .collect();
    let serve = Serve::at(sockets.iter().map(|(name, at)| (*name, at.as_str())));
    Serve { quiet: true, ..serve }
}

/// The same sockets, of UDP.
fn answering(serve: &Serve) -> Answering {
    Answering { listeners: serve.listeners.clone(), exact: true, only_v6: true }
}
