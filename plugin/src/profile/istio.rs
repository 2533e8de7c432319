//! Istio with sidecars: what istio-cni reads and does (`peers-cni.md` 4.1 to 4.3), from annotations alone.

use std::num::NonZeroU16;

use serde::Deserialize;
use shunt_api::Redirect;
use shunt_api::entry::shortened;

use super::{Excluded, Profile, single_ports};
use crate::annotation::{
    Row, bad, include_networks, include_ports, interfaces, layer, networks, ports, put, refused,
};
use crate::cni::Annotations;
use crate::error::Error;
use crate::plan::{DnsTcp, PortRange};
use crate::policy::{Layer, Reason};

const STATUS: &str = "sidecar.istio.io/status";
const INJECT: &str = "sidecar.istio.io/inject";
const TEMPLATES: &str = "inject.istio.io/templates";
const MODE: &str = "sidecar.istio.io/interceptionMode";
const PROXY_CONFIG: &str = "proxy.istio.io/config";
/// Forwarded traffic of virtual machines in the pod, by its name and by its older one.
const REROUTE: [&str; 2] =
    ["istio.io/reroute-virtual-interfaces", "traffic.sidecar.istio.io/kubevirtInterfaces"];

/// Probes and statistics of the proxy: never captured inbound as long as everything is.
const ALWAYS_EXCLUDED_INBOUND: [u16; 3] = [15020, 15021, 15090];

pub(crate) static PROFILE: Profile = Profile {
    defaults,
    marker: None,
    gate,
    layer: annotated,
    excluded_inbound,
    tunnel_port: Some(15008),
    self_calls: true,
    own_addresses: false,
    dns_tcp: DnsTcp::Capture,
};

const ANNOTATIONS: [Row; 7] = [
    Row {
        key: "traffic.sidecar.istio.io/includeOutboundIPRanges",
        set: |text, to| put(&mut to.include_outbound_cidrs, include_networks(text)),
    },
    Row {
        key: "traffic.sidecar.istio.io/excludeOutboundIPRanges",
        set: |text, to| put(&mut to.exclude_outbound_cidrs, networks(text)),
    },
    Row {
        key: "traffic.sidecar.istio.io/includeInboundPorts",
        set: |text, to| put(&mut to.include_inbound_ports, include_ports(text)),
    },
    Row {
        key: "traffic.sidecar.istio.io/excludeInboundPorts",
        set: |text, to| put(&mut to.exclude_inbound_ports, ports(text)),
    },
    Row {
        key: "traffic.sidecar.istio.io/includeOutboundPorts",
        set: |text, to| put(&mut to.include_outbound_ports, ports(text)),
    },
    Row {
        key: "traffic.sidecar.istio.io/excludeOutboundPorts",
        set: |text, to| put(&mut to.exclude_outbound_ports, ports(text)),
    },
    Row {
        key: "traffic.sidecar.istio.io/excludeInterfaces",
        set: |text, to| put(&mut to.exclude_interfaces, interfaces(text)),
    },
];

fn defaults() -> Layer {
    Layer::from(Redirect {
        outbound_port: NonZeroU16::new(15001),
        inbound_port: NonZeroU16::new(15006),
        dns_port: NonZeroU16::new(15053),
        proxy_uids: Some(vec![1337]),
        proxy_gids: Some(vec![1337]),
        exclude_outbound_ports: Some(single_ports(&[15020])),
        ..Redirect::default()
    })
}

/// What of the status annotation says who set the pod up. The rest, and a status that is no JSON, is of no interest.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    #[serde(rename = "initContainers")]
    init_containers: Option<Vec<String>>,
    containers: Option<Vec<String>>,
}

/// The tests of `peers-cni.md` 4.1 that need no API server, in their order.
#[expect(clippy::unnecessary_wraps, reason = "what the gate of every profile returns; others refuse values")]
fn gate(annotations: &Annotations) -> Result<Option<Reason>, Error> {
    let text = annotations.get(STATUS);
    let status: Status = text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let init = status.init_containers.unwrap_or_default();
    let templates = annotations.get(TEMPLATES).map(String::as_str).unwrap_or_default();
    let template = templates
        .split(',')
        .map(str::trim)
        .find(|name| matches!(*name, "gateway" | "grpc-agent" | "grpc-simple"));
    Ok(if init.iter().any(|name| name == "istio-init") {
        Some(Reason::OwnRules { container: "istio-init" })
    } else if template.is_some() {
        Some(Reason::NotASidecar { key: TEMPLATES })
    } else if status
        .containers
        .is_some_and(|list| !list.iter().chain(&init).any(|name| name == "istio-proxy"))
    {
        Some(Reason::NotASidecar { key: STATUS })
    } else if annotations.get(INJECT).is_some_and(|inject| is_no(inject)) {
        Some(Reason::OptedOut { key: INJECT })
    } else if text.is_none() {
        Some(Reason::NotMarked { key: STATUS })
    } else {
        None
    })
}

/// The layer of Istio's annotations; refuses by name what they can ask for and we cannot do.
fn annotated(annotations: &Annotations) -> Result<Layer, Error> {
    match annotations.get(MODE).map(String::as_str) {
        None | Some("" | "REDIRECT") => {}
        Some(mode @ "TPROXY") => return Err(refused(MODE, mode)),
        Some(mode) => return Err(bad(MODE, mode, "must be REDIRECT or TPROXY")),
    }
    for key in REROUTE {
        if let Some(value) = annotations.get(key).filter(|value| !value.trim().is_empty()) {
            return Err(refused(key, value));
        }
    }
    if let Some(config) = annotations.get(PROXY_CONFIG) {
        for (name, harmless) in [
            ("ISTIO_META_DNS_CAPTURE", &["false", "False", "FALSE", "f", "F", "0", ""][..]),
            ("interceptionMode", &["REDIRECT", ""][..]),
        ] {
            if let Some(value) = values_in(config, name).find(|value| !harmless.contains(value)) {
                return Err(refused(PROXY_CONFIG, &format!("{name}: {}", shortened(value))));
            }
        }
    }
    layer(&ANNOTATIONS, annotations).map(Layer::from)
}

/// Istio looks at excluded inbound ports only when all are included, and then adds those of the proxy. Exclusions that are
/// not in Istio's words count always.
fn excluded_inbound(excluded: Excluded) -> Vec<PortRange> {
    let mut ports = if excluded.include.is_all() || excluded.ours { excluded.exclude } else { Vec::new() };
    if excluded.include.is_all() {
        let always = single_ports(&ALWAYS_EXCLUDED_INBOUND);
        ports.extend(always.into_iter().filter(|port| !ports.contains(port)).collect::<Vec<_>>());
    }
    ports
}

/// What Go's `strconv.ParseBool` and YAML take for no.
fn is_no(text: &str) -> bool {
    ["false", "f", "0", "no", "n", "off"].contains(&text.trim().to_ascii_lowercase().as_str())
}

/// The scalars that stand after `name:` in a proxy configuration, YAML or JSON, without their quotes. A whole parser for
/// two words would be too much; what this takes for a value and is none leads to a refusal, not to a silent miss.
fn values_in<'a>(config: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    config.match_indices(name).filter_map(move |(at, _)| {
        let rest = config.get(at + name.len()..)?.trim_start_matches(['"', '\'']).trim_start();
        let value = rest.strip_prefix(':')?.trim_start_matches([' ', '\t', '"', '\'']);
        value.split(['\n', '\r', ',', '}', '"', '\'', '#']).next().map(str::trim)
    })
}

#[cfg(test)]
mod tests {
    use super::{annotated, gate};
    use crate::cni::Annotations;
    use crate::error::Kind;
    use crate::policy::Reason;

    fn annotations(pairs: &[(&str, &str)]) -> Annotations {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn who_is_meshed() {
        const S: &str = super::STATUS;
        let real = r#"{"initContainers":["istio-validation"],"containers":["istio-proxy"],"volumes":["istio-data"],"imagePullSecrets":null,"revision":"default"}"#;
        let native = r#"{"initContainers":["istio-validation","istio-proxy"],"containers":null}"#;
        let none = None;
        for (pairs, reason) in [
            (vec![], Some(Reason::NotMarked { key: S })),
            (vec![(S, real)], none.clone()),
            (vec![(S, native)], none.clone()),
            (vec![(S, "{}")], none.clone()),
            (vec![(S, "")], none.clone()),
            (vec![(S, "injected")], none.clone()),
            (
                vec![(S, r#"{"initContainers":["istio-init"],"containers":["istio-proxy"]}"#)],
                Some(Reason::OwnRules { container: "istio-init" }),
            ),
            (vec![(S, r#"{"containers":["app"]}"#)], Some(Reason::NotASidecar { key: S })),
            (vec![(S, real), (super::INJECT, "false")], Some(Reason::OptedOut { key: super::INJECT })),
            (vec![(S, real), (super::INJECT, "true")], none),
            (
                vec![(S, real), (super::TEMPLATES, "gateway")],
                Some(Reason::NotASidecar { key: super::TEMPLATES }),
            ),
            (vec![(S, real), (super::TEMPLATES, "sidecar,mine")], None),
        ] {
            assert_eq!(gate(&annotations(&pairs)).expect("valid"), reason, "{pairs:?}");
        }
    }

    #[test]
    fn what_is_refused_by_name() {
        for (key, value, kind) in [
            (super::MODE, "TPROXY", Kind::Unsupported),
            (super::MODE, "NONE", Kind::Config),
            (super::REROUTE[0], "net1", Kind::Unsupported),
            (super::REROUTE[1], "net1", Kind::Unsupported),
            (super::PROXY_CONFIG, "proxyMetadata:\n  ISTIO_META_DNS_CAPTURE: \"true\"\n", Kind::Unsupported),
            (
                super::PROXY_CONFIG,
                r#"{"proxyMetadata":{"ISTIO_META_DNS_CAPTURE":"true"}}"#,
                Kind::Unsupported,
            ),
            (super::PROXY_CONFIG, "interceptionMode: TPROXY", Kind::Unsupported),
            ("traffic.sidecar.istio.io/excludeOutboundPorts", "http", Kind::Config),
            ("traffic.sidecar.istio.io/includeOutboundIPRanges", "10.0.0.0/8,*", Kind::Config),
            ("traffic.sidecar.istio.io/excludeInterfaces", "a b", Kind::Config),
        ] {
            let error = annotated(&annotations(&[(key, value)])).expect_err("refused");
            assert_eq!(error.kind(), kind, "{key} {value}");
            assert!(error.details().contains(key), "{}", error.details());
        }
    }

    #[test]
    fn what_does_not_concern_us() {
        for (key, value) in [
            (super::MODE, "REDIRECT"),
            (super::REROUTE[0], ""),
            (
                super::PROXY_CONFIG,
                "holdApplicationUntilProxyStarts: true\nproxyMetadata:\n  ISTIO_META_DNS_CAPTURE: \"false\" # no\n",
            ),
            (
                super::PROXY_CONFIG,
                r#"{"interceptionMode":"REDIRECT","proxyMetadata":{"ISTIO_META_DNS_CAPTURE":"false"}}"#,
            ),
            (super::PROXY_CONFIG, "ISTIO_META_DNS_CAPTURE"),
            ("status.sidecar.istio.io/port", "15020"),
        ] {
            assert_eq!(
                annotated(&annotations(&[(key, value)])).expect("valid"),
                crate::policy::Layer::default(),
                "{key} {value}"
            );
        }
    }
}
