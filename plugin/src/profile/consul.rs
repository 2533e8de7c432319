//! Consul service mesh with transparent proxy: what consul-cni reads and does (`peers-cni.md` 7.1, 7.2), from annotations alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;

use serde_json::Value;
use shunt_api::{Include, Redirect};

use super::document::{Document, Format};
use super::key::{Act, Bad, Field, FieldAct, Key, field, key};
use super::value::{dports, extend, flag, items, one_id, one_port, parsed, says_no, text};
use super::{Profile, is_said};
use crate::annotation::put;
use crate::cni::Annotations;
use crate::error::{Error, Kind};
use crate::plan::DnsTcp;
use crate::policy::{Layer, Reason};

const INJECTED: &str = "consul.hashicorp.com/connect-inject-status";
const INJECTED_V2: &str = "consul.hashicorp.com/mesh-inject-status";
const TRANSPARENT: &str = "consul.hashicorp.com/transparent-proxy-status";
const CONFIG: &str = "consul.hashicorp.com/redirect-traffic-config";
const INJECT: &str = "consul.hashicorp.com/connect-inject";
const TPROXY: &str = "consul.hashicorp.com/transparent-proxy";

pub(crate) static PROFILE: Profile = Profile {
    defaults,
    marker: None,
    gate,
    keys: &KEYS,
    include_beats_exclude: false,
    tunnel_port: None,
    self_calls: false,
    own_addresses: true,
    dns_tcp: DnsTcp::Capture,
    #[cfg(test)]
    page: page::PAGE,
};

#[cfg(test)]
const CNI: &str = "hashicorp/consul-k8s control-plane/cni/main.go";
#[cfg(test)]
const WEBHOOK: &str = "hashicorp/consul-k8s control-plane/connect-inject/webhook/redirect_traffic.go";
#[cfg(test)]
const SDK: &str = "hashicorp/consul sdk/iptables, sdk/nftables";

static KEYS: [Key; 12] = [
    key!(
        INJECTED,
        Act::Marks,
        "injected",
        CNI,
        "with `transparent-proxy-status` the marker: both there and not empty"
    ),
    key!(INJECTED_V2, Act::Marks, "injected", CNI, "the same as `connect-inject-status`"),
    key!(TRANSPARENT, Act::Marks, "enabled", CNI, "the other half of the marker"),
    key!(
        INJECT,
        Act::Marks,
        "false",
        "hashicorp/consul-k8s control-plane/connect-inject/webhook/mesh_webhook.go",
        "`false`: the pod is not meshed"
    ),
    key!(
        TPROXY,
        Act::Marks,
        "false",
        "hashicorp/consul-k8s control-plane/connect-inject/webhook/mesh_webhook.go",
        "`false`: the pod has a proxy, and nothing is captured for it"
    ),
    key!(
        CONFIG,
        Act::Holds(Format::GoJson, &FIELDS),
        r#"{"ProxyInboundPort":20001}"#,
        CNI,
        "what the webhook made of the keys below and of the chart; must be there in a marked pod"
    ),
    key!(
        "consul.hashicorp.com/transparent-proxy-exclude-inbound-ports",
        Act::Sets(|list, to| append(&mut to.redirect.exclude_inbound_ports, dports(&Value::from(list)))),
        "8082,9000:9010",
        WEBHOOK,
        "inbound ports that are not captured, added to those of the document"
    ),
    key!(
        "consul.hashicorp.com/transparent-proxy-exclude-outbound-ports",
        Act::Sets(|list, to| append(&mut to.redirect.exclude_outbound_ports, dports(&Value::from(list)))),
        "25",
        WEBHOOK,
        "outbound ports that are not captured, added to those of the document"
    ),
    key!(
        "consul.hashicorp.com/transparent-proxy-exclude-outbound-cidrs",
        Act::Sets(|list, to| append(&mut to.redirect.exclude_outbound_cidrs, parsed(&Value::from(list)))),
        "10.9.0.0/16,fd09::/16",
        WEBHOOK,
        "destinations that are not captured, added to those of the document"
    ),
    key!(
        "consul.hashicorp.com/transparent-proxy-exclude-uids",
        Act::Sets(|list, to| append(&mut to.exclude_uids, uids(&Value::from(list)))),
        "1000",
        WEBHOOK,
        "user ids that are not captured, added to those of the document"
    ),
    key!(
        "consul.hashicorp.com/consul-dns",
        Act::Sets(|text, to| put(&mut to.dns, flag(text)).map_err(Bad::from)),
        "true",
        "hashicorp/consul-k8s control-plane/connect-inject/webhook/container_init.go",
        "whether DNS to a loopback resolver goes to the proxy"
    ),
    key!(
        "consul.hashicorp.com/dual-stack",
        Act::Sets(|text, to| {
            to.ipv4_only = Some(text != "true");
            Ok(())
        }),
        "false",
        CNI,
        "anything but `true`: IPv6 is left alone, in both directions"
    ),
];

/// The names are those of the structure in Go, which has no others for JSON.
static FIELDS: [Field; 9] = [
    field!(
        "ProxyUserID",
        FieldAct::Sets(
            |value, _, to| put(&mut to.redirect.proxy_uids, one_id(&text(value)?)).map_err(Bad::from)
        ),
        r#"{"ProxyUserID":"1000690000"}"#,
        SDK,
        "the proxy's user id"
    ),
    field!(
        "ProxyInboundPort",
        FieldAct::Sets(|value, _, to| {
            to.redirect.inbound_port = Some(one_port(value)?);
            Ok(())
        }),
        r#"{"ProxyInboundPort":20001}"#,
        SDK,
        "where the proxy listens for connections to the app"
    ),
    field!(
        "ProxyOutboundPort",
        FieldAct::Sets(|value, _, to| {
            // 0 is Go's "not said".
            if text(value)? != "0" {
                to.redirect.outbound_port = Some(one_port(value)?);
            }
            Ok(())
        }),
        r#"{"ProxyOutboundPort":15002}"#,
        SDK,
        "where the proxy listens for connections of the app"
    ),
    field!(
        "ExcludeInboundPorts",
        FieldAct::Sets(|value, _, to| append(&mut to.redirect.exclude_inbound_ports, dports(value))),
        r#"{"ExcludeInboundPorts":["20300","9000:9010"]}"#,
        SDK,
        "inbound ports that are not captured: probes, metrics, the pod's own list"
    ),
    field!(
        "ExcludeOutboundPorts",
        FieldAct::Sets(|value, _, to| append(&mut to.redirect.exclude_outbound_ports, dports(value))),
        r#"{"ExcludeOutboundPorts":["25"]}"#,
        SDK,
        "outbound ports that are not captured"
    ),
    field!(
        "ExcludeOutboundCIDRs",
        FieldAct::Sets(|value, _, to| append(&mut to.redirect.exclude_outbound_cidrs, parsed(value))),
        r#"{"ExcludeOutboundCIDRs":["10.9.0.0/16"]}"#,
        SDK,
        "destinations that are not captured"
    ),
    field!(
        "ExcludeUIDs",
        FieldAct::Sets(|value, _, to| append(&mut to.exclude_uids, uids(value))),
        r#"{"ExcludeUIDs":["5996","1000"]}"#,
        SDK,
        "user ids that are not captured: the mesh's init container"
    ),
    field!(
        "ConsulDNSIP",
        FieldAct::Sets(dns_address),
        r#"{"ConsulDNSIP":"127.0.0.1","ConsulDNSPort":8600}"#,
        but r#"{"ConsulDNSIP":"10.96.0.53"}"#,
        SDK,
        "the resolver of which DNS goes to the proxy; refused unless it is the pod's loopback address and `ConsulDNSPort` is there"
    ),
    field!(
        "ConsulDNSPort",
        FieldAct::Sets(dns_port),
        r#"{"ConsulDNSPort":8600}"#,
        SDK,
        "where the proxy listens for DNS; without an address for DNS to 127.0.0.1 and ::1; 0: DNS is not captured"
    ),
];

fn defaults() -> Layer {
    Layer {
        // The webhook points the pod's resolv.conf at one of them.
        dns_servers: Some(Include::Only(vec![
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ])),
        exclude_uids: Some(vec![5996]),
        ..Layer::from(Redirect {
            outbound_port: NonZeroU16::new(15001),
            inbound_port: NonZeroU16::new(20000),
            dns_port: NonZeroU16::new(8600),
            proxy_uids: Some(vec![5995]),
            ..Redirect::default()
        })
    }
}

fn gate(annotations: &Annotations) -> Result<Option<Reason>, Error> {
    if let Some(key) = [INJECT, TPROXY].into_iter().find(|key| says_no(annotations.get(*key))) {
        return Ok(Some(Reason::OptedOut { key }));
    }
    let key = if !is_said(annotations, INJECTED) && !is_said(annotations, INJECTED_V2) {
        INJECTED
    } else {
        TRANSPARENT
    };
    if key == INJECTED || !is_said(annotations, TRANSPARENT) {
        return Ok(Some(Reason::NotMarked { key }));
    }
    if !is_said(annotations, CONFIG) {
        return Err(Error::new(
            Kind::Config,
            format!(
                "annotation {CONFIG}: must be there in a pod with {TRANSPARENT}: install Consul with connectInject.cni.enabled=true"
            ),
        ));
    }
    Ok(None)
}

fn append<T: PartialEq>(list: &mut Option<Vec<T>>, more: Result<Vec<T>, Bad>) -> Result<(), Bad> {
    extend(list, more?);
    Ok(())
}

fn uids(value: &Value) -> Result<Vec<u32>, Bad> {
    let lists = items(value)?.into_iter().map(|item| one_id(&item)).collect::<Result<Vec<_>, _>>()?;
    Ok(lists.into_iter().flatten().collect())
}

fn dns_address(value: &Value, document: &Document, to: &mut Layer) -> Result<(), Bad> {
    let address = text(value)?;
    if address.is_empty() {
        return Ok(());
    }
    let address: IpAddr = address.trim().parse().ok().ok_or("must be an address")?;
    let port = document.at("ConsulDNSPort")?.map(text).transpose()?.unwrap_or_default();
    // Without a port the mesh sends DNS to that address as it is, and another than loopback is no listener of the pod.
    if matches!(port.as_str(), "" | "0") || !address.is_loopback() {
        return Err(Bad::unavailable());
    }
    to.dns_servers = Some(Include::Only(vec![address]));
    Ok(())
}

fn dns_port(value: &Value, _: &Document, to: &mut Layer) -> Result<(), Bad> {
    let captured = text(value)? != "0";
    if captured {
        to.redirect.dns_port = Some(one_port(value)?);
    }
    to.dns = Some(captured);
    Ok(())
}

#[cfg(test)]
mod page {
    use crate::profile::table::{Fields, Other, Page};

    const KEYS: &str =
        "hashicorp/consul-k8s control-plane/connect-inject/constants/annotations_and_labels.go";

    pub(super) const PAGE: Page = Page {
        sources: "hashicorp/consul-k8s a507b1d1, hashicorp/consul sdk/iptables and sdk/nftables",
        base: &[
            (super::INJECTED, "injected"),
            (super::TRANSPARENT, "enabled"),
            (
                super::CONFIG,
                r#"{"ConsulDNSIP":"","ConsulDNSPort":0,"ProxyUserID":"5995","ProxyInboundPort":20000,"ProxyOutboundPort":15001,"ExcludeInboundPorts":null,"ExcludeOutboundPorts":null,"ExcludeOutboundCIDRs":null,"ExcludeUIDs":["5996"],"NetNS":"","IptablesProvider":null}"#,
            ),
        ],
        selects: "`consul.hashicorp.com/connect-inject-status` (or `mesh-inject-status`) and `consul.hashicorp.com/transparent-proxy-status` are there and not empty, and `connect-inject` and `transparent-proxy` are not `false`",
        others: &[
            Other {
                keys: &[
                    "consul.hashicorp.com/transparent-proxy-overwrite-probes",
                    "consul.hashicorp.com/use-proxy-health-check",
                    "consul.hashicorp.com/enable-metrics",
                    "consul.hashicorp.com/enable-metrics-merging",
                    "consul.hashicorp.com/merged-metrics-port",
                    "consul.hashicorp.com/prometheus-scrape-port",
                    "consul.hashicorp.com/prometheus-scrape-path",
                    "consul.hashicorp.com/service-metrics-port",
                    "consul.hashicorp.com/service-metrics-path",
                ],
                sample: "20200",
                source: super::WEBHOOK,
                says: "the webhook writes the ports that follow from it into the document",
            },
            Other {
                keys: &[
                    "consul.hashicorp.com/prometheus-ca-file",
                    "consul.hashicorp.com/prometheus-ca-path",
                    "consul.hashicorp.com/prometheus-cert-file",
                    "consul.hashicorp.com/prometheus-key-file",
                    "prometheus.io/scrape",
                    "prometheus.io/port",
                    "prometheus.io/path",
                ],
                sample: "x",
                source: KEYS,
                says: "for Prometheus",
            },
            Other {
                keys: &[
                    "consul.hashicorp.com/connect-inject-managed-by",
                    "consul.hashicorp.com/mesh-inject",
                    "consul.hashicorp.com/connect-service",
                    "consul.hashicorp.com/connect-service-port",
                    "consul.hashicorp.com/connect-service-default-port",
                    "consul.hashicorp.com/connect-service-upstreams",
                    "consul.hashicorp.com/kubernetes-service",
                    "consul.hashicorp.com/service-tags",
                    "consul.hashicorp.com/service-meta-version",
                    "consul.hashicorp.com/proxy-config-map",
                    "consul.hashicorp.com/consul-namespace",
                    "consul.hashicorp.com/peering-version",
                    "consul.hashicorp.com/original-pod",
                    "consul.hashicorp.com/connect-k8s-version",
                    "consul.hashicorp.com/consul-k8s-version",
                ],
                sample: "x",
                source: KEYS,
                says: "the registration in Consul, and what the webhook writes for itself",
            },
            Other {
                keys: &[
                    "consul.hashicorp.com/gateway-kind",
                    "consul.hashicorp.com/gateway-consul-service-name",
                    "consul.hashicorp.com/mesh-gateway-container-port",
                    "consul.hashicorp.com/gateway-wan-address-source",
                    "consul.hashicorp.com/gateway-wan-address-static",
                    "consul.hashicorp.com/gateway-wan-port",
                    "consul.hashicorp.com/gateway-namespace",
                ],
                sample: "x",
                source: KEYS,
                says: "gateways, which have no transparent proxy",
            },
            Other {
                keys: &[
                    "consul.hashicorp.com/connect-inject-mount-volume",
                    "consul.hashicorp.com/sidecar-proxy-startup-failure-seconds",
                    "consul.hashicorp.com/sidecar-proxy-liveness-failure-seconds",
                    "consul.hashicorp.com/sidecar-proxy-cpu-limit",
                    "consul.hashicorp.com/sidecar-proxy-cpu-request",
                    "consul.hashicorp.com/sidecar-proxy-memory-limit",
                    "consul.hashicorp.com/sidecar-proxy-memory-request",
                    "consul.hashicorp.com/enable-sidecar-proxy-lifecycle",
                    "consul.hashicorp.com/enable-sidecar-proxy-lifecycle-shutdown-drain-listeners",
                    "consul.hashicorp.com/sidecar-proxy-lifecycle-shutdown-grace-period-seconds",
                    "consul.hashicorp.com/sidecar-proxy-lifecycle-startup-grace-period-seconds",
                    "consul.hashicorp.com/sidecar-proxy-lifecycle-graceful-port",
                    "consul.hashicorp.com/sidecar-proxy-lifecycle-graceful-shutdown-path",
                    "consul.hashicorp.com/sidecar-proxy-lifecycle-graceful-startup-path",
                    "consul.hashicorp.com/consul-sidecar-user-volume",
                    "consul.hashicorp.com/consul-sidecar-user-volume-mount",
                    "consul.hashicorp.com/consul-envoy-proxy-concurrency",
                    "consul.hashicorp.com/envoy-extra-args",
                    "consul.hashicorp.com/enable-consul-dataplane-as-sidecar",
                    "consul.hashicorp.com/sidecar-initial-probe-check-delay-seconds",
                    "consul.hashicorp.com/sidecar-probe-period-seconds",
                    "consul.hashicorp.com/sidecar-probe-failure-threshold",
                    "consul.hashicorp.com/sidecar-probe-check-timeout-seconds",
                    "consul.hashicorp.com/consul-sidecar-access-log-enabled",
                    "consul.hashicorp.com/consul-sidecar-access-log-path",
                ],
                sample: "x",
                source: KEYS,
                says: "the proxy's container",
            },
        ],
        other_fields: &[Fields {
            key: super::CONFIG,
            paths: &["NetNS", "IptablesProvider", "NftablesProvider"],
            sample: "/run/netns/x",
            source: super::SDK,
            says: "set by the mesh's plugin itself; the namespace is the runtime's",
        }],
        differs: &[
            "Without `dual-stack` both families are captured, where consul-cni fails. With `false`, which the webhook writes on clusters that it takes for IPv4 alone, IPv6 passes as the mesh has it: `shunt-cni.io/` annotations cannot change that, the chart's dual-stack setting can.",
            "DNS of the proxy, and of users that are not captured, to the loopback resolver passes; the mesh's rules send it to the proxy too.",
            "53 among the excluded outbound ports leaves DNS to the loopback resolver alone; the mesh's rules send it to the proxy all the same.",
            "`transparent-proxy-status` is read and never written: there is no API call.",
            "IPv6 loopback (`::1`) and all of 127.0.0.0/8 are never captured; the mesh's IPv4 rules leave only 127.0.0.1 alone.",
            "Names of services in lists of ports (`ssh`) are an error: there is no /etc/services.",
            "Sections of `CONSUL_IPTABLES_CONFIG` in CNI_ARGS (Nomad) are not read.",
        ],
    };
}
