//! The plugin asked about its node, and told to leave it: `shunt report`, `shunt sweep`, `shunt purge`.
//!
//! For the installer, which ships the plugin as a file and does not link it. Standard input is our entry, of which only `stateDir`,
//! `bpfDir` and `log` count, or nothing for the defaults; the answer is one JSON document, see [`shunt_api::report`].

mod leave;
mod remove;
mod report;
pub(crate) mod retire;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use slog::o;

use crate::backend::Places;
use crate::cni::netconf::Document;
use crate::cni::request::{STDIN_MAX, STDIN_PATIENCE, read_stdin};
use crate::cni::{Deadline, DelConf, Version, reply};
use crate::error::{Error, Failed as _, Kind};
use crate::host::Host;
use crate::settings::is_sane_path;

const USAGE: &str = "\
usage: shunt report | sweep | purge [--detach] [--binary PATH]
standard input: the entry of the configuration list, or nothing for the defaults
";

/// Exit code for wrong arguments.
const WRONG: u8 = 2;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Asked {
    /// What is there, and what was counted.
    Report,
    /// Remove what namespaces that are gone have left.
    Sweep,
    /// The same, and all of ours once no attachment is left.
    Purge {
        /// Remove the attachments of pods that run, too.
        detach: bool,
        /// The plugin's file, which goes last.
        binary: Option<PathBuf>,
    },
}

impl Asked {
    /// From the arguments; `None` if they make no sense.
    fn parse(mut words: impl Iterator<Item = OsString>) -> Option<Self> {
        let first = words.next()?;
        let mut asked = match first.to_str()? {
            "report" => Self::Report,
            "sweep" => Self::Sweep,
            "purge" => Self::Purge { detach: false, binary: None },
            _ => return None,
        };
        while let Some(word) = words.next() {
            match (&mut asked, word.to_str()?) {
                (Self::Purge { detach, .. }, "--detach") => *detach = true,
                (Self::Purge { binary, .. }, "--binary") => {
                    *binary = Some(words.next().map(PathBuf::from).filter(|path| is_sane_path(path))?);
                }
                _ => return None,
            }
        }
        Some(asked)
    }

    const fn budget(&self) -> Duration {
        match self {
            Self::Report => Duration::from_secs(5),
            Self::Sweep | Self::Purge { .. } => Duration::from_mins(1),
        }
    }

    const fn word(&self) -> &'static str {
        match self {
            Self::Report => "report",
            Self::Sweep => "sweep",
            Self::Purge { .. } => "purge",
        }
    }
}

/// Does what the arguments ask for, without the program's name; returns the exit code. `None`: nothing of the kind, it is a runtime
/// that calls.
pub fn run(host: &mut Host<'_>, arguments: impl Iterator<Item = OsString>) -> Option<u8> {
    let mut arguments = arguments.peekable();
    arguments.peek()?;
    let Some(asked) = Asked::parse(arguments) else {
        // Whatever a runtime writes behind our name, CNI is what it means.
        if (host.env)("CNI_COMMAND").is_some() {
            return None;
        }
        // Nobody is left to tell when standard error is closed.
        drop(host.stderr.write_all(USAGE.as_bytes()));
        return Some(WRONG);
    };
    Some(match answer(host, &asked) {
        Ok(text) => reply::write(host, &(text + "\n"), 0),
        Err(error) => reply::write(host, &reply::failure(Version::LATEST, &error), 1),
    })
}

fn answer(host: &mut Host<'_>, asked: &Asked) -> Result<String, Error> {
    let deadline = Deadline::after(asked.budget());
    let input = read_stdin(host.stdin.as_mut(), STDIN_MAX, deadline.within(STDIN_PATIENCE))?;
    let nothing = input.iter().all(u8::is_ascii_whitespace);
    let document = Document::parse(if nothing { b"{}" } else { &input })?;
    let conf = DelConf::read(&document);
    let places = Places { state_dir: &conf.state_dir, bpf_dir: &conf.bpf_dir };
    if *asked == Asked::Report {
        // It leaves no trace, not even a log.
        return text(&report::made(places, deadline)?);
    }
    let log = (host.logger)(&conf.log).new(o!("cmd" => asked.word()));
    let run = remove::Run { places, log_file: &conf.log.file, deadline, log: &log };
    match asked {
        Asked::Purge { detach, binary } => text(&run.purge(*detach, binary.as_deref())?),
        Asked::Report | Asked::Sweep => text(&run.sweep()?),
    }
}

fn text(document: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(document).failed(Kind::Internal, || "writing the answer")
}

#[cfg(test)]
mod tests;
