//! Kuma and Kong Mesh: what kuma-cni reads and does (`peers-cni.md` 6.1, 6.2). The webhook writes the whole configuration into one
//! annotation; the keys that users write are read over it as the webhook read them, so that reading them again changes nothing.

use std::num::NonZeroU16;

use serde_json::Value;
use shunt_api::{Include, Network, PortRange, Redirect};

use super::document::{Document, Format};
use super::key::{Act, Bad, Field, FieldAct, Key, field, key};
use super::value::{enabled, extend, flag, items, loose, one_id, one_port, parsed, text};
use super::{Profile, is_said};
use crate::annotation::put;
use crate::cni::Annotations;
use crate::error::{Error, Kind};
use crate::plan::DnsTcp;
use crate::policy::{Layer, Reason};

const INJECTED: &str = "kuma.io/sidecar-injected";
const CONFIG: &str = "traffic.kuma.io/transparent-proxy-config";

pub(crate) static PROFILE: Profile = Profile {
    defaults,
    marker: None,
    gate,
    keys: &KEYS,
    include_beats_exclude: true,
    tunnel_port: None,
    self_calls: true,
    own_addresses: false,
    dns_tcp: DnsTcp::Pass,
    #[cfg(test)]
    page: page::PAGE,
};

#[cfg(test)]
const WEBHOOK: &str = "kumahq/kuma pkg/transparentproxy/kubernetes/kubernetes_config.go";
#[cfg(test)]
const CONF: &str = "kumahq/kuma pkg/transparentproxy/config/config.go";

static KEYS: [Key; 11] = [
    key!(INJECTED, Act::Marks, "true", "kumahq/kuma app/cni/pkg/cni/main_linux.go", "the marker: `true`"),
    key!(
        CONFIG,
        Act::Holds(Format::GoYaml, &FIELDS),
        "redirect: {inbound: {port: 15007}}",
        "kumahq/kuma app/cni/pkg/cni/main_linux.go",
        "what the webhook made of the keys below and of its ConfigMap; must be there in a marked pod"
    ),
    key!(
        "traffic.kuma.io/exclude-inbound-ports",
        Act::Sets(|list, to| replace(&mut to.redirect.exclude_inbound_ports, loose(list))),
        "22,9000",
        WEBHOOK,
        "inbound ports that are not captured; an empty list says nothing"
    ),
    key!(
        "traffic.kuma.io/exclude-outbound-ports",
        Act::Sets(|list, to| exclude_outbound(to, loose(list).map_err(Bad::from))),
        "25",
        WEBHOOK,
        "outbound ports that are not captured; an empty list says nothing"
    ),
    key!(
        "traffic.kuma.io/exclude-inbound-ips",
        Act::Sets(|list, to| replace(&mut to.redirect.exclude_inbound_cidrs, loose::<Network>(list))),
        "10.9.0.0/16,fd09::1",
        WEBHOOK,
        "sources whose connections are not captured; an empty list says nothing"
    ),
    key!(
        "traffic.kuma.io/exclude-outbound-ips",
        Act::Sets(|list, to| replace(&mut to.redirect.exclude_outbound_cidrs, loose::<Network>(list))),
        "10.9.0.0/16,fd09::1",
        WEBHOOK,
        "destinations that are not captured; an empty list says nothing"
    ),
    key!(
        "traffic.kuma.io/exclude-outbound-ports-for-uids",
        Act::Sets(|list, to| {
            let rules: Vec<Value> = list.split(';').filter(|rule| !rule.trim().is_empty()).map(Value::from).collect();
            for_uids(&Value::Array(rules), to)
        }),
        "1000;*:*:1001",
        but "tcp:22:1000",
        WEBHOOK,
        "user ids that are not captured, where a rule is about all ports of TCP and UDP and one id; others are refused"
    ),
    key!(
        "traffic.kuma.io/drop-invalid-packets",
        Act::Sets(|text, to| put(&mut to.drop_invalid, flag(text)).map_err(Bad::from)),
        "true",
        WEBHOOK,
        "under iptables: packets that connection tracking calls invalid are dropped; under eBPF nothing is translated and none goes astray"
    ),
    key!(
        "kuma.io/transparent-proxying-ip-family-mode",
        Act::Sets(family),
        "ipv4",
        WEBHOOK,
        "`ipv4`: IPv6 is left alone, in both directions"
    ),
    key!(
        "kuma.io/gateway",
        Act::Sets(|text, to| {
            // Words of other versions (`builtin`, `provided`) say what kind of gateway; the document says what it gets.
            if enabled(text) == Ok(true) {
                to.redirect.include_inbound_ports = Some(Include::Only(Vec::new()));
            }
            Ok(())
        }),
        "enabled",
        WEBHOOK,
        "`enabled`: nothing is captured inbound"
    ),
    key!(
        "kuma.io/application-probe-proxy-port",
        Act::Sets(|text, to| {
            // 0: there is none.
            let port = text.trim().parse::<u16>().ok().ok_or("must be one port, or 0 for none")?;
            to.proxy_ports = Some(PortRange::single(port).into_iter().collect());
            Ok(())
        }),
        "9001",
        WEBHOOK,
        "a port of the proxy itself, not captured inbound"
    ),
];

/// The document as the webhook writes it. What is not in it has the mesh's default.
static FIELDS: [Field; 20] = [
    field!(
        "kumaDPUser",
        FieldAct::Sets(|value, _, to| {
            let user = text(value)?;
            if user.is_empty() {
                Ok(())
            } else {
                put(&mut to.redirect.proxy_uids, one_id(&user)).map_err(Bad::from)
            }
        }),
        "kumaDPUser: \"5679\"",
        CONF,
        "the proxy's user id; a name is an error"
    ),
    field!(
        "ipFamilyMode",
        FieldAct::Sets(|value, _, to| family(&text(value)?, to)),
        "ipFamilyMode: ipv4",
        CONF,
        "`ipv4`: IPv6 is left alone, in both directions"
    ),
    field!(
        "dropInvalidPackets",
        FieldAct::Sets(|value, _, to| put(&mut to.drop_invalid, flag(&text(value)?)).map_err(Bad::from)),
        "dropInvalidPackets: true",
        CONF,
        "under iptables: packets that connection tracking calls invalid are dropped; under eBPF nothing is translated and none goes astray"
    ),
    field!(
        "dryRun",
        FieldAct::Refused(is_yes),
        "dryRun: true",
        CONF,
        "with it the mesh writes no rules: a pod that looks meshed and is not"
    ),
    field!(
        "redirect.inbound.port",
        FieldAct::Sets(|value, _, to| {
            to.redirect.inbound_port = Some(one_port(value)?);
            Ok(())
        }),
        "redirect: {inbound: {port: 15007}}",
        CONF,
        "where the proxy listens for connections to the app"
    ),
    field!(
        "redirect.inbound.includePorts",
        FieldAct::Sets(|value, _, to| {
            let ports: Vec<PortRange> = parsed(value)?;
            if !ports.is_empty() {
                to.redirect.include_inbound_ports = Some(Include::Only(ports));
            }
            Ok(())
        }),
        "redirect: {inbound: {includePorts: [8080]}}",
        CONF,
        "the only inbound ports that are captured; excluded ones do not count then"
    ),
    field!(
        "redirect.inbound.enabled",
        FieldAct::Sets(|value, _, to| {
            if !flag(&text(value)?)? {
                to.redirect.include_inbound_ports = Some(Include::Only(Vec::new()));
            }
            Ok(())
        }),
        "redirect: {inbound: {enabled: false}}",
        CONF,
        "`false`: nothing is captured inbound"
    ),
    field!(
        "redirect.inbound.excludePorts",
        FieldAct::Sets(|value, _, to| replace_with(&mut to.redirect.exclude_inbound_ports, parsed(value))),
        "redirect: {inbound: {excludePorts: [22, 9000]}}",
        CONF,
        "inbound ports that are not captured"
    ),
    field!(
        "redirect.inbound.excludePortsForIPs",
        FieldAct::Sets(|value, _, to| replace_with(&mut to.redirect.exclude_inbound_cidrs, parsed(value))),
        "redirect: {inbound: {excludePortsForIPs: [10.9.0.0/16]}}",
        CONF,
        "sources whose connections are not captured"
    ),
    field!(
        "redirect.inbound.excludePortsForUIDs",
        FieldAct::Refused(is_filled),
        "redirect: {inbound: {excludePortsForUIDs: [\"1000\"]}}",
        CONF,
        "no user id is known of who connects from outside"
    ),
    field!(
        "redirect.outbound.port",
        FieldAct::Sets(|value, _, to| {
            to.redirect.outbound_port = Some(one_port(value)?);
            Ok(())
        }),
        "redirect: {outbound: {port: 15002}}",
        CONF,
        "where the proxy listens for connections of the app"
    ),
    field!(
        "redirect.outbound.includePorts",
        FieldAct::Sets(|value, _, to| {
            let ports: Vec<PortRange> = parsed(value)?;
            if !ports.is_empty() {
                to.redirect.include_outbound_cidrs = Some(Include::Only(Vec::new()));
                to.redirect.include_outbound_ports = Some(ports);
            }
            Ok(())
        }),
        "redirect: {outbound: {includePorts: [80, 443]}}",
        CONF,
        "the only outbound ports that are captured; excluded ones do not count then"
    ),
    field!(
        "redirect.outbound.enabled",
        FieldAct::Sets(|value, _, to| {
            if !flag(&text(value)?)? {
                to.redirect.include_outbound_cidrs = Some(Include::Only(Vec::new()));
                to.redirect.include_outbound_ports = Some(Vec::new());
            }
            Ok(())
        }),
        "redirect: {outbound: {enabled: false}}",
        CONF,
        "`false`: nothing is captured outbound"
    ),
    field!(
        "redirect.outbound.excludePorts",
        FieldAct::Sets(|value, _, to| exclude_outbound(to, parsed(value))),
        "redirect: {outbound: {excludePorts: [25]}}",
        CONF,
        "outbound ports that are not captured"
    ),
    field!(
        "redirect.outbound.excludePortsForIPs",
        FieldAct::Sets(|value, _, to| replace_with(&mut to.redirect.exclude_outbound_cidrs, parsed(value))),
        "redirect: {outbound: {excludePortsForIPs: [10.9.0.0/16]}}",
        CONF,
        "destinations that are not captured"
    ),
    field!(
        "redirect.outbound.excludePortsForUIDs",
        FieldAct::Sets(|value, _, to| for_uids(value, to)),
        "redirect: {outbound: {excludePortsForUIDs: [\"1000\"]}}",
        but "redirect: {outbound: {excludePortsForUIDs: [\"tcp:22:1000\"]}}",
        CONF,
        "user ids that are not captured, where a rule is about all ports of TCP and UDP and one id; others are refused"
    ),
    field!(
        "redirect.dns.port",
        FieldAct::Sets(|value, _, to| {
            to.redirect.dns_port = Some(one_port(value)?);
            Ok(())
        }),
        "redirect: {dns: {enabled: true, captureAll: true, port: 15054}}",
        CONF,
        "where the proxy listens for DNS"
    ),
    field!(
        "redirect.dns.enabled",
        FieldAct::Sets(|value, _, to| put(&mut to.dns, flag(&text(value)?)).map_err(Bad::from)),
        "redirect: {dns: {enabled: true, captureAll: true}}",
        CONF,
        "whether DNS over UDP is captured; over TCP it never is"
    ),
    field!(
        "redirect.dns",
        FieldAct::Sets(capture_all),
        "redirect: {dns: {enabled: true, captureAll: true}}",
        but "redirect: {dns: {enabled: true, captureAll: false}}",
        CONF,
        "`captureAll: false`, also by saying nothing, is refused while DNS is captured: it means the resolvers of the file `resolvConfigPath`, which is the node's and not the pod's"
    ),
    field!(
        "redirect.vnet.networks",
        FieldAct::Refused(is_filled),
        "redirect: {vnet: {networks: [\"docker0:172.17.0.0/16\"]}}",
        CONF,
        "forwarded traffic of containers in the pod"
    ),
];

fn defaults() -> Layer {
    Layer::from(Redirect {
        outbound_port: NonZeroU16::new(15001),
        inbound_port: NonZeroU16::new(15006),
        dns_port: NonZeroU16::new(15053),
        proxy_uids: Some(vec![5678]),
        ..Redirect::default()
    })
}

fn gate(annotations: &Annotations) -> Result<Option<Reason>, Error> {
    match annotations.get(INJECTED) {
        None => Ok(Some(Reason::NotMarked { key: INJECTED })),
        Some(value) if value != "true" => Ok(Some(Reason::OptedOut { key: INJECTED })),
        Some(_) if !is_said(annotations, CONFIG) => Err(Error::new(
            Kind::Config,
            format!(
                "annotation {CONFIG}: must be there in a pod with {INJECTED}: install Kuma with its CNI mode on"
            ),
        )),
        Some(_) => Ok(None),
    }
}

fn replace<T>(list: &mut Option<Vec<T>>, with: Result<Vec<T>, String>) -> Result<(), Bad> {
    replace_with(list, with.map_err(Bad::from))
}

/// Nothing is not an empty list.
fn replace_with<T>(list: &mut Option<Vec<T>>, with: Result<Vec<T>, Bad>) -> Result<(), Bad> {
    let with = with?;
    if !with.is_empty() {
        *list = Some(with);
    }
    Ok(())
}

/// Where the only ports are named that are captured (`includePorts`, read before), a list of others does not count.
fn exclude_outbound(to: &mut Layer, ports: Result<Vec<PortRange>, Bad>) -> Result<(), Bad> {
    let ports = ports?;
    let named = to.redirect.include_outbound_ports.as_ref().is_some_and(|ports| !ports.is_empty());
    if !ports.is_empty() {
        to.redirect.exclude_outbound_ports = Some(if named { Vec::new() } else { ports });
    }
    Ok(())
}

fn family(text: &str, to: &mut Layer) -> Result<(), Bad> {
    to.ipv4_only = Some(match text {
        "" => return Ok(()),
        "dualstack" => false,
        "ipv4" => true,
        _ => return Err("must be dualstack or ipv4".into()),
    });
    Ok(())
}

/// Rules `<protocol:>?<ports:>?<uids>`: those that say no more than "not this user".
fn for_uids(value: &Value, to: &mut Layer) -> Result<(), Bad> {
    // A comma separates ports in a rule, not rules.
    let rules = match value {
        Value::Array(list) => list.iter().map(text).collect::<Result<Vec<_>, _>>()?,
        one => vec![text(one)?],
    };
    let mut uids = Vec::new();
    for rule in rules {
        let parts: Vec<&str> = rule.split(':').map(str::trim).collect();
        let (protocols, range, uid) = match parts.as_slice() {
            [uid] => ("", "", *uid),
            [from, uid] => ("", *from, *uid),
            [of, from, uid] => (*of, *from, *uid),
            _ => return Err("must be rules such as tcp:22:1000".into()),
        };
        let everything =
            matches!(protocols, "" | "*" | "tcp,udp" | "udp,tcp") && matches!(range, "" | "*" | "1-65535");
        match one_id(uid) {
            Ok(uid) if everything => uids.extend(uid),
            _ => return Err(Bad::unavailable()),
        }
    }
    extend(&mut to.exclude_uids, uids);
    Ok(())
}

fn capture_all(_: &Value, document: &Document, to: &mut Layer) -> Result<(), Bad> {
    let all = document.at("redirect.dns.captureAll")?.map(text).transpose()?;
    let all = all.is_some_and(|text| flag(&text) == Ok(true));
    if to.dns == Some(true) && !all { Err(Bad::unavailable().at("captureAll")) } else { Ok(()) }
}

fn is_yes(value: &Value) -> bool {
    text(value).is_ok_and(|text| flag(&text) != Ok(false))
}

fn is_filled(value: &Value) -> bool {
    items(value).map_or(true, |items| !items.is_empty())
}

#[cfg(test)]
mod page {
    use crate::profile::table::{Fields, Other, Page};

    const KEYS: &str = "kumahq/kuma pkg/plugins/runtime/k8s/metadata/annotations.go";

    pub(super) const PAGE: Page = Page {
        sources: "kumahq/kuma 348b6528",
        base: &[
            (super::INJECTED, "true"),
            (
                super::CONFIG,
                "ipFamilyMode: dualstack\nkumaDPUser: \"5678\"\nredirect:\n  dns:\n    captureAll: true\n    enabled: false\n    port: 15053\n  inbound:\n    enabled: true\n    port: 15006\n  outbound:\n    enabled: true\n    port: 15001\n",
            ),
        ],
        selects: "`kuma.io/sidecar-injected` is `true`",
        others: &[
            Other {
                keys: &["traffic.kuma.io/iptables-logs"],
                sample: "true",
                source: super::WEBHOOK,
                says: "lines in the kernel's log",
            },
            Other {
                keys: &["kuma.io/sidecar-injection"],
                sample: "disabled",
                source: "kumahq/kuma pkg/plugins/runtime/k8s/webhooks/injector/precheck.go",
                says: "the webhook reads the label of this name and not the annotation",
            },
            Other {
                keys: &["traffic.kuma.io/transparent-proxy-configmap-name"],
                sample: "mine",
                source: super::WEBHOOK,
                says: "the webhook reads that ConfigMap; what is in it is in the document",
            },
            Other {
                keys: &["kuma.io/sidecar-uid", "kuma.io/transparent-proxying"],
                sample: "enabled",
                source: super::WEBHOOK,
                says: "the webhook passes it over with a warning; the proxy's user id is `kumaDPUser` of the document",
            },
            Other {
                keys: &["k8s.v1.cni.cncf.io/networks"],
                sample: "kuma-cni",
                source: super::WEBHOOK,
                says: "asks Multus for kuma-cni; Shunt stands in the cluster network's list",
            },
            Other {
                keys: &[
                    "kuma.io/tags",
                    "kuma.io/direct-access-services",
                    "kuma.io/reachable-backends",
                    "kuma.io/ignore",
                    "kuma.io/workload",
                    "kuma.io/envoy-admin-port",
                    "kuma.io/envoy-log-level",
                    "kuma.io/envoy-component-log-level",
                    "k8s.kuma.io/service-name",
                    "k8s.kuma.io/is-headless-service",
                    "k8s.kuma.io/service-account",
                    "k8s.kuma.io/spire-support",
                    "ingress.kubernetes.io/service-upstream",
                    "nginx.ingress.kubernetes.io/service-upstream",
                ],
                sample: "x",
                source: KEYS,
                says: "what the proxy does with its connections, and what it is registered as",
            },
            Other {
                keys: &[
                    "kuma.io/sidecar-env-vars",
                    "kuma.io/sidecar-proxy-concurrency",
                    "kuma.io/service-account-token-volume",
                    "kuma.io/sidecar-drain-time",
                    "kuma.io/container-patches",
                    "kuma.io/init-first",
                    "kuma.io/wait-for-dataplane-ready",
                ],
                sample: "x",
                source: KEYS,
                says: "the proxy's container",
            },
        ],
        other_fields: &[
            Fields {
                key: super::CONFIG,
                paths: &[
                    "redirect.inbound.insertRedirectInsteadOfAppend",
                    "redirect.outbound.insertRedirectInsteadOfAppend",
                    "redirect.dns.skipConntrackZoneSplit",
                    "wait",
                    "waitInterval",
                    "retry.maxRetries",
                    "retry.sleepBetweenRetries",
                    "storeFirewalld",
                    "iptablesExecutables.iptables",
                    "cniMode",
                ],
                sample: "1",
                source: super::CONF,
                says: "how the mesh's plugin writes iptables rules, not which",
            },
            Fields {
                key: super::CONFIG,
                paths: &["redirect.dns.resolvConfigPath"],
                sample: "/etc/resolv.conf",
                source: super::CONF,
                says: "only of interest without `captureAll`",
            },
            Fields {
                key: super::CONFIG,
                paths: &["log.enabled", "log.level", "comments.disabled", "verbose"],
                sample: "true",
                source: super::CONF,
                says: "logs and comments",
            },
            Fields {
                key: super::CONFIG,
                paths: &["ebpf.enabled", "ebpf.bpffsPath", "ebpf.instanceIP", "ebpf.programsSourcePath"],
                sample: "true",
                source: "kumahq/kuma before 2026-07 (removed with its eBPF mode)",
                says: "how the mesh intercepted, not what",
            },
        ],
        differs: &[
            "A failure to set up IPv6 is an error; kuma-cni warns and the pod runs with IPv4 rules alone.",
            "With `ipv4`, DNS that is captured is captured over IPv6 too.",
            "DNS to addresses of `exclude-outbound-ips` is captured like other DNS; the mesh's rules leave it alone.",
            "53 among the excluded outbound ports leaves DNS alone, over UDP too; the mesh's rules look at that list for TCP alone.",
            "`DOCKER_OUTPUT` (Docker's own resolver inside a pod) is not looked for.",
            "A `kuma-init` container cannot be told from annotations. Without CNI mode there is no document, and the ADD is refused.",
        ],
    };
}
