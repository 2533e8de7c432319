//! What a mesh's proxy looks like: ports, ids, exclusions, the annotations the mesh has, the marker that says "this pod
//! is meshed". One file per mesh, each a table of its keys; all of them as a page: `conf/meshes.md`.

pub mod appmesh;
pub mod consul;
pub mod custom;
pub(crate) mod document;
pub mod istio;
pub(crate) mod key;
pub mod kuma;
pub mod linkerd;
pub mod osm;
pub(crate) mod value;

use shunt_api::{Mesh, PortRange};

use crate::cni::Annotations;
use crate::error::Error;
use crate::plan::DnsTcp;
use crate::policy::{Layer, Reason};
use key::Key;
use value::says_no;

/// What a mesh's proxy looks like.
#[derive(Debug)]
pub(crate) struct Profile {
    /// The lowest layer.
    pub(crate) defaults: fn() -> Layer,
    /// Our own annotation that this mesh's gate reads.
    pub(crate) marker: Option<&'static str>,
    /// Why the pod is not of the mesh; none when it is.
    pub(crate) gate: fn(&Annotations) -> Result<Option<Reason>, Error>,
    /// The mesh's annotations that concern us. They are read in this order, and a later one has the last word.
    pub(crate) keys: &'static [Key],
    /// Whether the mesh looks at excluded inbound ports, its own words and the proxy's ports, only while all are included.
    pub(crate) include_beats_exclude: bool,
    /// See [`crate::plan::Plan::tunnel_port`].
    pub(crate) tunnel_port: Option<u16>,
    /// See [`crate::plan::Plan::self_calls`].
    pub(crate) self_calls: bool,
    /// See [`crate::plan::Outbound::own_addresses`].
    pub(crate) own_addresses: bool,
    /// See [`crate::plan::Dns::tcp`].
    pub(crate) dns_tcp: DnsTcp,
    /// What its page says beyond the keys.
    #[cfg(test)]
    pub(crate) page: table::Page,
}

/// The profile of `mesh`.
pub(crate) const fn of(mesh: Mesh) -> &'static Profile {
    match mesh {
        Mesh::Istio => &istio::PROFILE,
        Mesh::Linkerd => &linkerd::PROFILE,
        Mesh::Kuma => &kuma::PROFILE,
        Mesh::Consul => &consul::PROFILE,
        Mesh::Osm => &osm::OSM,
        Mesh::Fsm => &osm::FSM,
        Mesh::Appmesh => &appmesh::PROFILE,
        Mesh::Custom => &custom::PROFILE,
    }
}

/// Constants of profiles; 0 has no range and is left out.
pub(crate) fn single_ports(ports: &[u16]) -> Vec<PortRange> {
    ports.iter().copied().filter_map(PortRange::single).collect()
}

/// Whether `key` is there with a value other than blanks.
pub(crate) fn is_said(annotations: &Annotations, key: &str) -> bool {
    annotations.get(key).is_some_and(|value| !value.trim().is_empty())
}

/// The gate of a mesh whose injector writes `marker` into the pods it has injected; `inject` may say no.
pub(crate) fn injected(
    annotations: &Annotations,
    inject: &'static str,
    marker: &'static str,
) -> Option<Reason> {
    if says_no(annotations.get(inject)) {
        Some(Reason::OptedOut { key: inject })
    } else if is_said(annotations, marker) {
        None
    } else {
        Some(Reason::NotMarked { key: marker })
    }
}

#[cfg(test)]
pub(crate) mod table;
#[cfg(test)]
mod tests;
