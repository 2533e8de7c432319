//! Programs of others on the cgroups of pods: which keep ours out, and which see a connection before ours do.
//!
//! What the kernel allows is decided by the flags of the attachment that is nearest, from the cgroup itself up to the root:
//!
//! | nearest attachment | on the same cgroup | on one above |
//! |---|---|---|
//! | several may be there (`BPF_F_ALLOW_MULTI`, any link) | ours is added | ours is added, and runs before it |
//! | may be overridden (`BPF_F_ALLOW_OVERRIDE`) | EPERM | ours would be added, and that one would **run no more** for the pods |
//! | alone (flags 0) | EPERM | EPERM |
//!
//! Ours is added in the first row only. In the others somebody relies on being alone, and pods get iptables, or an error that names
//! the program.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use shunt_abi::names;

use super::ask::program_id;
use super::pins::Layout;
use super::programs::attach_type;
use super::sys;
use crate::cgroup::Cgroups;
use crate::fault::{Fault, Outcome, Tried as _};

const ALLOW_OVERRIDE: u32 = 1;
const ALLOW_MULTI: u32 = 2;

/// The hooks whose programs change where a connection or a datagram goes.
const STEERING: [&str; 4] = [names::CONNECT4, names::CONNECT6, names::SENDMSG4, names::SENDMSG6];

/// What keeps the program `name` from being attached to `cgroup`: a program of another. Fails where that cannot be asked.
pub(super) fn barrier(cgroups: &Cgroups, cgroup: &Path, name: &str) -> Outcome<Option<Fault>> {
    for place in cgroup.ancestors().take_while(|place| place.starts_with(cgroups.root())) {
        let what = || format!("ask which programs are attached to cgroup {}", place.display());
        let directory = match File::open(place) {
            // Nothing is attached to what is not there; attaching itself will tell.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened.tried(what)?,
        };
        let attached = sys::programs_on(directory.as_fd(), attach_type(name)).tried(what)?;
        let Some(id) = attached.ids.first() else { continue };
        if attached.flags & ALLOW_MULTI != 0 {
            return Ok(None);
        }
        let how = if attached.flags & ALLOW_OVERRIDE == 0 { "flags 0" } else { "BPF_F_ALLOW_OVERRIDE" };
        let program = called(*id);
        return Ok(Some(Fault::new(
            format!("attach {name} to cgroup {}", cgroup.display()),
            format!(
                "program {program} is attached to {} with {how}, which suffers no other beside it",
                place.display()
            ),
        )));
    }
    Ok(None)
}

/// What keeps any of our programs from the cgroups of a pod: the shared ones from `all_pods`, `getsockopt` from the pod's own. Programs
/// that cover the pod already need no place.
pub fn obstacle(
    layout: &Layout,
    cgroups: &Cgroups,
    pod: Option<&Path>,
    all_pods: &Path,
) -> Outcome<Option<Fault>> {
    let missing = super::programs::missing(layout, cgroups, all_pods)?;
    for name in missing {
        if let Some(found) = barrier(cgroups, all_pods, name)? {
            return Ok(Some(found));
        }
    }
    barrier(cgroups, pod.unwrap_or(all_pods), names::GETSOCKOPT)
}

/// Programs of others that see where a pod's connection or datagram goes before ours do and may change it: program and cgroup, in
/// words. Those of other versions of this plugin, pinned under `bpf_dir`, are not among them.
pub fn earlier(
    bpf_dir: &Path,
    layout: &Layout,
    cgroups: &Cgroups,
    pod: Option<&Path>,
    all_pods: &Path,
) -> Outcome<Vec<String>> {
    let lowest = pod.unwrap_or(all_pods);
    let mut places = Vec::new();
    for place in lowest.ancestors().take_while(|place| place.starts_with(cgroups.root())) {
        match File::open(place) {
            // Nothing is attached to what is not there.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => {
                let directory = opened.tried(|| format!("open cgroup {}", place.display()))?;
                places.push((place, super::programs::cgroup_id(&directory)?, directory));
            }
        }
    }
    // Where ours is not the first that runs. On nearly every node there is none, and every ADD asks.
    let mut unclear = Vec::new();
    for name in STEERING {
        let own = super::programs::link(&layout.link(name))?;
        for (place, id, directory) in &places {
            let there = sys::programs_on(directory.as_fd(), attach_type(name))
                .tried(|| format!("ask which programs are attached to cgroup {}", place.display()))?
                .ids;
            let own = own.filter(|own| own.cgroup() == *id);
            if !there.is_empty() && there.first() != own.map(|own| own.program).as_ref() {
                unclear.push((*place, own.is_some(), there));
            }
            // What is above runs after ours.
            if own.is_some() {
                break;
            }
        }
    }
    if unclear.is_empty() {
        return Ok(Vec::new());
    }
    let mut ours = Vec::new();
    for version in Layout::all(bpf_dir)? {
        for name in STEERING {
            ours.extend(program_id(&version.program(name))?);
        }
    }
    let mut found: Vec<String> = Vec::new();
    for (place, is_own, there) in unclear {
        let before = there.iter().take_while(|id| !(is_own && ours.contains(id)));
        for other in before.filter(|id| !ours.contains(id)) {
            let other = format!("{} on {}", called(*other), place.display());
            if !found.contains(&other) {
                found.push(other);
            }
        }
    }
    Ok(found)
}

/// A program as people look it up: its name and its id.
fn called(id: u32) -> String {
    // One that is gone by now has no name.
    format!("{:?} (id {id})", sys::program_name(id).unwrap_or_default())
}
