//! What goes to standard output: one JSON document or nothing.

use std::io::Write as _;

use serde::Serialize;

use super::version::Version;
use crate::error::{Error, Kind, presentable};
use crate::host::Host;

/// What a run has to say when all went well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// DEL, CHECK, STATUS, GC.
    Nothing,
    /// ADD: the result. VERSION: the versions. One JSON document.
    Document(String),
}

/// CNI's error object.
#[derive(Serialize)]
struct ErrorDocument<'a> {
    #[serde(rename = "cniVersion")]
    cni_version: &'a str,
    code: u32,
    msg: &'a str,
    details: &'a str,
}

/// CNI's version object.
#[derive(Serialize)]
struct VersionDocument {
    #[serde(rename = "cniVersion")]
    cni_version: &'static str,
    #[serde(rename = "supportedVersions")]
    supported: [&'static str; Version::ALL.len()],
}

/// The error object, as text with a newline.
fn error_document(version: Version, kind: Kind, details: &str) -> String {
    let document =
        ErrorDocument { cni_version: version.as_str(), code: kind.code(), msg: kind.msg(), details };
    // Serialising four plain fields cannot fail; an answer there must be all the same.
    let text = serde_json::to_string(&document)
        .unwrap_or_else(|_| r#"{"code":999,"msg":"internal error"}"#.to_owned());
    text + "\n"
}

/// The error object for `error`, in `version`.
pub fn failure(version: Version, error: &Error) -> String {
    error_document(version, error.kind(), &error.details())
}

/// The error object for a panic; for the hook in `main`.
pub fn panic_document(what: &str) -> String {
    error_document(Version::LATEST, Kind::Internal, &presentable(what))
}

/// The versions, in the version of the asker.
pub fn versions(asked: Version) -> Answer {
    let document =
        VersionDocument { cni_version: asked.as_str(), supported: Version::ALL.map(Version::as_str) };
    serde_json::to_string(&document).map_or(Answer::Nothing, Answer::Document)
}

/// Writes `text` in one piece where the system takes it so; the exit code that goes with `code` or, when standard output
/// is closed, 1.
pub fn write(host: &mut Host<'_>, text: &str, code: u8) -> u8 {
    match host.stdout.write_all(text.as_bytes()).and_then(|()| host.stdout.flush()) {
        Ok(()) => code,
        Err(_) => 1,
    }
}

/// What we are, on standard error: nobody asked for anything.
pub fn about(host: &mut Host<'_>) {
    let text = format!(
        "Shunt {}: chained CNI plugin that makes a pod's traffic go through its mesh proxy\nCNI versions: {}\n\
         Runtimes call it with CNI_COMMAND and a network configuration on standard input; to ask it something yourself, use shuntctl.\n",
        env!("CARGO_PKG_VERSION"),
        Version::list(),
    );
    // Nobody is left to tell when standard error is closed.
    drop(host.stderr.write_all(text.as_bytes()));
}
