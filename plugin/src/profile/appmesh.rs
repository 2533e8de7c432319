//! AWS App Mesh, in the mode in which its controller leaves interception to a CNI plugin (`peers-cni.md` 10).

use std::num::NonZeroU16;

use shunt_api::{Include, Redirect};

use super::key::{Act, Bad, Key, key};
use super::value::{loose, one_id};
use super::{Profile, injected, single_ports};
use crate::annotation::{port, put};
use crate::cni::Annotations;
use crate::error::Error;
use crate::plan::DnsTcp;
use crate::policy::{Layer, Reason};

/// Written by the controller, and only where a CNI plugin is to do the work.
const MARKER: &str = "appmesh.k8s.aws/proxyEgressPort";
const INJECT: &str = "appmesh.k8s.aws/sidecarInjectorWebhook";

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

#[cfg(test)]
const SOURCE: &str = "aws/aws-app-mesh-controller-for-k8s pkg/inject/cni_proxy.go";

static KEYS: [Key; 9] = [
    key!(
        INJECT,
        Act::Marks,
        "disabled",
        "aws/aws-app-mesh-controller-for-k8s pkg/inject/inject.go",
        "`disabled`: the pod is not meshed"
    ),
    key!(
        MARKER,
        Act::Sets(|text, to| put(&mut to.redirect.outbound_port, port(text)).map_err(Bad::from)),
        "16001",
        SOURCE,
        "the marker; where the proxy listens for connections of the app"
    ),
    key!(
        "appmesh.k8s.aws/proxyIngressPort",
        Act::Sets(|text, to| put(&mut to.redirect.inbound_port, port(text)).map_err(Bad::from)),
        "16000",
        SOURCE,
        "where the proxy listens for connections to the app"
    ),
    key!(
        "appmesh.k8s.aws/ports",
        Act::Sets(|text, to| {
            put(&mut to.redirect.include_inbound_ports, loose(text).map(Include::Only)).map_err(Bad::from)
        }),
        "8080,9090",
        SOURCE,
        "the app's ports that are captured; no others are"
    ),
    key!(
        "appmesh.k8s.aws/egressIgnoredPorts",
        Act::Sets(|text, to| put(&mut to.redirect.exclude_outbound_ports, loose(text)).map_err(Bad::from)),
        "22,3306",
        SOURCE,
        "outbound ports that are not captured"
    ),
    key!(
        "appmesh.k8s.aws/egressIgnoredIPs",
        Act::Sets(|text, to| put(&mut to.redirect.exclude_outbound_cidrs, loose(text)).map_err(Bad::from)),
        "169.254.169.254,fd00:ec2::254",
        SOURCE,
        "destinations that are not captured"
    ),
    key!(
        "appmesh.k8s.aws/ignoredUID",
        Act::Sets(|text, to| put(&mut to.redirect.proxy_uids, one_id(text)).map_err(Bad::from)),
        "1338",
        SOURCE,
        "the proxy's user id"
    ),
    key!(
        "appmesh.k8s.aws/ignoredGID",
        Act::Sets(|text, to| {
            let gids = if text.trim().is_empty() { Ok(Vec::new()) } else { one_id(text) };
            put(&mut to.redirect.proxy_gids, gids).map_err(Bad::from)
        }),
        "1339",
        "aws/aws-app-mesh-controller-for-k8s pkg/inject/constants.go",
        "the proxy's group id"
    ),
    key!(
        "appmesh.k8s.aws/ipv6",
        Act::Sets(|text, to| {
            // The controller takes any other word for yes.
            to.ipv4_only = Some(text == "disabled");
            Ok(())
        }),
        "disabled",
        "aws/aws-app-mesh-controller-for-k8s pkg/inject/proxy.go",
        "`disabled`: IPv6 is left alone, in both directions; anything else is yes"
    ),
];

fn defaults() -> Layer {
    Layer::from(Redirect {
        outbound_port: NonZeroU16::new(15001),
        inbound_port: NonZeroU16::new(15000),
        proxy_uids: Some(vec![1337]),
        include_inbound_ports: Some(Include::Only(Vec::new())),
        exclude_outbound_ports: Some(single_ports(&[22])),
        exclude_outbound_cidrs: Some("169.254.169.254".parse().into_iter().collect()),
        ..Redirect::default()
    })
}

#[expect(clippy::unnecessary_wraps, reason = "what the gate of every profile returns; others refuse values")]
fn gate(annotations: &Annotations) -> Result<Option<Reason>, Error> {
    Ok(injected(annotations, INJECT, MARKER))
}

#[cfg(test)]
mod page {
    use crate::profile::table::{Other, Page};

    const KEYS: &str = "aws/aws-app-mesh-controller-for-k8s pkg/inject/constants.go";

    pub(super) const PAGE: Page = Page {
        sources: "aws/aws-app-mesh-controller-for-k8s 7588d122; service end-of-life 2026-09-30",
        base: &[
            ("appmesh.k8s.aws/sidecarInjectorWebhook", "enabled"),
            ("appmesh.k8s.aws/ports", "8080"),
            ("appmesh.k8s.aws/egressIgnoredIPs", "169.254.169.254"),
            ("appmesh.k8s.aws/egressIgnoredPorts", "22"),
            ("appmesh.k8s.aws/proxyEgressPort", "15001"),
            ("appmesh.k8s.aws/proxyIngressPort", "15000"),
            ("appmesh.k8s.aws/ignoredUID", "1337"),
        ],
        selects: "`appmesh.k8s.aws/proxyEgressPort` is there: the controller writes it only with `appmesh.k8s.aws/appmeshCNI: enabled` or on Fargate; and `appmesh.k8s.aws/sidecarInjectorWebhook` is not `disabled`",
        others: &[
            Other {
                keys: &["appmesh.k8s.aws/appmeshCNI"],
                sample: "enabled",
                source: "aws/aws-app-mesh-controller-for-k8s pkg/inject/proxy.go",
                says: "asks the controller to write the keys above; without it an init container does the work and they are not there",
            },
            Other {
                keys: &[
                    "appmesh.k8s.aws/cpuRequest",
                    "appmesh.k8s.aws/cpuLimit",
                    "appmesh.k8s.aws/memoryRequest",
                    "appmesh.k8s.aws/memoryLimit",
                ],
                sample: "100m",
                source: KEYS,
                says: "resources of the proxy's container",
            },
            Other {
                keys: &[
                    "appmesh.k8s.aws/preview",
                    "appmesh.k8s.aws/secretMounts",
                    "appmesh.k8s.aws/volumeMounts",
                    "appmesh.k8s.aws/virtualGatewaySkipImageOverride",
                    "appmesh.k8s.aws/sds",
                    "appmesh.k8s.aws/sidecarEnv",
                    "appmesh.k8s.aws/sidecarEnvJson",
                    "appmesh.k8s.aws/xrayAgentConfigMount",
                ],
                sample: "x",
                source: KEYS,
                says: "the proxy's container and its neighbours",
            },
        ],
        other_fields: &[],
        differs: &[
            "Lists have no limit; the mesh's plugin drops what is beyond 15 ports, with a line in its log.",
            "A pod that no CNI plugin was asked for has an init container of the mesh and is not selected.",
        ],
    };
}
