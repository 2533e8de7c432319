//! A CNI plugin that writes down each of its calls, hands the result on as it came, and fails when told.
//!
//! Its entry: `file`, to which a line of JSON is appended for each call; `tag`, who it is in there; `fail`, an object from
//! command to the error document it answers with.

#![expect(clippy::expect_used, clippy::print_stdout, reason = "a plugin of a test ends loudly")]

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::process::ExitCode;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// Its entry, as far as it is its own.
#[derive(Debug, Deserialize)]
struct Entry {
    file: String,
    tag: String,
    #[serde(default)]
    fail: BTreeMap<String, Value>,
    #[serde(rename = "prevResult")]
    prev_result: Option<Box<RawValue>>,
}

fn main() -> ExitCode {
    let command = std::env::var("CNI_COMMAND").unwrap_or_default();
    if command == "VERSION" {
        let versions = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
        println!("{}", json!({ "cniVersion": "1.1.0", "supportedVersions": versions }));
        return ExitCode::SUCCESS;
    }
    let mut stdin = String::new();
    std::io::stdin().read_to_string(&mut stdin).expect("a configuration");
    let entry: Entry = serde_json::from_str(&stdin).expect("an entry of ours");
    let environment: BTreeMap<String, String> =
        std::env::vars().filter(|(name, _)| name.starts_with("CNI_")).collect();
    let stdin: Value = serde_json::from_str(&stdin).expect("JSON");
    let line = json!({ "tag": entry.tag, "command": command, "environment": environment, "stdin": stdin });
    let mut file = std::fs::File::options().create(true).append(true).open(&entry.file).expect("own file");
    // In one write: two that run at once must not mix.
    file.write_all(format!("{line}\n").as_bytes()).expect("own file");
    if let Some(error) = entry.fail.get(&command) {
        println!("{error}");
        return ExitCode::FAILURE;
    }
    if command == "ADD" {
        println!("{}", entry.prev_result.map_or_else(|| "{}".to_owned(), |result| result.to_string()));
    }
    ExitCode::SUCCESS
}
