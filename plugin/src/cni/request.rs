//! What the verbs are asked, and how standard input is read.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use shunt_api::Backend;
use slog::Logger;

use super::args::PodRef;
use super::netconf::{DelConf, NetConf};
use crate::attachment::Attachment;
use crate::error::{Error, Failed as _, Kind};
use crate::host::Input;
use crate::tally::End;

/// Most that is read from standard input. A real configuration has a few kilobytes; a pod's annotations have at most
/// 256 KiB.
pub const STDIN_MAX: usize = 8 * 1024 * 1024;

/// How long standard input may take to come and to end.
pub const STDIN_PATIENCE: Duration = Duration::from_secs(3);

/// The moment at which a run must be over.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    /// `time` from now.
    pub fn after(time: Duration) -> Self {
        Self(Instant::now() + time)
    }

    /// The moment itself.
    pub const fn at(self) -> Instant {
        self.0
    }

    /// The earlier of this and `time` from now.
    #[must_use]
    pub fn within(self, time: Duration) -> Self {
        Self(self.0.min(Instant::now() + time))
    }

    /// What is left; zero when it is over.
    pub fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// What is left, to be called before each step that may take time.
    ///
    /// # Errors
    /// [`Kind::Deadline`] naming the step when nothing is left.
    pub fn before(self, step: &str) -> Result<Duration, Error> {
        let left = self.left();
        if left.is_zero() {
            Err(Error::new(Kind::Deadline, format!("time was up before {step}")))
        } else {
            Ok(left)
        }
    }
}

/// ADD: the pod's interface is there, intercept if policy says so.
#[derive(Debug)]
pub struct AddRequest {
    /// Which attachment.
    pub attachment: Attachment,
    /// `CNI_NETNS`: absolute; whether it is a network namespace is not known yet.
    pub netns: PathBuf,
    /// Whose.
    pub pod: PodRef,
    /// What is configured. `prev_result` is the dispatcher's business.
    pub conf: NetConf,
    /// When it must be over.
    pub deadline: Deadline,
    /// Has `cmd`, `container`, `ifname`, `pod` and `ns`.
    pub log: Logger,
}

/// DEL: the attachment goes. Everything but the attachment may be missing.
#[derive(Debug)]
pub struct DelRequest {
    /// Which attachment.
    pub attachment: Attachment,
    /// `CNI_NETNS`, when given and an absolute path.
    pub netns: Option<PathBuf>,
    /// Whose, when given.
    pub pod: PodRef,
    /// What could be read.
    pub conf: DelConf,
    /// When it must be over.
    pub deadline: Deadline,
    /// Has `cmd`, `container`, `ifname`, `pod` and `ns`.
    pub log: Logger,
}

/// CHECK: the same as ADD, nothing is changed.
#[derive(Debug)]
pub struct CheckRequest {
    /// Which attachment.
    pub attachment: Attachment,
    /// `CNI_NETNS`.
    pub netns: PathBuf,
    /// Whose.
    pub pod: PodRef,
    /// What is configured.
    pub conf: NetConf,
    /// When it must be over.
    pub deadline: Deadline,
    /// Has `cmd`, `container`, `ifname`, `pod` and `ns`.
    pub log: Logger,
}

/// STATUS: can this node intercept?
#[derive(Debug)]
pub struct StatusRequest {
    /// What is configured.
    pub conf: NetConf,
    /// When it must be over.
    pub deadline: Deadline,
    /// Has `cmd`.
    pub log: Logger,
}

/// GC: remove what is of none of these.
#[derive(Debug)]
pub struct GcRequest {
    /// What is configured.
    pub conf: NetConf,
    /// The attachments that live. `None`: the runtime did not say, nothing may be removed. Ones that can never have been
    /// ours (an id we refuse) are left out.
    pub valid: Option<Vec<Attachment>>,
    /// When it must be over.
    pub deadline: Deadline,
    /// Has `cmd`.
    pub log: Logger,
}

/// What a verb did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// In a few words for the log ("not intercepted: namespace kube-system is excluded").
    pub words: String,
    /// For the tally.
    pub end: End,
    /// Which backend did it, where one did.
    pub backend: Option<Backend>,
}

impl Outcome {
    /// Of no backend.
    pub fn new(end: End, words: impl Into<String>) -> Self {
        Self { words: words.into(), end, backend: None }
    }

    /// The same, of `backend`.
    #[must_use]
    pub fn by(self, backend: Option<Backend>) -> Self {
        Self { backend, ..self }
    }
}

/// Reads `input` to its end.
///
/// # Errors
/// [`Kind::Io`] when reading fails, when there are more than `most` bytes, or when the end has not come by `deadline`.
pub fn read_stdin(input: &mut dyn Input, most: usize, deadline: Deadline) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let left = deadline.left();
        let ready = match input.wait(left) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            ready => ready.failed(Kind::Io, || "waiting for standard input")?,
        };
        if !ready {
            if deadline.left().is_zero() {
                let text = format!("standard input did not end in time, {} bytes came", bytes.len());
                return Err(Error::new(Kind::Io, text));
            }
            continue;
        }
        let count = match input.read(&mut chunk) {
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => continue,
            count => count.failed(Kind::Io, || "reading standard input")?,
        };
        if count == 0 {
            return Ok(bytes);
        }
        bytes.extend_from_slice(chunk.get(..count).unwrap_or_default());
        if bytes.len() > most {
            return Err(Error::new(Kind::Io, format!("standard input is longer than {most} bytes")));
        }
    }
}
