//! Waiting for things to become so. A wait ends when they are; the bounds are generous and say that they never will be.

use std::time::{Duration, Instant};

/// How long anything is waited for that a working cluster does within seconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until something is there.
#[track_caller]
pub(crate) fn until<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "this never came true: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Waits until a condition holds.
#[track_caller]
pub(crate) fn until_true(what: &str, patience: Duration, mut look: impl FnMut() -> bool) {
    until(what, patience, || look().then_some(()));
}
