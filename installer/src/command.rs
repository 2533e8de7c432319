//! What each command does, and what it says at its end.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use slog::error;

use crate::cli::{Cli, Command, Output};
use crate::settings::Settings;
use crate::uninstall::{How, Removed};
use crate::{cluster, log, run, uninstall};

/// Exit code: done, or as wanted.
pub const DONE: u8 = 0;
/// Exit code: an error.
pub const FAILED: u8 = 1;
/// Exit code: not as wanted, or not in time.
pub const NOT_READY: u8 = 3;

/// What is printed to standard output, and the exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Lines, the last with its end.
    pub text: String,
    /// The exit code.
    pub code: u8,
}

/// Does what was asked for.
///
/// # Errors
/// What could not be done.
pub fn run(cli: &Cli) -> Result<Said> {
    let settings = Settings::new(&cli.options)?;
    let (listen, log) = (cli.options.listen, log::root(cli.options.log_level));
    if let Command::Wait(wait) = &cli.command
        && let Some(daemonset) = &wait.daemonset
    {
        return Ok(match cluster::wait(daemonset, wait.timeout, &log)? {
            None => Said { text: format!("DaemonSet {daemonset} is ready on every node\n"), code: DONE },
            Some(lacks) => {
                error!(
                    log,
                    "DaemonSet {daemonset} is not ready within {} s: {lacks}",
                    wait.timeout.as_secs()
                );
                Said { text: String::new(), code: NOT_READY }
            }
        });
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start")?;
    runtime.block_on(async {
        match &cli.command {
            Command::Run => {
                run::run(settings, listen, log).await?;
                Ok(Said { text: String::new(), code: DONE })
            }
            Command::Once => said(&run::once(settings, log).await?, Output::Text),
            Command::Status(status) => said(&run::look(settings, log::none()).await, status.output),
            Command::Wait(wait) => said(&run::wait(settings, wait.timeout, log::none()).await, Output::Text),
            Command::Uninstall(options) => {
                let how = How { detach: options.detach, stay: options.stay };
                Ok(removed(&uninstall::uninstall(settings, how, listen, log).await?))
            }
        }
    })
}

fn said(state: &crate::state::State, output: Output) -> Result<Said> {
    let text = match output {
        Output::Text => state.text(),
        Output::Json => serde_json::to_string_pretty(state)? + "\n",
    };
    Ok(Said { text, code: if state.ready { DONE } else { NOT_READY } })
}

fn removed(removed: &Removed) -> Said {
    let mut text = String::new();
    let mut line = |words: &str| {
        // Writing to a text does not fail.
        let _written = writeln!(text, "{words}");
    };
    for file in &removed.lists {
        line(&format!("{file}: our entry is out"));
    }
    for problem in &removed.problems {
        line(&format!("problem: {problem}"));
    }
    if removed.complete {
        line("nothing of Shunt is on this node any more");
    } else if removed.pods_left > 0 {
        line(&format!(
            "{} pods stay intercepted; the plugin, its state and its pins stay until they have ended: then run this again, or let it run with --stay",
            removed.pods_left
        ));
    }
    Said { text, code: if removed.problems.is_empty() { DONE } else { FAILED } }
}
