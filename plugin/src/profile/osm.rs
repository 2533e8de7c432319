//! Open Service Mesh and its successor Flomesh in pod mode, which have the same rules under two prefixes (`peers-cni.md` 8.1).
//! Neither has a CNI plugin: what is read here is what their init containers are made from.

use std::num::NonZeroU16;

use shunt_api::{Include, PortRange, Redirect};

use super::key::{Act, Bad, Key, key};
use super::value::{enabled, some_networks, some_ports};
use super::{Profile, single_ports};
use crate::annotation::{bad, put};
use crate::cni::Annotations;
use crate::error::Error;
use crate::plan::DnsTcp;
use crate::policy::{Layer, Reason};

const OSM_INJECT: &str = "openservicemesh.io/sidecar-injection";
const FSM_INJECT: &str = "flomesh.io/sidecar-injection";

pub(crate) static OSM: Profile = Profile {
    gate: |annotations| gate(OSM_INJECT, annotations),
    keys: &OSM_KEYS,
    #[cfg(test)]
    page: page::OSM,
    ..BOTH
};

pub(crate) static FSM: Profile = Profile {
    gate: |annotations| gate(FSM_INJECT, annotations),
    keys: &FSM_KEYS,
    #[cfg(test)]
    page: page::FSM,
    ..BOTH
};

/// What both have.
const BOTH: Profile = Profile {
    defaults,
    marker: None,
    gate: |_| Ok(None),
    keys: &[],
    include_beats_exclude: false,
    tunnel_port: None,
    self_calls: true,
    own_addresses: false,
    dns_tcp: DnsTcp::Capture,
    #[cfg(test)]
    page: page::OSM,
};

/// The keys under one prefix.
macro_rules! keys {
    ($prefix:literal, $injector:literal) => {
        [
            key!(
                concat!($prefix, "/sidecar-injection"),
                Act::Marks,
                "disabled",
                concat!($injector, "/webhook.go"),
                "the marker: `enabled`, `yes` or `true`; `disabled`, `no` or `false`: the pod is not meshed; anything else is an error"
            ),
            key!(
                concat!($prefix, "/inbound-port-exclusion-list"),
                Act::Sets(|text, to| {
                    put(&mut to.redirect.exclude_inbound_ports, some_ports(text)).map_err(Bad::from)
                }),
                "22,9000",
                concat!($injector, "/exclusions.go"),
                "inbound ports that are not captured, beside the proxy's own"
            ),
            key!(
                concat!($prefix, "/outbound-port-exclusion-list"),
                Act::Sets(|text, to| {
                    put(&mut to.redirect.exclude_outbound_ports, some_ports(text)).map_err(Bad::from)
                }),
                "25, 3306",
                concat!($injector, "/exclusions.go"),
                "outbound ports that are not captured"
            ),
            key!(
                concat!($prefix, "/outbound-ip-range-exclusion-list"),
                Act::Sets(|text, to| {
                    put(&mut to.redirect.exclude_outbound_cidrs, some_networks(text)).map_err(Bad::from)
                }),
                "10.9.0.0/16",
                concat!($injector, "/exclusions.go"),
                "destinations that are not captured"
            ),
            key!(
                concat!($prefix, "/outbound-ip-range-inclusion-list"),
                Act::Sets(|text, to| {
                    let networks = some_networks(text).map(Include::Only);
                    put(&mut to.redirect.include_outbound_cidrs, networks).map_err(Bad::from)
                }),
                "10.96.0.0/12",
                concat!($injector, "/exclusions.go"),
                "the only destinations that are captured; an empty list is an error, as it is for the mesh"
            ),
        ]
    };
}

static OSM_KEYS: [Key; 5] = keys!("openservicemesh.io", "openservicemesh/osm pkg/injector");
static FSM_KEYS: [Key; 5] = keys!("flomesh.io", "flomesh-io/fsm pkg/injector");

fn defaults() -> Layer {
    // Statistics, and the probes that the injector points at the proxy and its helper.
    let proxy_ports = single_ports(&[15010]).into_iter().chain(PortRange::new(15901, 15904));
    Layer {
        proxy_ports: Some(proxy_ports.collect()),
        ..Layer::from(Redirect {
            outbound_port: NonZeroU16::new(15001),
            inbound_port: NonZeroU16::new(15003),
            proxy_uids: Some(vec![1500]),
            ..Redirect::default()
        })
    }
}

fn gate(key: &'static str, annotations: &Annotations) -> Result<Option<Reason>, Error> {
    let Some(text) = annotations.get(key) else {
        return Ok(Some(Reason::NotMarked { key }));
    };
    match enabled(text) {
        Ok(true) => Ok(None),
        Ok(false) => Ok(Some(Reason::OptedOut { key })),
        Err(why) => Err(bad(key, text, &why)),
    }
}

#[cfg(test)]
mod page {
    use crate::profile::table::{Other, Page};

    const DIFFERS: &[&str] = &[
        "The injector writes no annotation of its own into a pod, only a label, and labels are not seen. A pod that is injected because its namespace says so has to carry the annotation itself; or use `select: all` with `excludeNamespaces`.",
        "Both address families are captured; the mesh's rules are for IPv4 alone. The proxy has to listen on `::` for IPv6, or IPv6 connections are refused.",
        "The mesh's init container cannot be told from annotations and cannot be switched off in the mesh; it needs `NET_ADMIN` as before. Its rules find nothing left to redirect.",
        "MeshConfig is not seen: its lists and its `networkInterfaceExclusionList` are keys of the entry's `redirect`. An annotation takes the place of the entry's list, where the mesh joins both.",
        "`localProxyMode: PodIP` (the proxy reaches the app on the pod's address) is of MeshConfig and not done.",
        "The proxy's connections to the pod itself pass when they come from 127.0.0.6 or go to an excluded outbound port; the mesh's rules send these to the inbound port too.",
        "Lists have no limit; with more than 15 ports the mesh's rules are refused as a whole. The mesh's rule for port 15000 is never reached and has no counterpart.",
    ];

    pub(super) const OSM: Page = Page {
        sources: "openservicemesh/osm 7bec5b6b (archived)",
        base: &[("openservicemesh.io/sidecar-injection", "enabled")],
        selects: "`openservicemesh.io/sidecar-injection` says yes, on the pod itself",
        others: &[
            Other {
                keys: &["openservicemesh.io/metrics", "openservicemesh.io/monitored-by"],
                sample: "enabled",
                source: "openservicemesh/osm pkg/constants/constants.go",
                says: "of namespaces",
            },
            Other {
                keys: &["prometheus.io/scrape", "prometheus.io/port", "prometheus.io/path"],
                sample: "15010",
                source: "openservicemesh/osm pkg/injector/patch.go",
                says: "written for Prometheus; the port is never captured",
            },
        ],
        other_fields: &[],
        differs: DIFFERS,
    };

    pub(super) const FSM: Page = Page {
        sources: "flomesh-io/fsm f1b55bd8",
        base: &[("flomesh.io/sidecar-injection", "enabled")],
        selects: "`flomesh.io/sidecar-injection` says yes, on the pod itself",
        others: &[
            Other {
                keys: &["flomesh.io/metrics", "flomesh.io/monitored-by"],
                sample: "enabled",
                source: "flomesh-io/fsm pkg/constants/constants.go",
                says: "of namespaces; `monitored-by` also chooses pods in node mode, which intercepts elsewhere",
            },
            Other {
                keys: &[
                    "flomesh.io/hold-application-until-proxy-starts",
                    "flomesh.io/graceful-exit-until-downstream-ends",
                    "flomesh.io/sidecar-image",
                    "flomesh.io/sidecar-resource-limits-cpu",
                    "flomesh.io/sidecar-resource-requests-cpu",
                ],
                sample: "x",
                source: "flomesh-io/fsm pkg/constants/constants.go",
                says: "the proxy's container; the last two are prefixes",
            },
            Other {
                keys: &[
                    "flomesh.io/service-exclusion",
                    "flomesh.io/service-exclusion-list",
                    "flomesh.io/egress-gateway-mode",
                    "flomesh.io/traffic-warmup-enable",
                    "flomesh.io/traffic-warmup-duration",
                    "flomesh.io/traffic-warmup-minweight",
                    "flomesh.io/traffic-warmup-maxweight",
                    "flomesh.io/traffic-warmup-aggression",
                ],
                sample: "x",
                source: "flomesh-io/fsm pkg/constants/constants.go",
                says: "of services and gateways",
            },
            Other {
                keys: &["prometheus.io/scrape", "prometheus.io/port", "prometheus.io/path"],
                sample: "15010",
                source: "flomesh-io/fsm pkg/injector/patch.go",
                says: "written for Prometheus; the port is never captured",
            },
        ],
        other_fields: &[],
        differs: DIFFERS,
    };
}
