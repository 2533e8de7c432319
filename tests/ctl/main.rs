//! The node tool for people, on scratch nodes: what it says of pods as a runtime made them.
//!
//! The traffic scene is that of the suite `netns`.

#![expect(
    clippy::panic,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot be judged must fail"
)]

mod backend;
mod check;
mod dump;
mod explain;
#[path = "../netns/mesh.rs"]
#[expect(dead_code, reason = "made for another suite, which needs more of it")]
mod mesh;
mod readme;
mod repair;
mod status;

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use shunt_tests::bin;
use shunt_tests::host::Said;
use shunt_tests::node::{Node, Pod};
use shunt_tests::schema;

/// The pod's namespace goes without a DEL; the kernel takes a moment for it.
#[track_caller]
pub(crate) fn vanish(node: &Node, pod: &Pod) {
    pod.netns.vanish();
    let deadline = Instant::now() + Duration::from_secs(10);
    let is_alive = || ctl_json(node, &["pods", "--quick"]).1["pods"][0]["alive"] == true;
    while is_alive() {
        assert!(Instant::now() < deadline, "the namespace stays");
        std::thread::yield_now();
    }
}

/// A command on a node.
pub(crate) fn command(node: &Node, words: &[&str]) -> Command {
    let state = node.directory().join("state");
    let mut command = Command::new(bin::shuntctl());
    command.args(words).args([
        "--state-dir".as_ref(),
        state.as_os_str(),
        "--bpf-dir".as_ref(),
        node.bpf_dir().as_os_str(),
    ]);
    command
}

/// Runs a command on a node.
pub(crate) fn ctl(node: &Node, words: &[&str]) -> Said {
    said(&command(node, words).output().expect("shuntctl can be run"))
}

/// What a command that has ended said.
pub(crate) fn said(done: &std::process::Output) -> Said {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said { code: done.status.code().unwrap_or(-1), out: text(&done.stdout), err: text(&done.stderr) }
}

/// The same as JSON, which must be as its schema in `conf/schemas` says.
#[track_caller]
pub(crate) fn ctl_json(node: &Node, words: &[&str]) -> (i32, Value) {
    let words: Vec<&str> = words.iter().copied().chain(["--output", "json"]).collect();
    let said = ctl(node, &words);
    let value: Value = serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    schema::hold(&schema::of(words[0]), &value);
    (said.code, value)
}
