//! Many of something, several at a time or all at once.

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use crate::runtime_call::Call;

/// Each of these, four at a time; what came of them, in their order.
pub fn each<T: Sync, R: Send>(all: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    const AT_A_TIME: usize = 4;
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(one) = all.get(index) else { return done };
            done.push((index, work(one)));
        }
    };
    let mut done: Vec<(usize, R)> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..AT_A_TIME).map(|_| scope.spawn(worker)).collect();
        let ended = running.into_iter().map(ScopedJoinHandle::join);
        ended.flat_map(|done| done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    done.sort_unstable_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

/// Calls that begin together and must work: from the first that began to the last that ended, and how long each took.
pub fn at_once(calls: &[Call]) -> (Duration, Vec<Duration>) {
    let begin = Barrier::new(calls.len());
    let caller = |call: &Call| {
        begin.wait();
        let started = Instant::now();
        (started, timed(call))
    };
    let caller = &caller;
    let took: Vec<(Instant, Duration)> = std::thread::scope(|scope| {
        let running: Vec<_> = calls.iter().map(|call| scope.spawn(move || caller(call))).collect();
        let ended = running.into_iter().map(ScopedJoinHandle::join);
        ended.map(|took| took.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    let first = took.iter().map(|(started, _)| *started).min();
    let last = took.iter().map(|(started, took)| *started + *took).max();
    let wall = first.zip(last).map_or(Duration::ZERO, |(first, last)| last - first);
    (wall, took.into_iter().map(|(_, took)| took).collect())
}

/// A call that must work, from its start to its end.
#[track_caller]
pub fn timed(call: &Call) -> Duration {
    let started = Instant::now();
    let answer = call.run();
    let took = started.elapsed();
    answer.ok();
    took
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_result_in_its_place() {
        let all: Vec<usize> = (0..50).collect();
        assert_eq!(each(&all, |one| one * 2), all.iter().map(|one| one * 2).collect::<Vec<_>>());
        assert!(each(&[] as &[u8], |one| *one).is_empty());
    }
}
