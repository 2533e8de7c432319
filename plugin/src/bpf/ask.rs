//! What the kernel has of one pod, read back for people: what its programs really look at.

use aya::maps::lpm_trie::Key;
use aya::maps::{MapData, SockHash};
use shunt_abi::{ListenerKey, PodKey, Rule, RuleKey, TrieKey, names};

use super::pins::Layout;
use super::pod::{PodPins, open, present, seen, trie};
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

/// The listeners of the pod's proxy that the programs know. The kernel forgets one that is closed.
pub fn listeners(layout: &Layout, cookie: PodKey) -> Outcome<Vec<ListenerKey>> {
    // The map is everybody's. A key that goes while it is listed starts the list anew: it ends all the same.
    const MOST: usize = 1 << 18;
    let map: SockHash<MapData, ListenerKey> =
        SockHash::try_from(open(layout, names::LISTENERS)?).tried(|| "use the map of listeners")?;
    let mut found = Vec::new();
    for key in map.keys().take(MOST) {
        let key = key.tried(|| "list the listeners of proxies")?;
        if key.pod == cookie && !found.contains(&key) {
            found.push(key);
        }
    }
    Ok(found)
}
