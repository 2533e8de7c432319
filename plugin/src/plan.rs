//! What one pod gets: every question answered, in the words of no mesh. Goes into the record and to the backends.

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
pub use shunt_api::{BeforeProxy, Include, Mesh, PortRange, Redirect, Udp};

use crate::error::{Error, Kind};

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
    /// What outbound connections get until the proxy has listened for the first time.
    pub before_proxy: BeforeProxy,
    /// Where the proxy listens for DNS; none: DNS is not captured.
    pub dns: Option<u16>,
    /// What happens to UDP other than DNS.
    pub udp: Udp,
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
    /// Destination ports that are not captured.
    pub exclude_ports: Vec<PortRange>,
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

/// What a plan needs besides redirection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame {
    pub(crate) mesh: Mesh,
    pub(crate) tunnel_port: Option<u16>,
    pub(crate) before_proxy: BeforeProxy,
    pub(crate) dns: bool,
    pub(crate) udp: Udp,
}

impl Plan {
    /// From `redirect`, all layers merged.
    ///
    /// # Errors
    /// [`Kind::Config`] naming the key that must be there and is not.
    pub(crate) fn new(frame: Frame, redirect: Redirect) -> Result<Self, Error> {
        let Frame { mesh, tunnel_port, before_proxy, dns, udp } = frame;
        let missing = |key: &str| {
            Error::new(Kind::Config, format!("key \"redirect.{key}\": must be set for mesh \"{mesh}\""))
        };
        let networks =
            |list: Option<Vec<shunt_api::Network>>| list.into_iter().flatten().map(IpNetwork::from).collect();
        let outbound_port = redirect.outbound_port.ok_or_else(|| missing("outboundPort"))?.get();
        let inbound_port = redirect.inbound_port.ok_or_else(|| missing("inboundPort"))?.get();
        let dns = match (dns, redirect.dns_port) {
            (false, _) => None,
            (true, Some(port)) => Some(port.get()),
            (true, None) => return Err(missing("dnsPort")),
        };
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
            },
            inbound: Inbound {
                ports: redirect.include_inbound_ports.unwrap_or(Include::All),
                exclude_ports: redirect.exclude_inbound_ports.unwrap_or_default(),
                exclude_cidrs: networks(redirect.exclude_inbound_cidrs),
            },
            exclude_interfaces: redirect.exclude_interfaces.unwrap_or_default(),
            tunnel_port,
            before_proxy,
            dns,
            udp,
        })
    }
}
