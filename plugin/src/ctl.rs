//! `shuntctl`, the node tool for people: what it says and its exit code. The binary only hands over arguments and prints.
//!
//! One file for each command, with its arguments, what they are good for, and `run`.

mod attached;
mod backend;
mod captured;
mod check;
mod clock;
mod completions;
mod detach;
mod dump;
pub mod explain;
mod flows;
mod lines;
mod lists;
mod man;
mod pods;
mod repair;
mod sockets;
mod status;
mod stream;
mod table;
mod top;
mod trace;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};
use shunt_api::paths;

use crate::backend::Places;
use crate::settings::is_sane_path;

/// Exit code: it is told; of a pod or a connection: it is captured.
const TOLD: u8 = 0;
/// Exit code: it could not be found out.
const FAILED: u8 = 1;
/// Exit code: the arguments are wrong.
const USAGE: u8 = 2;
/// Exit code: nobody has found out yet.
const UNKNOWN: u8 = 3;
/// Exit code: something is wrong.
const FOUND: u8 = 3;
/// Exit code: the pod or the connection is not captured.
const NOT_CAPTURED: u8 = 4;

const EXIT_CODES: &str = "\
Exit codes:
  0  told; `explain`: captured
  1  could not be found out; standard error says why
  2  wrong arguments
  3  `backend`: this node has not been probed since it booted; `check`: something is wrong
  4  `explain`: not captured";

/// Version of the form of everything that is printed as JSON: fields are added without a new one, none is taken away or changed.
pub const JSON_VERSION: u32 = 1;

/// Looks into Shunt on this node
///
/// shuntctl tells what Shunt, the CNI plugin that makes pods' traffic go through their mesh proxies, has done on this node and why. It
/// asks the kernel and reads the plugin's state; it needs root, and no agent and no API server.
#[derive(Debug, Parser)]
#[command(name = "shuntctl", version, after_help = EXIT_CODES, max_term_width = 110, arg_required_else_help = true)]
struct Asked {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Backend(backend::Args),
    Explain(Box<explain::Args>),
    Trace(trace::Args),
    Flows(flows::Args),
    Top(top::Args),
    Status(status::Args),
    Pods(pods::Args),
    Check(check::Args),
    Repair(repair::Args),
    Detach(detach::Args),
    Dump(dump::Args),
    Completions(completions::Args),
    Man(man::Args),
}

/// How something is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    #[default]
    #[value(alias = "text")]
    Table,
    /// For programs: one object with a `version`.
    Json,
}

/// Where the plugin of this node keeps its things.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
struct Directories {
    /// The configuration's `stateDir`.
    #[arg(long, value_name = "DIR", default_value = paths::STATE_DIR, value_parser = directory)]
    state_dir: PathBuf,
    /// The configuration's `bpfDir`.
    #[arg(long, value_name = "DIR", default_value = paths::BPF_DIR, value_parser = directory)]
    bpf_dir: PathBuf,
}

impl Directories {
    fn places(&self) -> Places<'_> {
        Places { state_dir: &self.state_dir, bpf_dir: &self.bpf_dir }
    }
}

fn directory(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if is_sane_path(&path) {
        Ok(path)
    } else {
        Err("must be an absolute path of less than 4096 bytes".to_owned())
    }
}

/// What is printed, and the exit code.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// The answer, for standard output: lines, the last with its end.
    pub text: String,
    /// What went wrong, for standard error.
    pub complaint: String,
    /// The exit code.
    pub code: u8,
}

impl Said {
    /// An answer.
    fn told(code: u8, text: impl Into<String>) -> Self {
        Self { text: text.into(), code, ..Self::default() }
    }

    /// An answer as JSON.
    fn json(code: u8, answer: &impl serde::Serialize) -> Self {
        match serde_json::to_string_pretty(answer) {
            Ok(text) => Self::told(code, text + "\n"),
            Err(error) => Self::failed(FAILED, &format!("the answer cannot be printed: {error}")),
        }
    }

    /// No answer. `why` is one line, or more.
    fn failed(code: u8, why: &str) -> Self {
        Self::default().but(code, why)
    }

    /// The same with a complaint.
    fn but(self, code: u8, why: &str) -> Self {
        Self { complaint: format!("shuntctl: {why}\n"), code, ..self }
    }
}

/// Does what the arguments, without the program's name, ask for.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Said {
    let words = std::iter::once(OsString::from("shuntctl")).chain(arguments);
    match Asked::try_parse_from(words) {
        Ok(asked) => match asked.command {
            Command::Backend(args) => backend::run(&args),
            Command::Explain(args) => explain::run(&args),
            Command::Trace(args) => trace::run(&args),
            Command::Flows(args) => flows::run(&args),
            Command::Top(args) => top::run(&args),
            Command::Status(args) => status::run(&args),
            Command::Pods(args) => pods::run(&args),
            Command::Check(args) => check::run(&args),
            Command::Repair(args) => repair::run(&args),
            Command::Detach(args) => detach::run(&args),
            Command::Dump(args) => dump::run(&args),
            Command::Completions(args) => completions::run(&args),
            Command::Man(args) => man::run(&args),
        },
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Said::told(TOLD, error.to_string()),
            _ => Said { complaint: error.to_string(), code: USAGE, ..Said::default() },
        },
    }
}

/// The command line as it is, for those that describe it.
fn described() -> clap::Command {
    Asked::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(arguments: &[&str]) -> Said {
        run(arguments.iter().map(OsString::from))
    }

    #[test]
    fn the_command_line_makes_sense() {
        described().debug_assert();
    }

    #[test]
    fn every_command_has_a_help_that_says_how_it_ends() {
        let help = said(&["--help"]);
        assert_eq!((help.code, help.complaint.as_str()), (TOLD, ""));
        for command in described().get_subcommands() {
            let name = command.get_name();
            assert!(help.text.contains(name), "{name}");
            if name == "help" {
                continue;
            }
            let its = said(&[name, "--help"]);
            assert_eq!(its.code, TOLD, "{name}");
            assert!(its.text.contains("Exit codes:") && its.text.contains("Usage: shuntctl"), "{}", its.text);
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                assert!(argument.get_help().is_some(), "{name} {argument}");
            }
        }
        let backend = said(&["backend", "--help"]);
        for default in [paths::STATE_DIR, paths::BPF_DIR] {
            assert!(backend.text.contains(&format!("[default: {default}]")), "{default}");
        }
        assert_eq!(said(&["--version"]).text, format!("shuntctl {}\n", env!("CARGO_PKG_VERSION")));
    }

    #[test]
    fn wrong_arguments_are_named() {
        for (arguments, word) in [
            (&[][..], "Usage"),
            (&["divine"], "divine"),
            (&["backend", "--probe", "now"], "now"),
            (&["backend", "--output", "yaml"], "yaml"),
            (&["backend", "--output"], "--output"),
            (&["backend", "--state-dir", "run/shunt"], "--state-dir"),
            (&["backend", "--bpf-dir", ""], "--bpf-dir"),
            (&["completions", "tcsh"], "tcsh"),
        ] {
            let said = said(arguments);
            assert_eq!((said.code, said.text.as_str()), (USAGE, ""), "{arguments:?}");
            assert!(said.complaint.contains(word) && said.complaint.contains("help"), "{said:?}");
        }
    }
}
