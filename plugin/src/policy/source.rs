//! Where each value of a plan came from. Asked for by people alone; what is told was watched while the decision was made, so
//! that there is one path and nothing to keep in step.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value, json};
use shunt_api::paths::ANNOTATION_PREFIX;
use shunt_api::{Entry, Mesh, Select};

use super::{ALL_OF_V6, Decision, Layer, Reason, weigh};
use crate::cni::{Annotations, PodRef};
use crate::error::Error;
use crate::plan::{Dns, Inbound, Outbound, Plan};
use crate::profile::key::{Bad, Watch};
use crate::profile::{self, Profile};
use crate::settings::Settings;

/// Who said something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "layer", rename_all = "camelCase")]
pub enum Source {
    /// An annotation of ours.
    Annotation {
        /// The annotation.
        key: String,
    },
    /// An annotation of the mesh.
    MeshAnnotation {
        /// The annotation.
        key: &'static str,
        /// Where in its document.
        #[serde(skip_serializing_if = "Option::is_none")]
        path: Option<&'static str>,
    },
    /// The entry in the conflist.
    Entry {
        /// The key.
        key: String,
    },
    /// What a key of the entry is where the entry does not say otherwise.
    EntryDefault {
        /// The key.
        key: String,
    },
    /// The mesh's own default.
    Mesh {
        /// The mesh.
        mesh: Mesh,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Annotation { key } => write!(f, "annotation {key}"),
            Self::MeshAnnotation { key, path: None } => write!(f, "annotation {key}"),
            Self::MeshAnnotation { key, path: Some(path) } => write!(f, "annotation {key}, {path}"),
            Self::Entry { key } => write!(f, "entry, {key}"),
            Self::EntryDefault { key } => write!(f, "default of {key}"),
            Self::Mesh { mesh } => write!(f, "mesh {mesh}"),
        }
    }
}

/// One who said a value, or a part of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// Who.
    #[serde(flatten)]
    pub source: Source,
    /// Which items of the list; none: all there is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub items: Option<Vec<Value>>,
}

/// A value of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sourced {
    /// Its key, as the entry calls it where the entry has it.
    pub key: &'static str,
    /// The value, as the entry writes it.
    pub value: Value,
    /// Who said it. More than one only of lists.
    pub from: Vec<Origin>,
}

impl Sourced {
    /// Who said one item of the list.
    pub fn of_item(&self, item: &Value) -> Vec<Source> {
        let said = |origin: &&Origin| origin.items.as_ref().is_none_or(|items| items.contains(item));
        self.from.iter().filter(said).map(|origin| origin.source.clone()).collect()
    }
}

/// Why a pod is captured, or is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Because {
    /// Short name: see [`Reason::label`]; `marked` and `select-all` of those that are captured.
    pub code: String,
    /// The annotation, or the key of the entry, that decided.
    pub key: String,
    /// The same in words.
    pub words: String,
}

impl From<&Reason> for Because {
    fn from(reason: &Reason) -> Self {
        Self { code: reason.label().to_owned(), key: reason.key().to_owned(), words: reason.to_string() }
    }
}

impl Because {
    /// Of a pod that is captured.
    pub fn selected(settings: &Settings) -> Self {
        let (code, key, words) = if settings.select == Select::All {
            ("select-all", "select", "the entry selects every pod".to_owned())
        } else {
            let marker = marker(settings.mesh);
            ("marked", marker, format!("annotation {marker} marks it"))
        };
        Self { code: code.to_owned(), key: key.to_owned(), words }
    }
}

/// The annotation that a pod must carry to be of a mesh.
pub fn marker(mesh: Mesh) -> &'static str {
    match (profile::of(mesh).gate)(&Annotations::new()) {
        Ok(Some(reason)) => reason.key(),
        // Every mesh has one, and none that is missing is an error.
        _ => "",
    }
}

/// A decision, and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// What [`super::decide`] says.
    pub decision: Decision,
    /// Why.
    pub because: Because,
    /// Every value of the plan, if there is one.
    pub values: Vec<Sourced>,
}

/// [`super::decide`], and where it came from.
///
/// # Errors
/// Those of [`super::decide`].
pub fn told(pod: &PodRef, annotations: &Annotations, settings: &Settings) -> Result<Told, Error> {
    let mut trace = Trace::new(settings);
    let decision = weigh(pod, annotations, settings, &mut trace)?;
    let (because, values) = match &decision {
        Decision::Skip(reason) => (Because::from(reason), Vec::new()),
        Decision::Intercept(plan) => (Because::selected(settings), trace.values(plan)),
    };
    Ok(Told { decision, because, values })
}

/// Annotations that have a say in what a pod of this mesh gets.
pub fn concerning(mesh: Mesh, annotations: &Annotations) -> Annotations {
    let profile: &Profile = profile::of(mesh);
    let concerns =
        |name: &str| name.starts_with(ANNOTATION_PREFIX) || profile.keys.iter().any(|key| key.name == name);
    let theirs = annotations.iter().filter(|(name, _)| concerns(name));
    theirs.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The values of a plan, as the entry calls and writes them.
pub fn values(plan: &Plan) -> Vec<(&'static str, Value)> {
    let Plan {
        mesh,
        outbound_port,
        inbound_port,
        exempt_uids,
        exempt_gids,
        outbound,
        inbound,
        exclude_interfaces,
        tunnel_port,
        self_calls,
        before_proxy,
        dns,
        udp,
        drop_invalid,
    } = plan;
    let Outbound { cidrs, exclude_cidrs, extra_ports, exclude_ports, exclude_uids, own_addresses } = outbound;
    let Inbound { ports, exclude_ports: exclude_inbound_ports, exclude_cidrs: exclude_inbound_cidrs } =
        inbound;
    let mut values = vec![
        ("mesh", json!(mesh)),
        ("outboundPort", json!(outbound_port)),
        ("inboundPort", json!(inbound_port)),
        ("proxyUids", json!(exempt_uids)),
        ("proxyGids", json!(exempt_gids)),
        ("includeOutboundCidrs", json!(cidrs)),
        ("excludeOutboundCidrs", json!(exclude_cidrs)),
        ("includeOutboundPorts", json!(extra_ports)),
        ("excludeOutboundPorts", json!(exclude_ports)),
        ("excludeUids", json!(exclude_uids)),
        ("ownAddresses", json!(own_addresses)),
        ("includeInboundPorts", json!(ports)),
        ("excludeInboundPorts", json!(exclude_inbound_ports)),
        ("excludeInboundCidrs", json!(exclude_inbound_cidrs)),
        ("excludeInterfaces", json!(exclude_interfaces)),
        ("tunnelPort", json!(tunnel_port)),
        ("selfCalls", json!(self_calls)),
        ("beforeProxy", json!(before_proxy)),
        ("captureDns", json!(dns.is_some())),
        ("udp", json!(udp)),
        ("dropInvalid", json!(drop_invalid)),
    ];
    if let Some(Dns { port, tcp, servers }) = dns {
        values.extend([("dnsPort", json!(port)), ("dnsTcp", json!(tcp)), ("dnsServers", json!(servers))]);
    }
    values
}

/// One who said a value, while it is not sure yet that the value stays.
#[derive(Debug, Clone, PartialEq)]
struct Said {
    source: Source,
    value: Value,
}

/// By part of a layer.
type Parts = BTreeMap<String, Vec<Said>>;

/// Watches a decision.
struct Trace<'a> {
    settings: &'a Settings,
    own: Parts,
    mesh: Parts,
    entry: Parts,
    defaults: Parts,
}

impl Watch for Trace<'_> {
    fn step(
        &mut self,
        key: &'static str,
        path: Option<&'static str>,
        set: &dyn Fn(&mut Layer) -> Result<(), Bad>,
        to: &mut Layer,
    ) -> Result<(), Bad> {
        let before = parts(to);
        set(to)?;
        let mut alone = Layer::default();
        // It was just done: what fails on nothing depends on what was there, and says less than it might.
        let _says_less = set(&mut alone);
        let alone = parts(&alone);
        let source = Source::MeshAnnotation { key, path };
        let after = parts(to);
        self.mesh.retain(|part, _| after.contains_key(part));
        for (part, value) in &after {
            let whole = alone.get(part) == Some(value);
            if !whole && before.get(part) == Some(value) {
                continue;
            }
            let said = self.mesh.entry(part.clone()).or_default();
            if whole {
                said.clear();
            }
            said.push(Said { source: source.clone(), value: value.clone() });
            *said = shared(value, std::mem::take(said));
        }
        Ok(())
    }

    fn layers(&mut self, own: &Layer, entry: &Layer, defaults: &Layer) {
        let mesh = self.settings.mesh;
        self.own = all(own, |part| Source::Annotation { key: annotation(part) });
        self.entry = all(entry, |part| self.of_entry(part));
        self.defaults = all(defaults, |_| Source::Mesh { mesh });
    }
}

impl<'a> Trace<'a> {
    fn new(settings: &'a Settings) -> Self {
        let none = Parts::new;
        Self { settings, own: none(), mesh: none(), entry: none(), defaults: none() }
    }

    /// Who said a part: the highest layer that says anything of it.
    fn said(&self, part: &str) -> Vec<Said> {
        let layers = [&self.own, &self.mesh, &self.entry, &self.defaults];
        layers.into_iter().find_map(|layer| layer.get(part)).cloned().unwrap_or_default()
    }

    fn of_entry(&self, key: &str) -> Source {
        match key {
            "mesh" if self.settings.mesh == Entry::default().mesh => {
                Source::EntryDefault { key: key.to_owned() }
            }
            "captureDns" | "beforeProxy" | "udp" if self.is_default(key) => {
                Source::EntryDefault { key: key.to_owned() }
            }
            "captureDns" | "beforeProxy" | "udp" | "mesh" => Source::Entry { key: key.to_owned() },
            _ => Source::Entry { key: format!("redirect.{key}") },
        }
    }

    fn is_default(&self, key: &str) -> bool {
        let (is, default) = (&**self.settings, Entry::default());
        match key {
            "captureDns" => is.capture_dns == default.capture_dns,
            "beforeProxy" => is.before_proxy == default.before_proxy,
            _ => is.udp == default.udp,
        }
    }

    fn values(&self, plan: &Plan) -> Vec<Sourced> {
        let sourced = |(key, value): (&'static str, Value)| {
            let from = origins(&value, self.who(key, &value));
            Sourced { key, value, from }
        };
        values(plan).into_iter().map(sourced).collect()
    }

    /// Who said what has become of a value. What [`super::plan`] does to the merged layers, in the same words.
    fn who(&self, key: &str, value: &Value) -> Vec<Said> {
        let mesh = Said { source: Source::Mesh { mesh: self.settings.mesh }, value: value.clone() };
        let said = match key {
            "mesh" | "beforeProxy" | "udp" => {
                vec![Said { source: self.of_entry(key), value: value.clone() }]
            }
            "excludeOutboundCidrs" | "excludeInboundCidrs" => {
                let mut said = self.said(key);
                for only in self.said("ipv4Only") {
                    said.push(Said { value: json!([ALL_OF_V6]), ..only });
                }
                shared(value, said)
            }
            "excludeInboundPorts" => {
                let said = [self.said(key), self.said("proxyPorts")].concat();
                let is_empty = value.as_array().is_some_and(Vec::is_empty);
                let dropped = is_empty && said.iter().any(|said| said.value != *value);
                if dropped { self.said("includeInboundPorts") } else { shared(value, said) }
            }
            _ => self.said(key),
        };
        if said.is_empty() { vec![mesh] } else { said }
    }
}

/// What is left of what each has said now that the value is this. An item is whose who said it first.
fn shared(value: &Value, said: Vec<Said>) -> Vec<Said> {
    let Value::Array(items) = value else {
        // One value: the last has the last word.
        return said.into_iter().next_back().into_iter().collect();
    };
    let mut left = items.clone();
    let mut kept = Vec::new();
    for one in said {
        let Value::Array(its) = &one.value else { continue };
        let was_empty = its.is_empty();
        let (mine, rest): (Vec<_>, Vec<_>) = left.into_iter().partition(|item| its.contains(item));
        left = rest;
        // One that says "none" has hidden what is below it.
        if !mine.is_empty() || was_empty {
            kept.push(Said { value: Value::Array(mine), ..one });
        }
    }
    kept
}

fn origins(value: &Value, said: Vec<Said>) -> Vec<Origin> {
    let one = said.len() == 1;
    let origin = |Said { source, value: part }: Said| match part {
        Value::Array(items) if !one && part_of(value, &items) => Origin { source, items: Some(items) },
        _ => Origin { source, items: None },
    };
    said.into_iter().map(origin).collect()
}

fn part_of(value: &Value, items: &[Value]) -> bool {
    value.as_array().is_some_and(|all| items.iter().all(|item| all.contains(item)))
}

fn all(layer: &Layer, source: impl Fn(&str) -> Source) -> Parts {
    let said = |(part, value): (String, Value)| {
        let source = source(&part);
        (part, vec![Said { source, value }])
    };
    parts(layer).into_iter().map(said).collect()
}

/// What a layer says, by part: those of `redirect` as the entry calls them.
fn parts(layer: &Layer) -> Map<String, Value> {
    let Layer { redirect, dns, dns_servers, exclude_uids, drop_invalid, proxy_ports, ipv4_only } = layer;
    let mut parts = match serde_json::to_value(redirect) {
        Ok(Value::Object(parts)) => parts,
        _ => Map::new(),
    };
    for (part, value) in [
        ("captureDns", json!(dns)),
        ("dnsServers", json!(dns_servers)),
        ("excludeUids", json!(exclude_uids)),
        ("dropInvalid", json!(drop_invalid)),
        ("proxyPorts", json!(proxy_ports)),
        ("ipv4Only", json!(ipv4_only)),
    ] {
        if !value.is_null() {
            parts.insert(part.to_owned(), value);
        }
    }
    parts
}

/// Our annotation for a key of `redirect`.
fn annotation(key: &str) -> String {
    let mut name = ANNOTATION_PREFIX.to_owned();
    for letter in key.chars() {
        if letter.is_ascii_uppercase() {
            name.push('-');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

#[cfg(test)]
mod tests;
