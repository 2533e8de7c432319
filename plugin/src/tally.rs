//! What the plugin counts on its node: what came of calls and how long they took, why pods were left alone, which errors there
//! were, and what the kernel programs had decided for pods that are gone.
//!
//! One file of numbers, `<stateDir>/tally`, added to by each run once it has answered ([`file`]). Here is its layout:
//!
//! ```text
//! magic, version | a series for each row and backend: count, µs, buckets | skipped | failed | decisions
//! ```
//!
//! Every part has room for more than there is. A new row, reason or kind goes to the end of its list and changes no place.

pub mod file;

use std::collections::BTreeMap;

use shunt_abi::Reason as Decision;
use shunt_api::Backend;
use shunt_api::report::{BUCKETS_US, Calls, Report};

use crate::cni::Command;
use crate::error::Kind;
use crate::policy::Reason;

/// What came of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// ADD: the pod is intercepted.
    Intercepted,
    /// ADD: the pod is left alone. Why, as one of [`Reason::LABELS`].
    Skipped(&'static str),
    /// ADD: the pod could not be intercepted and runs all the same, as `failurePolicy` says.
    Passed,
    /// DEL: all there was is removed.
    Removed,
    /// DEL: there was nothing.
    Nothing,
    /// DEL: something could not be removed.
    Partial,
    /// CHECK, STATUS, GC.
    Ok,
    /// An error was the answer.
    Failed(Kind),
}

impl End {
    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Intercepted => "intercepted",
            Self::Skipped(_) => "skipped",
            Self::Passed => "passed",
            Self::Removed => "removed",
            Self::Nothing => "nothing",
            Self::Partial => "partial",
            Self::Ok => "ok",
            Self::Failed(_) => "failed",
        }
    }
}

/// One call that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// What was asked.
    pub command: Command,
    /// What came of it.
    pub end: End,
    /// The backend, where there was one.
    pub backend: Option<Backend>,
    /// From the start of the process to the answer.
    pub took_us: u64,
}

/// What can come of each command. A row's place in the file is its place here: new ones go to the end.
const ROWS: [(Command, &str); 14] = [
    (Command::Add, "intercepted"),
    (Command::Add, "skipped"),
    (Command::Add, "passed"),
    (Command::Add, "failed"),
    (Command::Del, "removed"),
    (Command::Del, "nothing"),
    (Command::Del, "partial"),
    (Command::Del, "failed"),
    (Command::Check, "ok"),
    (Command::Check, "failed"),
    (Command::Status, "ok"),
    (Command::Status, "failed"),
    (Command::Gc, "ok"),
    (Command::Gc, "failed"),
];

const BACKENDS: [&str; 3] = ["none", "ebpf", "iptables"];

/// Count, sum of microseconds, buckets.
const SERIES: usize = 2 + BUCKETS_US.len();

const MOST_ROWS: usize = 20;
const MOST_LABELS: usize = 16;
const MOST_KINDS: usize = 32;

const SKIPPED: usize = MOST_ROWS * BACKENDS.len() * SERIES;
const FAILED: usize = SKIPPED + MOST_LABELS;
const DECISIONS: usize = FAILED + MOST_KINDS;
const SLOTS: usize = DECISIONS + Decision::SLOTS;

const _: () = assert!(ROWS.len() <= MOST_ROWS);
const _: () = assert!(Reason::LABELS.len() <= MOST_LABELS);
const _: () = assert!(Kind::ALL.len() <= MOST_KINDS);

/// Changes when a place or its meaning does.
const VERSION: u8 = 1;

/// What the file begins with.
const HEADER: [u8; 16] =
    [b's', b'h', b'u', b'n', b't', b' ', b't', b'a', b'l', b'l', b'y', 0, 0, 0, 0, VERSION];

/// Bytes of a slot.
const SLOT: usize = size_of::<u64>();

/// Bytes of the file.
const LENGTH: usize = HEADER.len() + SLOTS * SLOT;

/// Amounts to add to slots that follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Patch {
    first: usize,
    amounts: Vec<u64>,
}

impl Count {
    /// What it adds. Nothing, where its command has no such end.
    fn patches(&self) -> Vec<Patch> {
        let word = self.end.word();
        let Some(row) = ROWS.iter().position(|row| *row == (self.command, word)) else {
            return Vec::new();
        };
        let backend = self.backend.map_or(BACKENDS[0], Backend::as_str);
        // `auto` is never what an attachment has.
        let backend = BACKENDS.iter().position(|known| *known == backend).unwrap_or_default();
        let bucket = BUCKETS_US.iter().position(|bound| self.took_us <= *bound);
        let in_bucket = (0..BUCKETS_US.len()).map(|index| u64::from(Some(index) == bucket));
        let amounts = [1, self.took_us].into_iter().chain(in_bucket).collect();
        let series = Patch { first: (row * BACKENDS.len() + backend) * SERIES, amounts };
        let why = match self.end {
            End::Skipped(label) => place(&Reason::LABELS, &label).map(|place| SKIPPED + place),
            End::Failed(kind) => place(&Kind::ALL, &kind).map(|place| FAILED + place),
            _ => None,
        };
        let why = why.map(|first| Patch { first, amounts: vec![1] });
        [series].into_iter().chain(why).collect()
    }
}

fn place<T: PartialEq>(list: &[T], wanted: &T) -> Option<usize> {
    list.iter().position(|one| one == wanted)
}

/// What decisions add.
fn decided(counts: &[(Decision, u64)]) -> Patch {
    let amount =
        |code| counts.iter().filter(|(reason, _)| reason.code() == code).map(|(_, count)| count).sum();
    Patch { first: DECISIONS, amounts: (0..).take(Decision::SLOTS).map(amount).collect() }
}

/// All numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally(Vec<u64>);

impl Default for Tally {
    fn default() -> Self {
        Self(vec![0; SLOTS])
    }
}

impl Tally {
    /// The numbers of a file; `None` if it is not one of this layout.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let slots = bytes.strip_prefix(&HEADER).filter(|slots| slots.len() == SLOTS * SLOT)?;
        let (slots, _none) = slots.as_chunks::<SLOT>();
        Some(Self(slots.iter().map(|slot| u64::from_le_bytes(*slot)).collect()))
    }

    fn at(&self, slot: usize) -> u64 {
        self.0.get(slot).copied().unwrap_or_default()
    }

    /// Adds, and says what the slots are then and where in the file they begin.
    fn add(&mut self, patch: &Patch) -> (u64, Vec<u8>) {
        let slots = self.0.iter_mut().skip(patch.first).zip(&patch.amounts);
        let bytes = slots.flat_map(|(slot, amount)| {
            *slot = slot.saturating_add(*amount);
            slot.to_le_bytes()
        });
        let bytes = bytes.collect();
        let offset = HEADER.len() + patch.first * SLOT;
        (u64::try_from(offset).unwrap_or(u64::MAX), bytes)
    }

    /// Puts what is not zero into a report.
    pub fn tell(&self, report: &mut Report) {
        let keys = ROWS.iter().flat_map(|row| BACKENDS.iter().map(move |backend| (row, backend)));
        for (index, ((command, outcome), backend)) in keys.enumerate() {
            let mut slots = (index * SERIES..).take(SERIES).map(|slot| self.at(slot));
            let (count, sum_us) = (slots.next().unwrap_or_default(), slots.next().unwrap_or_default());
            if count > 0 {
                report.calls.push(Calls {
                    command: command.as_str().to_owned(),
                    outcome: (*outcome).to_owned(),
                    backend: (*backend).to_owned(),
                    count,
                    sum_us,
                    buckets: slots.collect(),
                });
            }
        }
        let labels = Reason::LABELS.iter().zip(SKIPPED..);
        labels.for_each(|(label, slot)| note(&mut report.skipped, label, self.at(slot)));
        let kinds = Kind::ALL.iter().zip(FAILED..);
        kinds.for_each(|(kind, slot)| note(&mut report.failed, kind.as_str(), self.at(slot)));
        // A reason's code is its place in the list.
        let decisions = Decision::ALL.iter().zip(DECISIONS..);
        decisions.for_each(|(reason, slot)| note(&mut report.decisions, reason.label(), self.at(slot)));
    }
}

/// Adds to a number of a report; zeros are left out.
pub fn note(numbers: &mut BTreeMap<String, u64>, name: &str, count: u64) {
    if count > 0 {
        let number = numbers.entry(name.to_owned()).or_default();
        *number = number.saturating_add(count);
    }
}

#[cfg(test)]
mod tests;
