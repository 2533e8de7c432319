//! Listening to the programs' decisions: a place among the listeners, and a ring buffer in it.
//!
//! A listener says every [`RENEWAL`] that it is still there. One that is killed does not, and [`LEASE`] later the programs tell nobody
//! any more. Its ring buffer stays in its place until the next listener takes it; nothing is written into it.

use std::collections::BTreeMap;
use std::mem::offset_of;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use aya::maps::{Array, Map, MapData, RingBuf};
use nix::time::{ClockId, clock_gettime};
use shunt_abi::trace::{Event, LISTENERS, Listener, Trace};
use shunt_abi::{Address, PodKey, names};

use super::pins::Layout;
use super::sys::{self, Shared};
use crate::bytes::taken;
use crate::fault::{Fault, Outcome, Tried as _};
use crate::lock::{Held, Lock};

/// How long the programs take a listener for there.
const LEASE: Duration = Duration::from_secs(2);
/// How often it says so.
pub const RENEWAL: Duration = Duration::from_millis(400);
/// How often it looks for events: the programs wake nobody.
pub const LOOK: Duration = Duration::from_millis(40);
/// Bytes of a listener's ring buffer: some 9,000 events.
const RING: u32 = 1 << 20;
/// `BPF_MAP_TYPE_RINGBUF`
const RING_TYPE: u32 = 27;

/// Somebody who listens.
pub struct Listening {
    place: u32,
    pod: PodKey,
    ring: RingBuf<MapData>,
    told_by: BTreeMap<String, Told>,
    held: Option<Held>,
}

/// The maps of one object.
#[derive(Debug)]
struct Told {
    shared: Shared<Trace>,
    rings: OwnedFd,
}

impl Listening {
    /// Takes a place; nobody tells anything yet. `pod`: the one pod to listen to, 0 for all.
    pub fn new(state_dir: &Path, pod: PodKey) -> Outcome<Self> {
        let (place, held) = free_place(state_dir)?;
        let ring = aya_obj::Map::new_from_params(RING_TYPE, 0, 0, RING, 0);
        let ring = MapData::create(ring, "shunt_trace", None)
            .and_then(Map::from_map_data)
            .and_then(RingBuf::try_from)
            .tried(|| "make a ring buffer")?;
        Ok(Self { place, pod, ring, told_by: BTreeMap::new(), held: Some(held) })
    }

    /// Has the programs of an object tell from here on. They must be of this version of the layouts.
    pub fn listen_to(&mut self, layout: &Layout) -> Outcome<()> {
        if self.listens_to(layout) {
            return Ok(());
        }
        let told = Told::open(layout)?;
        told.begin(self.place, self.pod, &self.ring)?;
        self.told_by.insert(layout.hash().to_owned(), told);
        Ok(())
    }

    /// True if it has an object's programs tell.
    pub fn listens_to(&self, layout: &Layout) -> bool {
        self.told_by.contains_key(layout.hash())
    }

    /// Says that it is still there.
    pub fn renew(&self) -> Outcome<()> {
        let until = until()?;
        for told in self.told_by.values() {
            told.renew(self.place, until);
        }
        Ok(())
    }

    /// The next event, if there is one.
    pub fn take(&mut self) -> Option<Event> {
        loop {
            let item = self.ring.next()?;
            // One of another length is not ours to read; there is none.
            if let Some(event) = decoded(&item) {
                return Some(event);
            }
        }
    }

    /// How many events there was no room for.
    pub fn lost(&self) -> u64 {
        self.told_by.values().map(|told| told.lost(self.place)).sum()
    }
}

impl std::fmt::Debug for Listening {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listening").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        for told in self.told_by.values() {
            told.end(self.place);
        }
        // Last: the place is somebody else's when nothing of this listener is in it any more.
        if let Some(held) = self.held.take() {
            held.discard();
        }
    }
}

/// The first place that nobody has. The lock is held for as long as the listener is there, also while it is stopped.
fn free_place(state_dir: &Path) -> Outcome<(u32, Held)> {
    let locks = Lock::new(state_dir, Instant::now());
    let mut last = None;
    for place in 0..LISTENERS {
        match locks.take(&format!("trace-{place}")) {
            Ok(held) => return Ok((place, held)),
            Err(fault) => last = Some(fault),
        }
    }
    let why = last.map_or_else(String::new, |fault| format!(": {fault}"));
    Err(Fault::new("find a place among the listeners", format!("{LISTENERS} listen already{why}")))
}

/// When the lease ends that begins now.
fn until() -> Outcome<u64> {
    Ok(monotonic()?.saturating_add(u64::try_from(LEASE.as_nanos()).unwrap_or(u64::MAX)))
}

/// The clock of the programs, in nanoseconds.
pub fn monotonic() -> Outcome<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).tried(|| "read the monotonic clock")?;
    Ok(u64::try_from(Duration::from(now).as_nanos()).unwrap_or(u64::MAX))
}

impl Told {
    fn open(layout: &Layout) -> Outcome<Self> {
        let what = |name: &str| format!("use map {}", layout.map(name).display());
        // For its check of the sizes.
        MapData::from_pin(layout.map(names::TRACE))
            .and_then(Map::from_map_data)
            .and_then(Array::<MapData, Trace>::try_from)
            .tried(|| what(names::TRACE))?;
        let fd = sys::open(&layout.map(names::TRACE)).tried(|| what(names::TRACE))?;
        let shared = Shared::of(fd.as_fd()).tried(|| format!("{} in memory", what(names::TRACE)))?;
        let rings = sys::open(&layout.map(names::RINGS)).tried(|| what(names::RINGS))?;
        Ok(Self { shared, rings })
    }

    /// Ring buffer first: who is told to have begun must be there.
    fn begin(&self, place: u32, pod: PodKey, ring: &RingBuf<MapData>) -> Outcome<()> {
        self.store(field(place, offset_of!(Listener, until)), 0);
        self.store(field(place, offset_of!(Listener, lost)), 0);
        self.store(field(place, offset_of!(Listener, pod)), pod);
        sys::put(self.rings.as_fd(), place, ring.as_fd()).tried(|| "put the ring buffer into its place")?;
        self.renew(place, until()?);
        Ok(())
    }

    fn renew(&self, place: u32, until: u64) {
        self.store(field(place, offset_of!(Listener, until)), until);
        self.store(offset_of!(Trace, until), until);
    }

    fn lost(&self, place: u32) -> u64 {
        self.load(field(place, offset_of!(Listener, lost)))
    }

    /// The last one to end switches the programs' telling off, and does not leave that to the first of them that is late.
    fn end(&self, place: u32) {
        self.store(field(place, offset_of!(Listener, until)), 0);
        let now = monotonic().unwrap_or_default();
        if (0..LISTENERS).all(|other| self.load(field(other, offset_of!(Listener, until))) < now) {
            self.store(offset_of!(Trace, until), 0);
        }
        // What stays in its place is replaced by the next.
        let _stays = sys::remove(self.rings.as_fd(), &place);
    }

    fn store(&self, offset: usize, value: u64) {
        if let Some(word) = self.shared.word(offset) {
            word.store(value, Ordering::Relaxed);
        }
    }

    fn load(&self, offset: usize) -> u64 {
        self.shared.word(offset).map_or(0, |word| word.load(Ordering::Relaxed))
    }
}

/// Offset of a field of a listener in [`Trace`].
fn field(place: u32, offset: usize) -> usize {
    let place = usize::try_from(place).unwrap_or(usize::MAX);
    offset_of!(Trace, listeners) + place.saturating_mul(size_of::<Listener>()) + offset
}

/// True if somebody is listening to the programs of an object.
pub fn is_on(layout: &Layout) -> Outcome<bool> {
    Ok(Told::open(layout)?.load(offset_of!(Trace, until)) != 0)
}

/// An event as the programs write it.
fn decoded(bytes: &[u8]) -> Option<Event> {
    let mut bytes = bytes;
    let event = Event {
        time: u64::from_ne_bytes(taken(&mut bytes)?),
        pod: u64::from_ne_bytes(taken(&mut bytes)?),
        source: Address::from_bytes(taken(&mut bytes)?),
        destination: Address::from_bytes(taken(&mut bytes)?),
        sent_to: Address::from_bytes(taken(&mut bytes)?),
        command: taken(&mut bytes)?,
        pid: u32::from_ne_bytes(taken(&mut bytes)?),
        uid: u32::from_ne_bytes(taken(&mut bytes)?),
        reason: u32::from_ne_bytes(taken(&mut bytes)?),
        source_port: u16::from_ne_bytes(taken(&mut bytes)?),
        port: u16::from_ne_bytes(taken(&mut bytes)?),
        sent_port: u16::from_ne_bytes(taken(&mut bytes)?),
        verdict: u16::from_ne_bytes(taken(&mut bytes)?),
        call: u16::from_ne_bytes(taken(&mut bytes)?),
        family: u16::from_ne_bytes(taken(&mut bytes)?),
    };
    bytes.is_empty().then_some(event)
}
