//! Annotations as the injectors of the meshes write them, and the plans they make.

use serde_json::{Value, json};
use shunt_api::Mesh;

use super::{annotations, decided, planned};
use crate::cni::Annotations;
use crate::policy::Decision;

fn plan(mesh: Mesh, pod: &Annotations) -> Value {
    serde_json::to_value(planned(mesh, pod).unwrap_or_else(|error| panic!("{}", error.details())))
        .expect("plain")
}

/// What every plan has unless it says otherwise.
fn expected(over: &Value) -> Value {
    let mut plan = json!({
        "exempt_gids": [],
        "outbound": {"cidrs": "*", "exclude_cidrs": [], "extra_ports": [], "exclude_ports": [], "exclude_uids": [], "own_addresses": false},
        "inbound": {"ports": "*", "exclude_ports": [], "exclude_cidrs": []},
        "exclude_interfaces": [], "tunnel_port": null, "self_calls": false, "before_proxy": "closed", "dns": null,
        "udp": "pass", "drop_invalid": false
    });
    for (key, value) in over.as_object().expect("object") {
        match (plan.get_mut(key).and_then(Value::as_object_mut), value.as_object()) {
            (Some(into), Some(part)) => into.extend(part.clone()),
            _ => plan[key] = value.clone(),
        }
    }
    plan
}

/// Equal whatever the order of keys.
fn same(mesh: Mesh, pod: &[(&str, &str)], over: &Value) {
    assert_eq!(plan(mesh, &annotations(pod)), expected(over), "{mesh}");
}

#[test]
fn linkerd() {
    let injected = [
        ("linkerd.io/created-by", "linkerd/proxy-injector edge-26.8.3"),
        ("linkerd.io/inject", "enabled"),
        ("linkerd.io/proxy-version", "edge-26.8.3"),
        ("linkerd.io/trust-root-sha256", "7c4f"),
    ];
    same(
        Mesh::Linkerd,
        &injected,
        &json!({"mesh": "linkerd", "outbound_port": 4140, "inbound_port": 4143, "exempt_uids": [2102],
            "inbound": {"exclude_ports": [4190, 4191]}}),
    );
    let said = [
        ("config.linkerd.io/skip-inbound-ports", "22,8100-8104"),
        ("config.linkerd.io/skip-outbound-ports", "25, 3306"),
        ("config.linkerd.io/skip-subnets", "172.17.0.0/16,fd00::/64"),
        ("config.linkerd.io/proxy-uid", "1002"),
        ("config.linkerd.io/proxy-gid", "1003"),
        ("config.linkerd.io/admin-port", "5191"),
        ("config.linkerd.io/opaque-ports", "3306"),
    ];
    same(
        Mesh::Linkerd,
        &[&injected[..], &said].concat(),
        &json!({"mesh": "linkerd", "outbound_port": 4140, "inbound_port": 4143, "exempt_uids": [1002], "exempt_gids": [1003],
            "outbound": {"exclude_ports": [25, 3306]},
            "inbound": {"exclude_ports": [22, "8100-8104", 4190, 5191], "exclude_cidrs": ["172.17.0.0/16", "fd00::/64"]}}),
    );
}

/// As the webhook of version 3 writes it, with built-in DNS.
const KUMA: &str = r#"
cniMode: true
ipFamilyMode: dualstack
kumaDPUser: "5678"
redirect:
  dns:
    captureAll: true
    enabled: true
    port: 15053
    resolvConfigPath: /etc/resolv.conf
    skipConntrackZoneSplit: false
  inbound:
    enabled: true
    excludePorts: [9001]
    port: 15006
  outbound:
    enabled: true
    port: 15001
retry:
  maxRetries: 4
  sleepBetweenRetries: 2s
wait: 5
waitInterval: 0
"#;

#[test]
fn kuma() {
    let injected = |config: &str| {
        annotations(&[
            ("k8s.v1.cni.cncf.io/networks", "kuma-cni"),
            ("kuma.io/application-probe-proxy-port", "9001"),
            ("kuma.io/envoy-admin-port", "9901"),
            ("kuma.io/sidecar-injected", "true"),
            ("traffic.kuma.io/transparent-proxy-config", config),
        ])
    };
    let full = json!({"mesh": "kuma", "outbound_port": 15001, "inbound_port": 15006, "exempt_uids": [5678],
        "inbound": {"exclude_ports": [9001]}, "self_calls": true, "dns": {"port": 15053, "tcp": "pass", "servers": "*"}});
    assert_eq!(plan(Mesh::Kuma, &injected(KUMA)), expected(&full));
    // Written in JSON it is the same, and so is what the webhook read itself.
    let mut again = injected(KUMA);
    again.insert("traffic.kuma.io/exclude-outbound-ips".to_owned(), String::new());
    assert_eq!(plan(Mesh::Kuma, &again), expected(&full));
    let part = |from: &str, to: &str| plan(Mesh::Kuma, &injected(&KUMA.replace(from, to)));
    let four = part("dualstack", "ipv4");
    assert_eq!(
        (&four["outbound"]["exclude_cidrs"], &four["inbound"]["exclude_cidrs"]),
        (&json!(["::/0"]), &json!(["::/0"]))
    );
    let gateway = part("enabled: true\n    excludePorts: [9001]", "enabled: false");
    assert_eq!(gateway["inbound"], json!({"ports": [], "exclude_ports": [], "exclude_cidrs": []}));
    let some = part("excludePorts: [9001]", "excludePorts: [9001]\n    includePorts: [8080, \"8081\"]");
    assert_eq!(some["inbound"], json!({"ports": [8080, 8081], "exclude_ports": [], "exclude_cidrs": []}));
    let only = part(
        "port: 15001",
        "port: 15001\n    includePorts: [80]\n    excludePortsForIPs: [10.9.0.1, \"fd09::/64\"]",
    );
    assert_eq!(
        (&only["outbound"]["cidrs"], &only["outbound"]["extra_ports"], &only["outbound"]["exclude_cidrs"]),
        (&json!([]), &json!([80]), &json!(["10.9.0.1/32", "fd09::/64"]))
    );
    // The only ports that are captured are, whatever another list says.
    let both = "port: 15001\n    includePorts: [80, 443]\n    excludePorts: [443]";
    let mut named = injected(&KUMA.replace("port: 15001", both));
    for annotation in ["", "80"] {
        named.insert("traffic.kuma.io/exclude-outbound-ports".to_owned(), annotation.to_owned());
        let outbound = plan(Mesh::Kuma, &named)["outbound"].clone();
        assert_eq!((&outbound["extra_ports"], &outbound["exclude_ports"]), (&json!([80, 443]), &json!([])));
    }
}

#[test]
fn what_is_wrong_in_a_document_is_said_with_its_place() {
    for (mesh, key, config, place) in [
        (
            Mesh::Kuma,
            "traffic.kuma.io/transparent-proxy-config",
            "redirect: {inbound: {port: x}}",
            "redirect.inbound.port",
        ),
        (
            Mesh::Kuma,
            "traffic.kuma.io/transparent-proxy-config",
            "redirect: {inbound: {excludePorts: [1, [2]]}}",
            "redirect.inbound.excludePorts[1]",
        ),
        (
            Mesh::Kuma,
            "traffic.kuma.io/transparent-proxy-config",
            "redirect: {dns: {enabled: true}}",
            "redirect.dns.captureAll",
        ),
        (Mesh::Kuma, "traffic.kuma.io/transparent-proxy-config", "redirect: 5", "redirect:"),
        (Mesh::Kuma, "traffic.kuma.io/transparent-proxy-config", "kumaDPUser: envoy", "kumaDPUser"),
        (
            Mesh::Consul,
            "consul.hashicorp.com/redirect-traffic-config",
            r#"{"ExcludeInboundPorts":["ssh"]}"#,
            "ExcludeInboundPorts",
        ),
        (
            Mesh::Consul,
            "consul.hashicorp.com/redirect-traffic-config",
            r#"{"ProxyInboundPort":0}"#,
            "ProxyInboundPort",
        ),
        (Mesh::Consul, "consul.hashicorp.com/redirect-traffic-config", "{", "not JSON"),
        (
            Mesh::Istio,
            "proxy.istio.io/config",
            "proxyMetadata: {INVALID_DROP: [1]}",
            "proxyMetadata.INVALID_DROP",
        ),
    ] {
        let pod = super::with(&super::base(super::of(mesh)), key, config);
        let error = decided(mesh, &pod).expect_err(config);
        assert!(error.details().contains(key) && error.details().contains(place), "{}", error.details());
    }
}

#[test]
fn a_marked_pod_without_its_document_is_refused() {
    for (mesh, key) in [
        (Mesh::Kuma, "traffic.kuma.io/transparent-proxy-config"),
        (Mesh::Consul, "consul.hashicorp.com/redirect-traffic-config"),
    ] {
        let error = decided(mesh, &super::without(&super::base(super::of(mesh)), key)).expect_err("refused");
        assert!(error.details().contains(key), "{}", error.details());
    }
}

#[test]
fn consul() {
    let injected = |config: &str, dual: &str| {
        annotations(&[
            ("consul.hashicorp.com/connect-inject-status", "injected"),
            ("consul.hashicorp.com/transparent-proxy-status", "enabled"),
            ("consul.hashicorp.com/connect-k8s-version", "1.9.0"),
            ("consul.hashicorp.com/dual-stack", dual),
            ("consul.hashicorp.com/redirect-traffic-config", config),
        ])
    };
    let config = r#"{"ConsulDNSIP":"127.0.0.1","ConsulDNSPort":8600,"ProxyUserID":"5995","ProxyInboundPort":20000,"ProxyOutboundPort":15001,"ExcludeInboundPorts":["20200","20300"],"ExcludeOutboundPorts":null,"ExcludeOutboundCIDRs":["10.9.0.0/16"],"ExcludeUIDs":["5996"],"NetNS":"","IptablesProvider":null}"#;
    let four = json!({"mesh": "consul", "outbound_port": 15001, "inbound_port": 20000, "exempt_uids": [5995],
        "outbound": {"exclude_cidrs": ["10.9.0.0/16", "::/0"], "exclude_uids": [5996], "own_addresses": true},
        "inbound": {"exclude_ports": [20200, 20300], "exclude_cidrs": ["::/0"]},
        "dns": {"port": 8600, "tcp": "capture", "servers": ["127.0.0.1"]}});
    assert_eq!(plan(Mesh::Consul, &injected(config, "false")), expected(&four));
    let six = json!({"mesh": "consul", "outbound_port": 15001, "inbound_port": 20000, "exempt_uids": [5995],
        "outbound": {"exclude_cidrs": ["10.9.0.0/16"], "exclude_uids": [5996], "own_addresses": true},
        "inbound": {"exclude_ports": [20200, 20300]},
        "dns": {"port": 8600, "tcp": "capture", "servers": ["::1"]}});
    assert_eq!(plan(Mesh::Consul, &injected(&config.replace("127.0.0.1", "::1"), "true")), expected(&six));
    // What the webhook has put into the document already is not there twice.
    let mut again = injected(config, "true");
    again.insert(
        "consul.hashicorp.com/transparent-proxy-exclude-inbound-ports".to_owned(),
        "20300".to_owned(),
    );
    assert_eq!(plan(Mesh::Consul, &again)["inbound"]["exclude_ports"], json!([20200, 20300]));
    let none = plan(
        Mesh::Consul,
        &injected(r#"{"ProxyUserID":"5995","ProxyInboundPort":20000,"ConsulDNSPort":0}"#, "true"),
    );
    assert_eq!((&none["dns"], &none["outbound"]["exclude_uids"]), (&Value::Null, &json!([5996])));
}

#[test]
fn osm_and_fsm() {
    for (mesh, prefix) in [(Mesh::Osm, "openservicemesh.io"), (Mesh::Fsm, "flomesh.io")] {
        let keys = [
            "sidecar-injection",
            "inbound-port-exclusion-list",
            "outbound-port-exclusion-list",
            "outbound-ip-range-exclusion-list",
            "outbound-ip-range-inclusion-list",
        ]
        .map(|key| format!("{prefix}/{key}"));
        let values = ["Enabled", "9000, 22", "25", "10.96.0.1/32", "10.96.0.0/12"];
        let pairs: Vec<(&str, &str)> = keys.iter().map(String::as_str).zip(values).collect();
        let plain = json!({"mesh": mesh.as_str(), "outbound_port": 15001, "inbound_port": 15003, "exempt_uids": [1500],
            "inbound": {"exclude_ports": [15010, "15901-15904"]}, "self_calls": true});
        same(mesh, pairs.get(..1).expect("one"), &plain);
        let said = json!({"mesh": mesh.as_str(), "outbound_port": 15001, "inbound_port": 15003, "exempt_uids": [1500],
            "outbound": {"cidrs": ["10.96.0.0/12"], "exclude_cidrs": ["10.96.0.1/32"], "exclude_ports": [25]},
            "inbound": {"exclude_ports": [9000, 22, 15010, "15901-15904"]}, "self_calls": true});
        same(mesh, &pairs, &said);
        for (key, value) in [(&keys[0], "maybe"), (&keys[4], ""), (&keys[1], "http")] {
            let pod = super::with(&annotations(&pairs), key, value);
            let error = decided(mesh, &pod).expect_err("refused");
            assert!(error.details().contains(key.as_str()), "{}", error.details());
        }
    }
}

#[test]
fn app_mesh() {
    let injected = [
        ("appmesh.k8s.aws/appmeshCNI", "enabled"),
        ("appmesh.k8s.aws/sidecarInjectorWebhook", "enabled"),
        ("appmesh.k8s.aws/ports", "8080,9090"),
        ("appmesh.k8s.aws/egressIgnoredIPs", "169.254.169.254,fd00:ec2::254"),
        ("appmesh.k8s.aws/egressIgnoredPorts", "22"),
        ("appmesh.k8s.aws/proxyEgressPort", "15001"),
        ("appmesh.k8s.aws/proxyIngressPort", "15000"),
        ("appmesh.k8s.aws/ignoredUID", "1337"),
    ];
    let plain = json!({"mesh": "appmesh", "outbound_port": 15001, "inbound_port": 15000, "exempt_uids": [1337],
        "outbound": {"exclude_cidrs": ["169.254.169.254/32", "fd00:ec2::254/128"], "exclude_ports": [22]},
        "inbound": {"ports": [8080, 9090]}});
    same(Mesh::Appmesh, &injected, &plain);
    let none = plan(Mesh::Appmesh, &super::with(&annotations(&injected), "appmesh.k8s.aws/ports", ""));
    assert_eq!(none["inbound"]["ports"], json!([]));
    // On EC2 nodes the controller leaves the work to an init container and writes none of these.
    let by_init = annotations(&[("appmesh.k8s.aws/sidecarInjectorWebhook", "enabled")]);
    assert!(matches!(decided(Mesh::Appmesh, &by_init), Ok(Decision::Skip(_))));
}
