//! What a thin edge (a syscall, a file, a netlink request) reports: what was tried, on what, and what the kernel said.

use std::error::Error;
use std::fmt;

/// A failed attempt. The verb that made it decides which [`crate::error::Kind`] it is.
#[derive(Debug)]
pub struct Fault {
    tried: String,
    source: Box<dyn Error + Send + Sync>,
}

impl Fault {
    /// `tried` says what was attempted and on what: "open network namespace /run/netns/x".
    pub fn new(tried: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { tried: tried.into(), source: source.into() }
    }

    /// The error number at the root of it, if the kernel gave one.
    pub fn errno(&self) -> Option<i32> {
        let mut cause: Option<&(dyn Error + 'static)> = Some(self.source.as_ref());
        while let Some(error) = cause {
            if let Some(io) = error.downcast_ref::<std::io::Error>() {
                return io.raw_os_error();
            }
            if let Some(errno) = error.downcast_ref::<nix::errno::Errno>() {
                return Some(*errno as i32);
            }
            cause = error.source();
        }
        None
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.tried)
    }
}

impl Error for Fault {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.source.as_ref())
    }
}

/// Result of a thin edge.
pub type Outcome<T> = Result<T, Fault>;

/// Adds what was tried to an error.
pub trait Tried<T> {
    /// `what` is called only on failure.
    fn tried<S: Into<String>>(self, what: impl FnOnce() -> S) -> Outcome<T>;
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> Tried<T> for Result<T, E> {
    fn tried<S: Into<String>>(self, what: impl FnOnce() -> S) -> Outcome<T> {
        self.map_err(|source| Fault::new(what(), source))
    }
}
