//! What a mesh's proxy looks like: ports, ids, exclusions, the annotations the mesh has, the marker that says "this pod
//! is meshed". One file per mesh; facts in `peers-cni.md`.

pub mod custom;
pub mod istio;

use shunt_api::{Include, Mesh, PortRange};

use crate::cni::Annotations;
use crate::error::Error;
use crate::plan::DnsTcp;
use crate::policy::{Layer, Reason};

/// What a mesh's proxy looks like.
#[derive(Debug)]
pub(crate) struct Profile {
    /// The lowest layer.
    pub(crate) defaults: fn() -> Layer,
    /// Our own annotation that this mesh's gate reads.
    pub(crate) marker: Option<&'static str>,
    /// Why the pod is not of the mesh; none when it is.
    pub(crate) gate: fn(&Annotations) -> Result<Option<Reason>, Error>,
    /// The layer that the mesh's annotations make.
    pub(crate) layer: fn(&Annotations) -> Result<Layer, Error>,
    /// The last word on the app's excluded ports, once all layers are merged.
    pub(crate) excluded_inbound: fn(Excluded) -> Vec<PortRange>,
    /// See [`crate::plan::Plan::tunnel_port`].
    pub(crate) tunnel_port: Option<u16>,
    /// See [`crate::plan::Plan::self_calls`].
    pub(crate) self_calls: bool,
    /// See [`crate::plan::Outbound::own_addresses`].
    pub(crate) own_addresses: bool,
    /// See [`crate::plan::Dns::tcp`].
    pub(crate) dns_tcp: DnsTcp,
}

/// What is known about the app's excluded ports when all layers are merged.
#[derive(Debug)]
pub(crate) struct Excluded {
    /// The included ports.
    pub(crate) include: Include<PortRange>,
    /// The excluded ones.
    pub(crate) exclude: Vec<PortRange>,
    /// Whether the excluded ones are from the entry or from an annotation of ours, and not in the mesh's own words.
    pub(crate) ours: bool,
}

/// The profile of `mesh`; none where it is not there yet.
pub(crate) const fn of(mesh: Mesh) -> Option<&'static Profile> {
    match mesh {
        Mesh::Istio => Some(&istio::PROFILE),
        Mesh::Custom => Some(&custom::PROFILE),
        Mesh::Linkerd | Mesh::Kuma | Mesh::Consul | Mesh::Osm | Mesh::Fsm | Mesh::Appmesh => None,
    }
}

/// Constants of profiles; 0 has no range and is left out.
pub(crate) fn single_ports(ports: &[u16]) -> Vec<PortRange> {
    ports.iter().copied().filter_map(PortRange::single).collect()
}
