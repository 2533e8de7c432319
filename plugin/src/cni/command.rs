//! `CNI_COMMAND`, and the table of the other variables: which command needs which, and what a good value is.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::args::PodRef;
use super::version::Version;
use crate::attachment::{Attachment, is_container_id, is_ifname};
use crate::error::{Error, Kind};
use crate::host::Host;
use crate::settings::is_sane_path;

/// What a runtime can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Command {
    /// A pod's interface is there.
    Add,
    /// It goes.
    Del,
    /// Is it as it should be?
    Check,
    /// Can this node do it at all?
    Status,
    /// These are left; the others are gone.
    Gc,
    /// Which versions?
    Version,
}

impl Command {
    /// All commands.
    pub const ALL: [Self; 6] = [Self::Add, Self::Del, Self::Check, Self::Status, Self::Gc, Self::Version];

    /// As written in `CNI_COMMAND`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Status => "STATUS",
            Self::Gc => "GC",
            Self::Version => "VERSION",
        }
    }

    /// The first version of the specification that has it.
    pub const fn since(self) -> Version {
        match self {
            Self::Add | Self::Del | Self::Version => Version::V0_3_0,
            Self::Check => Version::V0_4_0,
            Self::Status | Self::Gc => Version::V1_1_0,
        }
    }

    /// How long it may take as a whole. A run that hangs holds up the runtime's reload (`cni-contract.md` 5).
    pub const fn budget(self) -> Duration {
        match self {
            Self::Add | Self::Del | Self::Check | Self::Status => Duration::from_secs(5),
            Self::Gc => Duration::from_secs(20),
            Self::Version => Duration::from_secs(1),
        }
    }

    /// Reads `CNI_COMMAND`; none when it is empty or absent.
    ///
    /// # Errors
    /// [`Kind::Environment`] when it is something else than a command.
    pub fn asked(host: &Host<'_>) -> Result<Option<Self>, Error> {
        let Some(value) = present(host, "CNI_COMMAND") else { return Ok(None) };
        Self::ALL.into_iter().find(|command| value == command.as_str()).map(Some).ok_or_else(|| {
            let value = shunt_api::entry::shortened(&value.to_string_lossy());
            Error::new(Kind::Environment, format!("CNI_COMMAND {value:?} is not a command of CNI"))
        })
    }
}

/// What a command makes of a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Must be there, and good.
    Required,
    /// May be missing; a value must be good.
    Optional,
    /// May be missing, and a bad value is as good as none.
    Lenient,
    /// Not looked at.
    Ignored,
}

/// One variable of the environment.
struct Variable {
    name: &'static str,
    need: fn(Command) -> Need,
    /// What is wrong with a value, as the end of a sentence that begins with its name.
    fault: fn(&OsStr) -> Option<&'static str>,
}

/// As in `skel`, with two differences for DEL, which must not fail for what it does not need: `CNI_PATH`, `CNI_ARGS` and
/// a bad `CNI_NETNS` are nothing to it.
const VARIABLES: [Variable; 5] = [
    Variable {
        name: "CNI_CONTAINERID",
        need: |command| match command {
            Command::Add | Command::Del | Command::Check => Need::Required,
            Command::Status | Command::Gc | Command::Version => Need::Ignored,
        },
        fault: |value| {
            (!value.to_str().is_some_and(is_container_id)).then_some(
                "must be 1 to 128 letters, digits, '_', '.' or '-' that begin with a letter or digit",
            )
        },
    },
    Variable {
        name: "CNI_NETNS",
        need: |command| match command {
            Command::Add | Command::Check => Need::Required,
            Command::Del => Need::Lenient,
            Command::Status | Command::Gc | Command::Version => Need::Ignored,
        },
        fault: |value| {
            (!is_sane_path(Path::new(value))).then_some("must be an absolute path of less than 4096 bytes")
        },
    },
    Variable {
        name: "CNI_IFNAME",
        need: |command| match command {
            Command::Add | Command::Del | Command::Check => Need::Required,
            Command::Status | Command::Gc | Command::Version => Need::Ignored,
        },
        fault: |value| {
            (!value.to_str().is_some_and(is_ifname))
                .then_some("must be 1 to 15 bytes without '/', ':' and white space, other than '.' and '..'")
        },
    },
    Variable {
        name: "CNI_ARGS",
        need: |command| match command {
            Command::Add | Command::Check => Need::Optional,
            Command::Del => Need::Lenient,
            Command::Status | Command::Gc | Command::Version => Need::Ignored,
        },
        fault: |value| {
            (value.len() > super::args::LENGTH_MAX || value.to_str().is_none())
                .then_some("must be UTF-8 of at most 64 KiB")
        },
    },
    Variable {
        name: "CNI_PATH",
        need: |command| match command {
            Command::Add | Command::Check | Command::Status | Command::Gc => Need::Required,
            Command::Del | Command::Version => Need::Ignored,
        },
        fault: |_| None,
    },
];

/// The variables of one run, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variables {
    container_id: Option<String>,
    ifname: Option<String>,
    /// `CNI_NETNS`, where the command needs it or it is given and good.
    pub netns: Option<PathBuf>,
    /// What `CNI_ARGS` says about the pod.
    pub pod: PodRef,
}

impl Variables {
    /// Reads and checks all variables of `command` by the table.
    ///
    /// # Errors
    /// [`Kind::Environment`]: one error that names every variable that is missing, or else the first that is bad.
    pub fn read(host: &Host<'_>, command: Command) -> Result<Self, Error> {
        let asked = || {
            VARIABLES
                .iter()
                .map(|variable| (variable, (variable.need)(command), present(host, variable.name)))
        };
        let missing: Vec<&str> = asked()
            .filter(|(_, need, value)| *need == Need::Required && value.is_none())
            .map(|(variable, ..)| variable.name)
            .collect();
        if !missing.is_empty() {
            let text =
                format!("{} needs {}, which are missing or empty", command.as_str(), missing.join(", "));
            return Err(Error::new(Kind::Environment, text));
        }
        let mut good = Vec::with_capacity(VARIABLES.len());
        for (variable, need, value) in asked() {
            let fault = value.as_deref().and_then(variable.fault);
            good.push(match (need, fault) {
                (Need::Ignored, _) | (Need::Lenient, Some(_)) => None,
                (Need::Required | Need::Optional, Some(fault)) => {
                    let shown = value.unwrap_or_default();
                    let shown = shunt_api::entry::shortened(&shown.to_string_lossy());
                    return Err(Error::new(
                        Kind::Environment,
                        format!("{} {fault}; it is {shown:?}", variable.name),
                    ));
                }
                (_, None) => value,
            });
        }
        let mut good = good.into_iter();
        let mut next = || good.next().flatten();
        let text = |value: OsString| value.into_string().ok();
        let (container_id, netns, ifname, args) = (next(), next(), next(), next());
        Ok(Self {
            container_id: container_id.and_then(text),
            netns: netns.map(PathBuf::from),
            ifname: ifname.and_then(text),
            pod: args.and_then(text).map(|args| PodRef::parse(&args)).unwrap_or_default(),
        })
    }

    /// The attachment, for commands that are about one.
    ///
    /// # Errors
    /// [`Kind::Environment`] when id and interface together make no file name.
    pub fn attachment(&self) -> Result<Attachment, Error> {
        let (id, ifname) =
            (self.container_id.as_deref().unwrap_or_default(), self.ifname.as_deref().unwrap_or_default());
        Attachment::new(id, ifname)
            .map_err(|error| Error::new(Kind::Environment, "CNI_CONTAINERID and CNI_IFNAME").because(error))
    }
}

/// A variable's value; empty and absent are alike.
fn present(host: &Host<'_>, name: &str) -> Option<OsString> {
    (host.env)(name).filter(|value| !value.as_bytes().is_empty())
}
