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

use super::ask::{Hooked, hooked, program_id};
use super::pins::Layout;
use super::programs::{attach_type, attached_to};
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
        let program = called(&Hooked { id: *id, name: sys::program_name(*id).unwrap_or_default() });
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
    if nobody_before(layout, cgroups, pod.unwrap_or(all_pods))? {
        return Ok(Vec::new());
    }
    let mut ours = Vec::new();
    for version in Layout::all(bpf_dir)? {
        for name in STEERING {
            ours.extend(program_id(&version.program(name))?);
        }
    }
    let mut found: Vec<String> = Vec::new();
    let lowest = pod.unwrap_or(all_pods);
    for name in STEERING {
        let own = attached_to(&layout.link(name))?;
        for place in lowest.ancestors().take_while(|place| place.starts_with(cgroups.root())) {
            let is_own = own.is_some() && own == cgroup_id(place);
            let there: Vec<Hooked> = match hooked(place, name) {
                Err(fault) if fault.errno() == Some(libc::ENOENT) => Vec::new(),
                asked => asked?,
            };
            let before = there.iter().take_while(|one| !(is_own && ours.contains(&one.id)));
            for other in before.filter(|one| !ours.contains(&one.id)) {
                let other = format!("{} on {}", called(other), place.display());
                if !found.contains(&other) {
                    found.push(other);
                }
            }
            // What is above runs after ours.
            if is_own {
                break;
            }
        }
    }
    Ok(found)
}

/// Whether ours are the first that run, as on nearly every node: asked in each ADD, so with as few calls as it takes. `false` also where
/// a closer look is needed, as among several versions of ours.
fn nobody_before(layout: &Layout, cgroups: &Cgroups, lowest: &Path) -> Outcome<bool> {
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
    for name in STEERING {
        let own = super::programs::link(&layout.link(name))?;
        for (place, id, directory) in &places {
            let ids = sys::programs_on(directory.as_fd(), attach_type(name))
                .tried(|| format!("ask which programs are attached to cgroup {}", place.display()))?
                .ids;
            let own = own.filter(|own| own.cgroup() == *id);
            match (ids.first(), own) {
                (Some(first), Some(own)) if *first == own.program => break,
                (None, _) => {}
                _ => return Ok(false),
            }
        }
    }
    Ok(true)
}

fn cgroup_id(place: &Path) -> Option<u64> {
    File::open(place).ok().and_then(|directory| super::programs::cgroup_id(&directory).ok())
}

/// A program as people look it up: its name and its id.
fn called(program: &Hooked) -> String {
    format!("{:?} (id {})", program.name, program.id)
}
