//! Waiting for things to become so. A wait ends when they are; the bounds are generous and say that they never will be.

use std::time::{Duration, Instant};

use nix::poll::poll;

/// How long anything is waited for that a working cluster does within seconds.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// Waits until something is there.
#[track_caller]
pub(crate) fn until<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "this never came true: {what}");
        let _waited = poll(&mut [], 100_u8);
    }
}

/// Waits until a condition holds.
#[track_caller]
pub(crate) fn until_true(what: &str, patience: Duration, mut look: impl FnMut() -> bool) {
    until(what, patience, || look().then_some(()));
}
