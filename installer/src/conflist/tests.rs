use proptest::prelude::{Just, Strategy, any, prop, prop_assert_eq, prop_oneof, proptest};
use serde_json::{Value, json};

use super::{Form, Problem, parse};

const ENTRY: &str = r#"{"type":"shunt","mesh":"istio"}"#;
const OWN: [&str; 1] = ["00-shunt.conflist"];

const CALICO: &str = r#"{
  "name": "k8s-pod-network",
  "cniVersion": "1.0.0",
  "unknown": 9007199254740993,
  "plugins": [
    { "type": "calico",  "mtu": 0, "ipam": {"type": "calico-ipam"} },
    {
      "type": "portmap", "snat": true
    }
  ],
  "plugin": []
}
"#;

fn types(text: &str) -> Vec<String> {
    let list: Value = serde_json::from_str(text).expect("JSON");
    let plugins = list["plugins"].as_array().expect("plugins");
    plugins.iter().map(|plugin| plugin["type"].as_str().expect("type").to_owned()).collect()
}

#[test]
fn ours_goes_last_and_everything_else_stays() {
    let network = parse(Form::List, CALICO, &OWN).expect("valid");
    assert_eq!((network.name.as_str(), network.entries()), ("k8s-pod-network", 0));
    let ours = network.with_entry(ENTRY);
    assert_eq!(
        ours,
        CALICO.replace("\"snat\": true\n    }", &format!("\"snat\": true\n    }},\n    {ENTRY}"))
    );
    let again = parse(Form::List, &ours, &OWN).expect("valid");
    assert_eq!(again.entries(), 1);
    assert_eq!(again.with_entry(ENTRY), ours, "nothing to do");
    assert_eq!(again.without_entry(), CALICO);
    let other = again.with_entry(r#"{"type":"shunt"}"#);
    assert_eq!(other, ours.replace(ENTRY, r#"{"type":"shunt"}"#));
}

#[test]
fn wherever_ours_stands_it_comes_out() {
    let list = |plugins: &[&str]| {
        let plugins: Vec<String> =
            plugins.iter().map(|kind| format!("{{\"type\":\"{kind}\",\"n\":[1, 2]}}")).collect();
        format!("{{\"plugins\" : [ {} ]\t,\"name\":\"n\"}}", plugins.join(" , "))
    };
    for (has, bare) in [
        (&["shunt", "a"][..], &["a"][..]),
        (&["shunt", "shunt", "a"], &["a"]),
        (&["a", "shunt"], &["a"]),
        (&["a", "shunt", "b"], &["a", "b"]),
        (&["shunt", "a", "shunt", "b", "shunt"], &["a", "b"]),
        (&["a", "shunt", "shunt"], &["a"]),
    ] {
        let text = list(has);
        let network = parse(Form::List, &text, &OWN).expect("valid");
        assert_eq!(network.without_entry(), list(bare), "{has:?}");
        let mut want: Vec<String> = bare.iter().map(|kind| (*kind).to_owned()).collect();
        want.push("shunt".to_owned());
        assert_eq!(types(&network.with_entry(ENTRY)), want, "{has:?}");
    }
}

#[test]
fn a_single_plugin_becomes_a_list_of_two() {
    let text = "{ \"cniVersion\": \"0.3.1\",\n \"name\": \"multus-cni-network\", \"type\": \"multus-shim\", \"x\": 9007199254740993 }\n";
    let network = parse(Form::Single, text, &OWN).expect("valid");
    let list = network.with_entry(ENTRY);
    assert_eq!(
        list,
        format!(
            "{{\"cniVersion\":\"0.3.1\",\"name\":\"multus-cni-network\",\"plugins\":[{},{ENTRY}]}}\n",
            text.trim()
        )
    );
    assert_eq!(types(&list), ["multus-shim", "shunt"]);
    assert_eq!(parse(Form::List, &list, &OWN).expect("valid").name, "multus-cni-network");
    let no_version =
        parse(Form::Single, r#"{"name":"n","type":"t"}"#, &OWN).expect("valid").with_entry(ENTRY);
    assert_eq!(
        no_version,
        format!("{{\"name\":\"n\",\"plugins\":[{{\"name\":\"n\",\"type\":\"t\"}},{ENTRY}]}}\n")
    );
}

#[test]
fn what_runtimes_refuse() {
    let kind = |form, text: &str| parse(form, text, &OWN).expect_err("refused");
    for text in
        ["", " ", "{", "[]", "7", "{\"name\":7,\"plugins\":[]}", "{\"name\":\"n\",\"plugins\":{}}", "{}x"]
    {
        assert!(matches!(kind(Form::List, text), Problem::NotJson(_) | Problem::NoName), "{text}");
    }
    assert!(matches!(
        kind(Form::List, r#"{"name":"n","plugins":[{"type":"a"}],"plugins":[{"type":"b"}]}"#),
        Problem::NotJson(_)
    ));
    assert!(matches!(kind(Form::List, r#"{"name":"n","cniVersion":1,"plugins":[]}"#), Problem::NotJson(_)));
    assert_eq!(kind(Form::List, r#"{"plugins":[{"type":"a"}]}"#), Problem::NoName);
    assert_eq!(kind(Form::List, r#"{"name":"n"}"#), Problem::NoPlugins);
    assert_eq!(kind(Form::List, r#"{"name":"n","plugins":[]}"#), Problem::NoPlugins);
    assert_eq!(kind(Form::List, r#"{"name":"n","plugins":[{"type":"shunt"}]}"#), Problem::NoPlugins);
    assert_eq!(kind(Form::List, r#"{"name":"n","plugins":[{"type":"a"},{"kind":"b"}]}"#), Problem::NoType(1));
    assert_eq!(kind(Form::List, r#"{"name":"n","plugins":[7]}"#), Problem::NoType(0));
    assert_eq!(kind(Form::Single, CALICO), Problem::NoType(0));
    assert_eq!(kind(Form::List, &" ".repeat(super::SIZE_MAX + 1)), Problem::TooLarge);
}

#[test]
fn a_plugin_that_calls_our_list_is_seen() {
    for plugin in [
        json!({"type": "multus-shim", "clusterNetwork": "/host/etc/cni/net.d/00-shunt.conflist"}),
        json!({"type": "multus", "delegates": [{"name": "n", "plugins": [{"type": "calico"}, {"type": "shunt"}]}]}),
    ] {
        let text = json!({"name": "n", "plugins": [{"type": "a"}, plugin]}).to_string();
        assert_eq!(parse(Form::List, &text, &OWN), Err(Problem::Nested(1)));
    }
    let harmless =
        json!({"name": "n", "type": "multus", "clusterNetwork": "/etc/cni/net.d/10-calico.conflist"});
    assert!(parse(Form::Single, &harmless.to_string(), &OWN).is_ok());
}

#[test]
fn which_files_runtimes_load() {
    for (name, form) in [
        ("10-calico.conflist", Some(Form::List)),
        ("87-podman.conf", Some(Form::Single)),
        ("x.json", Some(Form::Single)),
        (".shunt.1.tmp", None),
        ("10-x.conf.shunt-saved", None),
        ("calico-kubeconfig", None),
        ("conflist", None),
    ] {
        assert_eq!(Form::of(name), form, "{name}");
    }
}

fn blank() -> impl Strategy<Value = String> {
    prop::collection::vec(prop_oneof![Just(' '), Just('\n'), Just('\t')], 0..4).prop_map(String::from_iter)
}

/// A list as an owner may write it: any white space, unknown keys, any number of plugins, ours among them or not.
fn list() -> impl Strategy<Value = (String, usize)> {
    let plugin = (any::<bool>(), blank(), 0_u64..u64::MAX).prop_map(|(ours, blank, number)| {
        let kind = if ours { "shunt" } else { "other" };
        (ours, format!("{{{blank}\"n\":{number},\"type\":{blank}\"{kind}\"}}"))
    });
    (prop::collection::vec((plugin, blank(), blank()), 0..6), blank()).prop_map(|(plugins, edge)| {
        let others = plugins.iter().filter(|((ours, _), _, _)| !ours).count();
        let text: Vec<String> =
            plugins.into_iter().map(|((_, text), before, after)| format!("{before}{text}{after}")).collect();
        (format!("{edge}{{\"plugins\":{edge}[{}]{edge},\"name\":\"n\"}}{edge}", text.join(",")), others)
    })
}

proptest! {
    #[test]
    fn once_last_and_reversible((text, others) in list()) {
        let Ok(network) = parse(Form::List, &text, &OWN) else {
            prop_assert_eq!(others, 0);
            return Ok(());
        };
        let bare = network.without_entry();
        let bare_network = parse(Form::List, &bare, &OWN).expect("still a list");
        prop_assert_eq!(bare_network.entries(), 0);
        prop_assert_eq!(types(&bare).len(), others);
        let ours = network.with_entry(ENTRY);
        let mut want = types(&bare);
        want.push("shunt".to_owned());
        prop_assert_eq!(types(&ours), want);
        let again = parse(Form::List, &ours, &OWN).expect("still a list");
        prop_assert_eq!(again.with_entry(ENTRY), ours.clone());
        prop_assert_eq!(again.without_entry(), bare.clone());
        if network.entries() == 0 {
            prop_assert_eq!(bare, text);
        }
    }

    #[test]
    fn any_text_is_answered(text in ".{0,200}") {
        let _ = parse(Form::List, &text, &OWN);
        let _ = parse(Form::Single, &text, &OWN);
    }
}
