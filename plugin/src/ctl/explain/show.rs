//! The answer for people.

use std::fmt::Write as _;

use serde_json::Value;

use super::super::lines::Lines;
use super::answer::{Answer, Connection, Failure, Listener, Pod, Proxy, State, Verdict};
use crate::policy::source::{Origin, Source};

/// Longest value in the table; the whole is in the JSON.
const WIDTH: usize = 60;

/// As lines.
pub(super) fn text(answer: &Answer) -> String {
    let mut lines = Lines::default();
    lines.put("pod", &who(&answer.pod));
    lines.put("state", &state(answer));
    if let Some(because) = &answer.because {
        lines.put("because", &because.words);
    }
    if let Some(failure) = &answer.failure {
        lines.put("error", &failed(failure));
        if let Some(count) = failure.count.filter(|count| *count > 1) {
            lines.put("", &format!("{count} ADDs failed, one after the other"));
        }
    }
    if let Some(mesh) = answer.mesh {
        lines.put("mesh", mesh.as_str());
    }
    if let Some(backend) = &answer.backend {
        let why = if backend.because.is_empty() { String::new() } else { format!(": {}", backend.because) };
        lines.put("backend", &format!("{}{why}", backend.name));
    }
    if let Some(proxy) = &answer.proxy {
        listeners(&mut lines, proxy);
    }
    if let Some(counters) = &answer.counters {
        let counted: Vec<String> =
            counters.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        lines.put("counted", if counted.is_empty() { "nothing yet" } else { "" });
        if !counted.is_empty() {
            lines.again(&counted.join(", "));
        }
    }
    for note in &answer.notes {
        lines.put("note", note);
    }
    if let Some(connection) = &answer.connection {
        verdict(&mut lines, connection);
    }
    if !answer.plan.is_empty() {
        plan(&mut lines, answer);
    }
    lines.0
}

fn who(pod: &Pod) -> String {
    let mut words = Vec::new();
    match (&pod.namespace, &pod.name) {
        (Some(namespace), Some(name)) => words.push(format!("{namespace}/{name}")),
        (None, Some(name)) => words.push(name.clone()),
        _ => {}
    }
    if let Some(container) = &pod.container {
        let short: String = container.chars().take(13).collect();
        words.push(format!("container {short}"));
    }
    words.extend(pod.interface.clone());
    words.extend(pod.netns.as_ref().map(|netns| netns.display().to_string()));
    if words.is_empty() { "not named".to_owned() } else { words.join(", ") }
}

fn state(answer: &Answer) -> String {
    match answer.state {
        State::Captured => "captured",
        State::Damaged => "damaged: the kernel does not show all that ADD did",
        State::Skipped => "skipped: left alone by policy",
        State::Open => "open: it runs bare, because it could not be captured and failurePolicy is open",
        State::Failed => "failed: ADD failed, the pod does not start",
        State::Host => "host: in the network of the host, where nothing is captured",
        State::Unknown => "unknown: not captured, and no ADD of this plugin is known of it",
    }
    .to_owned()
}

fn failed(failure: &Failure) -> String {
    let code = failure.code.map(|code| format!(", code {code}")).unwrap_or_default();
    format!("{} ({}{code})", failure.details, failure.kind)
}

fn listeners(lines: &mut Lines, proxy: &Proxy) {
    for (index, listener) in proxy.listeners.iter().enumerate() {
        let Listener { role, port, open, known } = listener;
        let is_stranger = *open == Some(true) && *known == Some(false) && *role != "dns";
        let how = match (open, known) {
            _ if is_stranger => {
                "somebody listens who is not known as the proxy: another user's, or bound before ADD"
            }
            (Some(true), _) | (_, Some(true)) => "listens",
            (Some(false), _) => "does not listen",
            (None, Some(false)) => "not known to listen",
            (None, None) => "not known",
        };
        lines.put(if index == 0 { "proxy" } else { "" }, &format!("{role} {port}: {how}"));
    }
    if proxy.seen == Some(false) {
        lines.put("", "has never listened for outbound connections");
    }
}

fn verdict(lines: &mut Lines, connection: &Connection) {
    let word = match connection.verdict {
        Verdict::Captured => "captured",
        Verdict::Passes => "passes",
        Verdict::Refused => "refused",
    };
    let from = match (connection.source, connection.uid, connection.gid) {
        (Some(source), None, _) => format!(" from {source}"),
        (source, Some(uid), Some(gid)) => {
            let bound = source.map(|source| format!(", bound to {source}")).unwrap_or_default();
            format!(" by uid {uid}, gid {gid}{bound}")
        }
        _ => String::new(),
    };
    lines.0.push('\n');
    lines.put(
        "connection",
        &format!("{} {} to {}{from}", connection.direction, connection.protocol, connection.destination),
    );
    let reason = connection.reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
    lines.put("verdict", &format!("{word}{reason}: {}", connection.because));
    if let (Some(port), Verdict::Captured) = (connection.proxy_port, connection.verdict) {
        lines.put("goes to", &format!("the proxy's port {port}"));
    }
    if let Some(rule) = &connection.rule {
        let item = rule.item.as_ref().map(|item| format!(" {}", shown(item))).unwrap_or_default();
        let from =
            if rule.from.is_empty() { String::new() } else { format!(" from {}", sources(&rule.from)) };
        lines.put("rule", &format!("{}{item}{from}", rule.key));
    }
    if connection.reason.is_some() {
        lines.put(
            "decided by",
            if connection.decided_by == "kernel" { "the rules the kernel has" } else { "the plan" },
        );
    }
}

fn sources(from: &[Source]) -> String {
    from.iter().map(Source::to_string).collect::<Vec<_>>().join(" and ")
}

fn plan(lines: &mut Lines, answer: &Answer) {
    lines.0.push('\n');
    let rows: Vec<(&str, String, String)> = answer
        .plan
        .iter()
        .flat_map(|value| {
            let parts: Vec<(String, String)> = match value.from.as_slice() {
                [] => vec![(shown(&value.value), String::new())],
                [one] => vec![(shown(&value.value), one.source.to_string())],
                several => several.iter().map(|origin| part(&value.value, origin)).collect(),
            };
            parts
                .into_iter()
                .enumerate()
                .map(move |(index, (what, from))| (if index == 0 { value.key } else { "" }, what, from))
        })
        .collect();
    let widest = rows.iter().map(|(_, what, _)| what.chars().count()).max().unwrap_or_default();
    let row = |key: &str, what: &str, from: &str| {
        format!("{key:<21}{what:<widest$}  {from}").trim_end().to_owned() + "\n"
    };
    lines.0.push_str(&row("VALUE", "IS", "FROM"));
    for (key, what, from) in rows {
        lines.0.push_str(&row(key, &what, &from));
    }
}

fn part(value: &Value, origin: &Origin) -> (String, String) {
    let what =
        origin.items.as_ref().map_or_else(|| shown(value), |items| shown(&Value::Array(items.clone())));
    (what, origin.source.to_string())
}

/// A value as an annotation would have it.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Array(list) if list.is_empty() => "none".to_owned(),
        Value::Array(list) => {
            let mut text = String::new();
            for (index, item) in list.iter().enumerate() {
                let item = shown(item);
                if index > 0 && text.len() + item.len() > WIDTH {
                    let _never = write!(text, " … {} in all", list.len());
                    break;
                }
                text.push_str(if index == 0 { "" } else { ", " });
                text.push_str(&item);
            }
            text
        }
        other => other.to_string(),
    }
}
