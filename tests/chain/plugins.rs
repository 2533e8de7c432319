//! Entries of other plugins, as they stand in lists.

use serde_json::{Value, json};

use crate::site::{Site, addresses};

/// A plugin that makes the pod's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Main {
    /// A veth pair, its host end on a bridge.
    Bridge,
    /// A veth pair, routed.
    Ptp,
    /// An interface on top of `eth1`: no host end, and the node does not see the traffic.
    Macvlan,
}

impl Main {
    pub(crate) const ALL: [Self; 3] = [Self::Bridge, Self::Ptp, Self::Macvlan];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Ptp => "ptp",
            Self::Macvlan => "macvlan",
        }
    }

    /// Its entry, dual-stack.
    pub(crate) fn entry(self, site: &Site) -> Value {
        let ipam = |ranges: Value| {
            json!({
                "type": "host-local",
                "dataDir": addresses(site),
                "ranges": ranges,
                "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
            })
        };
        let routed = json!([[{ "subnet": "10.244.0.0/24" }], [{ "subnet": "fd44::/64" }]]);
        match self {
            Self::Bridge => {
                json!({ "type": "bridge", "bridge": "cni0", "isGateway": true, "ipam": ipam(routed) })
            }
            Self::Ptp => json!({ "type": "ptp", "ipam": ipam(routed) }),
            Self::Macvlan => json!({
                "type": "macvlan",
                "master": "eth1",
                "ipam": ipam(json!([
                    [{ "subnet": "10.78.0.0/16", "rangeStart": "10.78.1.10", "gateway": "10.78.0.1" }],
                    [{ "subnet": "fd78::/64", "rangeStart": "fd78::1:10", "gateway": "fd78::1" }],
                ])),
            }),
        }
    }

    /// Those that go with it: of the reference plugins, all that work on its kind of interface.
    pub(crate) fn neighbours(self) -> Vec<Value> {
        match self {
            Self::Bridge | Self::Ptp => vec![tuning(), bandwidth(), portmap(false)],
            // Bandwidth wants a veth pair. Answers to a host port must come back by the node.
            Self::Macvlan => vec![tuning(), portmap(true)],
        }
    }
}

/// Host ports; `masquerade`: the pod answers to the node, not past it.
pub(crate) fn portmap(masquerade: bool) -> Value {
    json!({ "type": "portmap", "capabilities": { "portMappings": true }, "snat": true, "masqAll": masquerade })
}

/// A setting of the pod's network, and a longer queue of its interface, which DEL puts back.
pub(crate) fn tuning() -> Value {
    json!({ "type": "tuning", "sysctl": { TUNED: "512" }, "txQLen": 777, "dataDir": "/run/tuning" })
}

/// What [`tuning`] sets.
pub(crate) const TUNED: &str = "net.core.somaxconn";

/// A limit as the runtime says.
pub(crate) fn bandwidth() -> Value {
    json!({ "type": "bandwidth", "capabilities": { "bandwidth": true } })
}

/// Lets forwarded packets of the pod pass.
pub(crate) fn firewall() -> Value {
    json!({ "type": "firewall", "backend": "iptables" })
}

/// Writes its calls down.
pub(crate) fn recorder(site: &Site, tag: &str) -> Value {
    json!({ "type": "recorder", "file": site.path("calls"), "tag": tag })
}

/// The same with an error for each of these commands.
pub(crate) fn failing(site: &Site, tag: &str, commands: &[&str]) -> Value {
    let mut entry = recorder(site, tag);
    for command in commands {
        entry["fail"][command] =
            json!({ "cniVersion": "1.0.0", "code": 123, "msg": "told to fail", "details": *command });
    }
    entry
}

/// A list of these.
pub(crate) fn list(version: &str, name: &str, plugins: impl IntoIterator<Item = Value>) -> Value {
    json!({ "cniVersion": version, "name": name, "plugins": plugins.into_iter().collect::<Vec<_>>() })
}
