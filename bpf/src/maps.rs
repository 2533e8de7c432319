//! Maps, and the few ways the programs use them.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::{
    Array, ArrayOfMaps, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, ProgramArray, RingBuf,
    SkStorage, SockHash, lpm_trie::Key,
};
use aya_ebpf::macros::btf_map;
use shunt_abi::{
    Arrival, Counters, DatagramState, ListenerKey, Pair, PairKey, PodConfig, PodKey, Reason, Rule, RuleKey,
    SocketState, TrieKey,
    decide::Rules,
    flag, names,
    trace::{self, Event, Note, Trace},
};

/// Pods of one node.
const POD_LIMIT: usize = 16384;
/// Rules of all pods. A bound only: the kernel allocates entries as they are added.
const RULE_LIMIT: usize = 1 << 24;
const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
pub(crate) static PODS: HashMap<PodKey, PodConfig, POD_LIMIT, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub(crate) static RULES: LpmTrie<TrieKey, Rule, RULE_LIMIT> = LpmTrie::new();
#[btf_map]
pub(crate) static COUNTERS: PerCpuHashMap<PodKey, Counters, POD_LIMIT, NO_PREALLOC> = PerCpuHashMap::new();
#[btf_map]
pub(crate) static LISTENERS: SockHash<ListenerKey, 65536> = SockHash::new();
#[btf_map]
pub(crate) static PAIRS: LruHashMap<PairKey, Pair, 65536> = LruHashMap::new();
#[btf_map]
pub(crate) static SOCKETS: SkStorage<SocketState> = SkStorage::new();
#[btf_map]
pub(crate) static DATAGRAMS: SkStorage<DatagramState> = SkStorage::new();
#[btf_map]
pub(crate) static SEEN: HashMap<PodKey, u32, POD_LIMIT, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub(crate) static ROTATION: PerCpuArray<u32, 1> = PerCpuArray::new();
#[btf_map]
pub(crate) static TRACE: Array<Trace, 1, { BPF_F_MMAPABLE as usize }> = Array::new();
/// The size is that of none in particular: each listener brings a ring buffer of its own.
#[btf_map]
pub(crate) static RINGS: ArrayOfMaps<RingBuf<Event, 4096>, { trace::LISTENERS as usize }> =
    ArrayOfMaps::new();
#[btf_map]
pub(crate) static NOTES: PerCpuArray<Note, 1> = PerCpuArray::new();
#[btf_map]
pub(crate) static ARRIVALS: PerCpuArray<Arrival, 1> = PerCpuArray::new();
#[btf_map]
pub(crate) static LOOKUPS: ProgramArray<{ names::place::COUNT as usize }> = ProgramArray::new();

/// The configuration of a pod; `None` for a namespace that is not ours.
#[inline(always)]
pub(crate) fn pod(cookie: PodKey) -> Option<&'static PodConfig> {
    // SAFETY: entries are not preallocated, so one that is removed meanwhile stays readable until the program ends (RCU).
    unsafe { PODS.get(cookie) }
}

/// True if connections of the pod's app pass because its proxy has never listened.
#[inline(always)]
pub(crate) fn before_proxy(cookie: PodKey, pod: &PodConfig) -> bool {
    // SAFETY: as above; only whether there is an entry matters.
    pod.flags & flag::BYPASS_BEFORE_PROXY != 0 && unsafe { SEEN.get(cookie) }.is_none()
}

/// From here on, no proxy means no connection. Full is not possible: there is room for as many pods as in `PODS`.
#[inline(always)]
pub(crate) fn proxy_is_there(cookie: PodKey) {
    let _seen = SEEN.insert(&cookie, &1, 0);
}

/// One pod's rules.
pub(crate) struct PodRules(pub(crate) PodKey);

impl Rules for PodRules {
    #[inline(always)]
    fn lookup(&self, key: RuleKey) -> Option<Rule> {
        RULES.get(&Key::new(TrieKey::BITS, TrieKey::new(self.0, key))).copied()
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
