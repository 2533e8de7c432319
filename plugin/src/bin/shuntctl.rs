//! The node tool for people. Everything is in the library; this prints, and hands the exit code on.

use std::io::Write as _;
use std::process::ExitCode;

use shunt::ctl::run;

fn main() -> ExitCode {
    let said = run(std::env::args_os().skip(1));
    let told = std::io::stdout().write_all(said.text.as_bytes());
    let complained = std::io::stderr().write_all(said.complaint.as_bytes());
    let written = told.and(complained);
    ExitCode::from(if written.is_ok() { said.code } else { 1 })
}
