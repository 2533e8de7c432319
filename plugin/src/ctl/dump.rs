//! `shuntctl dump`: all that a bug report needs, in one file, and no secrets.

mod redact;

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::unistd::geteuid;
use serde_json::{Map, Value, json};
use shunt_api::paths;

use super::lists::{Host, Lists};
use super::{Directories, EXIT_CODES, FAILED, JSON_VERSION, Said, TOLD, check, explain, pods, status};
use crate::bpf::object;
use crate::probe::cache;
use crate::record::{Records, read_whole, write_whole};
use redact::{redacted, redacted_line};

/// Pods that are explained at most; the others are in the list.
const EXPLAINED: usize = 200;
/// Bytes of the log's end.
const LOG: u64 = 256 * 1024;

/// Writes down what a bug report needs, without secrets
///
/// One JSON document with what `status`, `pods --all`, `check`, `backend` and `explain` say, the runtime's lists and the end of the log.
/// Tokens, keys, certificates and passwords are taken out of lists and log, by the names of keys and by their form. Nothing is read of
/// any process's environment, and of annotations only those that concern interception. Read it before you pass it on: it has the names
/// of pods and the addresses in your configuration.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Args {
    /// Write it into this file, which only its owner may read; else to standard output.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The plugin's log.
    #[arg(long, value_name = "FILE", default_value = paths::LOG_FILE, value_parser = super::directory)]
    log_file: PathBuf,
    #[command(flatten)]
    host: Host,
    #[command(flatten)]
    directories: Directories,
}

/// Writes it.
pub(super) fn run(args: &Args) -> Said {
    if !geteuid().is_root() {
        return Said::failed(FAILED, "only root may read what Shunt has on this node");
    }
    let said = Said::json(TOLD, &bundle(args));
    let Some(path) = &args.output else { return said };
    let path = match std::path::absolute(path) {
        Ok(path) => path,
        Err(error) => return Said::failed(FAILED, &format!("use {}: {error}", path.display())),
    };
    match write_whole(&path, said.text.as_bytes()) {
        Ok(()) => Said::told(
            TOLD,
            format!("{}: read it before you pass it on; it names pods and addresses\n", path.display()),
        ),
        Err(error) => Said::failed(FAILED, &format!("write {}: {error}", path.display())),
    }
}

/// What could be found out; of the rest the reason why not.
fn bundle(args: &Args) -> Value {
    let Args { host, directories, .. } = args;
    let places = directories.places();
    let value = |answer: Result<Value, String>| answer.unwrap_or_else(Value::String);
    let backend = read_whole(&cache::path(places.state_dir), LOG).ok().flatten();
    let mut lists = Map::new();
    for list in Lists::read(&host.conf_dir).unwrap_or_default().files {
        let content = list.content.map_or_else(|| Value::from(list.broken), |content| redacted(&content));
        lists.insert(list.file, content);
    }
    let names = Records::new(places.state_dir).names().unwrap_or_default();
    let explained: Vec<Value> = names
        .iter()
        .take(EXPLAINED)
        .map(|name| {
            let container = name.split('@').next().unwrap_or_default();
            value(explain::captured(directories, container))
        })
        .collect();
    json!({
        "version": JSON_VERSION,
        "at": SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        "shuntctl": env!("CARGO_PKG_VERSION"),
        "object": object::HASH,
        "status": status::value(&status::Args::plain(host, directories)),
        "pods": value(pods::answer(places, true, false).and_then(|answer| as_value(&answer))),
        "check": value(check::answer(&check::Args::plain(host, directories)).and_then(|answer| as_value(&answer))),
        "explain": explained.iter().map(redacted).collect::<Vec<_>>(),
        "notExplained": names.len().saturating_sub(EXPLAINED),
        "backend": backend.and_then(|text| serde_json::from_str::<Value>(&text).ok()),
        "lists": lists,
        "log": tail(&args.log_file).unwrap_or_else(|error| vec![format!("it cannot be read: {error}")]),
    })
}

fn as_value(answer: &impl serde::Serialize) -> Result<Value, String> {
    serde_json::to_value(answer).map(|value| redacted(&value)).map_err(|error| error.to_string())
}

/// The end of a log, line by line.
fn tail(path: &Path) -> io::Result<Vec<String>> {
    let mut file = File::open(path)?;
    if !fs::metadata(path)?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let length = file.metadata()?.len();
    let from = length.saturating_sub(LOG);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(LOG).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    // The first may be half a line.
    Ok(text.lines().skip(usize::from(from > 0)).map(redacted_line).collect())
}
