//! Entry and annotations in, plan out.

use proptest::prelude::{prop_assert_eq, proptest};
use serde_json::{Value, json};
use shunt_api::Entry;

use super::{Decision, Reason, decide};
use crate::cni::{Annotations, PodRef};
use crate::error::{Error, Kind};
use crate::plan::Plan;
use crate::settings::Settings;

const STATUS: (&str, &str) = ("sidecar.istio.io/status", "{}");
const INTERCEPT: (&str, &str) = ("shunt-cni.io/intercept", "true");

fn settings(entry: &Value) -> Settings {
    Settings::new(Entry::from_object(entry.as_object().expect("object")).expect("well-formed"))
        .expect("valid")
}

fn in_namespace(namespace: &str, entry: &Value, pairs: &[(&str, &str)]) -> Result<Decision, Error> {
    let annotations: Annotations =
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let pod = PodRef { namespace: Some(namespace.to_owned()), ..PodRef::default() };
    decide(&pod, &annotations, &settings(entry))
}

fn plan(entry: &Value, pairs: &[(&str, &str)]) -> Plan {
    match in_namespace("shop", entry, pairs).expect("decided") {
        Decision::Intercept(plan) => *plan,
        Decision::Skip(reason) => panic!("skipped: {reason}"),
    }
}

fn custom(redirect: &Value) -> Value {
    json!({"mesh": "custom", "redirect": redirect})
}

#[test]
fn istio_by_default() {
    assert_eq!(
        serde_json::to_value(plan(&json!({}), &[STATUS])).expect("plain"),
        json!({
            "mesh": "istio", "outbound_port": 15001, "inbound_port": 15006, "exempt_uids": [1337], "exempt_gids": [1337],
            "outbound": {"cidrs": "*", "exclude_cidrs": [], "extra_ports": [], "exclude_ports": [15020],
                "exclude_uids": [], "own_addresses": false},
            "inbound": {"ports": "*", "exclude_ports": [15020, 15021, 15090], "exclude_cidrs": []},
            "exclude_interfaces": [], "tunnel_port": 15008, "self_calls": true, "before_proxy": "closed", "dns": null,
            "udp": "pass", "drop_invalid": false
        })
    );
}

#[test]
fn istio_with_everything_said() {
    let full = plan(
        &json!({}),
        &[
            STATUS,
            ("sidecar.istio.io/interceptionMode", "REDIRECT"),
            ("traffic.sidecar.istio.io/includeOutboundIPRanges", "10.96.0.0/12, fd00:96::/112"),
            ("traffic.sidecar.istio.io/excludeOutboundIPRanges", "10.96.0.1/32"),
            ("traffic.sidecar.istio.io/includeInboundPorts", "*"),
            ("traffic.sidecar.istio.io/excludeInboundPorts", "22,15020"),
            ("traffic.sidecar.istio.io/includeOutboundPorts", "3306"),
            ("traffic.sidecar.istio.io/excludeOutboundPorts", "25,587"),
            ("traffic.sidecar.istio.io/excludeInterfaces", "net1"),
        ],
    );
    let text = serde_json::to_value(&full).expect("plain");
    assert_eq!(
        text["outbound"],
        json!({"cidrs": ["10.96.0.0/12", "fd00:96::/112"], "exclude_cidrs": ["10.96.0.1/32"], "extra_ports": [3306], "exclude_ports": [25, 587],
            "exclude_uids": [], "own_addresses": false})
    );
    assert_eq!(
        text["inbound"],
        json!({"ports": "*", "exclude_ports": [22, 15020, 15021, 15090], "exclude_cidrs": []})
    );
    assert_eq!(text["exclude_interfaces"], json!(["net1"]));
    assert_eq!(serde_json::from_value::<Plan>(text).expect("as written"), full);
}

#[test]
fn istio_excluded_inbound_ports_count_only_when_all_are_included() {
    const INCLUDE: &str = "traffic.sidecar.istio.io/includeInboundPorts";
    const EXCLUDE: &str = "traffic.sidecar.istio.io/excludeInboundPorts";
    let inbound = |entry: &Value, pairs: &[(&str, &str)]| {
        let pairs: Vec<_> = std::iter::once(STATUS).chain(pairs.iter().copied()).collect();
        serde_json::to_value(plan(entry, &pairs).inbound).expect("plain")
    };
    let none = json!({});
    assert_eq!(
        inbound(&none, &[(INCLUDE, "80,81"), (EXCLUDE, "80")]),
        json!({"ports": [80, 81], "exclude_ports": [], "exclude_cidrs": []})
    );
    assert_eq!(
        inbound(&none, &[(INCLUDE, "")]),
        json!({"ports": [], "exclude_ports": [], "exclude_cidrs": []})
    );
    // In our words they count always, and take the place of Istio's.
    let own = [(INCLUDE, "80-89"), (EXCLUDE, "80"), ("shunt-cni.io/exclude-inbound-ports", "81")];
    assert_eq!(inbound(&none, &own), json!({"ports": ["80-89"], "exclude_ports": [81], "exclude_cidrs": []}));
    let entry = json!({"redirect": {"excludeInboundPorts": [82]}});
    assert_eq!(inbound(&entry, &[(INCLUDE, "80-89")])["exclude_ports"], json!([82]));
    assert_eq!(inbound(&entry, &[(INCLUDE, "80-89"), (EXCLUDE, "80")])["exclude_ports"], json!([]));
}

#[test]
fn istio_no_outbound_at_all() {
    let text = serde_json::to_value(plan(
        &json!({}),
        &[STATUS, ("traffic.sidecar.istio.io/includeOutboundIPRanges", "")],
    ))
    .expect("plain");
    assert_eq!(text["outbound"]["cidrs"], json!([]));
}

#[test]
fn precedence() {
    const OWN: (&str, &str) = ("shunt-cni.io/exclude-outbound-ports", "1");
    const MESH: (&str, &str) = ("traffic.sidecar.istio.io/excludeOutboundPorts", "2");
    let entry = json!({"redirect": {"excludeOutboundPorts": [3, "30-39"]}});
    let ports = |entry: &Value, pairs: &[(&str, &str)]| {
        serde_json::to_value(plan(entry, pairs).outbound.exclude_ports).expect("plain")
    };
    assert_eq!(ports(&entry, &[STATUS, OWN, MESH]), json!([1]));
    assert_eq!(ports(&entry, &[STATUS, MESH]), json!([2]));
    assert_eq!(ports(&entry, &[STATUS]), json!([3, "30-39"]));
    assert_eq!(ports(&json!({}), &[STATUS]), json!([15020]));
    // An empty list replaces too.
    assert_eq!(ports(&entry, &[STATUS, MESH, ("shunt-cni.io/exclude-outbound-ports", "")]), json!([]));
    // Key by key: one that is set does not hide another.
    let ids = plan(&json!({"redirect": {"proxyUids": [7]}}), &[STATUS, ("shunt-cni.io/outbound-port", "9")]);
    assert_eq!(
        (ids.exempt_uids, ids.exempt_gids, ids.outbound_port, ids.inbound_port),
        (vec![7], vec![1337], 9, 15006)
    );
}

#[test]
fn custom_needs_to_be_described() {
    for (redirect, key) in [
        (json!({}), "redirect.outboundPort"),
        (json!({"outboundPort": 1}), "redirect.inboundPort"),
        (json!({"outboundPort": 1, "inboundPort": 2}), "redirect.proxyUids"),
        (json!({"outboundPort": 1, "inboundPort": 1, "proxyUids": [3]}), "redirect.inboundPort"),
        (json!({"outboundPort": 1, "inboundPort": 2, "proxyUids": []}), "redirect.proxyUids"),
    ] {
        let error = in_namespace("shop", &custom(&redirect), &[INTERCEPT]).expect_err("refused");
        assert_eq!(error.kind(), Kind::Config);
        assert!(error.details().contains(key), "{redirect}: {}", error.details());
    }
    let entry = custom(&json!({"outboundPort": 1, "inboundPort": 2, "proxyGids": [3]}));
    assert_eq!(
        serde_json::to_value(plan(&entry, &[INTERCEPT])).expect("plain"),
        json!({
            "mesh": "custom", "outbound_port": 1, "inbound_port": 2, "exempt_uids": [], "exempt_gids": [3],
            "outbound": {"cidrs": "*", "exclude_cidrs": [], "extra_ports": [], "exclude_ports": [],
                "exclude_uids": [], "own_addresses": false},
            "inbound": {"ports": "*", "exclude_ports": [], "exclude_cidrs": []},
            "exclude_interfaces": [], "tunnel_port": null, "self_calls": true, "before_proxy": "closed", "dns": null,
            "udp": "pass", "drop_invalid": false
        })
    );
    // What the entry leaves open, a pod may say.
    let said = [
        INTERCEPT,
        ("shunt-cni.io/outbound-port", "4"),
        ("shunt-cni.io/inbound-port", "5"),
        ("shunt-cni.io/proxy-uids", "6"),
    ];
    assert_eq!(plan(&custom(&json!({})), &said).exempt_uids, [6]);
}

#[test]
fn who_is_skipped() {
    let entry = custom(&json!({"outboundPort": 1, "inboundPort": 2, "proxyUids": [3]}));
    let skip =
        |namespace: &str, entry: &Value, pairs: &[(&str, &str)]| match in_namespace(namespace, entry, pairs)
            .expect("decided")
        {
            Decision::Skip(reason) => Some(reason),
            Decision::Intercept(_) => None,
        };
    let key = INTERCEPT.0;
    assert_eq!(skip("shop", &entry, &[INTERCEPT]), None);
    assert_eq!(skip("shop", &entry, &[]), Some(Reason::NotMarked { key }));
    assert_eq!(skip("shop", &entry, &[(key, "false")]), Some(Reason::OptedOut { key }));
    let namespace = "kube-system".to_owned();
    assert_eq!(skip("kube-system", &entry, &[(key, "odd")]), Some(Reason::NamespaceExcluded { namespace }));
    let mut all = entry.clone();
    all["select"] = json!("all");
    assert_eq!(skip("shop", &all, &[]), None);
    assert_eq!(skip("shop", &all, &[(key, "false")]), None);
    assert!(skip("kube-system", &all, &[]).is_some());
    assert_eq!(skip("shop", &json!({"select": "all"}), &[("sidecar.istio.io/inject", "false")]), None);
    for value in ["", "True", "yes", "1"] {
        let error = in_namespace("shop", &entry, &[(key, value)]).expect_err("refused");
        assert!(error.details().contains(key) && error.details().contains(&format!("{value:?}")));
    }
}

#[test]
fn who_is_not_meshed_does_not_suffer() {
    for pairs in [
        &[("shunt-cni.io/outbound-port", "x")][..],
        &[("shunt-cni.io/nonsense", "")],
        &[("sidecar.istio.io/interceptionMode", "TPROXY")],
    ] {
        assert!(matches!(in_namespace("shop", &json!({}), pairs), Ok(Decision::Skip(_))), "{pairs:?}");
        let marked: Vec<_> = std::iter::once(STATUS).chain(pairs.iter().copied()).collect();
        assert!(in_namespace("shop", &json!({}), &marked).is_err(), "{pairs:?}");
    }
}

proptest! {
    #[test]
    fn a_plan_survives_the_record(
        ports in proptest::collection::vec((1_u16.., 0_u16..100), 0..20),
        prefix in 0_u8..=32, address: [u8; 4], all: bool,
    ) {
        let ports: Vec<String> = ports.iter().map(|(first, more)| format!("{first}-{}", first.saturating_add(*more))).collect();
        let network = format!("{}/{prefix}", std::net::Ipv4Addr::from(address));
        let include = if all { "*".to_owned() } else { network.clone() };
        let plan = plan(&json!({}), &[
            STATUS,
            ("shunt-cni.io/exclude-outbound-ports", &ports.join(",")),
            ("shunt-cni.io/exclude-inbound-cidrs", &network),
            ("shunt-cni.io/include-outbound-cidrs", &include),
        ]);
        let text = serde_json::to_string(&plan).expect("plain");
        prop_assert_eq!(serde_json::from_str::<Plan>(&text).expect("as written"), plan);
    }
}
