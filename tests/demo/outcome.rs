//! An error is a sentence for the person before the screen.

use std::fmt::Display;

pub(crate) type Outcome<T> = Result<T, String>;

/// Puts in front of an error what was being done.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl Display) -> Outcome<T>;
}

impl<T, E: Display> Doing<T> for Result<T, E> {
    fn doing(self, what: impl Display) -> Outcome<T> {
        self.map_err(|error| format!("{what}: {error}"))
    }
}
