//! Envoy's configuration as Istio makes it: two listeners that everything is redirected to, one for each port of the services, and
//! clusters that go where the client wanted to.

use std::path::Path;

use serde_json::{Value, json};
use shunt_tests::envoy::{
    access_log, both_families, meant_for, original_dst, tcp_proxy, to_address, to_original_dst,
};
use shunt_tests::node::{INBOUND_PORT, OUTBOUND_PORT};

use crate::peers::{DNS_NAME, DNS_RESULT, port};

/// Where Istio's agent answers DNS.
const DNS_PORT: u16 = 15053;
/// Where the proxy is asked about itself.
pub(crate) const ADMIN_PORT: u16 = 15000;
/// A service whose only endpoint is the pod itself.
pub(crate) const OWN_SERVICE: [&str; 2] = ["10.96.7.7", "fd96::7:7"];

const HTTP: [u16; 4] = [port::HTTP, port::HTTP2, port::GRPC, port::WEBSOCKET];
/// Ports that the services declare as TCP.
const TCP: [u16; 5] = [port::ECHO, port::BANNER, port::BULK, port::RESETS, port::STEADY];

/// One pod's proxy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sidecar<'a> {
    /// The pod's addresses.
    pub(crate) own: [&'a str; 2],
    /// Where it writes its access log, if it does; Istio's own writes none unless it is asked to.
    pub(crate) log: Option<&'a Path>,
}

/// What it starts with; the listeners come later, from a file that may change, as Istio's come from istiod.
pub(crate) fn bootstrap(sidecar: Sidecar<'_>, listeners: &Path) -> Value {
    let admin = json!({ "socket_address": { "address": "127.0.0.1", "port_value": ADMIN_PORT } });
    json!({
        "node": { "id": "sidecar", "cluster": "tests" },
        "admin": { "address": admin },
        "dynamic_resources": { "lds_config": {
            "path_config_source": { "path": listeners },
            "resource_api_version": "V3",
        } },
        "static_resources": { "clusters": clusters(sidecar) },
    })
}

/// The listeners, as the file has them.
pub(crate) fn listeners(sidecar: Sidecar<'_>, version: u32) -> Value {
    let mut all = vec![virtual_outbound(sidecar), virtual_inbound(sidecar)];
    all.extend(HTTP.map(|port| service(port, &http("outbound", "passthrough", sidecar.log))));
    all.push(service(port::TLS, &tcp("outbound", "passthrough", sidecar.log)));
    for (own, any) in OWN_SERVICE.into_iter().zip(["v4", "v6"]) {
        for port in [port::HTTP, port::ECHO] {
            let cluster = format!("self-{any}-{port}");
            let filter = if port == port::HTTP {
                http("outbound", &cluster, sidecar.log)
            } else {
                tcp("outbound", &cluster, sidecar.log)
            };
            all.push(not_bound(own, port, &json!([{ "filters": [filter] }]), &json!([])));
        }
    }
    all.extend(["127.0.0.1", "::1"].map(resolver));
    let resources: Vec<Value> = all.into_iter().map(typed).collect();
    json!({ "version_info": version.to_string(), "resources": resources })
}

/// No listener at all.
pub(crate) fn no_listeners(version: u32) -> Value {
    json!({ "version_info": version.to_string(), "resources": [] })
}

fn typed(mut listener: Value) -> Value {
    listener["@type"] = json!("type.googleapis.com/envoy.config.listener.v3.Listener");
    listener
}

/// Takes everything that leaves; hands it to the service's listener, if there is one, and else passes it through.
fn virtual_outbound(sidecar: Sidecar<'_>) -> Value {
    let mut listener = both_families("0.0.0.0", "::", OUTBOUND_PORT);
    listener["name"] = json!("virtualOutbound");
    listener["traffic_direction"] = json!("OUTBOUND");
    listener["use_original_dst"] = json!(true);
    listener["enable_reuse_port"] = json!(true);
    listener["filter_chains"] = json!([blackhole(OUTBOUND_PORT, sidecar)]);
    listener["default_filter_chain"] = json!({
        "name": "virtualOutbound-catchall-tcp",
        "filters": [tcp("outbound", "passthrough", sidecar.log)],
    });
    listener
}

/// Takes everything that arrives; HTTP for the ports that are declared so, TLS and TCP as they are.
fn virtual_inbound(sidecar: Sidecar<'_>) -> Value {
    let mut listener = both_families("0.0.0.0", "::", INBOUND_PORT);
    listener["name"] = json!("virtualInbound");
    listener["traffic_direction"] = json!("INBOUND");
    listener["enable_reuse_port"] = json!(true);
    listener["continue_on_listener_filters_timeout"] = json!(true);
    let quiet = quiet_ports();
    listener["listener_filters"] = json!([
        original_dst(),
        inspector("tls_inspector", "TlsInspector", &quiet),
        inspector("http_inspector", "HttpInspector", &quiet),
    ]);
    let mut chains = vec![blackhole(INBOUND_PORT, sidecar)];
    chains.extend(HTTP.map(|port| {
        json!({
            "name": format!("inbound-{port}"),
            "filter_chain_match": { "destination_port": port },
            "filters": [http("inbound", "inbound-http", sidecar.log)],
        })
    }));
    for (any, name) in [("0.0.0.0", "inbound-passthrough-v4"), ("::", "inbound-passthrough-v6")] {
        let mut matches = meant_for(any);
        matches["transport_protocol"] = json!("tls");
        let filters = json!([tcp("inbound", name, sidecar.log)]);
        chains.push(
            json!({ "name": format!("{name}-tls"), "filter_chain_match": matches, "filters": filters }),
        );
        chains.push(json!({ "name": name, "filter_chain_match": meant_for(any), "filters": filters }));
    }
    listener["filter_chains"] = json!(chains);
    listener
}

/// A client that dials the proxy's own port is not sent round in circles.
fn blackhole(port: u16, sidecar: Sidecar<'_>) -> Value {
    json!({
        "name": format!("blackhole-{port}"),
        "filter_chain_match": { "destination_port": port },
        "filters": [tcp("blackhole", "blackhole", sidecar.log)],
    })
}

/// A service's port, for every address.
fn service(port: u16, filter: &Value) -> Value {
    let inspectors = if port == port::TLS {
        json!([inspector("tls_inspector", "TlsInspector", &json!(null))])
    } else {
        json!([])
    };
    let mut listener = not_bound("0.0.0.0", port, &json!([{ "filters": [filter] }]), &inspectors);
    let v6 = json!({ "address": { "socket_address": { "address": "::", "port_value": port } } });
    listener["additional_addresses"] = json!([v6]);
    listener
}

/// Only reached through `virtualOutbound`.
fn not_bound(ip: &str, port: u16, chains: &Value, filters: &Value) -> Value {
    json!({
        "name": format!("{ip}_{port}"),
        "address": { "socket_address": { "address": ip, "port_value": port } },
        "bind_to_port": false,
        "traffic_direction": "OUTBOUND",
        "listener_filters": filters,
        "filter_chains": chains,
    })
}

/// A predicate for the ports where nothing is to be waited for: the server may speak first.
fn quiet_ports() -> Value {
    let ranges: Vec<Value> = TCP
        .iter()
        .map(|port| json!({ "destination_port_range": { "start": port, "end": port + 1 } }))
        .collect();
    json!({ "or_match": { "rules": ranges } })
}

fn inspector(name: &str, kind: &str, disabled: &Value) -> Value {
    let mut inspector = json!({
        "name": format!("envoy.filters.listener.{name}"),
        "typed_config": { "@type": format!("type.googleapis.com/envoy.extensions.filters.listener.{name}.v3.{kind}") },
    });
    if !disabled.is_null() {
        inspector["filter_disabled"] = disabled.clone();
    }
    inspector
}

fn tcp(listener: &str, cluster: &str, log: Option<&Path>) -> Value {
    tcp_proxy(cluster, &access_logs(listener, log))
}

fn access_logs(listener: &str, log: Option<&Path>) -> Vec<Value> {
    log.map(|log| access_log(listener, log)).into_iter().collect()
}

fn http(listener: &str, cluster: &str, log: Option<&Path>) -> Value {
    let manager = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": manager,
            "stat_prefix": cluster,
            "codec_type": "AUTO",
            "access_log": access_logs(listener, log),
            "upgrade_configs": [{ "upgrade_type": "websocket" }],
            "http_filters": [{
                "name": "envoy.filters.http.router",
                "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
            }],
            "route_config": { "name": "allow_any", "virtual_hosts": [{
                "name": "allow_any",
                "domains": ["*"],
                "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": cluster, "timeout": "0s" } }],
            }] },
        },
    })
}

fn clusters(sidecar: Sidecar<'_>) -> Value {
    let mut clusters = vec![
        speaks_as_its_client(to_original_dst("passthrough", &[])),
        speaks_as_its_client(to_original_dst("inbound-http", &["127.0.0.6", "::6"])),
        to_original_dst("inbound-passthrough-v4", &["127.0.0.6"]),
        to_original_dst("inbound-passthrough-v6", &["::6"]),
        json!({ "name": "blackhole", "type": "STATIC", "connect_timeout": "2s" }),
    ];
    for (own, any) in sidecar.own.into_iter().zip(["v4", "v6"]) {
        for port in [port::HTTP, port::ECHO] {
            clusters.push(to_address(&format!("self-{any}-{port}"), own, port));
        }
    }
    json!(clusters)
}

/// HTTP/1.1 or HTTP/2, whichever came in.
fn speaks_as_its_client(mut cluster: Value) -> Value {
    let options = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    cluster["typed_extension_protocol_options"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": options,
            "use_downstream_protocol_config": { "http_protocol_options": {}, "http2_protocol_options": {} },
        },
    });
    cluster
}

/// Plays the agent's resolver.
fn resolver(ip: &str) -> Value {
    let filter = "type.googleapis.com/envoy.extensions.filters.udp.dns_filter.v3.DnsFilterConfig";
    let addresses = json!({ "address_list": { "address": [DNS_RESULT] } });
    json!({
        "name": format!("dns-{ip}"),
        "address": { "socket_address": { "protocol": "UDP", "address": ip, "port_value": DNS_PORT } },
        "enable_reuse_port": true,
        "udp_listener_config": {},
        "listener_filters": [{
            "name": "envoy.filters.udp.dns_filter",
            "typed_config": {
                "@type": filter,
                "stat_prefix": "dns",
                "server_config": { "inline_dns_table": {
                    "virtual_domains": [{ "name": DNS_NAME, "endpoint": addresses }],
                } },
            },
        }],
    })
}
