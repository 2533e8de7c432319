//! Without a node: entry and annotations from files.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use serde_json::{Map, Value};
use shunt_api::{Backend, Entry, Select, paths};

use super::Args;
use super::answer::{Answer, Chosen, Connection, Failure, Pod, State, Verdict};
use super::verdict::{Caller, Ground, Listens, Question, app};
use crate::bpf::rules::{Ids, encoded};
use crate::cni::{Annotations, PodRef};
use crate::error::{Error, Kind};
use crate::link::{Interfaces, OwnAddress};
use crate::plan::Plan;
use crate::policy::source::{Told, told};
use crate::policy::{Decision, Reason};
use crate::profile::document::{Document, Format};
use crate::profile::value::text;
use crate::settings::Settings;

/// Answers.
pub(super) fn answer(args: &Args, config: &Path) -> Result<Answer, String> {
    let manifest = match &args.annotations {
        Some(file) => manifest(file)?,
        None => Manifest::default(),
    };
    let pod = PodRef {
        namespace: args.namespace.clone().or(manifest.namespace),
        name: args.name.clone().or(manifest.name),
        ..PodRef::default()
    };
    let shown = Pod { namespace: pod.namespace.clone(), name: pod.name.clone(), ..Pod::default() };
    let entry = entry(config)?;
    let settings = Entry::from_object(&entry)
        .map_err(|error| Error::new(Kind::Config, error.to_string()))
        .and_then(Settings::new);
    let decided = settings.and_then(|settings| {
        let told = decided(&pod, &manifest.annotations, &settings, args.injected)?;
        Ok((settings, told))
    });
    Ok(match decided {
        Ok((settings, told)) => explained(args, &settings, told, shown),
        Err(error) => failed(args, &error, shown),
    })
}

/// Decides; where the marker alone is missing and is to be taken as there, as if it did not matter.
fn decided(
    pod: &PodRef,
    annotations: &Annotations,
    settings: &Settings,
    injected: bool,
) -> Result<Told, Error> {
    let first = told(pod, annotations, settings)?;
    match first.decision {
        Decision::Skip(Reason::NotMarked { .. }) if injected => {
            let every = Settings::new(Entry { select: Select::All, ..(**settings).clone() })?;
            let second = told(pod, annotations, &every)?;
            Ok(Told { because: crate::policy::source::Because::selected(settings), ..second })
        }
        _ => Ok(first),
    }
}

fn failed(args: &Args, error: &Error, pod: Pod) -> Answer {
    let kind = error.kind();
    let mut answer = Answer::new(State::Failed, pod);
    answer.failure = Some(Failure {
        kind: kind.as_str().to_owned(),
        code: Some(kind.code()),
        details: error.details(),
        count: None,
        since: None,
        at: None,
    });
    if args.question().is_some() {
        answer.notes.push("there is no connection: the pod does not start".to_owned());
    }
    answer
}

fn explained(args: &Args, settings: &Settings, told: Told, pod: Pod) -> Answer {
    let (state, plan) = match told.decision {
        Decision::Skip(_) => (State::Skipped, None),
        Decision::Intercept(plan) => (State::Captured, Some(plan)),
    };
    let mut answer = Answer::new(state, pod);
    answer.because = Some(told.because);
    answer.mesh = Some(settings.mesh);
    answer.plan = told.values;
    if plan.is_some() {
        let because = match settings.backend {
            Backend::Auto => "eBPF where the node can, else iptables".to_owned(),
            _ => "as configured".to_owned(),
        };
        answer.backend = Some(Chosen { name: settings.backend.as_str().to_owned(), because });
    }
    answer.connection = args.question().map(|question| match plan {
        None => passes(question),
        Some(plan) => connection(args, question, &plan, &answer),
    });
    answer
}

/// Of a pod that is left alone.
pub(super) fn passes(question: Question) -> Connection {
    let (direction, destination, udp, source) = match question {
        Question::Outbound { to, udp, source, .. } => ("outbound", to, udp, source),
        Question::Inbound { at, from } => ("inbound", at, false, from),
    };
    Connection {
        direction,
        protocol: if udp { "udp" } else { "tcp" },
        destination,
        source,
        uid: None,
        gid: None,
        verdict: Verdict::Passes,
        reason: None,
        code: None,
        because: "nothing of this pod is captured".to_owned(),
        proxy_port: None,
        rule: None,
        decided_by: "plan",
    }
}

fn connection(args: &Args, question: Question, plan: &Plan, answer: &Answer) -> Connection {
    let ids = Ids {
        uids: plan.exempt_uids.clone(),
        gids: plan.exempt_gids.clone(),
        excluded_uids: plan.outbound.exclude_uids.clone(),
    };
    let encoded = encoded(plan, &interfaces(&args.pod_ip), IFNAME, &ids, 0);
    let ground = Ground {
        config: encoded.config,
        rules: &encoded.rules,
        by: "plan",
        plan,
        values: &answer.plan,
        ids: &ids,
        before_proxy: false,
        listens: &|_, _| Listens::Yes,
    };
    let caller = match question {
        Question::Outbound { caller: Caller::OfPod { uid, gid }, .. } => (uid, gid),
        _ => app(&ids),
    };
    ground.decide(question, caller)
}

const IFNAME: &str = "eth0";

/// A pod with these addresses.
fn interfaces(ips: &[IpAddr]) -> Interfaces {
    let documentation =
        [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];
    let ips = if ips.is_empty() { &documentation[..] } else { ips };
    let own =
        |interface: &str, ip: IpAddr| OwnAddress { interface: interface.to_owned(), ip, broadcast: None };
    let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    Interfaces {
        names: vec![IFNAME.to_owned(), "lo".to_owned()],
        index_of_loopback: 1,
        addresses: loopback
            .into_iter()
            .map(|ip| own("lo", ip))
            .chain(ips.iter().map(|ip| own(IFNAME, *ip)))
            .collect(),
        routes: Vec::new(),
    }
}

fn read(file: &Path) -> Result<String, String> {
    fs::read_to_string(file).map_err(|error| format!("read {}: {error}", file.display()))
}

/// Our entry: the whole file, or the one in the conflist that the file is.
fn entry(file: &Path) -> Result<Map<String, Value>, String> {
    let not = |what: &str| format!("{} is not {what}", file.display());
    let value: Value =
        serde_json::from_str(&read(file)?).map_err(|error| format!("{}: {error}", not("JSON")))?;
    let Value::Object(object) = value else { return Err(not("a JSON object")) };
    let Some(plugins) = object.get("plugins") else { return Ok(object) };
    let is_ours = |plugin: &&Value| plugin.get("type").and_then(Value::as_str) == Some(paths::TYPE);
    let ours: Vec<&Value> = plugins.as_array().into_iter().flatten().filter(is_ours).collect();
    match ours.as_slice() {
        [Value::Object(entry)] => Ok(entry.clone()),
        [] => Err(format!(
            "{} has no entry of type {:?}: no pod would be captured",
            file.display(),
            paths::TYPE
        )),
        _ => Err(not("a list with one entry of ours")),
    }
}

/// What a file says of a pod.
#[derive(Debug, Default, PartialEq, Eq)]
struct Manifest {
    namespace: Option<String>,
    name: Option<String>,
    annotations: Annotations,
}

fn manifest(file: &Path) -> Result<Manifest, String> {
    parsed(&read(file)?).map_err(|why| format!("{}: {why}", file.display()))
}

fn parsed(written: &str) -> Result<Manifest, String> {
    let document = Document::parse(Format::Yaml, written).map_err(|bad| bad.why)?;
    let at = |path: &str| document.at(path).map_err(|bad| bad.why);
    let word = |path: &str| -> Result<Option<String>, String> {
        at(path)?.map(|value| text(value).map_err(|bad| format!("{path}: {}", bad.why))).transpose()
    };
    let is_manifest = document.root().get("metadata").is_some_and(Value::is_object);
    if !is_manifest {
        let annotations = map(document.root())?;
        return Ok(Manifest { annotations, ..Manifest::default() });
    }
    // What makes pods has theirs in a template; a CronJob makes what makes pods.
    let templates = ["spec.jobTemplate.spec.template", "spec.template"];
    let mut pods = "";
    for template in templates {
        if pods.is_empty() && at(template)?.is_some() {
            pods = template;
        }
    }
    let of_pod = |path: &str| if pods.is_empty() { path.to_owned() } else { format!("{pods}.{path}") };
    let annotations = at(&of_pod("metadata.annotations"))?.map_or_else(|| Ok(Annotations::new()), map)?;
    Ok(Manifest { namespace: word("metadata.namespace")?, name: word("metadata.name")?, annotations })
}

fn map(value: &Value) -> Result<Annotations, String> {
    let Value::Object(map) = value else {
        return if value.is_null() {
            Ok(Annotations::new())
        } else {
            Err("annotations must be a map of texts".to_owned())
        };
    };
    let pair = |(key, value): (&String, &Value)| match text(value) {
        Ok(value) => Ok((key.clone(), value)),
        Err(bad) => Err(format!("annotation {key}: {}", bad.why)),
    };
    map.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::parsed;

    #[test]
    fn annotations_in_every_form() {
        let pair = [("a/b".to_owned(), "c".to_owned())];
        for (text, namespace, name) in [
            ("{\"a/b\": \"c\"}", None, None),
            ("a/b: c\n", None, None),
            (
                "kind: Pod\nmetadata: {namespace: shop, name: cart, annotations: {a/b: c}}\n",
                Some("shop"),
                Some("cart"),
            ),
            (
                "kind: Deployment\nmetadata: {name: cart}\nspec:\n  template:\n    metadata: {annotations: {a/b: c}}\n",
                None,
                Some("cart"),
            ),
            (
                "kind: CronJob\nmetadata: {name: cart}\nspec: {jobTemplate: {spec: {template: {metadata: {annotations: {a/b: c}}}}}}\n",
                None,
                Some("cart"),
            ),
        ] {
            let manifest = parsed(text).expect(text);
            assert_eq!(manifest.annotations, pair.clone().into(), "{text}");
            assert_eq!(
                (manifest.namespace.as_deref(), manifest.name.as_deref()),
                (namespace, name),
                "{text}"
            );
        }
        for none in [
            "",
            "metadata: {name: cart}",
            "kind: Deployment\nmetadata: {annotations: {a: b}}\nspec: {template: {}}",
        ] {
            assert!(parsed(none).expect(none).annotations.is_empty(), "{none}");
        }
        for (bad, word) in
            [("[1]", "map"), ("a: [1]", "annotation a"), ("a: b\n---\nc: d", "more than one"), ("{", "YAML")]
        {
            assert!(parsed(bad).expect_err(bad).contains(word), "{bad}");
        }
    }
}
