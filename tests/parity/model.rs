//! What must come of a connection, by the pure decision and by who listens where.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;
use shunt::bpf::rules::{self, Encoded, Ids};
use shunt::cni::{Annotations, PodRef};
use shunt::link::Interfaces;
use shunt::plan::Plan;
use shunt::policy::{self, Decision};
use shunt::settings::Settings;
use shunt_abi::decide::{self, Inbound, Outbound, Table, Verdict};
use shunt_abi::{Address, Reason, slot};
use shunt_api::Entry;
use shunt_tests::node::{INBOUND_PORT, OUTBOUND_PORT};

use crate::generate::{Connection, OWN, Way};

/// Ports the app listens on.
pub(crate) const APP_PORTS: [u16; 6] = [53, 80, 8080, 9000, 15008, 15020];
/// Ports the world listens on, at every address.
pub(crate) const WORLD_PORTS: [u16; 12] = [1, 53, 80, 443, 3306, 8000, 8080, 8443, 9000, 15001, 15008, 15020];

/// A plan as the decision reads it.
#[derive(Debug)]
pub(crate) struct Model {
    encoded: Encoded,
}

/// What must come of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expected {
    /// Who answers, or the error.
    pub(crate) by: &'static str,
    /// What the proxy is told, where it is asked.
    pub(crate) original: Option<SocketAddr>,
    /// Why.
    pub(crate) reason: Reason,
}

impl Model {
    /// The plan of an entry, for a pod that looks like this.
    pub(crate) fn new(entry: &Value, interfaces: &Interfaces) -> Self {
        let plan = plan(entry);
        let ids = Ids {
            uids: plan.exempt_uids.clone(),
            gids: plan.exempt_gids.clone(),
            excluded_uids: plan.outbound.exclude_uids.clone(),
        };
        Self { encoded: rules::encoded(&plan, interfaces, "eth0", &ids, 1) }
    }

    /// What must come of a connection.
    pub(crate) fn expected(&self, connection: &Connection) -> Expected {
        let Connection { ids, way, source, to, .. } = *connection;
        let rules = Table(&self.encoded.rules);
        let source = source.map_or(Address::UNSPECIFIED, Address::from_ip);
        let destination = Address::from_ip(to.ip());
        let verdict = match ids {
            Some((uid, gid)) => {
                let connection =
                    Outbound { uid, gid, destination, port: to.port(), source, before_proxy: false };
                match way {
                    Way::Tcp => decide::outbound(&self.encoded.config, &rules, &connection),
                    Way::Udp | Way::Connected => {
                        decide::datagram(&self.encoded.config, &rules, &connection, false)
                    }
                }
            }
            None => {
                let connection = Inbound { source, destination, port: to.port() };
                decide::inbound(&self.encoded.config, &rules, &connection)
            }
        };
        let reason = verdict.reason();
        match verdict {
            Verdict::Pass(_) => Expected { by: if way == Way::Tcp { unhindered(to) } else { unhindered_datagram(to) }, original: None, reason },
            Verdict::Refuse(_) => Expected { by: "EPERM", original: None, reason },
            Verdict::Capture { slot, .. } => {
                let by = match slot {
                    slot::INBOUND => "inbound",
                    slot::DNS => "dns",
                    _ => "outbound",
                };
                // Of a connection to its own port a proxy is not told the same by both: see conf/differences.md.
                let own_port = is_inside(to.ip()) && [OUTBOUND_PORT, INBOUND_PORT].contains(&to.port());
                Expected { by, original: (!own_port).then_some(to), reason }
            }
        }
    }
}

fn plan(entry: &Value) -> Plan {
    let Value::Object(object) = entry else { panic!("an entry is an object: {entry}") };
    let entry = Entry::from_object(object).unwrap_or_else(|error| panic!("a bad entry: {error:?}"));
    let settings = Settings::new(entry).unwrap_or_else(|error| panic!("a bad entry: {error:?}"));
    let pod = PodRef::parse("K8S_POD_NAMESPACE=default;K8S_POD_NAME=parity");
    match policy::decide(&pod, &Annotations::default(), &settings) {
        Ok(Decision::Intercept(plan)) => *plan,
        other => panic!("every pod is selected: {other:?}"),
    }
}

/// The same of UDP: only ports are asked at which there is an answer.
fn unhindered_datagram(to: SocketAddr) -> &'static str {
    if is_inside(to.ip()) { "app" } else { "world" }
}

fn is_inside(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified() || OWN.contains(&ip.to_string().as_str())
}

/// Who answers there when nobody interferes.
fn unhindered(to: SocketAddr) -> &'static str {
    let port = to.port();
    if !is_inside(to.ip()) {
        return if WORLD_PORTS.contains(&port) { "world" } else { "ECONNREFUSED" };
    }
    match port {
        OUTBOUND_PORT => "outbound",
        INBOUND_PORT => "inbound",
        _ if APP_PORTS.contains(&port) => "app",
        _ => "ECONNREFUSED",
    }
}
