//! One pod for each backend, which takes one plan after the other, and everyone who connects.

use std::collections::BTreeMap;

use serde_json::Value;
use shunt::link::{self, Interfaces};
use shunt_tests::ask::{Close, Dial, Serve, Try};
use shunt_tests::net::{Shape, World};
use shunt_tests::node::{INBOUND_PORT, Node, OUTBOUND_PORT, Pod};
use shunt_tests::process::{Errands, Server};

use crate::generate::{Case, Connection, IDS};
use crate::model::{APP_PORTS, Expected, Model, WORLD_PORTS};

/// A pod under one backend. Field order is the order of the end.
pub(crate) struct Bed {
    clients: BTreeMap<Option<(u32, u32)>, Errands>,
    _servers: Vec<Server>,
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
        node.configure(|entry| entry["select"] = Value::from("all"));
        pod.netns.set("ipv4/ip_unprivileged_port_start", "0");
        // The proxy's listeners are found when they begin to listen, so the pod is a meshed one before.
        node.add(&pod);
        let proxy = both(&[("outbound", &[OUTBOUND_PORT]), ("inbound", &[INBOUND_PORT])]);
        let servers = vec![
            Server::start(&world.place(), &both(&[("world", &WORLD_PORTS)])),
            pod.serve(&both(&[("app", &APP_PORTS)])),
            Server::start(&pod.proxy(), &proxy),
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
            pod,
            _world: world,
            node,
            backend,
            interfaces: None,
            reasons: BTreeMap::new(),
        }
    }

    /// Puts the plan into effect, tries every connection, and says which went otherwise than decided.
    pub(crate) fn disagreements(&mut self, case: &Case) -> Vec<String> {
        self.node.configure(|entry| merge(entry, &case.entry));
        let answer = self.node.call("ADD", &self.pod, "eth0");
        if answer.code != 0 {
            return vec![format!("{}: ADD failed: {answer:?}", self.backend)];
        }
        let interfaces = self.interfaces.get_or_insert_with(|| {
            let found = self.pod.netns.enter(|| link::interfaces_with_passthrough(true));
            found.unwrap_or_else(|fault| panic!("the pod's interfaces: {fault}")).0
        });
        let model = Model::new(&case.entry, interfaces);
        let mut wrong = Vec::new();
        for (ids, client) in &mut self.clients {
            let theirs: Vec<&Connection> =
                case.connections.iter().filter(|connection| connection.ids == *ids).collect();
            let orders: Vec<Dial> = theirs.iter().map(|connection| dial(connection)).collect();
            let tries = client.run(&orders);
            assert_eq!(tries.len(), theirs.len(), "an answer for each order");
            for (connection, seen) in theirs.into_iter().zip(tries) {
                let expected = model.expected(connection);
                *self.reasons.entry(format!("{:?}", expected.reason)).or_default() += 1;
                wrong.extend(disagreement(self.backend, &expected, connection, &seen));
            }
        }
        wrong
    }
}

fn disagreement(backend: &str, expected: &Expected, connection: &Connection, seen: &Try) -> Option<String> {
    let by = seen.outcome();
    let told = seen.greeting.as_ref().and_then(shunt_tests::ask::Greeting::original);
    if by == expected.by && (expected.original.is_none() || told == expected.original) {
        return None;
    }
    let told = told.map_or_else(String::new, |told| format!(", told {told}"));
    let error = seen.error.as_ref().map_or_else(String::new, |(step, _)| format!(" at {step}"));
    Some(format!(
        "{backend}: {}: decided {} ({:?}), saw {by}{error}{told}",
        serde_json::json!(connection),
        expected.by,
        expected.reason,
    ))
}

fn dial(connection: &Connection) -> Dial {
    let in_family = |at: std::net::SocketAddr| match at {
        std::net::SocketAddr::V4(v4) if connection.mapped => (v4.ip().to_ipv6_mapped(), v4.port()).into(),
        other => other,
    };
    Dial {
        to: vec![in_family(connection.to)],
        bind: connection.source.map(|ip| in_family((ip, 0).into())),
        close: Close::Abort,
        patience: 3,
        ..Dial::to::<&str>([])
    }
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
