//! The one error of the plugin, and what a runtime gets to see of it.
//!
//! `kind` decides code and `msg` (both constant, because they are grouped in pod events); `details` is the chain of what
//! was tried and why it failed. Codes are those of `cni-contract.md` 3.3; from 100 on they are ours.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

use shunt_api::Backend;

/// What sort of thing went wrong. Closed: [`Kind::code`] and [`Kind::msg`] have an answer for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The asked CNI version, or the command in that version, is not one of ours.
    Version,
    /// A key or a value that is understood and refused.
    Unsupported,
    /// `CNI_...` variables.
    Environment,
    /// Reading or writing something of the host.
    Io,
    /// Standard input is not the JSON it should be.
    Decode,
    /// Well-formed and wrong: configuration or annotations.
    Config,
    /// The network namespace.
    Netns,
    /// Something of another's is in the way for a moment.
    TryAgain,
    /// STATUS: this node cannot intercept.
    NotAvailable,
    /// STATUS: this node can intercept in part.
    Limited,
    /// The kernel, or our rights, lack something the plan needs.
    Capability,
    /// Programs or maps could not be loaded or pinned.
    Load,
    /// Programs could not be attached, or a pod's map entries not be written.
    Attach,
    /// iptables rules could not be written.
    Rules,
    /// What the kernel says is not what was asked of it.
    Verify,
    /// The record of an attachment.
    Record,
    /// Time is up.
    Deadline,
    /// A fault of ours.
    Internal,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 18] = [
        Self::Version,
        Self::Unsupported,
        Self::Environment,
        Self::Io,
        Self::Decode,
        Self::Config,
        Self::Netns,
        Self::TryAgain,
        Self::NotAvailable,
        Self::Limited,
        Self::Capability,
        Self::Load,
        Self::Attach,
        Self::Rules,
        Self::Verify,
        Self::Record,
        Self::Deadline,
        Self::Internal,
    ];

    /// The CNI error code. Code 3 (`unknown container`) is never used: it tells runtimes not to clean up.
    pub const fn code(self) -> u32 {
        match self {
            Self::Version => 1,
            Self::Unsupported => 2,
            Self::Environment => 4,
            Self::Io => 5,
            Self::Decode => 6,
            Self::Config => 7,
            Self::Netns => 8,
            Self::TryAgain => 11,
            Self::NotAvailable => 50,
            Self::Limited => 51,
            Self::Capability => 100,
            Self::Load => 101,
            Self::Attach => 102,
            Self::Rules => 103,
            Self::Verify => 104,
            Self::Record => 105,
            Self::Deadline => 106,
            Self::Internal => 999,
        }
    }

    /// The sentence people see first.
    pub const fn msg(self) -> &'static str {
        match self {
            Self::Version => "CNI version not supported",
            Self::Unsupported => "configuration asks for something that is not available",
            Self::Environment => "CNI environment variables missing or invalid",
            Self::Io => "input or output failed",
            Self::Decode => "standard input is not a network configuration in JSON",
            Self::Config => "network configuration or annotation invalid",
            Self::Netns => "network namespace cannot be used",
            Self::TryAgain => "temporarily not possible, try again",
            Self::NotAvailable => "this node cannot intercept",
            Self::Limited => "this node can intercept in part only",
            Self::Capability => "the kernel or the permissions of the plugin do not allow interception",
            Self::Load => "loading the kernel programs failed",
            Self::Attach => "attaching the pod failed",
            Self::Rules => "writing the iptables rules failed",
            Self::Verify => "the kernel does not show what was set up",
            Self::Record => "the record of the attachment cannot be used",
            Self::Deadline => "not finished in time",
            Self::Internal => "internal error",
        }
    }

    /// Short name for logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Unsupported => "unsupported",
            Self::Environment => "environment",
            Self::Io => "io",
            Self::Decode => "decode",
            Self::Config => "config",
            Self::Netns => "netns",
            Self::TryAgain => "try-again",
            Self::NotAvailable => "not-available",
            Self::Limited => "limited",
            Self::Capability => "capability",
            Self::Load => "load",
            Self::Attach => "attach",
            Self::Rules => "rules",
            Self::Verify => "verify",
            Self::Record => "record",
            Self::Deadline => "deadline",
            Self::Internal => "internal",
        }
    }
}

/// Something failed: what sort, what was tried, why, and what else failed while cleaning up after it.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    tried: Cow<'static, str>,
    source: Option<Box<dyn StdError + Send + Sync>>,
    also: Vec<Self>,
    undo: Vec<Self>,
    backend: Option<Backend>,
}

impl Error {
    /// `tried` says what was tried or what is wrong, as a phrase without a full stop ("reading /run/shunt/x").
    pub fn new(kind: Kind, tried: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, tried: tried.into(), source: None, also: Vec::new(), undo: Vec::new(), backend: None }
    }

    /// The same with its cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same with an error of the undo that followed; the first error stays the first.
    #[must_use]
    pub fn with_undo(mut self, undo: Self) -> Self {
        self.undo.push(undo);
        self
    }

    /// The same with what else was tried in its place and failed too.
    #[must_use]
    pub fn because_also(mut self, other: Self) -> Self {
        self.also.push(other);
        self
    }

    /// The same, said to have been tried as part of something.
    #[must_use]
    pub fn within(mut self, whole: &str) -> Self {
        self.tried = format!("{whole}: {}", self.tried).into();
        self
    }

    /// The same, met by the backend that was chosen.
    #[must_use]
    pub fn under(mut self, backend: Backend) -> Self {
        self.backend = Some(backend);
        self
    }

    /// The backend that met it, if one was chosen.
    pub const fn backend(&self) -> Option<Backend> {
        self.backend
    }

    /// What sort of error this is.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The chain of what was tried and why it failed, and what the undo could not do. For people; at most a few
    /// kilobytes; does not hold the words containerd swallows (see [`presentable`]).
    pub fn details(&self) -> String {
        const MOST: usize = 4096;
        let mut text = chain(self);
        for also in &self.also {
            text.push_str("; then: ");
            text.push_str(&also.details());
        }
        for undo in &self.undo {
            text.push_str("; undo: ");
            text.push_str(&undo.details());
        }
        if let Some((end, _)) = text.char_indices().nth(MOST) {
            text.truncate(end);
            text.push('…');
        }
        presentable(&text)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.tried)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// What an error says, then what its causes say.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        // Some libraries repeat the cause in their own message.
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = cause.source();
    }
    text
}

/// `result.failed(Kind::Io, || format!("reading {path}"))`: an error of a library becomes ours, with its cause kept.
pub trait Failed<T> {
    /// Names what was tried and what sort of failure this is.
    fn failed<S: Into<Cow<'static, str>>>(self, kind: Kind, tried: impl FnOnce() -> S) -> Result<T, Error>;
}

impl<T, E: Into<Box<dyn StdError + Send + Sync>>> Failed<T> for Result<T, E> {
    fn failed<S: Into<Cow<'static, str>>>(self, kind: Kind, tried: impl FnOnce() -> S) -> Result<T, Error> {
        self.map_err(|source| Error::new(kind, tried()).because(source))
    }
}

/// `text` without the words containerd looks for in errors of DEL: it takes them for success, skips the rest of the
/// chain and leaks the pod's address (`cni-contract.md`, fact 2). Letter case does not matter here.
pub fn presentable(text: &str) -> String {
    const SWALLOWED: &str = "not found";
    const INSTEAD: &str = "absent";
    let lower = text.to_ascii_lowercase();
    let mut kept = String::with_capacity(text.len());
    let mut from = 0;
    for (at, _) in lower.match_indices(SWALLOWED) {
        kept.push_str(text.get(from..at).unwrap_or_default());
        kept.push_str(INSTEAD);
        from = at + SWALLOWED.len();
    }
    kept.push_str(text.get(from..).unwrap_or_default());
    kept
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::{prop_assert, proptest};

    use super::{Error, Failed as _, Kind, presentable};

    #[test]
    fn codes_and_names_differ() {
        let codes: BTreeSet<u32> = Kind::ALL.iter().map(|kind| kind.code()).collect();
        let names: BTreeSet<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
        let sentences: BTreeSet<&str> = Kind::ALL.iter().map(|kind| kind.msg()).collect();
        assert_eq!(
            (codes.len(), names.len(), sentences.len()),
            (Kind::ALL.len(), Kind::ALL.len(), Kind::ALL.len())
        );
        assert!(!codes.contains(&3) && !codes.contains(&0));
        assert!(Kind::ALL.iter().all(|kind| presentable(kind.msg()) == kind.msg()));
    }

    #[test]
    fn details_are_the_chain() {
        let missing: Result<(), _> = Err(std::io::Error::from_raw_os_error(2));
        let error = missing.failed(Kind::Record, || "reading /run/shunt/a").expect_err("failed");
        assert_eq!(error.details(), "reading /run/shunt/a: No such file or directory (os error 2)");
        let whole = Error::new(Kind::Attach, "attaching")
            .because(error)
            .with_undo(Error::new(Kind::Io, "removing a"))
            .with_undo(Error::new(Kind::Io, "removing b"));
        assert_eq!(whole.kind(), Kind::Attach);
        assert_eq!(
            whole.details(),
            "attaching: reading /run/shunt/a: No such file or directory (os error 2); undo: removing a; undo: removing b"
        );
    }

    #[test]
    fn a_repeated_cause_is_said_once() {
        let error = Error::new(Kind::Io, "a: b").because("b");
        assert_eq!(error.details(), "a: b");
    }

    #[test]
    fn containerd_never_sees_its_words() {
        for text in ["link not found", "Not Found", "NOT FOUND", "not not foundfound", "not foundnot found"] {
            let error = Error::new(Kind::Io, text).because(text).with_undo(Error::new(Kind::Io, text));
            assert!(!error.details().to_ascii_lowercase().contains("not found"), "{}", error.details());
        }
    }

    proptest! {
        #[test]
        fn any_text_is_presentable(text in "(not|found|nOt| |  |not found|ü|İ|.){0,12}") {
            prop_assert!(!presentable(&text).to_ascii_lowercase().contains("not found"));
        }
    }
}
