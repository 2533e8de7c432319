//! Programs of others where ours are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use shunt_abi::names::{GETSOCKOPT, SHARED_PROGRAMS};

use super::super::attached::{Attached, words};
use super::Finding;
use crate::backend::{Places, Receipt};
use crate::bpf::ask::{Hooked, hooked, program_id};
use crate::bpf::pins::Layout;
use crate::cgroup::Cgroups;
use crate::fault::Outcome;

/// Where a program of another stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum When {
    Before,
    After,
}

/// Looks at the cgroups of pods and at all above them.
pub(super) fn findings(places: Places<'_>, attached: &[Attached]) -> Vec<Finding> {
    looked(places, attached).unwrap_or_else(|fault| {
        vec![Finding::warning(
            "hooks-unknown",
            format!("which programs are attached to the pods' cgroups could not be asked: {}", words(&fault)),
            "nothing, if the pod is ending; else see whether bpf(2) is permitted here",
        )]
    })
}

fn looked(places: Places<'_>, attached: &[Attached]) -> Outcome<Vec<Finding>> {
    let Some(cgroups) = Cgroups::mounted()? else { return Ok(Vec::new()) };
    let mut ours = BTreeSet::new();
    for layout in Layout::all(places.bpf_dir)? {
        for name in SHARED_PROGRAMS.into_iter().chain([GETSOCKOPT]) {
            ours.extend(program_id(&layout.program(name))?);
        }
    }
    // The cgroups, and how deep ours are in the hierarchy: what is deeper runs first.
    let mut directories: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for one in attached.iter().filter(|one| one.alive) {
        let Some(Receipt::Ebpf { pod_cgroup, all_pods, .. }) = one.record.as_ref().map(|it| &it.receipt)
        else {
            continue;
        };
        let lowest = pod_cgroup.as_ref().unwrap_or(all_pods);
        let above = lowest.ancestors().take_while(|path| path.starts_with(cgroups.root()));
        directories.extend(above.map(|path| (path.to_owned(), all_pods.components().count())));
    }
    let mut found: BTreeMap<(When, PathBuf, String), Vec<&str>> = BTreeMap::new();
    for (directory, own_depth) in directories {
        if !directory.is_dir() {
            continue;
        }
        for name in SHARED_PROGRAMS.into_iter().chain([GETSOCKOPT]) {
            let there = hooked(&directory, name)?;
            let own = there.iter().position(|hooked| ours.contains(&hooked.id));
            let others = there.iter().enumerate().filter(|(_, hooked)| !ours.contains(&hooked.id));
            for (index, Hooked { id, name: called }) in others {
                let deeper = directory.components().count() > own_depth;
                let before = own.map_or(deeper, |own| index < own);
                let when = if before { When::Before } else { When::After };
                let called = format!("{called} ({id})");
                found.entry((when, directory.clone(), called)).or_default().push(name);
            }
        }
    }
    Ok(found
        .into_iter()
        .map(|((when, directory, called), hooks)| {
            let seen = |order: &str| {
                format!(
                    "program {called} is attached to {} for {} and runs {order} ours",
                    directory.display(),
                    hooks.join(", ")
                )
            };
            match when {
                When::Before => Finding::warning(
                    "foreign-program",
                    seen("before"),
                    "see whose it is (bpftool cgroup tree): an address that it has changed is what Shunt sees",
                ),
                When::After => Finding::note(
                    "foreign-program",
                    seen("after"),
                    "nothing: it sees what Shunt lets pass (Cilium's and Calico's are here)",
                ),
            }
        })
        .collect())
}
