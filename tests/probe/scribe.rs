//! A CNI plugin that writes down what it is given, passes the result on, and waits where a test wants it to.
//!
//! It is told apart by the name it is installed under, its CNI type. All of it is in [`DIRECTORY`]: `TYPE.calls`, a line of JSON for each
//! call; `TYPE.hold.COMMAND`, while which is there it does not answer that command; `TYPE.holds`, there while it waits.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use nix::poll::poll;
use serde_json::{Value, json};
use shunt_tests::machine::containerd::SCRIBE_DIRECTORY as DIRECTORY;

/// In steps of 10 ms: a test that forgets it must not hold a runtime for ever.
const LONGEST: u32 = 6000;

pub(crate) fn run() -> ExitCode {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let command = variable("CNI_COMMAND");
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).expect("a runtime writes text");
    if command == "VERSION" {
        println!(r#"{{"cniVersion":"1.1.0","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}}"#);
        return ExitCode::SUCCESS;
    }
    let config: Value = serde_json::from_str(&text).expect("a runtime writes JSON");
    let name = config.get("type").and_then(Value::as_str).expect("a plugin has a type").to_owned();
    let directory = Path::new(DIRECTORY);
    fs::create_dir_all(directory).expect("own directory");
    let line = json!({
        "command": command,
        "container": variable("CNI_CONTAINERID"),
        "netns": variable("CNI_NETNS"),
        "arguments": variable("CNI_ARGS"),
        "config": config,
    });
    let calls = directory.join(format!("{name}.calls"));
    let mut calls = File::options().create(true).append(true).open(calls).expect("own file");
    // In one write: others may be writing too.
    calls.write_all(format!("{line}\n").as_bytes()).expect("own file");
    hold(&name, &command);
    if command == "ADD" {
        let result = config.get("prevResult").expect("it stands behind another");
        // The runtime may have gone meanwhile.
        let _unread = io::stdout().write_all(result.to_string().as_bytes());
    }
    ExitCode::SUCCESS
}

/// Does not come back as long as a test says so.
pub(crate) fn hold(name: &str, at: &str) {
    let file = |ending: &str| Path::new(DIRECTORY).join(format!("{name}.{ending}"));
    let hold = file(&format!("hold.{at}"));
    if !hold.exists() {
        return;
    }
    let holds = file("holds");
    fs::write(&holds, "").expect("own file");
    for _round in 0..LONGEST {
        if !hold.exists() {
            break;
        }
        let _waited = poll(&mut [], 10_u8);
    }
    fs::remove_file(&holds).expect("own file");
}
