//! Maps, and the few ways the programs use them.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::{
    HashMap, HashOfMaps, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, SkStorage, SockHash,
    lpm_trie::Key,
};
use aya_ebpf::macros::btf_map;
use shunt_abi::{
    Counters, ListenerKey, Pair, PairKey, PodConfig, PodKey, Reason, Rule, RuleKey, SocketState, decide::Rules,
};

/// Pods of one node.
const POD_LIMIT: usize = 16384;
/// Bound on one pod's trie. The kernel allocates entries as they are added and does not compare this number when a trie is
/// put into the outer map; the plugin asks for what the plan needs.
const RULE_LIMIT: usize = 1024;
const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

type Trie = LpmTrie<RuleKey, Rule, RULE_LIMIT>;

#[btf_map]
pub(crate) static PODS: HashMap<PodKey, PodConfig, POD_LIMIT, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub(crate) static RULES: HashOfMaps<PodKey, Trie, POD_LIMIT, NO_PREALLOC> = HashOfMaps::new();
#[btf_map]
pub(crate) static COUNTERS: PerCpuHashMap<PodKey, Counters, POD_LIMIT, NO_PREALLOC> = PerCpuHashMap::new();
#[btf_map]
pub(crate) static LISTENERS: SockHash<ListenerKey, 65536> = SockHash::new();
#[btf_map]
pub(crate) static PAIRS: LruHashMap<PairKey, Pair, 65536> = LruHashMap::new();
#[btf_map]
pub(crate) static SOCKETS: SkStorage<SocketState> = SkStorage::new();
#[btf_map]
pub(crate) static ROTATION: PerCpuArray<u32, 1> = PerCpuArray::new();

/// The configuration of a pod; `None` for a namespace that is not ours.
#[inline(always)]
pub(crate) fn pod(cookie: PodKey) -> Option<&'static PodConfig> {
    // SAFETY: entries are not preallocated, so one that is removed meanwhile stays readable until the program ends (RCU).
    unsafe { PODS.get(cookie) }
}

/// One pod's trie.
pub(crate) struct PodRules(Option<&'static Trie>);

impl PodRules {
    /// Finds it.
    #[inline(always)]
    pub(crate) fn of(cookie: PodKey) -> Self {
        // SAFETY: as for `pod`; the inner map is held until the program ends.
        Self(unsafe { RULES.get(&cookie) })
    }
}

impl Rules for PodRules {
    #[inline(always)]
    fn lookup(&self, key: RuleKey) -> Option<Rule> {
        self.0?.get(&Key::new(RuleKey::address_bits(128), key)).copied()
    }
}

/// Counts a decision of a pod.
#[inline(always)]
pub(crate) fn count(cookie: PodKey, reason: Reason) {
    if let Some(counters) = COUNTERS.get_ptr_mut(cookie) {
        // SAFETY: this CPU's own copy; the mask keeps the index inside the array.
        unsafe { (*counters).0[reason.code() as usize & (Reason::SLOTS - 1)] += 1 };
    }
}
