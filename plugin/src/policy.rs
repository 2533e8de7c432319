//! Whether a pod is intercepted, and how. Pure: entry, annotations and pod in, decision out.

use std::fmt;
use std::net::IpAddr;

use shunt_api::{Include, Network, PortRange, Redirect, Select};

use crate::annotation;
use crate::cni::{Annotations, PodRef};
use crate::error::Error;
use crate::plan::Plan;
use crate::profile::key::{Nobody, Watch};
use crate::profile::{self, Profile, key};
use crate::settings::Settings;

pub mod source;

/// What is to be done for a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing.
    Skip(Reason),
    /// This.
    Intercept(Box<Plan>),
}

/// One layer of what a pod gets: what the profile, the entry, the mesh's annotations or our own say. None: the layer below.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layer {
    /// What has a key in the entry.
    pub redirect: Redirect,
    /// Whether DNS is captured.
    pub dns: Option<bool>,
    /// See [`crate::plan::Dns::servers`].
    pub dns_servers: Option<Include<IpAddr>>,
    /// See [`crate::plan::Outbound::exclude_uids`].
    pub exclude_uids: Option<Vec<u32>>,
    /// See [`crate::plan::Plan::drop_invalid`].
    pub drop_invalid: Option<bool>,
    /// Ports of the proxy itself, for probes and statistics, on the pod's address. They are never captured inbound, whatever
    /// a list of excluded ports says, because a list replaces another.
    pub proxy_ports: Option<Vec<PortRange>>,
    /// Whether the mesh is told to leave IPv6 alone, in both directions. Where nothing says so both families are captured.
    pub ipv4_only: Option<bool>,
}

impl From<Redirect> for Layer {
    fn from(redirect: Redirect) -> Self {
        Self { redirect, ..Self::default() }
    }
}

impl Layer {
    /// This layer, and where it says nothing, `below`.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            redirect: self.redirect.over(below.redirect),
            dns: self.dns.or(below.dns),
            dns_servers: self.dns_servers.or(below.dns_servers),
            exclude_uids: self.exclude_uids.or(below.exclude_uids),
            drop_invalid: self.drop_invalid.or(below.drop_invalid),
            proxy_ports: self.proxy_ports.or(below.proxy_ports),
            ipv4_only: self.ipv4_only.or(below.ipv4_only),
        }
    }
}

/// Why nothing is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// `excludeNamespaces` has the pod's namespace.
    NamespaceExcluded {
        /// The namespace.
        namespace: String,
    },
    /// The annotation that says the pod is meshed is not there.
    NotMarked {
        /// The annotation.
        key: &'static str,
    },
    /// An annotation says the pod is not meshed.
    OptedOut {
        /// The annotation.
        key: &'static str,
    },
    /// A container of the pod sets up interception itself.
    OwnRules {
        /// The annotation that names it.
        key: &'static str,
        /// The container.
        container: &'static str,
    },
    /// The pod has a proxy of the mesh that is not one for another container of the pod, or none.
    NotASidecar {
        /// The annotation that says so.
        key: &'static str,
    },
}

impl Reason {
    /// Every [`Self::label`]. Places in the tally: new ones go to the end.
    pub const LABELS: [&'static str; 5] =
        ["namespace-excluded", "no-marker", "opted-out", "own-rules", "not-a-sidecar"];

    /// Short name for metrics, with nothing of the pod in it.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::NamespaceExcluded { .. } => "namespace-excluded",
            Self::NotMarked { .. } => "no-marker",
            Self::OptedOut { .. } => "opted-out",
            Self::OwnRules { .. } => "own-rules",
            Self::NotASidecar { .. } => "not-a-sidecar",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NamespaceExcluded { namespace } => write!(f, "namespace {namespace} is excluded"),
            Self::NotMarked { key } => write!(f, "annotation {key} is missing"),
            Self::OptedOut { key } => write!(f, "annotation {key} says no"),
            Self::OwnRules { container, .. } => {
                write!(f, "container {container} sets up interception itself")
            }
            Self::NotASidecar { key } => write!(f, "annotation {key} says that there is no sidecar"),
        }
    }
}

impl Reason {
    /// What decided: an annotation, or a key of the entry.
    pub const fn key(&self) -> &'static str {
        match self {
            Self::NamespaceExcluded { .. } => "excludeNamespaces",
            Self::NotMarked { key }
            | Self::OptedOut { key }
            | Self::OwnRules { key, .. }
            | Self::NotASidecar { key } => key,
        }
    }
}

/// Decides for one pod. Precedence, key by key: own annotation, the mesh's annotation, the entry, the profile.
///
/// # Errors
/// [`Kind::Config`] for a bad annotation, naming key and value, and for a key that must be set and is not;
/// [`Kind::Unsupported`] for what an annotation may ask for and this version cannot do. Annotations other than a marker
/// are looked at only when the pod is selected.
pub fn decide(pod: &PodRef, annotations: &Annotations, settings: &Settings) -> Result<Decision, Error> {
    weigh(pod, annotations, settings, &mut Nobody)
}

/// [`decide`], with somebody who watches: what there is to be told of a decision comes from the decision itself.
fn weigh(
    pod: &PodRef,
    annotations: &Annotations,
    settings: &Settings,
    watch: &mut impl Watch,
) -> Result<Decision, Error> {
    if let Some(namespace) =
        pod.namespace.as_ref().filter(|namespace| settings.exclude_namespaces.contains(namespace))
    {
        return Ok(Decision::Skip(Reason::NamespaceExcluded { namespace: namespace.clone() }));
    }
    let profile = profile::of(settings.mesh);
    // A bad marker is an error even where the marker does not decide.
    let gate = (profile.gate)(annotations)?;
    if let (Select::Annotated, Some(reason)) = (settings.select, gate) {
        return Ok(Decision::Skip(reason));
    }
    plan(profile, annotations, settings, watch).map(|plan| Decision::Intercept(Box::new(plan)))
}

fn plan(
    profile: &Profile,
    annotations: &Annotations,
    settings: &Settings,
    watch: &mut impl Watch,
) -> Result<Plan, Error> {
    let own = Layer::from(annotation::own(annotations, profile.marker)?);
    let mesh = key::layer(profile.keys, annotations, watch)?;
    let entry = Layer { dns: Some(settings.capture_dns), ..Layer::from(settings.redirect.clone()) };
    let defaults = (profile.defaults)();
    watch.layers(&own, &entry, &defaults);
    let theirs = own.redirect.exclude_inbound_ports.is_none()
        && (mesh.redirect.exclude_inbound_ports.is_some() || entry.redirect.exclude_inbound_ports.is_none());
    let mut merged = own.over(mesh).over(entry).over(defaults);
    merged.redirect.exclude_inbound_ports = Some(excluded_inbound(profile, &mut merged, theirs));
    if merged.ipv4_only == Some(true) {
        for list in [&mut merged.redirect.exclude_outbound_cidrs, &mut merged.redirect.exclude_inbound_cidrs]
        {
            list.get_or_insert_default().extend(ALL_OF_V6.parse::<Network>());
        }
    }
    Plan::new(settings.mesh, profile, settings.before_proxy, settings.udp, merged)
}

/// What is excluded where only IPv4 is to be captured.
const ALL_OF_V6: &str = "::/0";

/// The app's ports that are not captured, once all layers are merged. `theirs`: the list is the mesh's own or the profile's, not
/// in our words, which count always.
fn excluded_inbound(profile: &Profile, merged: &mut Layer, theirs: bool) -> Vec<PortRange> {
    let excluded = merged.redirect.exclude_inbound_ports.take().unwrap_or_default();
    let all = merged.redirect.include_inbound_ports.as_ref().is_none_or(Include::is_all);
    let mut ports = if theirs && profile.include_beats_exclude && !all { Vec::new() } else { excluded };
    if all || !profile.include_beats_exclude {
        for port in merged.proxy_ports.take().unwrap_or_default() {
            if !ports.contains(&port) {
                ports.push(port);
            }
        }
    }
    ports
}

#[cfg(test)]
mod tests;
