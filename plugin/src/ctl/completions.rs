//! `shuntctl completions`: what a shell needs to complete the command line.

use clap_complete::Shell;

use super::{EXIT_CODES, Said, TOLD, described};

/// Prints the completion script of a shell
///
/// For bash: `shuntctl completions bash > /usr/share/bash-completion/completions/shuntctl`. For zsh, as `_shuntctl` into a directory of
/// `$fpath`. For fish: `~/.config/fish/completions/shuntctl.fish`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Args {
    /// Which shell.
    #[arg(value_parser = clap::builder::EnumValueParser::<Shell>::new())]
    shell: Shell,
}

/// Prints it.
pub(super) fn run(args: &Args) -> Said {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut described(), "shuntctl", &mut script);
    Said::told(TOLD, String::from_utf8_lossy(&script))
}

#[cfg(test)]
mod tests {
    use super::super::run;

    #[test]
    fn every_shell_learns_every_command() {
        for shell in ["bash", "zsh", "fish"] {
            let said = run(["completions", shell].map(Into::into));
            assert_eq!(said.code, 0, "{shell}");
            for word in ["backend", "explain", "from-uid", "state-dir"] {
                assert!(said.text.contains(word), "{shell} {word}");
            }
        }
    }
}
