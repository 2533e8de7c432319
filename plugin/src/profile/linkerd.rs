//! Linkerd: what linkerd2-cni and the injector's own init container read and do (`peers-cni.md` 5.1, 5.2), from annotations
//! alone.

use std::num::NonZeroU16;

use shunt_api::{PortRange, Redirect};

use super::key::{Act, Bad, Key, key};
use super::value::{loose, one_id};
use super::{Profile, injected, single_ports};
use crate::annotation::{port, put};
use crate::cni::Annotations;
use crate::error::Error;
use crate::plan::DnsTcp;
use crate::policy::{Layer, Reason};

const MARKER: &str = "linkerd.io/proxy-version";
const INJECT: &str = "linkerd.io/inject";

/// The proxy's control port and its admin port, which probes and Prometheus ask.
const PROXY_PORTS: [u16; 2] = [4190, 4191];

pub(crate) static PROFILE: Profile = Profile {
    defaults,
    marker: None,
    gate,
    keys: &KEYS,
    include_beats_exclude: false,
    tunnel_port: None,
    self_calls: false,
    own_addresses: false,
    dns_tcp: DnsTcp::Capture,
    #[cfg(test)]
    page: page::PAGE,
};

static KEYS: [Key; 11] = [
    key!(
        MARKER,
        Act::Marks,
        "edge-26.8.3",
        "linkerd/linkerd2 pkg/inject/inject.go",
        "the marker: the injector writes it into every pod that gets a proxy"
    ),
    key!(
        INJECT,
        Act::Marks,
        "disabled",
        "linkerd/linkerd2 pkg/inject/report.go",
        "`disabled`: the pod is not meshed"
    ),
    key!(
        "config.linkerd.io/skip-inbound-ports",
        Act::Sets(|text, to| unless_blank(text, || put(&mut to.redirect.exclude_inbound_ports, loose(text)))),
        "22,8100-8104",
        "linkerd/linkerd2-proxy-init cni-plugin/main.go",
        "inbound ports that are not captured, beside the proxy's own"
    ),
    key!(
        "config.linkerd.io/skip-outbound-ports",
        Act::Sets(|text, to| unless_blank(text, || put(
            &mut to.redirect.exclude_outbound_ports,
            loose(text)
        ))),
        "25,3306",
        "linkerd/linkerd2-proxy-init cni-plugin/main.go",
        "outbound ports that are not captured, in place of the entry's"
    ),
    key!(
        "config.linkerd.io/skip-subnets",
        Act::Sets(|text, to| unless_blank(text, || put(&mut to.redirect.exclude_inbound_cidrs, loose(text)))),
        "172.17.0.0/16",
        "linkerd/linkerd2-proxy-init cni-plugin/main.go",
        "sources whose connections are not captured; both families"
    ),
    key!(
        "config.linkerd.io/proxy-uid",
        Act::Sets(|text, to| put(&mut to.redirect.proxy_uids, one_id(text)).map_err(Bad::from)),
        "2103",
        "linkerd/linkerd2-proxy-init cni-plugin/main.go",
        "the proxy's user id"
    ),
    key!(
        "config.linkerd.io/proxy-gid",
        Act::Sets(|text, to| put(&mut to.redirect.proxy_gids, gid(text)).map_err(Bad::from)),
        "2104",
        "linkerd/linkerd2-proxy-init cni-plugin/main.go",
        "the proxy's group id; below 0: none"
    ),
    key!(
        "config.linkerd.io/inbound-port",
        Act::Sets(|text, to| put(&mut to.redirect.inbound_port, port(text)).map_err(Bad::from)),
        "5143",
        "linkerd/linkerd2 pkg/inject/inject.go",
        "where the proxy listens for connections to the app"
    ),
    key!(
        "config.linkerd.io/outbound-port",
        Act::Sets(|text, to| put(&mut to.redirect.outbound_port, port(text)).map_err(Bad::from)),
        "5140",
        "linkerd/linkerd2 pkg/inject/inject.go",
        "where the proxy listens for connections of the app"
    ),
    key!(
        "config.linkerd.io/control-port",
        Act::Sets(|text, to| proxy_port(0, text, to)),
        "5190",
        "linkerd/linkerd2 charts/partials/templates/_proxy-init.tpl",
        "a port of the proxy itself, never captured inbound"
    ),
    key!(
        "config.linkerd.io/admin-port",
        Act::Sets(|text, to| proxy_port(1, text, to)),
        "5191",
        "linkerd/linkerd2 charts/partials/templates/_proxy-init.tpl",
        "a port of the proxy itself, never captured inbound"
    ),
];

fn defaults() -> Layer {
    Layer {
        proxy_ports: Some(single_ports(&PROXY_PORTS)),
        ..Layer::from(Redirect {
            outbound_port: NonZeroU16::new(4140),
            inbound_port: NonZeroU16::new(4143),
            proxy_uids: Some(vec![2102]),
            ..Redirect::default()
        })
    }
}

#[expect(clippy::unnecessary_wraps, reason = "what the gate of every profile returns; others refuse values")]
fn gate(annotations: &Annotations) -> Result<Option<Reason>, Error> {
    Ok(injected(annotations, INJECT, MARKER))
}

/// linkerd2-cni takes an empty annotation for none.
fn unless_blank(text: &str, set: impl FnOnce() -> Result<(), String>) -> Result<(), Bad> {
    if text.trim().is_empty() { Ok(()) } else { set().map_err(Bad::from) }
}

fn gid(text: &str) -> Result<Vec<u32>, String> {
    match text.trim().strip_prefix('-') {
        Some(digits) => one_id(digits).map(|_| Vec::new()),
        None => one_id(text),
    }
}

fn proxy_port(at: usize, text: &str, to: &mut Layer) -> Result<(), Bad> {
    let range = PortRange::single(port(text)?.get());
    let ports = to.proxy_ports.get_or_insert_with(|| single_ports(&PROXY_PORTS));
    if let Some((place, range)) = ports.get_mut(at).zip(range) {
        *place = range;
    }
    Ok(())
}

#[cfg(test)]
mod page {
    use crate::profile::table::{Other, Page};

    const KEYS: &str = "linkerd/linkerd2 pkg/k8s/labels.go";

    pub(super) const PAGE: Page = Page {
        sources: "linkerd/linkerd2 b24cd405, linkerd/linkerd2-proxy-init 183e791d",
        base: &[
            ("linkerd.io/created-by", "linkerd/proxy-injector edge-26.8.3"),
            ("linkerd.io/proxy-version", "edge-26.8.3"),
        ],
        selects: "`linkerd.io/proxy-version` is there, and `linkerd.io/inject` is not `disabled`",
        others: &[
            Other {
                keys: &["linkerd.io/created-by", "linkerd.io/trust-root-sha256"],
                sample: "x",
                source: KEYS,
                says: "written by the injector for people and for its own checks",
            },
            Other {
                keys: &[
                    "config.linkerd.io/opaque-ports",
                    "config.linkerd.io/pod-inbound-ports",
                    "config.linkerd.io/proxy-require-identity-inbound-ports",
                ],
                sample: "3306,8000-8999",
                source: KEYS,
                says: "ports as the proxy handles them once it has the connection",
            },
            Other {
                keys: &[
                    "config.linkerd.io/default-inbound-policy",
                    "config.linkerd.io/access-log",
                    "config.linkerd.io/proxy-additional-env",
                    "config.linkerd.io/enable-gateway",
                    "config.linkerd.io/enable-external-profiles",
                    "config.linkerd.io/proxy-metrics-hostname-labels",
                    "config.linkerd.io/proxy-log-level",
                    "config.linkerd.io/proxy-log-format",
                    "config.linkerd.io/proxy-log-http-headers",
                    "config.linkerd.io/proxy-version",
                    "config.linkerd.io/proxy-image",
                    "config.linkerd.io/image-pull-policy",
                    "config.linkerd.io/proxy-inbound-connect-timeout",
                    "config.linkerd.io/proxy-outbound-connect-timeout",
                    "config.linkerd.io/proxy-inbound-discovery-cache-unused-timeout",
                    "config.linkerd.io/proxy-outbound-discovery-cache-unused-timeout",
                    "config.linkerd.io/proxy-disable-inbound-protocol-detect-timeout",
                    "config.linkerd.io/proxy-disable-outbound-protocol-detect-timeout",
                ],
                sample: "x",
                source: KEYS,
                says: "how the proxy works, not what it gets",
            },
            Other {
                keys: &[
                    "config.linkerd.io/proxy-cpu-request",
                    "config.linkerd.io/proxy-cpu-limit",
                    "config.linkerd.io/proxy-cpu-ratio-limit",
                    "config.linkerd.io/proxy-memory-request",
                    "config.linkerd.io/proxy-memory-limit",
                    "config.linkerd.io/proxy-ephemeral-storage-request",
                    "config.linkerd.io/proxy-ephemeral-storage-limit",
                ],
                sample: "100m",
                source: KEYS,
                says: "resources of the proxy's container",
            },
            Other {
                keys: &[
                    "config.linkerd.io/proxy-await",
                    "config.linkerd.io/proxy-enable-native-sidecar",
                    "config.alpha.linkerd.io/proxy-enable-native-sidecar",
                    "config.beta.linkerd.io/proxy-enable-native-sidecar",
                    "config.alpha.linkerd.io/proxy-wait-before-exit-seconds",
                    "config.linkerd.io/shutdown-grace-period",
                    "config.linkerd.io/proxy-admin-shutdown",
                ],
                sample: "enabled",
                source: KEYS,
                says: "start and end of the proxy's container",
            },
            Other {
                keys: &[
                    "config.linkerd.io/enable-debug-sidecar",
                    "config.linkerd.io/debug-image",
                    "config.linkerd.io/debug-image-version",
                    "config.linkerd.io/debug-image-pull-policy",
                ],
                sample: "x",
                source: KEYS,
                says: "another container",
            },
            Other {
                keys: &["config.linkerd.io/close-wait-timeout"],
                sample: "3600s",
                source: KEYS,
                says: "a setting of the kernel's connection tracking that only the init container writes; linkerd2-cni does not",
            },
        ],
        other_fields: &[],
        differs: &[
            "Both address families are captured; linkerd2-cni writes IPv6 rules only with `disableIPv6: false`, and passes IPv4 subnets to ip6tables.",
            "Annotations of the namespace are not seen, linkerd2-cni fetches them. The injector copies the namespace's `config.linkerd.io` annotations into the pods it injects, so it makes no difference for those.",
            "`inbound-port`, `outbound-port`, `control-port` and `admin-port` are followed as the proxy follows them; linkerd2-cni always uses the ports of its chart.",
            "The label `linkerd.io/control-plane-component` is not seen: put the control plane's namespace into `excludeNamespaces`, or the API server's ports into `shunt-cni.io/exclude-outbound-ports` of those pods.",
            "A `linkerd-init` container cannot be told from annotations. Install Linkerd with `cniEnabled=true`.",
            "The chart's `ignoreInboundPorts` and `ignoreOutboundPorts` are `redirect.excludeInboundPorts` and `redirect.excludeOutboundPorts` of the entry; an annotation takes their place, where linkerd2-cni adds `skip-inbound-ports` to them.",
            "The chart's `portsToRedirect`, `proxyUID`, `proxyGID`, `inboundProxyPort` and `outboundProxyPort` are `redirect.includeInboundPorts`, `proxyUids`, `proxyGids`, `inboundPort` and `outboundPort` of the entry.",
        ],
    };
}
