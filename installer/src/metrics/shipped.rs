//! The dashboard and the alert rules that are shipped speak of what is printed, and of nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use promql_parser::label::Matchers;
use promql_parser::parser::{self, Expr};
use serde_json::Value;
use shunt_api::report::{Calls, Report};

use super::{Snapshot, text};
use crate::install::Counts;

/// Labels that who scrapes adds.
const ADDED: [&str; 2] = ["instance", "node"];

/// Each series that is printed, with the names of its labels.
fn printed() -> BTreeMap<String, BTreeSet<String>> {
    let calls = Calls { command: "ADD".to_owned(), count: 1, ..Calls::default() };
    let one = || [("x".to_owned(), 1)].into();
    let report =
        Report { calls: vec![calls], skipped: one(), failed: one(), decisions: one(), ..Report::default() };
    let mut counts = Counts::default();
    counts.writes.insert(("list", "primary"), 1);
    let text = text(Snapshot { counts, report: Some(report), ..Snapshot::default() }).expect("encoded");
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, _value) = line.rsplit_once(' ').expect("a value");
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let names =
            labels.split(',').filter_map(|label| label.split_once('=')).map(|(name, _)| name.to_owned());
        found.entry(name.to_owned()).or_default().extend(names);
    }
    found
}

/// Every series an expression names, with the labels it selects by.
fn selected(expression: &Expr, into: &mut Vec<(String, Vec<String>)>) {
    let selector = |name: Option<&String>, matchers: &Matchers| {
        let labels = matchers.matchers.iter().map(|matcher| matcher.name.clone()).collect();
        (name.cloned().unwrap_or_default(), labels)
    };
    match expression {
        Expr::Aggregate(it) => selected(&it.expr, into),
        Expr::Unary(it) => selected(&it.expr, into),
        Expr::Binary(it) => {
            selected(&it.lhs, into);
            selected(&it.rhs, into);
        }
        Expr::Paren(it) => selected(&it.expr, into),
        Expr::Subquery(it) => selected(&it.expr, into),
        Expr::VectorSelector(it) => into.push(selector(it.name.as_ref(), &it.matchers)),
        Expr::MatrixSelector(it) => into.push(selector(it.vs.name.as_ref(), &it.vs.matchers)),
        Expr::Call(it) => it.args.args.iter().for_each(|argument| selected(argument, into)),
        _ => {}
    }
}

/// Parses it, and looks up all it names.
#[track_caller]
fn checked(expression: &str, where_: &str) {
    let parsed = parser::parse(expression).unwrap_or_else(|why| panic!("{where_}: {expression}: {why}"));
    let mut series = Vec::new();
    selected(&parsed, &mut series);
    assert!(!series.is_empty(), "{where_}: {expression} names nothing");
    let printed = printed();
    for (name, labels) in series {
        let known = printed.get(&name).unwrap_or_else(|| panic!("{where_}: {name} is not printed"));
        for label in labels {
            assert!(
                known.contains(&label) || ADDED.contains(&label.as_str()),
                "{where_}: {name} has no {label}"
            );
        }
    }
}

fn shipped(file: &str) -> String {
    let path = format!("{}/../conf/{file}", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Read line by line, so that each rule has each part, in one order.
#[test]
fn alerts() {
    let text = shipped("alerts.yaml");
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#') && !line.is_empty());
    let mut lines = lines.skip_while(|line| !line.starts_with("      - alert: "));
    let mut names = BTreeSet::new();
    while let Some(first) = lines.next() {
        let name =
            first.strip_prefix("      - alert: ").unwrap_or_else(|| panic!("{first:?} begins no rule"));
        let mut part = |indent: usize, key: &str| {
            let line = lines.next().unwrap_or_else(|| panic!("{name} ends before {key}"));
            let begin = format!("{}{key}:", " ".repeat(indent));
            let rest = line.strip_prefix(&begin).unwrap_or_else(|| panic!("{name}: {line:?} is not {key}"));
            rest.trim().to_owned()
        };
        checked(&part(8, "expr"), name);
        let time = part(8, "for");
        assert!(time.ends_with('m') && time.trim_end_matches('m').parse::<u32>().is_ok(), "{name}: {time}");
        assert_eq!(part(8, "labels"), "");
        assert!(["warning", "critical"].contains(&part(10, "severity").as_str()), "{name}");
        assert_eq!(part(8, "annotations"), "");
        assert!(part(10, "summary").contains("{{ $labels.node }}"), "{name}");
        let description = part(10, "description");
        assert!(description.starts_with('"') && description.ends_with(".\""), "{name}: {description}");
        assert!(names.insert(name.to_owned()), "{name} is there twice");
    }
    for name in [
        "ShuntNodeNotReady",
        "ShuntNodeDrift",
        "ShuntListFight",
        "ShuntAddFails",
        "ShuntAddSlow",
        "ShuntEndedNotCleaned",
        "ShuntProxyDoesNotListen",
        "ShuntFellBackToIptables",
    ] {
        assert!(names.contains(name), "{name}");
    }
}

#[test]
fn dashboard() {
    let dashboard: Value = serde_json::from_str(&shipped("dashboards/shunt.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut ids = BTreeSet::new();
    let mut seen = 0;
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64()), "{panel:#}");
        for target in panel["targets"].as_array().into_iter().flatten() {
            // As Grafana fills it in.
            let expression = target["expr"].as_str().expect("an expression").replace("$node", ".*");
            checked(&expression, panel["title"].as_str().expect("a title"));
            seen += 1;
        }
    }
    assert!(seen > 10, "{seen}");
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    let query = variables.iter().find(|it| it["name"] == "node").and_then(|it| it["query"].as_str());
    assert_eq!(query, Some("label_values(shunt_installer_ready, node)"));
}

/// What is printed is shown or watched, or is about the installer alone.
#[test]
fn nothing_of_the_plugin_is_left_out() {
    let dashboard = shipped("dashboards/shunt.json");
    for name in printed().into_keys().filter(|name| !name.starts_with("shunt_installer_")) {
        let family = name.trim_end_matches("_sum").trim_end_matches("_count").trim_end_matches("_bucket");
        assert!(dashboard.contains(family), "{name}");
    }
}
