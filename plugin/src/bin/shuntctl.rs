//! The node tool for people.

use std::io::Write as _;
use std::process::ExitCode;

const HELP: &str = "shuntctl: looks into Shunt on this node\n\nUsage: shuntctl [--help | --version]\n\nNo command is there yet.\n";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let first = arguments.first().map(|argument| argument.to_string_lossy());
    let (text, code) = match first.as_deref() {
        Some("--version" | "-V") => (format!("shuntctl {}\n", env!("CARGO_PKG_VERSION")), 0),
        Some("--help" | "-h") => (HELP.to_owned(), 0),
        None => (HELP.to_owned(), 2),
        Some(other) => (format!("shuntctl: {other:?} is not there yet; try --help\n"), 2),
    };
    let written = if code == 0 {
        std::io::stdout().write_all(text.as_bytes())
    } else {
        std::io::stderr().write_all(text.as_bytes())
    };
    ExitCode::from(if written.is_ok() { code } else { 1 })
}
