//! Includes and excludes, by address and by port, out and in.

use serde_json::{Value, json};
use shunt_tests::ask::Serve;
use shunt_tests::net::Shape;
use shunt_tests::node::{INBOUND_PORT, OUTBOUND_PORT, PROXY};

use crate::mesh::{Mesh, outcome};

fn with(keys: &[(&str, Value)]) -> Mesh {
    let mut mesh = Mesh::before_add(Shape::dual());
    for (key, value) in keys {
        mesh.node.redirect(key, value.clone());
    }
    mesh.add();
    mesh.start_proxy();
    mesh
}

fn check_outbound(keys: &[(&str, Value)], rows: &[(&str, &str)]) {
    let mesh = with(keys);
    for (to, answers) in rows {
        assert_eq!(mesh.outcome(to), *answers, "{to} under {keys:?}");
        let mapped = crate::mesh::mapped(to);
        assert_eq!(mesh.outcome(&mapped), *answers, "{mapped} under {keys:?}");
    }
}

#[test]
fn excluded_destinations_pass() {
    check_outbound(
        &[("excludeOutboundCidrs", json!(["10.96.5.0/24", "10.96.6.6/32", "fd96::5:0/112"]))],
        &[
            ("10.96.5.1:80", "world"),
            ("10.96.6.6:80", "world"),
            ("10.96.6.7:80", "outbound"),
            ("10.96.4.255:80", "outbound"),
            ("[fd96::5:1]:80", "world"),
            ("[fd96::6:1]:80", "outbound"),
        ],
    );
}

#[test]
fn only_included_destinations_are_captured() {
    check_outbound(
        &[("includeOutboundCidrs", json!(["10.96.5.0/24", "fd96::5:0/112"]))],
        &[
            ("10.96.5.1:80", "outbound"),
            ("10.96.6.1:80", "world"),
            ("[fd96::5:1]:80", "outbound"),
            ("[fd96::6:1]:80", "world"),
        ],
    );
}

#[test]
fn an_exclude_inside_an_include_wins() {
    check_outbound(
        &[
            ("includeOutboundCidrs", json!(["10.96.0.0/16", "fd96::/64"])),
            ("excludeOutboundCidrs", json!(["10.96.5.0/24", "fd96::5:0/112"])),
        ],
        &[
            ("10.96.5.1:80", "world"),
            ("10.96.6.1:80", "outbound"),
            ("[fd96::5:1]:80", "world"),
            ("[fd96::6:1]:80", "outbound"),
        ],
    );
}

#[test]
fn excluded_ports_pass_and_ranges_are_ranges() {
    check_outbound(
        &[("excludeOutboundPorts", json!([443, "8000-8499"]))],
        &[
            ("10.96.0.10:443", "world"),
            ("[fd96::10]:443", "world"),
            ("10.96.0.10:8080", "world"),
            ("10.96.0.10:8500", "outbound"),
            ("10.96.0.10:80", "outbound"),
            ("[fd96::10]:9000", "outbound"),
        ],
    );
}

/// As in Istio: an included port is captured even where the list of addresses is another.
#[test]
fn included_ports_are_captured_outside_the_included_addresses() {
    check_outbound(
        &[("includeOutboundCidrs", json!(["10.96.5.0/24"])), ("includeOutboundPorts", json!([8080]))],
        &[
            ("10.96.6.1:8080", "outbound"),
            ("10.96.6.1:80", "world"),
            ("10.96.5.1:80", "outbound"),
            ("[fd96::10]:8080", "outbound"),
            ("[fd96::10]:80", "world"),
        ],
    );
}

fn check_inbound(keys: &[(&str, Value)], rows: &[(u16, &str)]) {
    let mesh = with(keys);
    let ports = ["8080", "8081", "9090"];
    let sockets: Vec<String> =
        ports.iter().flat_map(|port| [format!("0.0.0.0:{port}"), format!("[::]:{port}")]).collect();
    let _app = mesh.pod.serve(&Serve::at(sockets.iter().map(|at| ("app", at.as_str()))));
    for (port, answers) in rows {
        for v6 in [false, true] {
            let seen = mesh.arriving(v6, *port);
            assert_eq!(seen.outcome(), *answers, "{port} under {keys:?}: {seen:?}");
        }
    }
}

#[test]
fn excluded_inbound_ports_reach_the_app() {
    check_inbound(
        &[("excludeInboundPorts", json!([8081, "9000-9999"]))],
        &[(8080, "inbound"), (8081, "app"), (9090, "app"), (9091, "ECONNREFUSED"), (7000, "inbound")],
    );
}

#[test]
fn only_included_inbound_ports_are_captured() {
    check_inbound(
        &[("includeInboundPorts", json!([8080, "9000-9999"]))],
        &[(8080, "inbound"), (8081, "app"), (9090, "inbound"), (7000, "ECONNREFUSED")],
    );
}

#[test]
fn callers_from_excluded_networks_reach_the_app() {
    check_inbound(
        &[("excludeInboundCidrs", json!(["10.77.0.1/32", "fd77::/64"]))],
        &[(8080, "app"), (8081, "app")],
    );
    check_inbound(&[("excludeInboundCidrs", json!(["10.99.0.0/16", "fd99::/64"]))], &[(8080, "inbound")]);
}

#[test]
fn an_excluded_interface_is_left_alone() {
    let mut mesh = Mesh::before_add(Shape::two_interfaces());
    mesh.node.redirect("excludeInterfaces", json!(["net1"]));
    mesh.add();
    mesh.start_proxy();
    let _app = mesh.pod.serve(&Serve::at([("app", "0.0.0.0:8080"), ("app", "[::]:8080")]));
    assert_eq!(mesh.arriving(false, 8080).outcome(), "inbound");
    for to in ["10.78.0.2:8080", "[fd78::2]:8080"] {
        let place = crate::mesh::outside(&mesh.world);
        assert_eq!(
            outcome(&shunt_tests::process::dial(&place, &shunt_tests::ask::Dial::to([to]))),
            "app",
            "{to} arrives by the excluded interface"
        );
    }
}

#[test]
fn istio_annotations_decide() {
    let mut mesh = Mesh::before_add(Shape::dual());
    mesh.istio();
    let facts = [
        ("traffic.sidecar.istio.io/excludeOutboundPorts", "443"),
        ("traffic.sidecar.istio.io/excludeOutboundIPRanges", "10.96.5.0/24"),
        ("traffic.sidecar.istio.io/excludeInboundPorts", "8081"),
    ];
    mesh.pod.annotations.extend(facts.map(|(key, value)| (key.to_owned(), value.to_owned())));
    mesh.add();
    mesh.start_proxy();
    let _app = mesh.pod.serve(&Serve::at([("app", "0.0.0.0:8081"), ("app", "0.0.0.0:15021")]));
    let rows = [
        ("10.96.0.10:80", "outbound"),
        ("10.96.0.10:443", "world"),
        ("[fd96::10]:443", "world"),
        ("10.96.5.1:80", "world"),
        ("[fd96::10]:80", "outbound"),
    ];
    for (to, answers) in rows {
        assert_eq!(outcome(&mesh.app([to])), answers, "{to}");
    }
    for (port, answers) in [(8080, "inbound"), (8081, "app"), (15021, "app")] {
        assert_eq!(mesh.arriving(false, port).outcome(), answers, "{port}");
    }
}

/// A mesh, a pod's annotations, and who answers on its port 8080.
type Injected = (&'static str, &'static [(&'static str, &'static str)], &'static str);

/// Pods as the injectors leave them. What is captured and what is not is the mesh's own, the ports and ids are the test's.
#[test]
fn pods_of_every_mesh_are_captured() {
    let pods: [Injected; 6] = [
        (
            "linkerd",
            &[("linkerd.io/proxy-version", "edge"), ("config.linkerd.io/skip-outbound-ports", "443")],
            "inbound",
        ),
        (
            "kuma",
            &[
                ("kuma.io/sidecar-injected", "true"),
                (
                    "traffic.kuma.io/transparent-proxy-config",
                    "redirect:\n  outbound:\n    excludePorts: [443]\n",
                ),
            ],
            "inbound",
        ),
        (
            "consul",
            &[
                ("consul.hashicorp.com/connect-inject-status", "injected"),
                ("consul.hashicorp.com/transparent-proxy-status", "enabled"),
                (
                    "consul.hashicorp.com/redirect-traffic-config",
                    r#"{"ProxyUserID":"5995","ExcludeOutboundPorts":["443"]}"#,
                ),
            ],
            "inbound",
        ),
        (
            "osm",
            &[
                ("openservicemesh.io/sidecar-injection", "enabled"),
                ("openservicemesh.io/outbound-port-exclusion-list", "443"),
            ],
            "inbound",
        ),
        (
            "fsm",
            &[
                ("flomesh.io/sidecar-injection", "enabled"),
                ("flomesh.io/outbound-port-exclusion-list", "443"),
            ],
            "inbound",
        ),
        (
            "appmesh",
            &[
                ("appmesh.k8s.aws/proxyEgressPort", "15001"),
                ("appmesh.k8s.aws/egressIgnoredPorts", "443"),
                ("appmesh.k8s.aws/ports", "9000"),
            ],
            "app",
        ),
    ];
    for (name, injected, arriving) in pods {
        let mut mesh = Mesh::before_add(Shape::dual());
        mesh.node.configure(|entry| {
            entry["mesh"] = json!(name);
            entry["redirect"] = json!({});
        });
        let own = [
            ("shunt-cni.io/outbound-port", OUTBOUND_PORT.to_string()),
            ("shunt-cni.io/inbound-port", INBOUND_PORT.to_string()),
            ("shunt-cni.io/proxy-uids", PROXY.to_string()),
        ];
        mesh.pod.annotations =
            injected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        mesh.pod.annotations.extend(own.map(|(key, value)| (key.to_owned(), value)));
        mesh.add();
        mesh.start_proxy();
        let _app = mesh.pod.serve(&Serve::at([("app", "0.0.0.0:8080")]));
        for (to, answers) in [
            ("10.96.0.10:80", "outbound"),
            ("[fd96::10]:80", "outbound"),
            ("10.96.0.10:443", "world"),
            ("[fd96::10]:443", "world"),
        ] {
            assert_eq!(mesh.outcome(to), answers, "{name} {to}");
        }
        assert_eq!(mesh.arriving(false, 8080).outcome(), arriving, "{name}");
    }
}

#[test]
fn a_pod_without_the_marker_is_left_alone() {
    let mut mesh = Mesh::before_add(Shape::dual());
    mesh.pod.annotations.clear();
    mesh.add();
    mesh.start_proxy();
    assert_eq!(crate::mesh::outcomes(&mesh.app(crate::mesh::SERVICES)), ["world"; 3]);
    let _app = mesh.pod.serve(&Serve::at([("app", "0.0.0.0:8080")]));
    assert_eq!(mesh.arriving(false, 8080).outcome(), "app");
}
