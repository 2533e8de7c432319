//! From environment and standard input to a verb, and from its outcome to an answer and an exit code.

use std::path::PathBuf;
use std::time::Instant;

use shunt_api::Backend;
use slog::{Logger, debug, error, info, o};

use super::command::{Command, Variables};
use super::netconf::{DelConf, Document, NetConf};
use super::reply::{self, Answer};
use super::request::{
    AddRequest, CheckRequest, Deadline, DelRequest, GcRequest, Outcome, STDIN_MAX, STDIN_PATIENCE,
    StatusRequest, read_stdin,
};
use super::version::Version;
use crate::error::{Error, Kind};
use crate::host::Host;
use crate::tally::{Count, End};

/// The work. Everything that is CNI's has been checked before one of these is called, and is answered afterwards.
pub trait Verbs {
    /// Intercepts the pod if policy says so, wholly or not at all. Success is answered with `prevResult`.
    fn add(&self, request: &AddRequest) -> Result<Outcome, Error>;

    /// Removes whatever there is of the attachment.
    fn del(&self, request: &DelRequest) -> Result<Outcome, Error>;

    /// Compares the kernel with what ADD would want.
    fn check(&self, request: &CheckRequest) -> Result<Outcome, Error>;

    /// Says whether this node can intercept.
    fn status(&self, request: &StatusRequest) -> Result<Outcome, Error>;

    /// Removes what is not on the list; nothing when there is no list.
    fn gc(&self, request: &GcRequest) -> Result<Outcome, Error>;
}

/// What is learnt on the way and needed whatever happens.
struct Trail {
    started: Instant,
    version: Version,
    log: Option<Logger>,
    state_dir: Option<PathBuf>,
    ended: Option<(End, Option<Backend>)>,
}

impl Trail {
    fn new() -> Self {
        Self { started: Instant::now(), version: Version::LATEST, log: None, state_dir: None, ended: None }
    }
}

/// One run of the plugin: reads `host`, calls one of `verbs`, writes one answer. Returns the exit code, 0 or 1.
pub fn run(host: &mut Host<'_>, verbs: &dyn Verbs) -> u8 {
    let mut trail = Trail::new();
    let command = match Command::asked(host) {
        Ok(Some(command)) => command,
        Ok(None) => {
            reply::about(host);
            return 0;
        }
        Err(error) => return refuse(host, &trail, "?", &error),
    };
    let code = match answer(host, verbs, command, &mut trail) {
        Ok(Answer::Nothing) => 0,
        Ok(Answer::Document(text)) => reply::write(host, &(text + "\n"), 0),
        Err(error) => {
            trail.ended = Some((End::Failed(error.kind()), error.backend()));
            refuse(host, &trail, command.as_str(), &error)
        }
    };
    // Last: whoever waits for the answer has it.
    if let (Some(state_dir), Some((end, backend))) = (&trail.state_dir, trail.ended) {
        (host.count)(state_dir, &Count { command, end, backend, took_us: micros(trail.started) });
    }
    code
}

fn refuse(host: &mut Host<'_>, trail: &Trail, cmd: &'static str, error: &Error) -> u8 {
    let code = reply::write(host, &reply::failure(trail.version, error), 1);
    let log =
        trail.log.clone().unwrap_or_else(|| (host.logger)(&shunt_api::Log::default()).new(o!("cmd" => cmd)));
    error!(log, "{}", error.kind().msg();
        "kind" => error.kind().as_str(), "details" => error.details(), "took_us" => micros(trail.started));
    code
}

fn answer(
    host: &mut Host<'_>,
    verbs: &dyn Verbs,
    command: Command,
    trail: &mut Trail,
) -> Result<Answer, Error> {
    let variables = Variables::read(host, command)?;
    let deadline = Deadline::after(command.budget());
    let input = read_stdin(host.stdin.as_mut(), STDIN_MAX, deadline.within(STDIN_PATIENCE));
    if command == Command::Version {
        // Never an error: what matters to the asker is the list.
        let asked = input.and_then(|input| Document::parse(&input)?.version());
        return Ok(reply::versions(asked.unwrap_or(Version::LATEST)));
    }
    let document = Document::parse(&input?)?;
    trail.state_dir = document.state_dir();
    if command == Command::Del {
        return del(host, verbs, &document, variables, deadline, trail);
    }
    document.shallow()?;
    trail.version = document.version()?;
    if trail.version < command.since() {
        let text = format!(
            "{} exists since CNI version {}, asked for in {}",
            command.as_str(),
            command.since(),
            trail.version
        );
        return Err(Error::new(Kind::Version, text));
    }
    let conf = NetConf::read(&document, trail.version)?;
    let log = (host.logger)(&conf.settings.log).new(o!("cmd" => command.as_str()));
    trail.log = Some(log.clone());
    match command {
        Command::Add => {
            let prev = conf.prev_result.as_ref().ok_or_else(|| {
                Error::new(
                    Kind::Config,
                    "no prevResult: must be called as a chained plugin, after one that makes the interface",
                )
            })?;
            // Before the work: there is nothing to undo when this fails.
            let result = prev.in_version(conf.cni_version)?;
            let attachment = variables.attachment()?;
            let log = of_pod(&log, &variables, trail)?;
            let netns = variables.netns.unwrap_or_default();
            let request = AddRequest { attachment, netns, pod: variables.pod, conf, deadline, log };
            let outcome = verbs.add(&request)?;
            info!(request.log, "{}", outcome.words; "took_us" => micros(trail.started));
            trail.ended = Some((outcome.end, outcome.backend));
            Ok(Answer::Document(result))
        }
        Command::Check => {
            let attachment = variables.attachment()?;
            let log = of_pod(&log, &variables, trail)?;
            let netns = variables.netns.unwrap_or_default();
            let request = CheckRequest { attachment, netns, pod: variables.pod, conf, deadline, log };
            quietly(&request.log, trail, verbs.check(&request))
        }
        Command::Status => {
            let request = StatusRequest { conf, deadline, log };
            quietly(&request.log, trail, verbs.status(&request))
        }
        Command::Gc => {
            let valid = document.valid_attachments()?;
            let request = GcRequest { conf, valid, deadline, log };
            quietly(&request.log, trail, verbs.gc(&request))
        }
        Command::Del | Command::Version => Ok(Answer::Nothing),
    }
}

/// DEL asks nothing of its configuration but that it is a JSON object: the version may be unknown, keys unknown or bad.
fn del(
    host: &Host<'_>,
    verbs: &dyn Verbs,
    document: &Document,
    variables: Variables,
    deadline: Deadline,
    trail: &mut Trail,
) -> Result<Answer, Error> {
    trail.version = document.version().unwrap_or(Version::LATEST);
    let conf = DelConf::read(document);
    let log = (host.logger)(&conf.log).new(o!("cmd" => Command::Del.as_str()));
    trail.log = Some(log.clone());
    let attachment = variables.attachment()?;
    let log = of_pod(&log, &variables, trail)?;
    let request = DelRequest { attachment, netns: variables.netns, pod: variables.pod, conf, deadline, log };
    let outcome = verbs.del(&request)?;
    info!(request.log, "{}", outcome.words; "took_us" => micros(trail.started));
    trail.ended = Some((outcome.end, outcome.backend));
    Ok(Answer::Nothing)
}

/// The log of a command that is about an attachment.
fn of_pod(log: &Logger, variables: &Variables, trail: &mut Trail) -> Result<Logger, Error> {
    let attachment = variables.attachment()?;
    let log = log.new(o!(
        "container" => attachment.container_id().to_owned(),
        "ifname" => attachment.ifname().to_owned(),
        "pod" => variables.pod.name.clone(),
        "ns" => variables.pod.namespace.clone(),
    ));
    trail.log = Some(log.clone());
    Ok(log)
}

/// Commands that runtimes repeat all the time are not worth a line each.
fn quietly(log: &Logger, trail: &mut Trail, outcome: Result<Outcome, Error>) -> Result<Answer, Error> {
    let outcome = outcome?;
    debug!(log, "{}", outcome.words; "took_us" => micros(trail.started));
    trail.ended = Some((outcome.end, outcome.backend));
    Ok(Answer::Nothing)
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
