//! Output that goes on until somebody ends it: a signal, or whoever reads it.
//!
//! Nothing here waits for a reader: what it has not taken is kept, and a signal ends even what nobody reads.

use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::fault::{Outcome, Tried as _};

/// As much as a pipe takes in one write, if it takes anything, without making the writer wait.
const CHUNK: usize = 4096;
/// More than this is not kept: the source has to wait.
const LIMIT: usize = 64 * 1024;

/// What ended a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Woken {
    /// The time, or room to write.
    Go,
    /// A signal, or nobody reads any more.
    Ended,
}

/// Standard output, and the signals that end it.
#[derive(Debug)]
pub(super) struct Stream {
    signals: SignalFd,
    pending: Vec<u8>,
}

impl Stream {
    /// From here on the signals that end programs end the stream.
    pub(super) fn new() -> Outcome<Self> {
        let mut ends = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            ends.add(signal);
        }
        ends.thread_block().tried(|| "block signals")?;
        let signals = SignalFd::with_flags(&ends, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .tried(|| "open a descriptor for signals")?;
        Ok(Self { signals, pending: Vec::new() })
    }

    /// Adds to what is to be written.
    pub(super) fn push(&mut self, text: &str) {
        self.pending.extend_from_slice(text.as_bytes());
    }

    /// True while there is more to write than is worth keeping.
    pub(super) fn is_full(&self) -> bool {
        self.pending.len() >= LIMIT
    }

    /// Writes what the reader takes, and waits until `deadline` if there is nothing to write.
    pub(super) fn wait(&mut self, deadline: Instant) -> Outcome<Woken> {
        self.wait_or(false, deadline)
    }

    /// The same, until a key is pressed if there are `keys`.
    pub(super) fn wait_or(&mut self, keys: bool, deadline: Instant) -> Outcome<Woken> {
        let stdout = io::stdout();
        let room = if self.pending.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up: a wait that ends a moment early would be waited again, and again.
        let timeout = PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX);
        let stdin = io::stdin();
        let pressed = if keys { PollFlags::POLLIN } else { PollFlags::empty() };
        let mut watched = [
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(stdout.as_fd(), room),
            PollFd::new(stdin.as_fd(), pressed),
        ];
        // Standard input that is closed would be ready for ever.
        let watched = watched.get_mut(..if keys { 3 } else { 2 }).unwrap_or_default();
        match poll(watched, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).tried(|| "wait for something to happen"),
        }
        let events =
            |index: usize| watched.get(index).and_then(PollFd::revents).unwrap_or(PollFlags::empty());
        if events(0).contains(PollFlags::POLLIN) {
            // Taken, so that what is left can be written.
            let _which = self.signals.read_signal();
            return Ok(Woken::Ended);
        }
        if events(1).intersects(PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL) {
            self.pending.clear();
            return Ok(Woken::Ended);
        }
        if events(1).contains(PollFlags::POLLOUT) {
            return self.write();
        }
        Ok(Woken::Go)
    }

    /// Writes one chunk: there is room.
    fn write(&mut self) -> Outcome<Woken> {
        let chunk = self.pending.len().min(CHUNK);
        let Some(first) = self.pending.get(..chunk) else { return Ok(Woken::Go) };
        // Past the standard library's buffer, which writes when it likes.
        match nix::unistd::write(io::stdout(), first) {
            Ok(written) => {
                self.pending.drain(..written);
                Ok(Woken::Go)
            }
            Err(Errno::EPIPE) => {
                self.pending.clear();
                Ok(Woken::Ended)
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(Woken::Go),
            Err(error) => Err(error).tried(|| "write to standard output"),
        }
    }

    /// Writes all that is left, as long as nobody ends it; what was ended already is not waited for long.
    pub(super) fn finish(mut self, ended: bool) -> Outcome<()> {
        let end = Instant::now() + Duration::from_millis(200);
        while !self.pending.is_empty() && (!ended || Instant::now() < end) {
            if self.wait(Instant::now() + Duration::from_millis(50))? == Woken::Ended {
                break;
            }
        }
        Ok(())
    }
}

/// A remark for people, which is no part of the output.
pub(super) fn remark(text: &str) {
    // Nobody may be there to read it.
    let _unread = writeln!(io::stderr(), "shuntctl: {text}");
}
