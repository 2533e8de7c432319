//! The answer of a probe, kept for as long as it holds: until the next boot, or another kernel object.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shunt_api::Backend;

use super::report::{Finding, Report, obstacle};
use crate::bpf::programs::make_directory;
use crate::fault::{Outcome, Tried as _};
use crate::record::{read_whole, write_whole};

/// Version of the file's form.
const VERSION: u32 = 1;
/// Files larger than this are not ours.
const LIMIT: u64 = 64 * 1024;
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What a probe found, and of what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Version of the file's form.
    version: u32,
    /// `ebpf` or `iptables`; for people, as is `reason`: what counts is `steps`.
    backend: String,
    /// Why not `ebpf`.
    reason: Option<String>,
    /// Which boot of the machine.
    pub boot_id: String,
    /// Hash of the kernel object that was tried.
    pub object: String,
    /// Version of the plugin that tried it.
    pub plugin: String,
    /// How each step went.
    pub steps: Vec<Finding>,
    /// How long it took, in microseconds.
    pub took_us: u64,
    /// True if it may be another the next time; then it is not kept.
    #[serde(skip)]
    pub transient: bool,
}

impl Answer {
    /// What was found of `object` in this boot.
    pub(crate) fn new(boot_id: &str, object: &str, report: Report, took_us: u64) -> Self {
        let Report { findings: steps, transient } = report;
        let reason = obstacle(&steps);
        Self {
            version: VERSION,
            backend: if reason.is_none() { Backend::Ebpf } else { Backend::Iptables }.as_str().to_owned(),
            reason,
            boot_id: boot_id.to_owned(),
            object: object.to_owned(),
            plugin: env!("CARGO_PKG_VERSION").to_owned(),
            steps,
            took_us,
            transient,
        }
    }

    /// `ebpf` or `iptables`: what `backend: auto` takes.
    pub fn backend(&self) -> Backend {
        if self.obstacle().is_none() { Backend::Ebpf } else { Backend::Iptables }
    }

    /// Why eBPF cannot be used on this node; `None` if it can.
    pub fn obstacle(&self) -> Option<String> {
        obstacle(&self.steps)
    }
}

/// The answer in a file's text, if it is about this boot and this object.
pub fn usable(text: &str, boot_id: &str, object: &str) -> Option<Answer> {
    let answer: Answer = serde_json::from_str(text).ok()?;
    let holds = answer.version == VERSION
        && !boot_id.is_empty()
        && answer.boot_id == boot_id
        && answer.object == object;
    holds.then_some(answer)
}

/// Where it is kept.
pub fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("backend.json")
}

/// The kernel's name for this boot.
pub fn boot_id() -> Outcome<String> {
    let text = fs::read_to_string(BOOT_ID).tried(|| format!("read {BOOT_ID}"))?;
    Ok(text.trim().to_owned())
}

/// What is kept for this boot and this object. A file that cannot be read is as good as none.
pub fn read(state_dir: &Path, boot_id: &str, object: &str) -> Option<Answer> {
    let text = read_whole(&path(state_dir), LIMIT).ok().flatten()?;
    usable(&text, boot_id, object)
}

/// Keeps an answer.
pub fn write(state_dir: &Path, answer: &Answer) -> Outcome<()> {
    let path = path(state_dir);
    let what = || format!("write the probe's answer to {}", path.display());
    make_directory(state_dir)?;
    let text = serde_json::to_vec(answer).tried(what)?;
    write_whole(&path, &text).tried(what)
}

/// Forgets it: what it says was found not to hold. Nothing there is as good.
pub fn forget(state_dir: &Path) {
    // One that stays is only asked again.
    let _stays = fs::remove_file(path(state_dir));
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use serde_json::{Value, json};

    use super::super::report::Step;
    use super::super::report::tests::{broken, healthy};
    use super::*;

    const BOOT: &str = "11111111-2222-3333-4444-555555555555";
    const OBJECT: &str = "0123456789abcdef";

    fn report(findings: Vec<Finding>) -> Report {
        Report { findings, transient: false }
    }

    fn text(change: impl FnOnce(&mut Value)) -> String {
        let mut value = json!(Answer::new(BOOT, OBJECT, report(healthy()), 1));
        change(&mut value);
        value.to_string()
    }

    #[test]
    fn an_answer_holds_for_one_boot_and_one_object() {
        let same = text(|_| {});
        assert_eq!(usable(&same, BOOT, OBJECT), Some(Answer::new(BOOT, OBJECT, report(healthy()), 1)));
        for (why, found) in [
            ("another boot", usable(&same, "9", OBJECT)),
            ("no boot id", usable(&same, "", OBJECT)),
            ("no boot id on either side", usable(&text(|v| v["bootId"] = json!("")), "", OBJECT)),
            ("another object", usable(&same, BOOT, "fedcba9876543210")),
            ("another form", usable(&text(|v| v["version"] = json!(2)), BOOT, OBJECT)),
            ("a step nobody knows", usable(&text(|v| v["steps"][0]["step"] = json!("x")), BOOT, OBJECT)),
            ("half a file", usable(&same[..same.len() / 2], BOOT, OBJECT)),
            ("an empty file", usable("", BOOT, OBJECT)),
            ("something else", usable("[1]", BOOT, OBJECT)),
        ] {
            assert_eq!(found, None, "{why}");
        }
        // Another plugin with the same object: the same programs.
        assert!(usable(&text(|v| v["plugin"] = json!("9.9.9")), BOOT, OBJECT).is_some());
    }

    #[test]
    fn what_counts_is_the_steps() {
        let lying = text(|v| {
            v["backend"] = json!("ebpf");
            v["steps"] = json!(broken(Step::AttachPod, "attach sk_lookup: no"));
        });
        let answer = usable(&lying, BOOT, OBJECT).unwrap();
        assert_eq!(answer.obstacle().as_deref(), Some("attach sk_lookup: no"));
        let empty = usable(&text(|v| v["steps"] = json!([])), BOOT, OBJECT).unwrap();
        assert!(empty.obstacle().is_some());
    }

    #[test]
    fn it_is_written_whole_for_root_alone_over_whatever_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        let answer = Answer::new(BOOT, OBJECT, report(broken(Step::Load, "no")), 5);
        assert_eq!(read(&state, BOOT, OBJECT), None);
        write(&state, &answer).unwrap();
        assert_eq!(read(&state, BOOT, OBJECT), Some(answer.clone()));
        let mode = fs::metadata(path(&state)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        forget(&state);
        forget(&state);
        assert_eq!(read(&state, BOOT, OBJECT), None);
        nix::unistd::mkfifo(&path(&state), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(read(&state, BOOT, OBJECT), None);
        write(&state, &answer).unwrap();
        assert_eq!(read(&state, BOOT, OBJECT), Some(answer));
    }
}
