//! Istio with sidecars: what istio-cni reads and does (`peers-cni.md` 4.1 to 4.3), from annotations alone.

use std::num::NonZeroU16;

use serde::Deserialize;
use serde_json::Value;
use shunt_api::Redirect;

use super::document::{Document, Format};
use super::key::{Act, Bad, Field, FieldAct, Key, field, key};
use super::value::{flag, says_no, text};
use super::{Profile, single_ports};
use crate::annotation::{include_networks, include_ports, interfaces, networks, ports, put};
use crate::cni::Annotations;
use crate::error::Error;
use crate::plan::DnsTcp;
use crate::policy::{Layer, Reason};

const STATUS: &str = "sidecar.istio.io/status";
const INJECT: &str = "sidecar.istio.io/inject";
const TEMPLATES: &str = "inject.istio.io/templates";
const MODE: &str = "sidecar.istio.io/interceptionMode";
const PROXY_CONFIG: &str = "proxy.istio.io/config";
/// Where in the proxy's configuration its environment is. Protocol buffers take both spellings of a name.
const METADATA: [&str; 2] = ["proxyMetadata.DISABLE_ENVOY", "proxy_metadata.DISABLE_ENVOY"];

/// Probes and statistics of the proxy: never captured inbound as long as everything is.
const PROXY_PORTS: [u16; 3] = [15020, 15021, 15090];

pub(crate) static PROFILE: Profile = Profile {
    defaults,
    marker: None,
    gate,
    keys: &KEYS,
    include_beats_exclude: true,
    tunnel_port: Some(15008),
    self_calls: true,
    own_addresses: false,
    dns_tcp: DnsTcp::Capture,
    #[cfg(test)]
    page: page::PAGE,
};

#[cfg(test)]
const CNI: &str = "istio/istio cni/pkg/plugin/sidecar_redirect.go";
#[cfg(test)]
const PLUGIN: &str = "istio/istio cni/pkg/plugin/plugin.go";
#[cfg(test)]
const API: &str = "istio/api mesh/v1alpha1/proxy.proto";

static KEYS: [Key; 14] = [
    key!(
        STATUS,
        Act::Marks,
        r#"{"initContainers":["istio-init"],"containers":["istio-proxy"]}"#,
        PLUGIN,
        "the marker, unless it lists `istio-init` (which sets the pod up itself), or containers without `istio-proxy`"
    ),
    key!(INJECT, Act::Marks, "false", PLUGIN, "no: the pod is not meshed"),
    key!(
        TEMPLATES,
        Act::Marks,
        "gateway",
        "istio/istio pkg/kube/inject",
        "`gateway`, `grpc-agent`, `grpc-simple`: the proxy is no sidecar, and the pod is left alone"
    ),
    key!(
        MODE,
        Act::Refused(|text| match text {
            "" | "REDIRECT" => Ok(false),
            "TPROXY" => Ok(true),
            _ => Err("must be REDIRECT or TPROXY".into()),
        }),
        "TPROXY",
        CNI,
        "`REDIRECT` is what is done; `TPROXY` (the source address is kept by the kernel) is refused"
    ),
    key!(
        "traffic.sidecar.istio.io/includeOutboundIPRanges",
        Act::Sets(|text, to| put(&mut to.redirect.include_outbound_cidrs, include_networks(text))
            .map_err(Bad::from)),
        "10.96.0.0/12",
        CNI,
        "destinations that are captured: `*`, a list, or empty for none"
    ),
    key!(
        "traffic.sidecar.istio.io/excludeOutboundIPRanges",
        Act::Sets(|text, to| put(&mut to.redirect.exclude_outbound_cidrs, networks(text)).map_err(Bad::from)),
        "10.9.0.0/16",
        CNI,
        "destinations that are not, looked at before those that are"
    ),
    key!(
        "traffic.sidecar.istio.io/includeInboundPorts",
        Act::Sets(
            |text, to| put(&mut to.redirect.include_inbound_ports, include_ports(text)).map_err(Bad::from)
        ),
        "8080",
        CNI,
        "the app's ports that are captured: `*`, a list, or empty for none"
    ),
    key!(
        "traffic.sidecar.istio.io/excludeInboundPorts",
        Act::Sets(|text, to| put(&mut to.redirect.exclude_inbound_ports, ports(text)).map_err(Bad::from)),
        "22",
        CNI,
        "the app's ports that are not; counts only while all are included"
    ),
    key!(
        "traffic.sidecar.istio.io/includeOutboundPorts",
        Act::Sets(|text, to| put(&mut to.redirect.include_outbound_ports, ports(text)).map_err(Bad::from)),
        "3306",
        CNI,
        "outbound ports that are captured whatever the destination"
    ),
    key!(
        "traffic.sidecar.istio.io/excludeOutboundPorts",
        Act::Sets(|text, to| put(&mut to.redirect.exclude_outbound_ports, ports(text)).map_err(Bad::from)),
        "25",
        CNI,
        "outbound ports that are not captured"
    ),
    key!(
        "traffic.sidecar.istio.io/excludeInterfaces",
        Act::Sets(|text, to| put(&mut to.redirect.exclude_interfaces, interfaces(text)).map_err(Bad::from)),
        "net1",
        CNI,
        "interfaces that are left alone, in both directions"
    ),
    key!(
        "istio.io/reroute-virtual-interfaces",
        Act::Refused(is_filled),
        "docker0",
        CNI,
        "forwarded traffic of virtual machines in the pod"
    ),
    key!(
        "traffic.sidecar.istio.io/kubevirtInterfaces",
        Act::Refused(is_filled),
        "tun0",
        CNI,
        "the older name of `istio.io/reroute-virtual-interfaces`"
    ),
    key!(
        PROXY_CONFIG,
        Act::Holds(Format::Yaml, &FIELDS),
        "proxyMetadata: {ISTIO_META_DNS_CAPTURE: \"true\"}",
        "istio/istio pkg/kube/inject/webhook.go",
        "the proxy's own configuration, YAML or JSON: keys below"
    ),
];

/// The keys that Istio's plugin reads, in the form of the container's environment that the injector makes of them.
static FIELDS: [Field; 8] = [
    field!(
        "interceptionMode",
        FieldAct::Refused(is_not_redirect),
        "interceptionMode: TPROXY",
        API,
        "anything but `REDIRECT` (0)"
    ),
    field!(
        "interception_mode",
        FieldAct::Refused(is_not_redirect),
        "interception_mode: TPROXY",
        API,
        "the same key: protocol buffers take both spellings"
    ),
    field!(
        "proxyMetadata.ISTIO_META_DNS_CAPTURE",
        FieldAct::Sets(|value, _, to| set_flag(value, &mut to.dns)),
        "proxyMetadata: {ISTIO_META_DNS_CAPTURE: \"true\"}",
        CNI,
        "whether DNS is captured"
    ),
    field!(
        "proxy_metadata.ISTIO_META_DNS_CAPTURE",
        FieldAct::Sets(|value, _, to| set_flag(value, &mut to.dns)),
        "{\"proxy_metadata\": {\"ISTIO_META_DNS_CAPTURE\": \"true\"}}",
        CNI,
        "the same key"
    ),
    field!(
        "proxyMetadata.INVALID_DROP",
        FieldAct::Sets(|value, _, to| set_flag(value, &mut to.drop_invalid)),
        "proxyMetadata: {INVALID_DROP: \"true\"}",
        CNI,
        "under iptables: packets that connection tracking calls invalid are dropped; under eBPF nothing is translated and none goes astray"
    ),
    field!(
        "proxy_metadata.INVALID_DROP",
        FieldAct::Sets(|value, _, to| set_flag(value, &mut to.drop_invalid)),
        "proxy_metadata: {INVALID_DROP: true}",
        CNI,
        "the same key"
    ),
    field!(
        METADATA[0],
        FieldAct::Marks,
        "proxyMetadata: {DISABLE_ENVOY: \"true\"}",
        PLUGIN,
        "`true`: there is no proxy to send anything to, and the pod is left alone"
    ),
    field!(METADATA[1], FieldAct::Marks, "proxy_metadata: {DISABLE_ENVOY: \"true\"}", PLUGIN, "the same key"),
];

fn defaults() -> Layer {
    Layer {
        proxy_ports: Some(single_ports(&PROXY_PORTS)),
        ..Layer::from(Redirect {
            outbound_port: NonZeroU16::new(15001),
            inbound_port: NonZeroU16::new(15006),
            dns_port: NonZeroU16::new(15053),
            proxy_uids: Some(vec![1337]),
            proxy_gids: Some(vec![1337]),
            exclude_outbound_ports: Some(single_ports(&[15020])),
            ..Redirect::default()
        })
    }
}

/// What of the status annotation says who set the pod up. The rest, and a status that is no JSON, is of no interest.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    #[serde(rename = "initContainers")]
    init_containers: Option<Vec<String>>,
    containers: Option<Vec<String>>,
}

/// The tests of `peers-cni.md` 4.1 that need no API server, in their order. The proxy's configuration is looked at only in a pod
/// that has a proxy.
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
        Some(Reason::OwnRules { key: STATUS, container: "istio-init" })
    } else if template.is_some() {
        Some(Reason::NotASidecar { key: TEMPLATES })
    } else if status
        .containers
        .is_some_and(|list| !list.iter().chain(&init).any(|name| name == "istio-proxy"))
    {
        Some(Reason::NotASidecar { key: STATUS })
    } else if says_no(annotations.get(INJECT)) {
        Some(Reason::OptedOut { key: INJECT })
    } else if text.is_none() {
        Some(Reason::NotMarked { key: STATUS })
    } else if is_disabled(annotations)? {
        Some(Reason::NotASidecar { key: PROXY_CONFIG })
    } else {
        None
    })
}

/// Whether the proxy's configuration says that there is none.
fn is_disabled(annotations: &Annotations) -> Result<bool, Error> {
    let Some(config) = annotations.get(PROXY_CONFIG).filter(|config| config.contains("DISABLE_ENVOY")) else {
        return Ok(false);
    };
    let disabled = || -> Result<bool, Bad> {
        let document = Document::parse(Format::Yaml, config)?;
        for path in METADATA {
            if let Some(value) = document.at(path)? {
                return Ok(flag(&text(value)?) == Ok(true));
            }
        }
        Ok(false)
    };
    disabled().map_err(|bad| bad.of(PROXY_CONFIG, config))
}

#[expect(clippy::unnecessary_wraps, reason = "what the table wants; others refuse values")]
fn is_filled(text: &str) -> Result<bool, Bad> {
    Ok(!text.trim().is_empty())
}

fn is_not_redirect(value: &Value) -> bool {
    !text(value).is_ok_and(|mode| matches!(mode.as_str(), "" | "REDIRECT" | "0"))
}

/// An empty text says nothing.
fn set_flag(value: &Value, to: &mut Option<bool>) -> Result<(), Bad> {
    let text = text(value)?;
    if !text.is_empty() {
        *to = Some(flag(&text)?);
    }
    Ok(())
}

#[cfg(test)]
mod page {
    use crate::profile::table::{Fields, Other, Page};

    pub(super) const PAGE: Page = Page {
        sources: "istio/istio 86c9f01f",
        base: &[(
            "sidecar.istio.io/status",
            r#"{"initContainers":["istio-validation"],"containers":["istio-proxy"],"volumes":["istio-data"],"imagePullSecrets":null,"revision":"default"}"#,
        )],
        selects: "`sidecar.istio.io/status` is there, names no `istio-init`, and nothing below says no",
        others: &[Other {
            keys: &["status.sidecar.istio.io/port"],
            sample: "15020",
            source: super::CNI,
            says: "the injector writes the port into `excludeInboundPorts`",
        }],
        other_fields: &[
            Fields {
                key: super::PROXY_CONFIG,
                paths: &["proxyMetadata.ISTIO_DUAL_STACK"],
                sample: "true",
                source: super::CNI,
                says: "both address families are always captured",
            },
            Fields {
                key: super::PROXY_CONFIG,
                paths: &[
                    "proxyMetadata.ISTIO_META_DNS_AUTO_ALLOCATE",
                    "concurrency",
                    "discoveryAddress",
                    "drainDuration",
                    "terminationDrainDuration",
                    "holdApplicationUntilProxyStarts",
                    "image.imageType",
                    "gatewayTopology.numTrustedProxies",
                    "proxyStatsMatcher.inclusionPrefixes",
                    "proxyAdminPort",
                    "statusPort",
                    "readinessProbe.periodSeconds",
                    "tracing.sampling",
                    "runtimeValues.x",
                    "extraStatTags",
                    "meshId",
                    "serviceCluster",
                    "envoyAccessLogService.address",
                    "envoyMetricsService.address",
                    "statsdUdpAddress",
                    "caCertificatesPem",
                    "proxyHeaders.server.value",
                    "privateKeyProvider.cryptomb.pollDelay",
                ],
                sample: "1",
                source: super::API,
                says: "how the proxy works, not what it gets; `statusPort` comes as an excluded port",
            },
        ],
        differs: &[
            "The pod object is not seen: not the labels (`sidecar.istio.io/inject` as a label), not the proxy's environment, which is also made from the mesh's default configuration, not its `runAsUser`. Set `captureDns`, `redirect.proxyUids` and `redirect.proxyGids` in the entry where the mesh's defaults differ.",
            "Both address families are captured, as with `ISTIO_DUAL_STACK`.",
            "`*` as a list of excluded ports is an error.",
            "Environment of istio-cni itself (`ISTIO_OUTBOUND_OWNER_GROUPS`, `ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR`) has no counterpart.",
        ],
    };
}

#[cfg(test)]
mod tests {
    use super::{KEYS, gate};
    use crate::cni::Annotations;
    use crate::error::{Error, Kind};
    use crate::policy::{Layer, Reason};
    use crate::profile::key::{Nobody, layer};

    fn annotated(annotations: &Annotations) -> Result<Layer, Error> {
        layer(&KEYS, annotations, &mut Nobody)
    }

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
                Some(Reason::OwnRules { key: S, container: "istio-init" }),
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
            ("istio.io/reroute-virtual-interfaces", "net1", Kind::Unsupported),
            ("traffic.sidecar.istio.io/kubevirtInterfaces", "net1", Kind::Unsupported),
            (super::PROXY_CONFIG, "proxyMetadata:\n  ISTIO_META_DNS_CAPTURE: maybe\n", Kind::Config),
            (super::PROXY_CONFIG, "ISTIO_META_DNS_CAPTURE", Kind::Config),
            (super::PROXY_CONFIG, "proxyMetadata: [a]", Kind::Config),
            (super::PROXY_CONFIG, "a: b: c", Kind::Config),
            (super::PROXY_CONFIG, "interceptionMode: TPROXY", Kind::Unsupported),
            (super::PROXY_CONFIG, "interceptionMode: NONE", Kind::Unsupported),
            (super::PROXY_CONFIG, r#"{"interception_mode": 1}"#, Kind::Unsupported),
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
            ("istio.io/reroute-virtual-interfaces", ""),
            (super::PROXY_CONFIG, ""),
            (super::PROXY_CONFIG, "# nothing\n"),
            (super::PROXY_CONFIG, "holdApplicationUntilProxyStarts: true\nproxyMetadata:\n"),
            (super::PROXY_CONFIG, r#"{"interceptionMode":"REDIRECT","proxyMetadata":{}}"#),
            ("status.sidecar.istio.io/port", "15020"),
        ] {
            assert_eq!(
                annotated(&annotations(&[(key, value)])).expect("valid"),
                Layer::default(),
                "{key} {value}"
            );
        }
    }

    #[test]
    fn what_the_proxys_configuration_says() {
        for (config, dns, drop) in [
            ("proxyMetadata:\n  ISTIO_META_DNS_CAPTURE: \"true\"\n", Some(true), None),
            ("proxyMetadata:\n  ISTIO_META_DNS_CAPTURE: \"false\" # no\n", Some(false), None),
            (
                r#"{"proxyMetadata":{"ISTIO_META_DNS_CAPTURE":"T","INVALID_DROP":true}}"#,
                Some(true),
                Some(true),
            ),
            ("a: &a {ISTIO_META_DNS_CAPTURE: '1'}\nproxyMetadata: *a\n", Some(true), None),
        ] {
            let layer = annotated(&annotations(&[(super::PROXY_CONFIG, config)])).expect("valid");
            assert_eq!((layer.dns, layer.drop_invalid), (dns, drop), "{config}");
        }
    }
}
