//! `shuntctl explain`: is this pod captured, why, with what, and what becomes of this connection.

mod answer;
pub(super) mod find;
mod node;
mod paper;
mod show;
mod verdict;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use nix::unistd::geteuid;

use super::{Directories, EXIT_CODES, FAILED, Format, NOT_CAPTURED, Said, TOLD};
use answer::{Answer, State, Verdict};
use verdict::{Caller, Question};

/// Tells whether a pod is captured, why, and what becomes of a connection
///
/// Shows every value of the pod's plan with who said it: an annotation of ours, one of the mesh (with the place in its document), the entry
/// in the conflist, or the mesh's default; where the proxy listens; and what the kernel counted. With --to or --inbound also what is decided
/// about one connection, by the function the kernel runs, on the rules the kernel has, and which key decides. Works for pods that were
/// skipped and for pods whose ADD failed.
///
/// With --config nothing is asked of a node: the entry and the annotations are files, for tests of a manifest.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXIT_CODES, after_long_help = LONG)]
pub struct Args {
    /// The pod: `namespace/name`, a name, the uid, or the first letters of the container id; the path of a network namespace; or
    /// the id of a process. `pid:7` and `pod:7` say which of them a number is.
    #[arg(required_unless_present = "config", conflicts_with = "config", value_name = "POD|NETNS|PID")]
    target: Option<String>,
    /// A connection of the app, or of who is named with --from-uid: where to.
    #[arg(long, value_name = "ADDR:PORT", value_parser = socket, conflicts_with = "inbound")]
    to: Option<SocketAddr>,
    /// It is UDP.
    #[arg(long, requires = "to")]
    udp: bool,
    /// It is UDP from a socket that was bound to a port it chose, as a server's is.
    #[arg(long, requires = "udp")]
    bound: bool,
    /// Who makes it: the user id as the pod sees it. Without it: of a process its own, of a pod an id that is not the proxy's.
    #[arg(long, value_name = "UID", requires = "to")]
    from_uid: Option<u32>,
    /// The group id; that of --from-uid if it is not said.
    #[arg(long, value_name = "GID", requires = "to")]
    from_gid: Option<u32>,
    /// A connection to the pod: to which address and port of it.
    #[arg(long, value_name = "ADDR:PORT", value_parser = socket)]
    inbound: Option<SocketAddr>,
    /// With --inbound: who connects. With --to: the address the socket is bound to.
    #[arg(long, value_name = "ADDR[:PORT]", value_parser = peer)]
    from: Option<IpAddr>,
    /// Without a node: a file with the entry, or with a whole conflist that has it.
    #[arg(long, value_name = "FILE", help_heading = "Without a node")]
    config: Option<PathBuf>,
    /// A file with the pod's annotations, YAML or JSON: a map of them, or a manifest of a pod or of what makes pods.
    #[arg(
        long,
        value_name = "FILE",
        requires = "config",
        conflicts_with = "target",
        help_heading = "Without a node"
    )]
    annotations: Option<PathBuf>,
    /// The pod's namespace; else what the manifest says.
    #[arg(
        long,
        value_name = "NAMESPACE",
        requires = "config",
        conflicts_with = "target",
        help_heading = "Without a node"
    )]
    namespace: Option<String>,
    /// The pod's name; else what the manifest says.
    #[arg(
        long,
        value_name = "NAME",
        requires = "config",
        conflicts_with = "target",
        help_heading = "Without a node"
    )]
    name: Option<String>,
    /// An address the pod is to have; may be repeated. `192.0.2.1` and `2001:db8::1` if none is named.
    #[arg(
        long,
        value_name = "ADDR",
        requires = "config",
        conflicts_with = "target",
        help_heading = "Without a node"
    )]
    pod_ip: Vec<IpAddr>,
    /// As if the mesh's injector had marked the pod: manifests do not have the marker yet.
    #[arg(long, requires = "config", conflicts_with = "target", help_heading = "Without a node")]
    injected: bool,
    /// How it is printed.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: Format,
    #[command(flatten)]
    directories: Directories,
}

const LONG: &str = "\
Verdicts:
  captured  it goes to the proxy
  passes    it goes where it is addressed, as without Shunt
  refused   it fails, as the reason says: the proxy does not listen, for one

States of a pod:
  captured  as ADD left it
  damaged   captured by ADD, but the kernel does not show all of it
  skipped   left alone by policy
  open      could not be captured and runs bare: `failurePolicy` is `open`
  failed    its last ADD failed; the runtime tries again
  host      in the network of the host: nothing there is captured
  unknown   no ADD of this plugin is known of it

Examples:
  shuntctl explain shop/cart-0
  shuntctl explain shop/cart-0 --to 10.96.0.10:80 --from-uid 1000
  shuntctl explain shop/cart-0 --inbound 10.0.0.7:8080 --from 10.0.0.1
  shuntctl explain $(pidof envoy) --to 10.96.0.10:80 --output json
  shuntctl explain --config 10-calico.conflist --annotations pod.yaml --injected --to 10.96.0.10:80

Exit codes:
  0  the pod is captured; with --to or --inbound: the connection is
  1  could not be found out; standard error says why
  2  wrong arguments
  4  the pod, or the connection, is not captured";

fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_not| "must be an address and a port, as 10.0.0.1:80 or [fd00::1]:80".to_owned())
}

fn peer(text: &str) -> Result<IpAddr, String> {
    let whole = text.parse::<SocketAddr>().map(|socket| socket.ip());
    whole.or_else(|_| text.parse()).map_err(|_not| "must be an address, with a port or without".to_owned())
}

impl Args {
    /// The connection that is asked about.
    fn question(&self) -> Option<Question> {
        match (self.to, self.inbound) {
            (Some(to), _) => Some(Question::Outbound {
                to,
                udp: self.udp,
                bound: self.bound,
                source: self.from,
                caller: match (self.from_uid, self.from_gid) {
                    (None, None) => Caller::App,
                    (Some(uid), gid) => Caller::OfPod { uid, gid: gid.unwrap_or(uid) },
                    (None, Some(gid)) => Caller::OfPod { uid: gid, gid },
                },
            }),
            (None, Some(at)) => Some(Question::Inbound { at, from: self.from }),
            (None, None) => None,
        }
    }
}

/// Finds out.
pub(super) fn run(args: &Args) -> Said {
    let answer = match (&args.config, &args.target) {
        (Some(config), _) => paper::answer(args, config),
        (None, Some(_)) if !geteuid().is_root() => Err("only root may read what is known of pods".to_owned()),
        (None, Some(target)) => node::answer(args, target),
        (None, None) => Err("there is nothing to explain".to_owned()),
    };
    let answer = match answer {
        Ok(answer) => answer,
        Err(why) => return Said::failed(FAILED, &why),
    };
    let text = match args.output {
        Format::Table => Some(show::text(&answer)),
        Format::Json => serde_json::to_string_pretty(&answer).ok().map(|text| text + "\n"),
    };
    match text {
        Some(text) => Said::told(code(&answer), text),
        None => Said::failed(FAILED, "the answer cannot be printed"),
    }
}

/// What is said of the attachment of a container, for a bundle.
pub(super) fn captured(directories: &Directories, container: &str) -> Result<serde_json::Value, String> {
    let answer = node::of(directories, &find::Target::Pod(container.to_owned()), None)?;
    serde_json::to_value(answer).map_err(|error| error.to_string())
}

fn code(answer: &Answer) -> u8 {
    let captured = match &answer.connection {
        Some(connection) => connection.verdict == Verdict::Captured,
        None => answer.state == State::Captured,
    };
    if captured { TOLD } else { NOT_CAPTURED }
}

#[cfg(test)]
mod tests;
