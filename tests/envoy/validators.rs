//! What the meshes' validating init containers do before an app may start: each, from the ids it runs under, must find that it meets
//! itself; and without us, that it does not.

use std::net::SocketAddr;

use serde_json::json;
use shunt_tests::ask::{Place, address};
use shunt_tests::net::Shape;
use shunt_tests::node::{APP, Node, Pod};
use shunt_tests::validation::{Sign, Validated, Validation, validate};

/// One mesh's, over one family.
struct Validator {
    mesh: &'static str,
    annotations: &'static [(&'static str, &'static str)],
    /// The ids of its container.
    id: u32,
    validation: Validation,
    /// Which of its listeners it meets.
    meets: SocketAddr,
}

fn validation(listen: &[&str], from: Option<&str>, to: &str, sign: Sign) -> Validation {
    let listen = listen.iter().map(|text| address(text)).collect();
    Validation { listen, from: from.map(address), to: address(to), sign }
}

/// `istio-validation`: as the proxy's user it listens where the proxy will, on the loopback address alone, and dials another loopback
/// address, which nobody but the rules about an app that calls itself would bring there.
fn istio() -> [Validator; 2] {
    let of = |listen: [&str; 2], from, to, meets| Validator {
        mesh: "istio",
        annotations: &[("sidecar.istio.io/status", r#"{"containers":["istio-proxy"]}"#)],
        id: 1337,
        validation: validation(&listen, Some(from), to, Sign::Destination),
        meets: address(meets),
    };
    [
        of(["127.0.0.1:15001", "127.0.0.1:15006"], "127.0.0.1:0", "127.0.0.6:15002", "127.0.0.1:15006"),
        of(["[::1]:15001", "[::1]:15006"], "[::1]:0", "[::6]:15002", "[::1]:15006"),
    ]
}

/// `kuma-validation`: as the proxy's user too, a port that is chosen anew each time, content with being connected.
fn kuma() -> [Validator; 2] {
    let of = |listen: &str, from, to, meets| Validator {
        mesh: "kuma",
        annotations: &[
            ("kuma.io/sidecar-injected", "true"),
            (
                "traffic.kuma.io/transparent-proxy-config",
                "kumaDPUser: \"5678\"\nipFamilyMode: dualstack\nredirect:\n  inbound:\n    enabled: true\n    port: 15006\n  \
                 outbound:\n    enabled: true\n    port: 15001\n",
            ),
        ],
        id: 5678,
        validation: validation(&[listen], Some(from), to, Sign::Connection),
        meets: address(meets),
    };
    [
        of("127.0.0.1:15006", "127.0.0.1:0", "127.0.0.6:27182", "127.0.0.1:15006"),
        of("[::1]:15006", "[::1]:0", "[::6]:23141", "[::1]:15006"),
    ]
}

/// `linkerd-network-validator`: as nobody, who is not the proxy, it listens where the proxy will and dials an address that nobody has.
fn linkerd() -> [Validator; 2] {
    let of = |listen: &str, to, meets| Validator {
        mesh: "linkerd",
        annotations: &[
            ("linkerd.io/proxy-version", "edge-26.8.1"),
            ("linkerd.io/created-by", "linkerd/proxy-injector edge-26.8.1"),
        ],
        id: 65534,
        validation: validation(&[listen], None, to, Sign::Token),
        meets: address(meets),
    };
    [
        of("0.0.0.0:4140", "1.1.1.1:20001", "0.0.0.0:4140"),
        // What its chart has for clusters of IPv6.
        of("[::]:4140", "[fd00::1]:20001", "[::]:4140"),
    ]
}

/// Runs one in a pod of its mesh.
fn run(backend: &str, validator: &Validator, add: bool) -> (Validated, Node, Pod) {
    let node = Node::on(backend);
    node.configure(|entry| {
        entry["mesh"] = json!(validator.mesh);
        entry["redirect"] = json!({});
    });
    let world = node.world();
    let mut pod = node.pod(&world, Shape::dual());
    let text = |pair: &(&str, &str)| (pair.0.to_owned(), pair.1.to_owned());
    pod.annotations = validator.annotations.iter().map(text).collect();
    if add {
        node.add(&pod);
    } else {
        // What ADD gives the pod besides: the source address of what the proxy passes on.
        pod.netns.ip("addr add ::6/128 dev lo\n");
    }
    let place: Place = pod.place(validator.id, validator.id);
    let came = validate(&place, &validator.validation);
    (came, node, pod)
}

#[track_caller]
fn content(validators: &[Validator]) {
    for validator in validators {
        for backend in ["ebpf", "iptables"] {
            let what = format!("{}, {backend}, to {}", validator.mesh, validator.validation.to);
            let (came, _node, _pod) = run(backend, validator, true);
            assert_eq!(came.error, None, "{what}");
            assert!(came.passed, "{what}: {came:?}");
            assert_eq!(came.met, Some(validator.meets), "{what}");
            assert_eq!(came.original, Some(validator.validation.to), "{what}");
        }
        // It is not content with anything.
        let (came, _node, _pod) = run("ebpf", validator, false);
        assert!(!came.passed, "{} without interception: {came:?}", validator.mesh);
    }
}

#[test]
fn istios_validation_container_meets_itself() {
    content(&istio());
}

#[test]
fn kumas_validation_container_meets_itself() {
    content(&kuma());
}

#[test]
fn linkerds_network_validator_meets_itself() {
    content(&linkerd());
}

/// Istio's relies on the rule about an app that calls itself, which is about the proxy's user: the app's own loopback is its own.
#[test]
fn the_app_on_its_loopback_addresses_meets_nobody() {
    for backend in ["ebpf", "iptables"] {
        for mut validator in istio() {
            validator.id = APP;
            let (came, _node, _pod) = run(backend, &validator, true);
            assert_eq!((came.passed, came.met), (false, None), "{backend}: {came:?}");
        }
    }
}
