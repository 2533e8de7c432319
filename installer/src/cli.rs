//! What was typed, or set in the environment.

#![expect(clippy::doc_markdown, reason = "these comments are the help page")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

const ABOUT: &str = "Puts the Shunt plugin and its CNI configuration on a host, and keeps them there.";

const LONG_ABOUT: &str = "\
Puts the Shunt plugin and its CNI configuration on a host, and keeps them there.

Stopping it removes nothing: pods are intercepted with the installer gone, restarted or upgraded. Only `uninstall` takes Shunt off.

Every option can be given in the environment instead, as the name in brackets says.";

const AFTER: &str = "\
Exit codes: 0 done, or as wanted; 1 an error; 2 wrong arguments; 3 not as wanted, or not in time";

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "shunt-installer", version, about = ABOUT, long_about = LONG_ABOUT, after_help = AFTER)]
pub struct Cli {
    /// What is to be done.
    #[command(subcommand)]
    pub command: Command,
    /// What holds for every command.
    #[command(flatten)]
    pub options: Options,
}

/// What is to be done.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Install, and keep it so until told to stop; stopping removes nothing
    Run,
    /// Install and end
    Once,
    /// Take the list entry out, then everything else of Shunt
    Uninstall(Uninstall),
    /// Say what is wanted, what is there and why they differ; asks the plugin for STATUS and changes nothing else
    Status(Status),
    /// Wait until this node, or every node of a DaemonSet, is as wanted
    Wait(Wait),
}

/// Options of `uninstall`.
#[derive(Debug, Clone, Args)]
pub struct Uninstall {
    /// Leave running pods intercepted; what serves them goes when they have ended (default)
    #[arg(long, env = "SHUNT_KEEP_PODS", conflicts_with = "detach")]
    pub keep_pods: bool,
    /// Free running pods now: their connections go out directly
    #[arg(long, env = "SHUNT_DETACH")]
    pub detach: bool,
    /// Do not end: clean up after pods as they end, and answer on --listen, until told to stop
    #[arg(long, env = "SHUNT_STAY")]
    pub stay: bool,
}

/// Options of `status`.
#[derive(Debug, Clone, Args)]
pub struct Status {
    /// How it is said
    #[arg(long, env = "SHUNT_OUTPUT", default_value = "text")]
    pub output: Output,
}

/// How something is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// One JSON document.
    Json,
}

/// Options of `wait`.
#[derive(Debug, Clone, Args)]
pub struct Wait {
    /// Ask the API server about this DaemonSet instead, as NAMESPACE/NAME, from inside the cluster
    #[arg(long, env = "SHUNT_DAEMONSET", value_name = "NAMESPACE/NAME")]
    pub daemonset: Option<String>,
    /// How long at most, such as 90s, 5m or 1h
    #[arg(long, env = "SHUNT_TIMEOUT", default_value = "5m", value_parser = duration)]
    pub timeout: Duration,
}

/// What holds for every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Options {
    /// The host's root as it is seen from here; all host paths are below it
    #[arg(long, global = true, env = "SHUNT_HOST_ROOT", value_name = "DIR", default_value = "/host")]
    pub host_root: PathBuf,
    /// Where the runtime looks for plugins, on the host
    #[arg(long, global = true, env = "SHUNT_BIN_DIR", value_name = "DIR", default_value = "/opt/cni/bin")]
    pub bin_dir: PathBuf,
    /// Where the runtime looks for network configurations, on the host
    #[arg(long, global = true, env = "SHUNT_CONF_DIR", value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub conf_dir: PathBuf,
    /// The plugin's records, on the host; the entry's `stateDir` [default: the entry's, else /run/shunt]
    #[arg(long, global = true, env = "SHUNT_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// The plugin's pins, on the host; the entry's `bpfDir` [default: the entry's, else /sys/fs/bpf/shunt]
    #[arg(long, global = true, env = "SHUNT_BPF_DIR", value_name = "DIR")]
    pub bpf_dir: Option<PathBuf>,
    /// A list of our own that sorts first, or our entry in the primary CNI's list
    #[arg(long, global = true, env = "SHUNT_MODE", default_value = "owned")]
    pub mode: Mode,
    /// Our conflist entry, a JSON object, read again whenever it changes [default: that of `mesh: istio`]
    #[arg(long, global = true, env = "SHUNT_ENTRY", value_name = "FILE")]
    pub entry: Option<PathBuf>,
    /// The plugin to install, as it is seen from here
    #[arg(long, global = true, env = "SHUNT_PLUGIN", value_name = "FILE", default_value = "/shunt")]
    pub plugin: PathBuf,
    /// The configuration to follow, by its file's or its network's name [default: what the runtime would take]
    #[arg(long, global = true, env = "SHUNT_PRIMARY", value_name = "NAME")]
    pub primary: Option<String>,
    /// Answer /livez, /readyz and /metrics here, such as 127.0.0.1:9476
    #[arg(long, global = true, env = "SHUNT_LISTEN", value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// The host's namespaces, such as /host/proc/1/ns: the plugin is run in its mount and cgroup namespaces, with its paths and
    /// tools, as the runtime runs it [default: run it here]
    #[arg(long, global = true, env = "SHUNT_HOST_NS", value_name = "DIR")]
    pub host_ns: Option<PathBuf>,
    /// The least important message that is logged, to standard error
    #[arg(long, global = true, env = "SHUNT_LOG_LEVEL", default_value = "info")]
    pub log_level: Level,
}

/// Where our entry stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// In a list of our own, made of the primary CNI's.
    Owned,
    /// In the primary CNI's list.
    Chained,
}

impl Mode {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Owned => "owned",
            Self::Chained => "chained",
        }
    }
}

/// The least important message that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "words")]
pub enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// `90`, `90s`, `5m`, `1h`
fn duration(text: &str) -> Result<Duration, String> {
    let (number, seconds) = match text.strip_suffix(['s', 'm', 'h']) {
        None => (text, 1),
        Some(number) if text.ends_with('s') => (number, 1),
        Some(number) if text.ends_with('m') => (number, 60),
        Some(number) => (number, 3600),
    };
    let seconds = number.parse::<u32>().ok().and_then(|number| number.checked_mul(seconds));
    let seconds = seconds.ok_or_else(|| "not a duration such as 90s, 5m or 1h".to_owned())?;
    Ok(Duration::from_secs(seconds.into()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_option_is_in_the_environment() {
        let mut command = Cli::command();
        command.build();
        let mut options = 0;
        for command in std::iter::once(&command).chain(command.get_subcommands()) {
            for argument in command.get_arguments() {
                let id = argument.get_id().as_str();
                if matches!(id, "help" | "version" | "subcommand") {
                    continue;
                }
                let env = argument.get_env().and_then(std::ffi::OsStr::to_str);
                assert_eq!(env, Some(format!("SHUNT_{}", id.to_uppercase()).as_str()), "{id}");
                options += 1;
            }
        }
        assert!(options > 12, "{options}");
    }

    #[test]
    fn durations() {
        for (text, seconds) in [("7", 7), ("90s", 90), ("5m", 300), ("1h", 3600), ("0", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "s", "-1", "1d", "1.5s", "5 m", "99999999999", "4294967295h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
