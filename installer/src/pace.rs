//! How often a file is written, and whether somebody else insists on writing it too. Pure: moments come in.
//!
//! What an owner changes is followed at once, and our list is put back at once when it was undone; but whoever undoes it again and
//! again is not answered again and again.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// What was written longer ago than this is over.
const WINDOW: Duration = Duration::from_mins(1);

/// Two writes of one file are at least this far apart.
const GAP: Duration = Duration::from_millis(100);

/// So many writes of one file within [`WINDOW`] are at that pace; those that follow, one a second.
const MANY: usize = 30;

/// So often undone within [`WINDOW`] is a fight.
const FIGHT: usize = 5;

/// A fight is answered after this time, then after twice as long, and so on.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// But not more seldom than this. With what is forgotten after [`WINDOW`], one who never gives up is answered eight times a minute.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// What could not be written is tried again after this time: a disk that is full, a directory that may not be written to.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// The pace of one directory's files.
#[derive(Debug, Default)]
pub struct Pace {
    files: BTreeMap<String, Writes>,
    fights: u64,
}

#[derive(Debug, Default)]
struct Writes {
    all: VecDeque<Instant>,
    undone: VecDeque<Instant>,
    fighting: bool,
    failed: Option<(Instant, String)>,
}

impl Writes {
    fn forget(&mut self, now: Instant) {
        for list in [&mut self.all, &mut self.undone] {
            while list.front().is_some_and(|then| now.saturating_duration_since(*then) > WINDOW) {
                list.pop_front();
            }
        }
        self.fighting &= self.undone.len() >= FIGHT;
    }

    fn apart(&self) -> Duration {
        let fights = u32::try_from((self.undone.len() + 1).saturating_sub(FIGHT)).unwrap_or(u32::MAX);
        match fights.checked_sub(1) {
            None if self.all.len() >= MANY => Duration::from_secs(1),
            None => GAP,
            Some(times) => FIRST_WAIT.saturating_mul(2_u32.saturating_pow(times)).min(LONGEST_WAIT),
        }
    }
}

impl Pace {
    /// How long to wait before `file` may be written; zero: now.
    pub fn wait(&mut self, file: &str, now: Instant) -> Duration {
        let Some(writes) = self.files.get_mut(file) else { return Duration::ZERO };
        writes.forget(now);
        let since = |then: Instant| now.saturating_duration_since(then);
        let last = writes.all.back().map_or(Duration::MAX, |last| since(*last));
        let failed = writes.failed.as_ref().map_or(Duration::MAX, |(when, _)| since(*when));
        writes.apart().saturating_sub(last).max(AFTER_FAILURE.saturating_sub(failed))
    }

    /// True if `file` waits only because it was written a moment ago: not for a fight to end, nor after a failure.
    pub fn has_just_written(&mut self, file: &str, now: Instant) -> bool {
        let wait = self.wait(file, now);
        !wait.is_zero() && wait <= GAP && self.failure(file).is_none()
    }

    /// `file` could not be written, and why.
    pub fn failed(&mut self, file: &str, why: String, now: Instant) {
        self.files.entry(file.to_owned()).or_default().failed = Some((now, why));
    }

    /// Why `file` could not be written the last time; none if it could.
    pub fn failure(&self, file: &str) -> Option<&str> {
        self.files.get(file)?.failed.as_ref().map(|(_, why)| why.as_str())
    }

    /// `file` was written; `undone`: because somebody had undone what we had written. True if this makes it a fight.
    pub fn wrote(&mut self, file: &str, undone: bool, now: Instant) -> bool {
        let writes = self.files.entry(file.to_owned()).or_default();
        writes.forget(now);
        writes.all.push_back(now);
        writes.failed = None;
        if undone {
            writes.undone.push_back(now);
        }
        let begins = !writes.fighting && writes.undone.len() >= FIGHT;
        writes.fighting |= begins;
        self.fights += u64::from(begins);
        begins
    }

    /// Files that somebody else insists on writing.
    pub fn fights(&mut self, now: Instant) -> Vec<String> {
        self.files.retain(|_, writes| {
            writes.forget(now);
            !writes.all.is_empty() || writes.failed.is_some()
        });
        let fighting = self.files.iter().filter(|(_, writes)| writes.fighting);
        fighting.map(|(file, _)| file.clone()).collect()
    }

    /// How many fights there have been.
    pub const fn fights_so_far(&self) -> u64 {
        self.fights
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Undoes and writes again, as soon as it is allowed, for so long: when it was written.
    fn fought(
        pace: &mut Pace,
        start: Instant,
        long: Duration,
        every: Duration,
        undone: bool,
    ) -> Vec<Duration> {
        let mut written = Vec::new();
        let mut after = Duration::ZERO;
        while after < long {
            let now = start + after;
            if pace.wait("a", now).is_zero() {
                pace.wrote("a", undone && !written.is_empty(), now);
                written.push(after);
            }
            after += every;
        }
        written
    }

    #[test]
    fn one_who_insists_is_answered_more_and_more_seldom() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let written = fought(&mut pace, start, Duration::from_mins(10), Duration::from_millis(50), true);
        assert_eq!(written.get(1), Some(&GAP));
        assert!(!pace.has_just_written("a", start + Duration::from_mins(10)), "it is a fight");
        assert!(written.len() < 100, "{written:?}");
        assert!(
            written.windows(2).skip(FIGHT).all(|pair| pair[1].saturating_sub(pair[0]) >= FIRST_WAIT),
            "{written:?}"
        );
        assert_eq!(pace.fights_so_far(), 1, "it never ended");
        let end = start + Duration::from_mins(10);
        assert_eq!(pace.fights(end), ["a"]);
        assert!(pace.fights(end + WINDOW * 2).is_empty());
        assert!(pace.wait("a", end + WINDOW * 2).is_zero());
    }

    #[test]
    fn an_owner_who_changes_his_file_is_followed() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let written = fought(&mut pace, start, Duration::from_mins(1), Duration::from_millis(50), false);
        assert!(written.len() > 60 && written.len() < 100, "{}", written.len());
        let (mut once, never) = (Pace::default(), Pace::default().has_just_written("a", start));
        once.wrote("a", false, start);
        let just = [GAP / 2, GAP].map(|after| once.has_just_written("a", start + after));
        assert_eq!((never, just), (false, [true, false]));
        assert_eq!((pace.fights_so_far(), pace.fights(start).len()), (0, 0));
    }

    #[test]
    fn what_fails_is_not_tried_all_the_time() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.failed("a", "no space".to_owned(), now);
        assert_eq!((pace.wait("a", now), pace.failure("a")), (AFTER_FAILURE, Some("no space")));
        assert!(!pace.has_just_written("a", now + AFTER_FAILURE.saturating_sub(GAP)));
        assert!(pace.wait("a", now + AFTER_FAILURE).is_zero());
        assert!(pace.fights(now).is_empty());
        pace.wrote("a", false, now + AFTER_FAILURE);
        assert_eq!(pace.failure("a"), None);
    }

    #[test]
    fn once_in_a_while_is_no_fight() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        for times in 0..100 {
            let now = start + Duration::from_secs(20) * times;
            assert!(pace.wait("a", now).is_zero());
            assert!(!pace.wrote("a", true, now));
        }
    }
}
