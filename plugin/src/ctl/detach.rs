//! `shuntctl detach`: a pod that runs is set free.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use nix::unistd::geteuid;

use super::attached::Attached;
use super::check::{called, of_target};
use super::{Directories, EXIT_CODES, FAILED, Said, TOLD, USAGE};
use crate::backend::Places;
use crate::error::{Error, Failed as _, Kind};
use crate::lock::Lock;
use crate::record::Records;
use crate::verb::{Undone, lock_name, undo};

/// How long one attachment may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Sets a pod free that runs: nothing of it is captured from then on
///
/// Does what DEL does, while the pod lives: its traffic goes past the proxy from then on, out and in. Connections that the proxy holds go
/// on through it. The pod's next ADD captures it again, which is when it is restarted; no other command does.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Args {
    /// The pod: `namespace/name`, a name, the uid, or the first letters of the container id; the path of a network namespace; or
    /// the id of a process.
    #[arg(value_name = "POD|NETNS|PID")]
    target: String,
    /// Do it. Without this nothing is changed, and what would be done is said.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    directories: Directories,
}

/// Sets it free.
pub(super) fn run(args: &Args) -> Said {
    if !geteuid().is_root() {
        return Said::failed(FAILED, "only root may change what pods have");
    }
    let places = args.directories.places();
    let attached = match of_target(places, &args.target) {
        Ok(attached) if attached.is_empty() => {
            return Said::failed(FAILED, "it is not captured: there is nothing to take away");
        }
        Ok(attached) => attached,
        Err(why) => return Said::failed(FAILED, &why),
    };
    let who = |one: &Attached| {
        let interface = one.attachment.as_ref().map_or("", |it| it.ifname());
        format!("{} {interface}", called(one))
    };
    if !args.yes {
        let all: Vec<String> = attached.iter().map(who).collect();
        let why = format!(
            "{} would run bare: its traffic would go past the proxy. Nothing was done; --yes does it",
            all.join(", ")
        );
        return Said::failed(USAGE, &why);
    }
    let mut text = String::new();
    for one in &attached {
        if let Err(error) = detached(places, one) {
            return Said::told(FAILED, text).but(FAILED, &format!("{}: {}", who(one), error.details()));
        }
        let what =
            "its new connections go past the proxy, out and in; those that the proxy holds go on through it";
        // Writing to a text does not fail.
        let _never = writeln!(text, "detached {}: {what}", who(one));
    }
    text.push_str("it is captured again when the pod is restarted\n");
    Said::told(TOLD, text)
}

/// As DEL does it with the namespace there.
fn detached(places: Places<'_>, one: &Attached) -> Result<(), Error> {
    let locks = Lock::new(places.state_dir, Instant::now() + PATIENCE);
    let held = locks
        .take(&lock_name(&one.name))
        .failed(Kind::TryAgain, || "waiting for another run of this container")?;
    let record = Records::new(places.state_dir).read(&one.name).unwrap_or_default();
    let Undone { removed, reverted } = undo(places, &locks, &one.name, record.as_ref(), None);
    removed.and(reverted)?;
    held.discard();
    Ok(())
}
