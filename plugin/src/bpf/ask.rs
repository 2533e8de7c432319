//! What the kernel has of one pod, read back for people: what its programs really look at.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use aya::maps::lpm_trie::Key;
use aya::maps::{MapData, SockHash};
use shunt_abi::{ListenerKey, PodKey, Rule, RuleKey, TrieKey, names};

use super::pins::Layout;
use super::pod::{PodPins, open, present, seen, trie};
use super::programs::attach_type;
use super::sys;
use crate::fault::{Outcome, Tried as _};

/// The pod's rules, as [`super::rules::Encoded`] has them.
pub fn rules(layout: &Layout, cookie: PodKey) -> Outcome<Vec<(u32, RuleKey, Rule)>> {
    let trie = trie(layout)?;
    let mut rules = Vec::new();
    for (length, key) in (PodPins { layout, name: "", cookie }).rules(&trie)? {
        // The kernel looks for the longest match up to a length: of a key as long as itself that is the entry.
        let found = trie.get(&Key::new(length, TrieKey::new(cookie, key)), 0);
        if let Some(rule) = present(found).tried(|| "read a rule of the pod")? {
            rules.push((length, key, rule));
        }
    }
    Ok(rules)
}

/// Whether the pod's proxy has ever listened for outbound connections.
pub fn has_listened(layout: &Layout, cookie: PodKey) -> Outcome<bool> {
    let found =
        present(seen(layout)?.get(&cookie, 0)).tried(|| "ask whether the pod's proxy has listened")?;
    Ok(found.is_some())
}

/// The listeners that the programs know: the pod's proxy's, and before it those of others ([`ListenerKey::is_proxys`]). The kernel
/// forgets one that is closed.
pub fn listeners(layout: &Layout, cookie: PodKey) -> Outcome<Vec<ListenerKey>> {
    Ok(every_listener(layout)?.remove(&cookie).unwrap_or_default())
}

/// The same of all pods, which costs as much.
pub fn every_listener(layout: &Layout) -> Outcome<BTreeMap<PodKey, Vec<ListenerKey>>> {
    // A key that goes while the map is listed starts the list anew: it ends all the same.
    const MOST: usize = 1 << 18;
    let map: SockHash<MapData, ListenerKey> =
        SockHash::try_from(open(layout, names::LISTENERS)?).tried(|| "use the map of listeners")?;
    let mut found: BTreeMap<PodKey, Vec<ListenerKey>> = BTreeMap::new();
    for key in map.keys().take(MOST) {
        let key = key.tried(|| "list the listeners of proxies")?;
        let of_pod = found.entry(key.pod).or_default();
        if !of_pod.contains(&key) {
            of_pod.push(key);
        }
    }
    Ok(found)
}

/// A program on a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hooked {
    /// Its id.
    pub id: u32,
    /// The name it was loaded under; empty where the kernel does not say.
    pub name: String,
}

/// The programs attached to a cgroup itself where the shared program `name` would be, in the order in which they run.
pub fn hooked(cgroup: &Path, name: &str) -> Outcome<Vec<Hooked>> {
    let what = || format!("ask which programs are attached to cgroup {}", cgroup.display());
    let directory = File::open(cgroup).tried(what)?;
    let ids = sys::programs_on(directory.as_fd(), attach_type(name)).tried(what)?.ids;
    // One that is gone by now has no name.
    Ok(ids.into_iter().map(|id| Hooked { id, name: sys::program_name(id).unwrap_or_default() }).collect())
}

/// The id of a pinned program; `None` if there is no such pin.
pub fn program_id(pin: &Path) -> Outcome<Option<u32>> {
    let what = || format!("ask program {}", pin.display());
    match sys::open(pin) {
        Ok(program) => Ok(Some(sys::program_id(program.as_fd()).tried(what)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).tried(what),
    }
}
