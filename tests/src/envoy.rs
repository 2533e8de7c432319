//! Parts of Envoy's configuration that every mesh with an Envoy has, and the access log that tells what it did.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

/// One line of the access log: a connection, or a request where Envoy speaks HTTP.
#[derive(Debug, Clone, Deserialize)]
pub struct Access {
    /// `outbound` or `inbound`.
    pub listener: String,
    /// Who connected.
    pub client: String,
    /// Where the client meant to go: the original destination.
    pub asked_for: String,
    /// Where Envoy went for it.
    pub dials: Option<String>,
    /// Its own end of the connection it makes for the client.
    pub dials_from: Option<String>,
    /// What a TLS client asked for.
    pub server_name: Option<String>,
    /// The request's `x-talk`.
    pub talk: Option<String>,
    /// `HTTP/1.1`, `HTTP/2`, or nothing.
    pub protocol: Option<String>,
    /// Why it ended, if not well.
    pub flags: Option<String>,
}

/// The whole lines of a log.
pub fn accesses(log: &str) -> Vec<Access> {
    log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// An access log into a file, a line for each [`Access`].
pub fn access_log(listener: &str, file: &Path) -> Value {
    json!({
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": file,
            "log_format": { "json_format": {
                "listener": listener,
                "client": "%DOWNSTREAM_REMOTE_ADDRESS%",
                "asked_for": "%DOWNSTREAM_LOCAL_ADDRESS%",
                "dials": "%UPSTREAM_HOST%",
                "dials_from": "%UPSTREAM_LOCAL_ADDRESS%",
                "server_name": "%REQUESTED_SERVER_NAME%",
                "talk": "%REQ(X-TALK)%",
                "protocol": "%PROTOCOL%",
                "flags": "%RESPONSE_FLAGS%",
            } },
        },
    })
}

/// Where a listener of both families listens.
pub fn both_families(v4: &str, v6: &str, port: u16) -> Value {
    let at = |ip: &str| json!({ "socket_address": { "address": ip, "port_value": port } });
    json!({ "address": at(v4), "additional_addresses": [{ "address": at(v6) }] })
}

/// Asks the kernel where the client wanted to go.
pub fn original_dst() -> Value {
    json!({
        "name": "envoy.filters.listener.original_dst",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
        },
    })
}

/// Hands bytes on to a cluster.
pub fn tcp_proxy(cluster: &str, access_logs: &[Value]) -> Value {
    json!({
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": cluster,
            "cluster": cluster,
            "access_log": access_logs,
        },
    })
}

/// Matches what was meant for a family.
pub fn meant_for(any: &str) -> Value {
    json!({ "prefix_ranges": [{ "address_prefix": any, "prefix_len": 0 }] })
}

/// Goes where the client wanted to, from these addresses if any; the first is of the cluster's family, or one for each.
pub fn to_original_dst(name: &str, from: &[&str]) -> Value {
    let mut cluster = json!({
        "name": name,
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": "2s",
    });
    let at = |ip: &&str| json!({ "address": ip, "port_value": 0 });
    if let [first, rest @ ..] = from {
        cluster["upstream_bind_config"] = json!({ "source_address": at(first) });
        if !rest.is_empty() {
            let rest: Vec<Value> = rest.iter().map(|ip| json!({ "address": at(ip) })).collect();
            cluster["upstream_bind_config"]["extra_source_addresses"] = json!(rest);
        }
    }
    cluster
}

/// Goes to one address.
pub fn to_address(name: &str, ip: &str, port: u16) -> Value {
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "2s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{ "lb_endpoints": [{ "endpoint": {
                "address": { "socket_address": { "address": ip, "port_value": port } },
            } }] }],
        },
    })
}
