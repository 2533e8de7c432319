//! Stands before `runc` on a machine without cgroup controllers and without the right to raise limits: takes out of what runc is
//! told all that asks for either.
//!
//! `probe runc RUNC ARGUMENT...`

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use serde_json::Value;

pub(crate) fn run(arguments: &[OsString]) -> ExitCode {
    let (runc, arguments) = arguments.split_first().expect("probe runc RUNC ARGUMENT...");
    let has = |word: &str| arguments.iter().any(|argument| argument == word);
    let after = |word: &str| {
        let at = arguments.iter().position(|argument| argument == word)?;
        arguments.get(at + 1).map(PathBuf::from)
    };
    if has("update") {
        // It changes limits and nothing else.
        return ExitCode::SUCCESS;
    }
    if (has("create") || has("run"))
        && let Some(bundle) = after("--bundle").or_else(|| after("-b"))
    {
        edit(&bundle.join("config.json"), bundle_without_limits);
    }
    if has("create") {
        crate::scribe::hold("runc", "create");
    }
    if has("exec")
        && let Some(process) = after("--process").or_else(|| after("-p"))
    {
        edit(&process, process_without_limits);
    }
    let error = Command::new(runc).args(arguments).exec();
    panic!("{}: {error}", Path::new(runc).display());
}

fn edit(path: &Path, change: fn(&mut Value)) {
    let what = || path.display().to_string();
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", what()));
    let mut value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", what()));
    change(&mut value);
    fs::write(path, value.to_string()).unwrap_or_else(|error| panic!("{}: {error}", what()));
}

fn bundle_without_limits(bundle: &mut Value) {
    if let Some(process) = bundle.get_mut("process") {
        process_without_limits(process);
    }
    if let Some(resources) = bundle.pointer_mut("/linux/resources").and_then(Value::as_object_mut) {
        resources.retain(|key, _| key == "devices");
    }
}

fn process_without_limits(process: &mut Value) {
    if let Some(process) = process.as_object_mut() {
        process.remove("rlimits");
        process.remove("oomScoreAdj");
    }
}
