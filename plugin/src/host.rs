//! The outside world of one run: environment, standard streams, logger. Injected, so that tests are the world.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use slog::Logger;

use crate::log;
use crate::tally::{self, Count};

/// Set once the first byte has gone to the real standard output.
static ANSWERED: AtomicBool = AtomicBool::new(false);

/// Whether this process has begun to answer. The panic hook asks, so that there is never a second document.
pub fn answered() -> bool {
    ANSWERED.load(Ordering::SeqCst)
}

/// Something that is read with a time limit.
pub trait Input: Read {
    /// Waits until a read would not block; false when `patience` is over first.
    fn wait(&mut self, patience: Duration) -> io::Result<bool>;
}

/// Looks an environment variable up.
pub type Environment<'a> = Box<dyn Fn(&str) -> Option<OsString> + 'a>;

/// Counts a call in the tally of a state directory.
pub type Counter<'a> = Box<dyn Fn(&Path, &Count) + 'a>;

/// The outside world of one run.
pub struct Host<'a> {
    /// Value of an environment variable.
    pub env: Environment<'a>,
    /// Standard input: the network configuration.
    pub stdin: Box<dyn Input + 'a>,
    /// Standard output: the answer and nothing else.
    pub stdout: Box<dyn Write + 'a>,
    /// Standard error: the about text.
    pub stderr: Box<dyn Write + 'a>,
    /// Opens the log as configured. Never fails.
    pub logger: Box<dyn Fn(&shunt_api::Log) -> Logger + 'a>,
    /// Counts what came of the call. Never fails.
    pub count: Counter<'a>,
}

impl fmt::Debug for Host<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").finish_non_exhaustive()
    }
}

impl Host<'_> {
    /// This process.
    pub fn of_process() -> Self {
        Self {
            env: Box::new(|name| std::env::var_os(name)),
            stdin: Box::new(Stdin),
            stdout: Box::new(Stdout),
            stderr: Box::new(io::stderr()),
            logger: Box::new(log::root),
            count: Box::new(tally::file::count),
        }
    }
}

/// Standard input of this process, unbuffered.
struct Stdin;

impl Read for Stdin {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(nix::unistd::read(io::stdin().as_fd(), buffer)?)
    }
}

impl Input for Stdin {
    fn wait(&mut self, patience: Duration) -> io::Result<bool> {
        let patience = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        let stdin = io::stdin();
        let ready = poll(&mut [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)], patience)?;
        Ok(ready > 0)
    }
}

/// Standard output of this process, unbuffered: nothing is lost or written late whatever happens afterwards.
#[derive(Debug)]
pub struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        ANSWERED.store(true, Ordering::SeqCst);
        Ok(nix::unistd::write(io::stdout().as_fd(), bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
