//! The tables of all meshes against what they do.

mod injected;

use proptest::prelude::{prop_assert, proptest};
use serde_json::{Value, json};
use shunt_api::{Entry, Mesh};

use super::key::{Act, FieldAct};
use super::table::{Row, counted, page};
use super::{Profile, of};
use crate::cni::{Annotations, PodRef};
use crate::error::{Error, Kind};
use crate::plan::Plan;
use crate::policy::{Decision, decide};
use crate::settings::Settings;

fn settings(entry: &Value) -> Settings {
    Settings::new(Entry::from_object(entry.as_object().expect("object")).expect("well-formed"))
        .expect("valid")
}

fn annotations(pairs: &[(&str, &str)]) -> Annotations {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// What a meshed pod carries and nothing more.
fn base(profile: &Profile) -> Annotations {
    annotations(profile.page.base)
}

fn decided(mesh: Mesh, annotations: &Annotations) -> Result<Decision, Error> {
    decide(&PodRef::default(), annotations, &settings(&json!({"mesh": mesh.as_str()})))
}

fn planned(mesh: Mesh, annotations: &Annotations) -> Result<Plan, Error> {
    match decided(mesh, annotations)? {
        Decision::Intercept(plan) => Ok(*plan),
        Decision::Skip(reason) => panic!("{mesh} skipped: {reason}"),
    }
}

fn with(before: &Annotations, key: &str, value: &str) -> Annotations {
    let mut after = before.clone();
    after.insert(key.to_owned(), value.to_owned());
    after
}

fn without(before: &Annotations, key: &str) -> Annotations {
    let mut after = before.clone();
    after.remove(key);
    after
}

/// A document with `value` at `path`, in JSON.
fn document(path: &str, value: &str) -> String {
    path.rsplit('.').fold(json!(value), |inner, name| json!({name: inner})).to_string()
}

/// `sample` is refused as one that cannot be served, and the error names `names`.
fn refused(mesh: Mesh, key: &str, sample: &str, names: &str) {
    let error = planned(mesh, &with(&base(of(mesh)), key, sample)).expect_err(sample);
    assert_eq!(error.kind(), Kind::Unsupported, "{mesh} {key} {sample}");
    assert!(error.details().contains(key) && error.details().contains(names), "{}", error.details());
}

/// `sample` changes what the pod gets.
fn changes(mesh: Mesh, key: &str, sample: &str) {
    let base = base(of(mesh));
    let before = planned(mesh, &base).expect("base");
    let after =
        planned(mesh, &with(&base, key, sample)).unwrap_or_else(|error| panic!("{key}: {}", error.details()));
    assert_ne!(before, after, "{mesh} {key} {sample}");
}

/// The key decides whether the pod is meshed: put, taken away, or in place of another one.
fn marks(mesh: Mesh, key: &str, sample: &str, all: &[&str]) {
    let base = base(of(mesh));
    let differ = |before: &Annotations| {
        let skipped = |annotations: &Annotations| matches!(decided(mesh, annotations), Ok(Decision::Skip(_)));
        skipped(before) != skipped(&with(before, key, sample))
            || skipped(before) != skipped(&without(before, key))
    };
    assert!(differ(&base) || all.iter().any(|other| differ(&without(&base, other))), "{mesh} {key} {sample}");
}

#[test]
fn every_row_does_what_it_says() {
    for mesh in Mesh::ALL {
        let profile = of(*mesh);
        let names: Vec<&str> = profile.keys.iter().map(|key| key.name).collect();
        for key in profile.keys {
            let Row { sample, but, .. } = key.row;
            match &key.act {
                Act::Marks => marks(*mesh, key.name, sample, &names),
                Act::Sets(_) => changes(*mesh, key.name, sample),
                Act::Refused(_) => refused(*mesh, key.name, sample, sample),
                Act::Holds(_, fields) => {
                    changes(*mesh, key.name, sample);
                    for field in *fields {
                        match field.act {
                            FieldAct::Marks => marks(*mesh, key.name, field.row.sample, &names),
                            FieldAct::Sets(_) => changes(*mesh, key.name, field.row.sample),
                            FieldAct::Refused(_) => refused(*mesh, key.name, field.row.sample, field.path),
                        }
                        if !field.row.but.is_empty() {
                            refused(*mesh, key.name, field.row.but, field.path);
                        }
                    }
                }
            }
            if !but.is_empty() {
                refused(*mesh, key.name, but, but);
            }
        }
    }
}

#[test]
fn what_does_not_concern_us_changes_nothing() {
    for mesh in Mesh::ALL {
        let profile = of(*mesh);
        let base = base(profile);
        let before = planned(*mesh, &base).expect("base");
        for other in profile.page.others {
            for key in other.keys {
                assert_eq!(
                    planned(*mesh, &with(&base, key, other.sample)).expect(key),
                    before,
                    "{mesh} {key}"
                );
            }
        }
        for fields in profile.page.other_fields {
            for path in fields.paths {
                // Beside nothing: the document that says nothing is not the base's.
                let nothing = planned(*mesh, &with(&base, fields.key, "{}")).expect("empty document");
                let text = document(path, fields.sample);
                assert_eq!(
                    planned(*mesh, &with(&base, fields.key, &text)).expect(path),
                    nothing,
                    "{mesh} {path}"
                );
            }
        }
    }
}

#[test]
fn each_key_has_one_row() {
    for mesh in Mesh::ALL {
        let profile = of(*mesh);
        let mut names: Vec<String> = profile.keys.iter().map(|key| key.name.to_owned()).collect();
        names.extend(profile.page.others.iter().flat_map(|other| other.keys).map(|key| (*key).to_owned()));
        for key in profile.keys {
            if let Act::Holds(_, fields) = &key.act {
                names.extend(fields.iter().map(|field| format!("{} {}", key.name, field.path)));
            }
        }
        for fields in profile.page.other_fields {
            names.extend(fields.paths.iter().map(|path| format!("{} {path}", fields.key)));
        }
        let total = names.len();
        names.sort();
        names.dedup();
        let count = counted(*mesh);
        assert_eq!(names.len(), total, "{mesh}");
        assert_eq!(count.honoured + count.in_part + count.refused + count.other, total, "{mesh}");
    }
}

#[test]
fn the_page_is_what_the_tables_say() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../conf/meshes.md");
    let page = page();
    if std::env::var_os("SHUNT_BLESS").is_some() {
        std::fs::write(path, &page).expect("conf/meshes.md is written");
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        written == page,
        "conf/meshes.md is not what the tables say: SHUNT_BLESS=1 conf/cargo.sh test -p shunt --lib the_page"
    );
}

/// Which key says no, per mesh.
const NO: [(Mesh, &str, &str); 8] = [
    (Mesh::Istio, "sidecar.istio.io/inject", "false"),
    (Mesh::Linkerd, "linkerd.io/inject", "disabled"),
    (Mesh::Kuma, "kuma.io/sidecar-injected", "false"),
    (Mesh::Consul, "consul.hashicorp.com/transparent-proxy", "false"),
    (Mesh::Osm, "openservicemesh.io/sidecar-injection", "disabled"),
    (Mesh::Fsm, "flomesh.io/sidecar-injection", "disabled"),
    (Mesh::Appmesh, "appmesh.k8s.aws/sidecarInjectorWebhook", "disabled"),
    (Mesh::Custom, "shunt-cni.io/intercept", "false"),
];

#[test]
fn a_pod_may_not_opt_out_under_all() {
    for (mesh, key, no) in NO {
        let says_no = with(&base(of(mesh)), key, no);
        assert!(matches!(decided(mesh, &says_no), Ok(Decision::Skip(_))), "{mesh}");
        let own = [
            ("shunt-cni.io/outbound-port", "1"),
            ("shunt-cni.io/inbound-port", "2"),
            ("shunt-cni.io/proxy-uids", "3"),
        ];
        let mut all = json!({"mesh": mesh.as_str(), "select": "all", "excludeNamespaces": ["calm"]});
        for pod in [says_no, annotations(&own), with(&annotations(&own), key, no)] {
            let decision = decide(&PodRef::default(), &pod, &settings(&all));
            assert!(matches!(decision, Ok(Decision::Intercept(_))), "{mesh} {decision:?}");
            let calm = PodRef { namespace: Some("calm".to_owned()), ..PodRef::default() };
            assert!(matches!(decide(&calm, &pod, &settings(&all)), Ok(Decision::Skip(_))), "{mesh}");
        }
        all["select"] = json!("annotated");
        let decision = decide(&PodRef::default(), &annotations(&own), &settings(&all));
        assert!(matches!(decision, Ok(Decision::Skip(_))), "{mesh}");
    }
}

/// An annotation of each mesh for the app's excluded ports.
const EXCLUDED: [(Mesh, &str); 6] = [
    (Mesh::Istio, "traffic.sidecar.istio.io/excludeOutboundPorts"),
    (Mesh::Linkerd, "config.linkerd.io/skip-outbound-ports"),
    (Mesh::Kuma, "traffic.kuma.io/exclude-outbound-ports"),
    (Mesh::Consul, "consul.hashicorp.com/transparent-proxy-exclude-outbound-ports"),
    (Mesh::Osm, "openservicemesh.io/outbound-port-exclusion-list"),
    (Mesh::Appmesh, "appmesh.k8s.aws/egressIgnoredPorts"),
];

#[test]
fn precedence_under_every_mesh() {
    for (mesh, theirs) in EXCLUDED {
        let entry = json!({"mesh": mesh.as_str(), "redirect": {"excludeOutboundPorts": [3]}});
        let ports = |pod: &Annotations, entry: &Value| match decide(&PodRef::default(), pod, &settings(entry))
            .expect("decided")
        {
            Decision::Intercept(plan) => serde_json::to_value(plan.outbound.exclude_ports).expect("plain"),
            Decision::Skip(reason) => panic!("{reason}"),
        };
        let said = with(&base(of(mesh)), theirs, "2");
        let both = with(&said, "shunt-cni.io/exclude-outbound-ports", "1");
        assert_eq!(ports(&both, &entry), json!([1]), "{mesh}");
        assert_eq!(ports(&said, &entry), json!([2]), "{mesh}");
        assert_eq!(ports(&without(&base(of(mesh)), theirs), &entry), json!([3]), "{mesh}");
    }
}

/// Our own annotations, under every mesh.
#[test]
fn own_annotations_under_every_mesh() {
    for mesh in Mesh::ALL {
        let mut pod = base(of(*mesh));
        for (key, value) in [
            ("outbound-port", "21001"),
            ("inbound-port", "21002"),
            ("dns-port", "21003"),
            ("proxy-uids", "21"),
            ("proxy-gids", "22"),
            ("include-outbound-cidrs", "10.0.0.0/8"),
            ("exclude-outbound-cidrs", "10.1.0.0/16"),
            ("include-outbound-ports", "80"),
            ("exclude-outbound-ports", "81"),
            ("include-inbound-ports", "82"),
            ("exclude-inbound-ports", "83"),
            ("exclude-inbound-cidrs", "10.2.0.0/16"),
            ("exclude-interfaces", "net1"),
        ] {
            pod.insert(format!("shunt-cni.io/{key}"), value.to_owned());
        }
        let entry = json!({"mesh": mesh.as_str(), "captureDns": true});
        let Ok(Decision::Intercept(plan)) = decide(&PodRef::default(), &pod, &settings(&entry)) else {
            panic!("{mesh}");
        };
        assert_eq!((plan.outbound_port, plan.inbound_port), (21001, 21002), "{mesh}");
        assert_eq!((plan.exempt_uids, plan.exempt_gids), (vec![21], vec![22]), "{mesh}");
        if let Some(dns) = plan.dns {
            assert_eq!(dns.port, 21003, "{mesh}");
        }
        let text =
            serde_json::to_value((plan.outbound, plan.inbound, plan.exclude_interfaces)).expect("plain");
        assert_eq!(text[0]["cidrs"], json!(["10.0.0.0/8"]), "{mesh}");
        assert_eq!(text[0]["exclude_cidrs"], json!(["10.1.0.0/16"]), "{mesh}");
        assert_eq!(text[0]["extra_ports"], json!([80]), "{mesh}");
        assert_eq!(text[0]["exclude_ports"], json!([81]), "{mesh}");
        assert_eq!(text[1]["ports"], json!([82]), "{mesh}");
        assert_eq!(text[1]["exclude_ports"][0], json!(83), "{mesh}");
        assert_eq!(text[1]["exclude_cidrs"], json!(["10.2.0.0/16"]), "{mesh}");
        assert_eq!(text[2], json!(["net1"]), "{mesh}");
    }
}

/// Something of everything that stands in the tables, and garbage.
const VALUE: &str = "([0-9]{1,6}|true|false|enabled|10\\.0\\.0\\.0/8|fd00::/8|[-,:;.*/&\\[\\]{}\"'|>#%@`\\n ]|redirect|dns|[a-z]{1,4}|.){0,16}";

proptest! {
    #[test]
    fn any_value_of_any_key_is_answered(mesh in 0..Mesh::ALL.len(), which: usize, value in VALUE) {
        let mesh = Mesh::ALL[mesh];
        let profile = of(mesh);
        if profile.keys.is_empty() {
            return Ok(());
        }
        let key = &profile.keys[which % profile.keys.len()];
        for select in ["annotated", "all"] {
            let entry = json!({"mesh": mesh.as_str(), "select": select});
            match decide(&PodRef::default(), &with(&base(profile), key.name, &value), &settings(&entry)) {
                Ok(_) => {}
                Err(error) => {
                    prop_assert!(matches!(error.kind(), Kind::Config | Kind::Unsupported));
                    prop_assert!(error.details().contains(key.name), "{}", error.details());
                }
            }
        }
    }

    #[test]
    fn any_value_in_a_document_is_answered(which: usize, value in VALUE, quoted: bool) {
        for mesh in [Mesh::Istio, Mesh::Kuma, Mesh::Consul] {
            let profile = of(mesh);
            let (key, fields) = profile.keys.iter().find_map(|key| match &key.act {
                Act::Holds(_, fields) => Some((key.name, *fields)),
                _ => None,
            }).expect("a document");
            let field = &fields[which % fields.len()];
            let raw = document(field.path, "\u{0}").replace("\"\\u0000\"", &value);
            let text = if quoted { document(field.path, &value) } else { raw };
            if let Err(error) = decided(mesh, &with(&base(profile), key, &text)) {
                prop_assert!(error.details().contains(key), "{}", error.details());
                // Or what is missing beside it: Kuma's `captureAll`, while DNS is captured.
                let beside = field.path.rsplit_once('.').map_or(field.path, |(holder, _)| holder);
                prop_assert!(!quoted || error.details().contains(beside), "{}", error.details());
            }
        }
    }
}
