//! `shuntctl`, the node tool for people: what it says and its exit code. The binary only hands over arguments and prints.

mod backend;
mod clock;
mod flows;
mod pods;
mod stream;
mod table;
mod top;
mod trace;

use std::ffi::OsString;

const HELP: &str = "\
shuntctl: looks into Shunt on this node

Usage: shuntctl [--help | --version]
       shuntctl backend [--probe] [--output text|json] [--state-dir DIR] [--bpf-dir DIR]
       shuntctl trace [POD] [--verdict V] [--reason R] [--to CIDR[:PORT]] [--uid N] [--count N] [--for LENGTH]
                      [--output text|json] [--state-dir DIR] [--bpf-dir DIR]
       shuntctl flows [POD] [--by WHAT] [--sort KEY] [--output text|json] [--state-dir DIR] [--bpf-dir DIR]
       shuntctl top [POD] [--by WHAT] [--sort KEY] [--interval LENGTH] [--count N] [--state-dir DIR] [--bpf-dir DIR]

Commands:
  backend   what `backend: auto` takes on this node, and why: how each step of the probe went
  trace     each decision about a connection of a pod, or of all pods, as it is made, until it is ended
  flows     captured connections by the destination they asked for: bytes, round trips, retransmits, state, age
  top       the same every second; keys: q ends, b r t a d sort

POD is namespace/name, a name, or the beginning of a container's id.

Options of `trace`; lists have commas between:
  --verdict LIST    passed, captured, refused
  --reason LIST     names of reasons
  --to LIST         destinations: 10.0.0.0/8, 10.0.0.1:80, [fd00::/8]:80, :80
  --uid LIST        of who connects
  --count N         ends after so many
  --for LENGTH      ends after so long: 30s, 500ms, 2m
  --output FORMAT   text (default), or json: an object a line

Options of `flows` and `top`:
  --by WHAT         destination (default) or connection: what a row is
  --sort KEY        bytes (default), rtt, retrans, age, dest
  --output FORMAT   `flows`: text (default), or json: an array
  --interval LENGTH `top`: how long between two looks, default 1s
  --count N         `top`: ends after so many

Options of `backend`:
  --probe           probe now, as root, whatever is known from before; the answer is kept
  --output FORMAT   text (default) or json

Options of all:
  --state-dir DIR   the configuration's `stateDir`, default /run/shunt
  --bpf-dir DIR     the configuration's `bpfDir`, default /sys/fs/bpf/shunt

Exit codes: 0 told; 1 could not be found out; 2 wrong arguments; 3 this node has not been probed since it booted
";

/// Exit code: it is told.
const TOLD: u8 = 0;
/// Exit code: it could not be found out.
const FAILED: u8 = 1;
/// Exit code: the arguments are wrong.
const USAGE: u8 = 2;
/// Exit code: nobody has found out yet.
const UNKNOWN: u8 = 3;

/// What is printed, to standard output if `code` is 0, else to standard error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Lines, the last with its end.
    pub text: String,
    /// The exit code.
    pub code: u8,
}

impl Said {
    fn new(code: u8, text: impl Into<String>) -> Self {
        Self { text: text.into(), code }
    }

    fn usage(why: &str) -> Self {
        Self::new(USAGE, format!("shuntctl: {why}; try --help\n"))
    }
}

/// Does what the arguments, without the program's name, ask for.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Said {
    let mut words = arguments.into_iter();
    let Some(first) = words.next() else { return Said::new(USAGE, HELP) };
    match first.to_str() {
        Some("--version" | "-V") => Said::new(TOLD, format!("shuntctl {}\n", env!("CARGO_PKG_VERSION"))),
        Some("--help" | "-h") => Said::new(TOLD, HELP),
        Some("backend") => match backend::Asked::parse(words) {
            Ok(None) => Said::new(TOLD, HELP),
            Ok(Some(asked)) => backend::run(&asked),
            Err(why) => Said::usage(&why),
        },
        Some("trace") => match trace::Asked::parse(words) {
            Ok(None) => Said::new(TOLD, HELP),
            Ok(Some(asked)) => trace::run(&asked),
            Err(why) => Said::usage(&why),
        },
        Some(command @ ("flows" | "top")) => match flows::Asked::parse(command, words) {
            Ok(None) => Said::new(TOLD, HELP),
            Ok(Some(asked)) if command == "top" => top::run(&asked),
            Ok(Some(asked)) => flows::run(&asked),
            Err(why) => Said::usage(&why),
        },
        _ => Said::usage(&format!("{:?} is not a command", first.to_string_lossy())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(arguments: &[&str]) -> Said {
        run(arguments.iter().map(OsString::from))
    }

    #[test]
    fn the_help_names_the_defaults_that_are() {
        let help = said(&["--help"]);
        assert_eq!((help.code, help.text.as_str()), (TOLD, HELP));
        assert_eq!(said(&["backend", "--help"]), help);
        for default in [shunt_api::paths::STATE_DIR, shunt_api::paths::BPF_DIR] {
            assert!(HELP.contains(&format!("default {default}\n")), "{default}");
        }
        assert_eq!(said(&[]).code, USAGE);
        assert_eq!(said(&["--version"]).text, format!("shuntctl {}\n", env!("CARGO_PKG_VERSION")));
    }

    #[test]
    fn wrong_arguments_are_named() {
        for (arguments, word) in [
            (&["explain"][..], "explain"),
            (&["backend", "--probe", "now"], "now"),
            (&["backend", "--output", "yaml"], "yaml"),
            (&["backend", "--output"], "--output"),
            (&["backend", "--state-dir", "run/shunt"], "--state-dir"),
            (&["backend", "--bpf-dir", ""], "--bpf-dir"),
        ] {
            let said = said(arguments);
            assert_eq!(said.code, USAGE, "{arguments:?}");
            assert!(said.text.contains(word) && said.text.contains("--help"), "{said:?}");
        }
    }
}
