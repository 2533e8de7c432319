//! `shuntctl man`: the help as a page of the manual.

use clap_mangen::Man;

use super::{EXIT_CODES, FAILED, Said, TOLD, USAGE, described};

/// Prints the manual page
///
/// To read it: `shuntctl man | man -l -`. To keep it: `shuntctl man > /usr/local/share/man/man8/shuntctl.8`, and one for each command:
/// `shuntctl man explain > /usr/local/share/man/man8/shuntctl-explain.8`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Args {
    /// The command whose page is wanted; that of shuntctl if none is named.
    command: Option<String>,
}

/// Prints it.
pub(super) fn run(args: &Args) -> Said {
    let mut whole = described().disable_help_subcommand(true);
    whole.build();
    let (command, title) = match &args.command {
        None => (whole, "shuntctl".to_owned()),
        Some(name) => match whole.get_subcommands().find(|command| command.get_name() == name) {
            Some(command) => (command.clone(), format!("shuntctl-{name}")),
            None => return Said::failed(USAGE, &format!("{name:?} is not a command; try --help")),
        },
    };
    let mut page = Vec::new();
    match Man::new(command).title(title).section("8").render(&mut page) {
        Ok(()) => Said::told(TOLD, String::from_utf8_lossy(&page)),
        Err(error) => Said::failed(FAILED, &format!("the page cannot be made: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{described, run};

    #[test]
    fn every_command_has_a_page() {
        let page = run(["man"].map(Into::into));
        assert!(
            page.code == 0 && page.text.contains(".TH shuntctl 8") && page.text.contains("explain"),
            "{page:?}"
        );
        for command in described().get_subcommands() {
            let page = run(["man", command.get_name()].map(Into::into));
            assert!(page.code == 0 && page.text.contains("SYNOPSIS"), "{page:?}");
        }
        assert_eq!(run(["man", "nothing"].map(Into::into)).code, 2);
    }
}
