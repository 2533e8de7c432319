//! Every value's source is who really set it.

use std::collections::BTreeSet;

use proptest::prelude::{prop_assert, prop_assert_eq, proptest};
use proptest::sample::subsequence;
use serde_json::{Value, json};
use shunt_api::{Entry, Mesh, Redirect};

use super::{Origin, Source, Sourced, Told, annotation, concerning, marker, parts, told};
use crate::annotation::own;
use crate::cni::{Annotations, PodRef};
use crate::error::Error;
use crate::plan::Plan;
use crate::policy::{Decision, Layer, decide};
use crate::profile::key::Act;
use crate::profile::of;
use crate::settings::Settings;

fn settings(entry: &Value) -> Settings {
    let object = entry.as_object().expect("object");
    Settings::new(Entry::from_object(object).expect("well-formed")).expect("valid")
}

fn annotations(pairs: &[(&str, &str)]) -> Annotations {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn about(entry: &Value, annotations: &Annotations) -> Result<Told, Error> {
    told(&PodRef::default(), annotations, &settings(entry))
}

/// A value in words: what it is, and who said which part of it.
fn line(values: &[Sourced], key: &str) -> String {
    let value = values.iter().find(|value| value.key == key).unwrap_or_else(|| panic!("{key}"));
    let part = |origin: &Origin| match &origin.items {
        Some(items) => format!("{}: {}", origin.source, json!(items)),
        None => origin.source.to_string(),
    };
    let parts: Vec<String> = value.from.iter().map(part).collect();
    format!("{}; {}", value.value, parts.join("; "))
}

const STATUS: (&str, &str) = ("sidecar.istio.io/status", "{}");

#[test]
fn who_said_what() {
    const CONFIG: &str = "traffic.kuma.io/transparent-proxy-config";
    let kuma = [("kuma.io/sidecar-injected", "true"), (CONFIG, "{redirect: {outbound: {port: 15002}}}")];
    for (entry, pairs, key, wanted) in [
        (json!({}), &[STATUS][..], "outboundPort", "15001; mesh istio"),
        (json!({}), &[STATUS], "mesh", "\"istio\"; default of mesh"),
        (json!({}), &[STATUS], "includeOutboundCidrs", "\"*\"; mesh istio"),
        (json!({}), &[STATUS], "captureDns", "false; default of captureDns"),
        (json!({"captureDns": true}), &[STATUS], "captureDns", "true; entry, captureDns"),
        (json!({"captureDns": true}), &[STATUS], "dnsPort", "15053; mesh istio"),
        (
            json!({}),
            &[STATUS, ("proxy.istio.io/config", "proxyMetadata: {ISTIO_META_DNS_CAPTURE: \"true\"}")],
            "captureDns",
            "true; annotation proxy.istio.io/config, proxyMetadata.ISTIO_META_DNS_CAPTURE",
        ),
        (json!({"udp": "block"}), &[STATUS], "udp", "\"block\"; entry, udp"),
        (
            json!({"redirect": {"excludeOutboundPorts": [3]}}),
            &[STATUS],
            "excludeOutboundPorts",
            "[3]; entry, redirect.excludeOutboundPorts",
        ),
        (
            json!({"redirect": {"excludeOutboundPorts": [3]}}),
            &[STATUS, ("traffic.sidecar.istio.io/excludeOutboundPorts", "2")],
            "excludeOutboundPorts",
            "[2]; annotation traffic.sidecar.istio.io/excludeOutboundPorts",
        ),
        (
            json!({}),
            &[
                STATUS,
                ("traffic.sidecar.istio.io/excludeOutboundPorts", "2"),
                ("shunt-cni.io/exclude-outbound-ports", ""),
            ],
            "excludeOutboundPorts",
            "[]; annotation shunt-cni.io/exclude-outbound-ports",
        ),
        // Items have sources of their own.
        (
            json!({}),
            &[STATUS, ("traffic.sidecar.istio.io/excludeInboundPorts", "22,15020")],
            "excludeInboundPorts",
            "[22,15020,15021,15090]; annotation traffic.sidecar.istio.io/excludeInboundPorts: [22,15020]; mesh istio: [15021,15090]",
        ),
        // What is included beats what is excluded.
        (
            json!({}),
            &[
                STATUS,
                ("traffic.sidecar.istio.io/includeInboundPorts", "80"),
                ("traffic.sidecar.istio.io/excludeInboundPorts", "80"),
            ],
            "excludeInboundPorts",
            "[]; annotation traffic.sidecar.istio.io/includeInboundPorts",
        ),
        (
            json!({"mesh": "kuma"}),
            &kuma,
            "outboundPort",
            "15002; annotation traffic.kuma.io/transparent-proxy-config, redirect.outbound.port",
        ),
        (
            json!({"mesh": "kuma"}),
            &[kuma[0], kuma[1], ("kuma.io/transparent-proxying-ip-family-mode", "ipv4")],
            "excludeInboundCidrs",
            "[\"::/0\"]; annotation kuma.io/transparent-proxying-ip-family-mode",
        ),
        (json!({"mesh": "kuma"}), &kuma, "mesh", "\"kuma\"; entry, mesh"),
    ] {
        let told = about(&entry, &annotations(pairs)).expect("decided");
        assert_eq!(line(&told.values, key), wanted, "{entry} {pairs:?}");
    }
}

#[test]
fn why_a_pod_is_or_is_not() {
    let because = |entry: &Value, pairs: &[(&str, &str)]| {
        let told = about(entry, &annotations(pairs)).expect("decided");
        (told.because.code, told.because.key)
    };
    let both = |code: &str, key: &str| (code.to_owned(), key.to_owned());
    assert_eq!(because(&json!({}), &[STATUS]), both("marked", STATUS.0));
    assert_eq!(because(&json!({}), &[]), both("no-marker", STATUS.0));
    assert_eq!(because(&json!({"select": "all"}), &[]), both("select-all", "select"));
    let init = (STATUS.0, r#"{"initContainers":["istio-init"]}"#);
    assert_eq!(because(&json!({}), &[init]), both("own-rules", STATUS.0));
    let pod = PodRef { namespace: Some("kube-system".to_owned()), ..PodRef::default() };
    let told = told(&pod, &annotations(&[STATUS]), &settings(&json!({}))).expect("decided");
    assert_eq!(
        (told.because.code.as_str(), told.because.key.as_str()),
        ("namespace-excluded", "excludeNamespaces")
    );
}

#[test]
fn every_mesh_has_a_marker() {
    for mesh in Mesh::ALL {
        assert!(marker(*mesh).contains('/'), "{mesh}");
    }
}

/// The names are made of each other; the tables have them one by one.
#[test]
fn every_key_has_the_annotation_it_is_said_to_have() {
    let all: Redirect = serde_json::from_value(json!({
        "outboundPort": 1, "inboundPort": 2, "dnsPort": 3, "proxyUids": [], "proxyGids": [], "includeOutboundCidrs": [],
        "excludeOutboundCidrs": [], "includeOutboundPorts": [], "excludeOutboundPorts": [], "includeInboundPorts": [],
        "excludeInboundPorts": [], "excludeInboundCidrs": [], "excludeInterfaces": [],
    }))
    .expect("every key");
    let keys = parts(&Layer::from(all));
    assert_eq!(keys.len(), 13);
    for (key, _) in keys {
        let name = annotation(&key);
        let value = if key.ends_with("Port") { "7" } else { "" };
        let said =
            own(&annotations(&[(&name, value)]), None).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(parts(&Layer::from(said)).keys().collect::<Vec<_>>(), [&key], "{name}");
    }
}

/// Everything that a pod of a mesh can say, each once, with the document split into its keys.
fn sayable(mesh: Mesh) -> Vec<(String, String)> {
    let mut said = Vec::new();
    for key in of(mesh).keys {
        match &key.act {
            Act::Sets(_) => said.push((key.name.to_owned(), key.row.sample.to_owned())),
            Act::Holds(_, fields) => {
                said.extend(fields.iter().map(|field| (key.name.to_owned(), field.row.sample.to_owned())));
            }
            Act::Marks | Act::Refused(_) => {}
        }
    }
    for (key, value) in [
        ("outbound-port", "15101"),
        ("proxy-uids", "1400"),
        ("exclude-outbound-cidrs", "10.8.0.0/16,fd08::/16"),
        ("exclude-inbound-ports", "23"),
        ("include-inbound-ports", "80-90"),
        ("exclude-inbound-cidrs", ""),
    ] {
        said.push((format!("shunt-cni.io/{key}"), value.to_owned()));
    }
    said
}

fn plan_of(told: &Told) -> &Plan {
    match &told.decision {
        Decision::Intercept(plan) => plan,
        Decision::Skip(reason) => panic!("selected: {reason}"),
    }
}

/// Annotations that are said to be the source of something.
fn named(values: &[Sourced]) -> BTreeSet<String> {
    let origins = values.iter().flat_map(|value| &value.from);
    let name = |source: &Source| match source {
        Source::Annotation { key } => Some(key.clone()),
        Source::MeshAnnotation { key, .. } => Some((*key).to_owned()),
        _ => None,
    };
    origins.filter_map(|origin| name(&origin.source)).collect()
}

proptest! {
    /// Without its source a value is another, or has another source; without what is nobody's source nothing changes; and
    /// who tells decides as who only decides.
    #[test]
    fn a_source_is_who_really_set_it(
        mesh in subsequence(Mesh::ALL, 1), picks in subsequence((0..40).collect::<Vec<usize>>(), 0..8),
        in_entry: bool,
    ) {
        let mesh = mesh[0];
        let said = sayable(mesh);
        let mut annotations = annotations(of(mesh).page.base);
        for pick in picks {
            if let Some((key, value)) = said.get(pick) {
                annotations.insert(key.clone(), value.clone());
            }
        }
        let redirect = if in_entry {
            json!({"excludeOutboundCidrs": ["10.7.0.0/16"], "includeInboundPorts": [81, 82], "inboundPort": 15106,
                "outboundPort": 15105, "proxyUids": [7]})
        } else if mesh == Mesh::Custom {
            json!({"inboundPort": 15106, "outboundPort": 15105, "proxyUids": [7]})
        } else {
            json!({})
        };
        let entry = json!({"mesh": mesh.as_str(), "select": "all", "redirect": redirect});
        // Not every pick goes with every other.
        let Ok(told) = about(&entry, &annotations) else { return Ok(()) };
        let decided = decide(&PodRef::default(), &annotations, &settings(&entry)).expect("as told");
        prop_assert_eq!(&decided, &told.decision);
        for value in &told.values {
            prop_assert!(!value.from.is_empty(), "{}", value.key);
            let items: Vec<Value> = value.from.iter().filter_map(|origin| origin.items.clone()).flatten().collect();
            if value.from.len() > 1 {
                let all: BTreeSet<String> = items.iter().map(Value::to_string).collect();
                let wanted: BTreeSet<String> = value.value.as_array().expect("a list").iter().map(Value::to_string).collect();
                prop_assert_eq!(all, wanted, "{}", value.key);
            }
        }
        let named = named(&told.values);
        for name in annotations.keys() {
            let mut without = annotations.clone();
            without.remove(name);
            let Ok(other) = about(&entry, &without) else { continue };
            if named.contains(name) {
                for value in told.values.iter().filter(|value| self::named(std::slice::from_ref(value)).contains(name)) {
                    let then = other.values.iter().find(|other| other.key == value.key);
                    prop_assert!(then != Some(value), "{} without {name}", value.key);
                }
            } else {
                prop_assert_eq!(plan_of(&other), plan_of(&told), "without {}", name);
            }
        }
        // What concerns us is all that decides.
        let narrowed = about(&entry, &concerning(mesh, &annotations)).expect("as before");
        prop_assert_eq!(narrowed, told);
    }

    /// The same of the entry, key by key.
    #[test]
    fn a_key_of_the_entry_is_who_really_set_it(picks in subsequence(vec![0, 1, 2, 3, 4, 5, 6], 0..7)) {
        let all = [
            ("outboundPort", json!(15105)), ("proxyGids", json!([9])), ("excludeOutboundPorts", json!([3, "30-39"])),
            ("includeOutboundCidrs", json!(["10.0.0.0/8"])), ("excludeInboundPorts", json!([24])),
            ("excludeInterfaces", json!(["net1"])), ("includeInboundPorts", json!("*")),
        ];
        let redirect: serde_json::Map<String, Value> =
            picks.into_iter().map(|pick| (all[pick].0.to_owned(), all[pick].1.clone())).collect();
        let marked = annotations(&[STATUS]);
        let told = about(&json!({"redirect": redirect}), &marked).expect("decided");
        for key in redirect.keys() {
            let mut without = redirect.clone();
            without.remove(key);
            let other = about(&json!({"redirect": without}), &marked).expect("decided");
            let of = |told: &Told| told.values.iter().find(|value| value.key == key).cloned().expect("a key of the plan");
            let source = Source::Entry { key: format!("redirect.{key}") };
            prop_assert!(of(&told).from.iter().any(|origin| origin.source == source), "{key}");
            prop_assert!(of(&told) != of(&other), "{key}");
        }
    }
}
