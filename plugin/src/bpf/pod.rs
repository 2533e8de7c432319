//! One pod's part of the kernel side: its map entries and its links.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, Map, MapData, MapError, PerCpuHashMap, PerCpuValues, SockHash};
use aya_obj::generated::bpf_attach_type;
use shunt_abi::{
    Counters, LISTENER_PLACES, ListenerKey, PodConfig, PodKey, Reason, Rule, RuleKey, TrieKey, names, slot,
};

use super::pins::{Layout, remove_tree};
use super::rules::Encoded;
use super::{object, programs, sys};
use crate::cgroup::Cgroups;
use crate::fault::{Fault, Outcome, Tried as _};
use crate::netns::Netns;

pub(super) type Trie = LpmTrie<MapData, TrieKey, Rule>;
type CounterMap = PerCpuHashMap<MapData, PodKey, Counters>;

/// Takes what was counted for a pod that goes.
pub type Keep<'a> = &'a dyn Fn(&[(Reason, u64)]);

/// An attachment's pins in one namespace: what every function below works on.
#[derive(Debug, Clone, Copy)]
pub struct PodPins<'a> {
    /// The object's pins.
    pub layout: &'a Layout,
    /// The attachment's name.
    pub name: &'a str,
    /// The namespace's cookie.
    pub cookie: PodKey,
}

pub(super) fn open(layout: &Layout, name: &str) -> Outcome<Map> {
    let path = layout.map(name);
    let data = MapData::from_pin(&path).tried(|| format!("open pinned map {}", path.display()))?;
    Map::from_map_data(data).tried(|| format!("use pinned map {}", path.display()))
}

fn pods(layout: &Layout) -> Outcome<HashMap<MapData, PodKey, PodConfig>> {
    HashMap::try_from(open(layout, names::PODS)?).tried(|| "use the map of pods")
}

pub(super) fn trie(layout: &Layout) -> Outcome<Trie> {
    Trie::try_from(open(layout, names::RULES)?).tried(|| "use the rule trie")
}

fn counters(layout: &Layout) -> Outcome<CounterMap> {
    PerCpuHashMap::try_from(open(layout, names::COUNTERS)?).tried(|| "use the map of counters")
}

/// The configuration the kernel has for a namespace.
pub fn configuration(layout: &Layout, cookie: PodKey) -> Outcome<Option<PodConfig>> {
    present(pods(layout)?.get(&cookie, 0)).tried(|| "read the pod's configuration back")
}

pub(super) fn present<T>(result: Result<T, MapError>) -> Result<Option<T>, MapError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The map of what is kept with sockets, to ask the kernel for what it has of each.
pub fn socket_states(layout: &Layout) -> Outcome<OwnedFd> {
    let path = layout.map(names::SOCKETS);
    sys::open(&path).tried(|| format!("open pinned map {}", path.display()))
}

/// `BPF_NOEXIST`
const NO_EXIST: u64 = 1;

impl PodPins<'_> {
    /// Makes the attachment's directory: first of all, so that whatever an ADD that is killed leaves can be found.
    ///
    /// Only inside an object's directory that is there: one made here would have no programs in it and be taken for a loaded one.
    pub fn prepare(&self) -> Outcome<()> {
        for directory in [self.layout.attachment(self.name), self.layout.pod(self.name, self.cookie)] {
            match fs::DirBuilder::new().mode(0o700).create(&directory) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => other.tried(|| format!("create directory {}", directory.display()))?,
            }
        }
        Ok(())
    }

    /// Writes the map entries: rules before the configuration that makes the programs look at them, rules of an earlier ADD
    /// that are no longer wanted after it. Listeners stay known.
    pub fn write(&self, encoded: &Encoded) -> Outcome<()> {
        let mut trie = trie(self.layout)?;
        trie.insert(&Key::new(TrieKey::BITS, TrieKey::first(self.cookie)), Rule::default(), 0)
            .tried(|| "open the pod's part of the rule trie")?;
        let mut stale: HashSet<(u32, RuleKey)> = self.rules(&trie)?.into_iter().collect();
        for (length, key, rule) in &encoded.rules {
            stale.remove(&(*length, *key));
            trie.insert(&self.key(*length, *key), rule, 0).tried(|| "add a rule of the pod")?;
        }
        self.start_counting()?;
        pods(self.layout)?
            .insert(self.cookie, encoded.config, 0)
            .tried(|| "put the pod's configuration into the map of pods")?;
        for (length, key) in stale {
            gone(trie.remove(&self.key(length, key))).tried(|| "remove a rule the pod no longer has")?;
        }
        Ok(())
    }

    fn key(&self, length: u32, rule: RuleKey) -> Key<TrieKey> {
        Key::new(length, TrieKey::new(self.cookie, rule))
    }

    /// The pod's rules in the trie: what the kernel lists after the pod's first entry, as far as it is the pod's.
    pub(super) fn rules(&self, trie: &Trie) -> Outcome<Vec<(u32, RuleKey)>> {
        let first = Key::new(TrieKey::BITS, TrieKey::first(self.cookie));
        if present(trie.get(&first, 0)).tried(|| "find the pod's part of the rule trie")?.is_none() {
            return Ok(Vec::new());
        }
        let path = self.layout.map(names::RULES);
        let map = sys::open(&path).tried(|| format!("open pinned map {}", path.display()))?;
        let mut found = Vec::new();
        let mut key = raw_key(TrieKey::BITS, TrieKey::first(self.cookie));
        while let Some(next) = sys::next_key(map.as_fd(), &key).tried(|| "list the pod's rules")? {
            if next.key.pod() != self.cookie {
                break;
            }
            found.push((next.length, next.key.rule));
            key = next;
        }
        Ok(found)
    }

    /// Says that the pod's proxy has listened before: from here on nothing passes for want of one.
    pub fn proxy_was_seen(&self) -> Outcome<()> {
        seen(self.layout)?.insert(self.cookie, 1, 0).tried(|| "record that the pod's proxy may have listened")
    }

    fn start_counting(&self) -> Outcome<()> {
        let cpus = aya::util::nr_cpus()
            .map_err(|(what, error)| Fault::new(format!("count the CPUs ({what})"), error))?;
        let zero =
            PerCpuValues::try_from(vec![Counters::default(); cpus]).tried(|| "prepare the pod's counters")?;
        match counters(self.layout)?.insert(self.cookie, zero, NO_EXIST) {
            Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::AlreadyExists => {
                Ok(())
            }
            other => other.tried(|| "put the pod's counters into their map"),
        }
    }

    /// Attaches the pod's own programs: `sk_lookup` to its namespace, `getsockopt` to its cgroup if it has one, else to the
    /// one all pods live under. Links that are in place stay.
    pub fn attach(
        &self,
        netns: &Netns,
        cgroups: &Cgroups,
        pod_cgroup: Option<&Path>,
        all_pods: &Path,
    ) -> Outcome<()> {
        let directory = self.layout.pod(self.name, self.cookie);
        let pin = self.lookup_pin();
        if !self.lookup_attached(netns)? {
            let program = object::load_lookup(self.layout, self.cookie)?;
            let link = sys::attach(program.as_fd(), netns.as_fd(), bpf_attach_type::BPF_SK_LOOKUP)
                .tried(|| "attach sk_lookup to the pod's network namespace")?;
            remove_pin(&pin)?;
            sys::pin(link.as_fd(), &pin).tried(|| format!("pin link {}", pin.display()))?;
        }
        let (cgroup, pin) = match pod_cgroup {
            Some(cgroup) => (cgroup, directory.join(names::GETSOCKOPT)),
            None => (all_pods, self.layout.link(names::GETSOCKOPT)),
        };
        programs::attach_getsockopt(self.layout, cgroups, cgroup, &pin)
    }

    /// True if the pod's `sk_lookup` link is there and is on this namespace.
    pub fn lookup_attached(&self, netns: &Netns) -> Outcome<bool> {
        Ok(self.namespace()? == Some(short_inode(netns)))
    }

    /// Inode, 32 bits of it, of the namespace the pod's `sk_lookup` link is on; 0 once that is gone, `None` if there is no link.
    /// The kernel's word, whatever this process sees of the host's files.
    pub fn namespace(&self) -> Outcome<Option<u64>> {
        Ok(programs::link(&self.lookup_pin())?.map(|info| info.netns()))
    }

    /// True if the `getsockopt` program answers for the pod's sockets.
    pub fn getsockopt_attached(&self, pod_cgroup: Option<&Path>, all_pods: &Path) -> Outcome<bool> {
        let (pin, cgroup) = match pod_cgroup {
            Some(cgroup) => (self.layout.pod(self.name, self.cookie).join(names::GETSOCKOPT), cgroup),
            None => (self.layout.link(names::GETSOCKOPT), all_pods),
        };
        let directory = fs::File::open(cgroup).tried(|| format!("open cgroup {}", cgroup.display()))?;
        Ok(programs::attached_to(&pin)? == Some(programs::cgroup_id(&directory)?))
    }

    /// True if the kernel has rules for the pod.
    pub fn has_rules(&self) -> Outcome<bool> {
        Ok(!self.rules(&trie(self.layout)?)?.is_empty())
    }

    /// True if the kernel shows that no other attachment is in the namespace: our `sk_lookup` program is the only one there. Where it
    /// does not show that, [`Layout::shared`] knows; that takes longer the more pods there are.
    fn is_alone(&self, netns: Option<&Netns>) -> bool {
        let (Some(netns), Ok(Some(link))) = (netns, programs::link(&self.lookup_pin())) else { return false };
        // Of a link that is on no namespace any more nothing follows: an earlier run may have got as far as taking it off.
        link.netns() == short_inode(netns) && lookups(netns).is_ok_and(|ids| ids == [link.program])
    }

    /// Where the link of the pod's `sk_lookup` program is pinned.
    fn lookup_pin(&self) -> PathBuf {
        self.layout.pod(self.name, self.cookie).join(names::SK_LOOKUP)
    }

    /// Undoes all of the above, in reverse; what is not there is as good. Map entries stay while another attachment is in the
    /// same namespace, which is `netns` if the caller has it. Goes on after a failure and returns the first. `keep` is given what was
    /// counted before it is forgotten.
    pub fn remove(&self, netns: Option<&Netns>, keep: Keep<'_>) -> Outcome<()> {
        let mut first = Ok(());
        if self.is_alone(netns) || !self.layout.shared(self.name, self.cookie)? {
            // Without its configuration a namespace is nobody's, whatever else is left of it.
            let steps: [(&str, &dyn Fn() -> Outcome<()>); 5] = [
                (names::PODS, &|| self.forget_config()),
                (names::RULES, &|| self.forget_rules()),
                (names::COUNTERS, &|| self.forget_counters(keep)),
                (names::LISTENERS, &|| self.forget_listeners()),
                (names::SEEN, &|| self.forget_seen()),
            ];
            for (name, forget) in steps {
                let map = self.layout.map(name);
                // Somebody may have removed the pin by hand: then there is nothing to take out of the map.
                if !map.try_exists().tried(|| format!("look for {}", map.display()))? {
                    continue;
                }
                let removed = forget();
                // Maps of another object may be laid out otherwise, but for this one. What stays in them goes when the object goes.
                if name == names::PODS || self.layout.hash() == object::HASH {
                    first = first.and(removed);
                }
            }
        }
        // The directory is what the rest is found by: it goes only when the rest is gone.
        first?;
        // The namespace may stay, and is nobody's from now on. A pin that cannot be opened is removed all the same.
        if let Ok(link) = sys::open(&self.lookup_pin()) {
            let _later = sys::detach(link.as_fd());
        }
        remove_tree(&self.layout.pod(self.name, self.cookie))
    }

    fn forget_config(&self) -> Outcome<()> {
        let path = self.layout.map(names::PODS);
        let what = || format!("remove the pod's configuration from {}", path.display());
        let map = sys::open(&path).tried(what)?;
        // By key alone, which is a cookie in every version: the value may be another version's.
        match sys::remove(map.as_fd(), &self.cookie) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).tried(what),
            _ => Ok(()),
        }
    }

    fn forget_rules(&self) -> Outcome<()> {
        let mut trie = trie(self.layout)?;
        for (length, key) in self.rules(&trie)? {
            gone(trie.remove(&self.key(length, key))).tried(|| "remove a rule of the pod")?;
        }
        // Last: the others are found from it.
        gone(trie.remove(&Key::new(TrieKey::BITS, TrieKey::first(self.cookie))))
            .tried(|| "close the pod's part of the rule trie")
    }

    fn forget_counters(&self, keep: Keep<'_>) -> Outcome<()> {
        let mut counters = counters(self.layout)?;
        // Numbers that cannot be read are lost; the pod goes all the same.
        keep(&totals(&counters, self.cookie).unwrap_or_default());
        gone(counters.remove(&self.cookie)).tried(|| "remove the pod's counters")
    }

    fn forget_seen(&self) -> Outcome<()> {
        gone(seen(self.layout)?.remove(&self.cookie)).tried(|| "forget that the pod's proxy has listened")
    }

    fn forget_listeners(&self) -> Outcome<()> {
        let mut listeners: SockHash<MapData, ListenerKey> =
            SockHash::try_from(open(self.layout, names::LISTENERS)?).tried(|| "use the map of listeners")?;
        for slot in [slot::OUTBOUND, slot::INBOUND, slot::DNS] {
            for index in 0..LISTENER_PLACES {
                gone(listeners.remove(&ListenerKey { pod: self.cookie, slot, index }))
                    .tried(|| "remove a listener of the pod's proxy")?;
            }
        }
        Ok(())
    }
}

/// As much of a namespace's inode as the kernel tells of a link's.
fn short_inode(netns: &Netns) -> u64 {
    netns.identity().inode & u64::from(u32::MAX)
}

/// Ids of the `sk_lookup` programs of a namespace, of anybody's.
fn lookups(netns: &Netns) -> io::Result<Vec<u32>> {
    Ok(sys::programs_on(netns.as_fd(), bpf_attach_type::BPF_SK_LOOKUP)?.ids)
}

/// True if the kernel shows that no attachment is in the namespace: each has an `sk_lookup` program there.
pub fn is_nobodys(netns: &Netns) -> bool {
    lookups(netns).is_ok_and(|ids| ids.is_empty())
}

pub(super) fn seen(layout: &Layout) -> Outcome<HashMap<MapData, PodKey, u32>> {
    HashMap::try_from(open(layout, names::SEEN)?).tried(|| "use the map of proxies seen")
}

fn raw_key(length: u32, key: TrieKey) -> sys::TrieEntry {
    sys::TrieEntry { length, key }
}

/// Removing what is not there is success.
fn gone(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn remove_pin(pin: &Path) -> Outcome<()> {
    match fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).tried(|| format!("remove stale pin {}", pin.display()))
        }
        _ => Ok(()),
    }
}

/// What the programs decided for a pod so far, all CPUs together: reason and count, zeros left out.
pub fn counts(layout: &Layout, cookie: PodKey) -> Outcome<Vec<(Reason, u64)>> {
    totals(&counters(layout)?, cookie)
}

fn totals(map: &CounterMap, cookie: PodKey) -> Outcome<Vec<(Reason, u64)>> {
    let Some(values) = present(map.get(&cookie, 0)).tried(|| "read the pod's counters")? else {
        return Ok(Vec::new());
    };
    let total = |reason: &Reason| -> u64 {
        let index = usize::try_from(reason.code()).unwrap_or(usize::MAX);
        values.iter().filter_map(|cpu| cpu.0.get(index)).sum()
    };
    Ok(Reason::ALL.iter().map(|reason| (*reason, total(reason))).filter(|(_, count)| *count > 0).collect())
}
