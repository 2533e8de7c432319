//! Whether a pod is intercepted, and how. Pure: entry, annotations and pod in, decision out.

use std::fmt;

use shunt_api::{Include, Redirect, Select};

use crate::annotation;
use crate::cni::{Annotations, PodRef};
use crate::error::{Error, Kind};
use crate::plan::{Frame, Plan};
use crate::profile::{self, Excluded, Profile};
use crate::settings::Settings;

/// What is to be done for a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing.
    Skip(Reason),
    /// This.
    Intercept(Box<Plan>),
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
        /// The container.
        container: &'static str,
    },
    /// The pod has a proxy of the mesh that is not one for another container of the pod, or none.
    NotASidecar {
        /// The annotation that says so.
        key: &'static str,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NamespaceExcluded { namespace } => write!(f, "namespace {namespace} is excluded"),
            Self::NotMarked { key } => write!(f, "annotation {key} is missing"),
            Self::OptedOut { key } => write!(f, "annotation {key} says no"),
            Self::OwnRules { container } => write!(f, "container {container} sets up interception itself"),
            Self::NotASidecar { key } => write!(f, "annotation {key} says that there is no sidecar"),
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
    if let Some(namespace) =
        pod.namespace.as_ref().filter(|namespace| settings.exclude_namespaces.contains(namespace))
    {
        return Ok(Decision::Skip(Reason::NamespaceExcluded { namespace: namespace.clone() }));
    }
    let profile = profile::of(settings.mesh).ok_or_else(|| {
        Error::new(
            Kind::Unsupported,
            format!("key \"mesh\": \"{}\" is not available in this version", settings.mesh),
        )
    })?;
    // A bad marker is an error even where the marker does not decide.
    let gate = (profile.gate)(annotations)?;
    if let (Select::Annotated, Some(reason)) = (settings.select, gate) {
        return Ok(Decision::Skip(reason));
    }
    plan(profile, annotations, settings).map(|plan| Decision::Intercept(Box::new(plan)))
}

fn plan(profile: &Profile, annotations: &Annotations, settings: &Settings) -> Result<Plan, Error> {
    let own = annotation::own(annotations, profile.marker)?;
    let mesh = (profile.layer)(annotations)?;
    let entry = settings.redirect.clone();
    let ours = own.exclude_inbound_ports.is_some()
        || (mesh.exclude_inbound_ports.is_none() && entry.exclude_inbound_ports.is_some());
    let merged = own.over(mesh).over(entry).over((profile.defaults)());
    let excluded = Excluded {
        include: merged.include_inbound_ports.clone().unwrap_or(Include::All),
        exclude: merged.exclude_inbound_ports.clone().unwrap_or_default(),
        ours,
    };
    let redirect = Redirect { exclude_inbound_ports: Some((profile.excluded_inbound)(excluded)), ..merged };
    let frame = Frame {
        mesh: settings.mesh,
        tunnel_port: profile.tunnel_port,
        before_proxy: settings.before_proxy,
        dns: settings.dns,
        udp: settings.udp,
    };
    Plan::new(frame, redirect)
}

#[cfg(test)]
mod tests;
