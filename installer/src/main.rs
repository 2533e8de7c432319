//! Puts the plugin on a host and keeps it there. Everything is in the library; this starts it and decides the exit code.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use shunt_installer::cli::Cli;
use shunt_installer::command;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match command::run(&cli) {
        Ok(said) => {
            // Whoever reads may have gone.
            let _written = std::io::stdout().write_all(said.text.as_bytes());
            ExitCode::from(said.code)
        }
        Err(error) => {
            let _written = writeln!(std::io::stderr(), "shunt-installer: {error:#}");
            ExitCode::from(command::FAILED)
        }
    }
}
