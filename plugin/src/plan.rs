//! What one pod gets: every question answered, in the words of no mesh. Goes into the record and to the backends.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
pub use shunt_api::{BeforeProxy, Include, Mesh, PortRange, Redirect, Udp};

use crate::error::{Error, Kind};
use crate::policy::Layer;
use crate::profile::Profile;

/// What one pod gets.
///
/// Networks are normalised (see [`shunt_api::Network`]). Lists have no limit and may overlap or repeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Whose proxy it is.
    pub mesh: Mesh,
    /// Where the proxy listens for connections of the app; not 0.
    pub outbound_port: u16,
    /// Where the proxy listens for connections to the app; not 0.
    pub inbound_port: u16,
    /// User ids whose connections are the proxy's own. Empty only when `exempt_gids` is not.
    pub exempt_uids: Vec<u32>,
    /// Group ids whose connections are the proxy's own.
    pub exempt_gids: Vec<u32>,
    /// Connections of the app.
    pub outbound: Outbound,
    /// Connections to the app.
    pub inbound: Inbound,
    /// Interfaces of the pod that are left alone, in both directions.
    pub exclude_interfaces: Vec<String>,
    /// Port that the proxy's tunnel uses on both ends: passes inbound, and the proxy's own connections to it are not
    /// turned round (Istio's 15008).
    pub tunnel_port: Option<u16>,
    /// Whether the proxy's own connections to the pod's addresses, and to loopback addresses other than 127.0.0.1 and `::1`, go
    /// to its inbound port: an app that calls itself through its service.
    pub self_calls: bool,
    /// What outbound connections get until the proxy has listened for the first time.
    pub before_proxy: BeforeProxy,
    /// Where DNS goes; none: it is not captured.
    pub dns: Option<Dns>,
    /// What happens to UDP other than DNS.
    pub udp: Udp,
    /// Whether packets that connection tracking calls invalid are dropped. Only of interest where addresses are translated:
    /// there such a packet would pass with the wrong ones.
    pub drop_invalid: bool,
}

/// DNS of the app: port 53.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Where the proxy listens for it, on the loopback address or on all.
    pub port: u16,
    /// What happens to it over TCP.
    pub tcp: DnsTcp,
    /// The servers it is captured to, those on a loopback address too.
    pub servers: Include<IpAddr>,
}

/// DNS over TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DnsTcp {
    /// To the proxy's DNS port.
    Capture,
    /// To the server that was asked, as if its port were excluded (Kuma).
    Pass,
}

/// Connections of the app. Order: excluded port, excluded network, extra port, included network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outbound {
    /// Destinations that are captured.
    pub cidrs: Include<IpNetwork>,
    /// Destinations that are not.
    pub exclude_cidrs: Vec<IpNetwork>,
    /// Destination ports that are captured whatever `cidrs` says.
    pub extra_ports: Vec<PortRange>,
    /// Destination ports that are not captured. DNS to such a port and UDP to it are not captured or blocked either.
    pub exclude_ports: Vec<PortRange>,
    /// User ids, as the pod sees them, whose connections are not captured. Unlike the exempt ones they are not the proxy.
    pub exclude_uids: Vec<u32>,
    /// Whether connections to the pod's own addresses are captured too (Consul).
    pub own_addresses: bool,
}

/// Connections to the app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inbound {
    /// The app's ports that are captured.
    pub ports: Include<PortRange>,
    /// The app's ports that are not.
    pub exclude_ports: Vec<PortRange>,
    /// Sources whose connections are not captured.
    pub exclude_cidrs: Vec<IpNetwork>,
}

impl Plan {
    /// Captures all TCP, for a proxy with these ports and this uid, and nothing else.
    pub(crate) const fn of_everything(outbound_port: u16, inbound_port: u16, uids: Vec<u32>) -> Self {
        Self {
            mesh: Mesh::Custom,
            outbound_port,
            inbound_port,
            exempt_uids: uids,
            exempt_gids: Vec::new(),
            outbound: Outbound {
                cidrs: Include::All,
                exclude_cidrs: Vec::new(),
                extra_ports: Vec::new(),
                exclude_ports: Vec::new(),
                exclude_uids: Vec::new(),
                own_addresses: false,
            },
            inbound: Inbound { ports: Include::All, exclude_ports: Vec::new(), exclude_cidrs: Vec::new() },
            exclude_interfaces: Vec::new(),
            tunnel_port: None,
            self_calls: false,
            before_proxy: BeforeProxy::Closed,
            dns: None,
            udp: Udp::Pass,
            drop_invalid: false,
        }
    }

    /// From `layer`, all layers merged.
    ///
    /// # Errors
    /// [`Kind::Config`] naming the key that must be there and is not.
    pub(crate) fn new(
        mesh: Mesh,
        profile: &Profile,
        before_proxy: BeforeProxy,
        udp: Udp,
        layer: Layer,
    ) -> Result<Self, Error> {
        // The rest is in the lists of `redirect` by now.
        let Layer { redirect, dns, dns_servers, exclude_uids, drop_invalid, proxy_ports: _, ipv4_only: _ } =
            layer;
        let missing = |key: &str| {
            Error::new(Kind::Config, format!("key \"redirect.{key}\": must be set for mesh \"{mesh}\""))
        };
        let networks =
            |list: Option<Vec<shunt_api::Network>>| list.into_iter().flatten().map(IpNetwork::from).collect();
        let outbound_port = redirect.outbound_port.ok_or_else(|| missing("outboundPort"))?.get();
        let inbound_port = redirect.inbound_port.ok_or_else(|| missing("inboundPort"))?.get();
        let dns = match (dns.unwrap_or(false), redirect.dns_port) {
            (false, _) => None,
            (true, Some(port)) => Some(Dns {
                port: port.get(),
                tcp: profile.dns_tcp,
                servers: dns_servers.unwrap_or(Include::All),
            }),
            (true, None) => return Err(missing("dnsPort")),
        };
        if let Some(port) = same(&[
            (Some(outbound_port), "outboundPort"),
            (Some(inbound_port), "inboundPort"),
            (dns.as_ref().map(|dns| dns.port), "dnsPort"),
        ]) {
            // A listener is known by its port.
            return Err(Error::new(Kind::Config, format!("{port}: each needs a port of its own")));
        }
        let uids = redirect.proxy_uids.unwrap_or_default();
        let gids = redirect.proxy_gids.unwrap_or_default();
        if uids.is_empty() && gids.is_empty() {
            // Without one the proxy's own connections would go to the proxy.
            return Err(Error::new(
                Kind::Config,
                format!(
                    "keys \"redirect.proxyUids\" and \"redirect.proxyGids\": one of them must hold an id for mesh \"{mesh}\""
                ),
            ));
        }
        Ok(Self {
            mesh,
            outbound_port,
            inbound_port,
            exempt_uids: uids,
            exempt_gids: gids,
            outbound: Outbound {
                cidrs: redirect.include_outbound_cidrs.unwrap_or(Include::All).map(IpNetwork::from),
                exclude_cidrs: networks(redirect.exclude_outbound_cidrs),
                extra_ports: redirect.include_outbound_ports.unwrap_or_default(),
                exclude_ports: redirect.exclude_outbound_ports.unwrap_or_default(),
                exclude_uids: exclude_uids.unwrap_or_default(),
                own_addresses: profile.own_addresses,
            },
            inbound: Inbound {
                ports: redirect.include_inbound_ports.unwrap_or(Include::All),
                exclude_ports: redirect.exclude_inbound_ports.unwrap_or_default(),
                exclude_cidrs: networks(redirect.exclude_inbound_cidrs),
            },
            exclude_interfaces: redirect.exclude_interfaces.unwrap_or_default(),
            tunnel_port: profile.tunnel_port,
            self_calls: profile.self_calls,
            before_proxy,
            dns,
            udp,
            drop_invalid: drop_invalid.unwrap_or(false),
        })
    }
}

/// Names two that are the same, if any are.
fn same(ports: &[(Option<u16>, &str)]) -> Option<String> {
    ports.iter().enumerate().find_map(|(index, (port, key))| {
        let (_, other) = ports.iter().skip(index + 1).find(|(other, _)| port.is_some() && other == port)?;
        Some(format!("keys \"redirect.{key}\" and \"redirect.{other}\" are both {}", (*port)?))
    })
}
