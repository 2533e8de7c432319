//! `shuntctl check`: looks for what goes wrong most often, says what was seen and what to do about it.

mod hooks;
mod host;
mod pod;

use std::fmt::Write as _;
use std::path::PathBuf;

use nix::unistd::geteuid;
use serde::Serialize;

use super::attached::{Attached, all};
use super::explain::find::{Target, find, named};
use super::lists::Host;
use super::{Directories, EXIT_CODES, FAILED, FOUND, Format, JSON_VERSION, Said, TOLD};
use crate::backend::Places;

/// Looks for what goes wrong, and says what to do about it
///
/// Looks at the node (mounts, programs, the lists of the runtime, the plugin's file) and at every pod that is captured (does the proxy
/// listen, where, under which user; is all there that ADD did; are there rules of another mesh tool; are there other programs on the same
/// hooks), and for pods that are meshed and not captured. Changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
#[command(after_help = EXIT_CODES, after_long_help = LONG)]
pub(super) struct Args {
    /// Look at this pod alone: `namespace/name`, a name, the uid, or the first letters of the container id; the path of a network
    /// namespace; or the id of a process.
    #[arg(value_name = "POD|NETNS|PID")]
    target: Option<String>,
    /// Where the runtime keeps the network namespaces of pods: for pods that no ADD of this plugin has seen.
    #[arg(long, value_name = "DIR", default_value = "/run/netns", value_parser = super::directory)]
    netns_dir: PathBuf,
    /// How it is printed.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: Format,
    #[command(flatten)]
    host: Host,
    #[command(flatten)]
    directories: Directories,
}

impl Args {
    /// What others than its own command line ask.
    pub(super) fn plain(host: &Host, directories: &Directories) -> Self {
        let (host, directories) = (host.clone(), directories.clone());
        Self { target: None, netns_dir: "/run/netns".into(), output: Format::Json, host, directories }
    }
}

const LONG: &str = "\
Severities:
  error    connections fail or go past the proxy, or will with the next pod
  warning  something is not as it should be
  note     worth knowing, and no fault

Exit codes:
  0  nothing was found, or notes alone
  1  could not be found out; standard error says why
  2  wrong arguments
  3  an error or a warning was found";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
enum Severity {
    Error,
    Warning,
    Note,
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    severity: Severity,
    /// Short name; stays the same.
    code: &'static str,
    /// None: it is about the node.
    pod: Option<String>,
    /// What was seen.
    seen: String,
    /// What to do.
    todo: String,
}

impl Finding {
    fn new(severity: Severity, code: &'static str, seen: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { severity, code, pod: None, seen: seen.into(), todo: todo.into() }
    }

    fn error(code: &'static str, seen: impl Into<String>, todo: impl Into<String>) -> Self {
        Self::new(Severity::Error, code, seen, todo)
    }

    fn warning(code: &'static str, seen: impl Into<String>, todo: impl Into<String>) -> Self {
        Self::new(Severity::Warning, code, seen, todo)
    }

    fn note(code: &'static str, seen: impl Into<String>, todo: impl Into<String>) -> Self {
        Self::new(Severity::Note, code, seen, todo)
    }

    fn of(self, pod: &str) -> Self {
        Self { pod: Some(pod.to_owned()), ..self }
    }
}

/// What is said; `conf/schemas/check.json` describes it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Answer {
    version: u32,
    /// How many attachments were looked at.
    looked: usize,
    findings: Vec<Finding>,
}

/// Looks.
pub(super) fn run(args: &Args) -> Said {
    if !geteuid().is_root() {
        return Said::failed(FAILED, "only root may look at pods");
    }
    let answer = match answer(args) {
        Ok(answer) => answer,
        Err(why) => return Said::failed(FAILED, &why),
    };
    let is_fault = |finding: &Finding| finding.severity != Severity::Note;
    let code = if answer.findings.iter().any(is_fault) { FOUND } else { TOLD };
    match args.output {
        Format::Table => Said::told(code, text(&answer)),
        Format::Json => Said::json(code, &answer),
    }
}

/// Looks.
pub(super) fn answer(args: &Args) -> Result<Answer, String> {
    let places = args.directories.places();
    let attached = match &args.target {
        Some(target) => of_target(places, target)?,
        None => all(places)?,
    };
    let mut findings = Vec::new();
    if args.target.is_none() {
        findings.extend(host::findings(places, &args.host, &args.netns_dir, &attached));
    }
    findings.extend(pod::findings(places, &attached));
    findings.extend(hooks::findings(places, &attached));
    if let Some(target) = &args.target {
        findings.extend(pod::not_captured(places, target)?);
    }
    findings.sort_by(|one, other| {
        (one.severity, &one.pod, one.code).cmp(&(other.severity, &other.pod, other.code))
    });
    Ok(Answer { version: JSON_VERSION, looked: attached.len(), findings })
}

/// The attachments of one pod.
pub(super) fn of_target(places: Places<'_>, target: &str) -> Result<Vec<Attached>, String> {
    let target = Target::here(target)?;
    let found = find(places, &target)?;
    let names = found.records.iter().map(|record| record.attachment.pin_name());
    Ok(names.map(|name| Attached::read(places, name)).collect())
}

/// What a pod is called in an answer.
pub(super) fn called(attached: &Attached) -> String {
    let pod = attached.record.as_ref().map(|record| named(&record.pod)).unwrap_or_default();
    match (pod.namespace, pod.name) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        (None, Some(name)) => name,
        _ => attached.attachment.as_ref().map_or(attached.name.as_str(), |it| it.container_id()).to_owned(),
    }
}

fn text(answer: &Answer) -> String {
    let mut text = String::new();
    // Writing to a text does not fail.
    for Finding { severity, code, pod, seen, todo } in &answer.findings {
        let severity = match severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        let whose = pod.as_deref().unwrap_or("node");
        let _never = writeln!(text, "{severity:<8} {code:<18} {whose}: {seen}\n{:27} → {todo}", "");
    }
    let faults = answer.findings.iter().filter(|finding| finding.severity != Severity::Note).count();
    let what = if faults == 0 { "nothing is wrong".to_owned() } else { format!("{faults} findings") };
    let _never = writeln!(text, "looked at {} attachments: {what}", answer.looked);
    text
}
