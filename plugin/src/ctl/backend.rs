//! `shuntctl backend`: what `backend: auto` takes on this node, and why.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::unistd::geteuid;
use shunt_api::paths;

use super::{FAILED, Said, TOLD, UNKNOWN};
use crate::backend::Places;
use crate::probe;
use crate::probe::cache::{self, Answer};
use crate::probe::report::Found;
use crate::settings::is_sane_path;

/// Longer than a probe and its wait for another take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    probe: bool,
    json: bool,
    state_dir: PathBuf,
    bpf_dir: PathBuf,
}

impl Asked {
    /// From the words after `backend`; `None` if they ask for help.
    pub(super) fn parse(mut words: impl Iterator<Item = OsString>) -> Result<Option<Self>, String> {
        let mut asked = Self {
            probe: false,
            json: false,
            state_dir: paths::STATE_DIR.into(),
            bpf_dir: paths::BPF_DIR.into(),
        };
        while let Some(word) = words.next() {
            let name = word.to_string_lossy().into_owned();
            let mut value = || words.next().ok_or_else(|| format!("{name} needs a value"));
            match name.as_str() {
                "--help" | "-h" => return Ok(None),
                "--probe" => asked.probe = true,
                "--output" => {
                    let format = value()?;
                    asked.json = match format.to_str() {
                        Some("json") => true,
                        Some("text") => false,
                        _ => {
                            return Err(format!(
                                "--output {:?} is not text or json",
                                format.to_string_lossy()
                            ));
                        }
                    };
                }
                "--state-dir" => asked.state_dir = directory(&name, value()?)?,
                "--bpf-dir" => asked.bpf_dir = directory(&name, value()?)?,
                _ => return Err(format!("{name:?} is not an option of backend")),
            }
        }
        Ok(Some(asked))
    }
}

pub(super) fn directory(option: &str, value: OsString) -> Result<PathBuf, String> {
    let path = PathBuf::from(value);
    if is_sane_path(&path) {
        Ok(path)
    } else {
        Err(format!("{option} needs an absolute path of less than 4096 bytes"))
    }
}

/// Looks it up, or probes.
pub(super) fn run(asked: &Asked) -> Said {
    let places = Places { state_dir: &asked.state_dir, bpf_dir: &asked.bpf_dir };
    if !geteuid().is_root() {
        return Said::new(FAILED, "shuntctl: only root may probe and read the answer\n");
    }
    let answer = if asked.probe {
        probe::anew(places, Instant::now() + PATIENCE)
    } else {
        match probe::kept(places) {
            Some(answer) => answer,
            None => return Said::new(UNKNOWN, unknown(places)),
        }
    };
    let text = if asked.json { json(&answer) } else { text(&answer) };
    match (text, answer.transient) {
        (Some(text), false) => Said::new(TOLD, text),
        (Some(text), true) => Said::new(
            FAILED,
            format!("{text}shuntctl: this may go otherwise the next time: it is not kept\n"),
        ),
        (None, _) => Said::new(FAILED, "shuntctl: the answer cannot be printed\n"),
    }
}

fn unknown(places: Places<'_>) -> String {
    format!(
        "shuntctl: this node has not been probed since it booted, or not with this version: nothing of use in {}\n\
         The first ADD or STATUS with `backend: auto` probes; so does --probe.\n",
        cache::path(places.state_dir).display()
    )
}

fn json(answer: &Answer) -> Option<String> {
    serde_json::to_string_pretty(answer).ok().map(|text| text + "\n")
}

fn text(answer: &Answer) -> Option<String> {
    let mut text = String::new();
    let reason = answer.obstacle().map(|why| format!(" ({why})")).unwrap_or_default();
    writeln!(text, "backend  {}{reason}", answer.backend()).ok()?;
    writeln!(text, "boot     {}", answer.boot_id).ok()?;
    writeln!(text, "object   {} (shunt {})", answer.object, answer.plugin).ok()?;
    writeln!(text, "took     {} ms", answer.took_us.div_ceil(1000)).ok()?;
    for finding in &answer.steps {
        let found = match &finding.found {
            Found::Works => "works".to_owned(),
            Found::LeftOut(why) => format!("left out: {why}"),
            Found::Fails(why) => format!("fails: {why}"),
        };
        writeln!(text, "  {:<14} {found}", finding.step.as_str()).ok()?;
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::report::tests::{broken, healthy};
    use crate::probe::report::{Finding, Report, Step};

    fn answer(findings: Vec<Finding>) -> Answer {
        Answer::new("b00t", "0123456789abcdef", Report { findings, transient: false }, 41_234)
    }

    #[test]
    fn flags_take_the_place_of_the_defaults() {
        let parse = |words: &[&str]| Asked::parse(words.iter().map(OsString::from)).unwrap().unwrap();
        let default = parse(&[]);
        assert_eq!((default.probe, default.json), (false, false));
        assert_eq!((default.state_dir, default.bpf_dir), (paths::STATE_DIR.into(), paths::BPF_DIR.into()));
        let asked = parse(&["--probe", "--output", "json", "--state-dir", "/a", "--bpf-dir", "/b"]);
        let wanted = Asked { probe: true, json: true, state_dir: "/a".into(), bpf_dir: "/b".into() };
        assert_eq!(asked, wanted);
    }

    #[test]
    fn people_see_the_choice_first_and_why() {
        let said =
            text(&answer(broken(Step::AttachPod, "attach sk_lookup: Operation not permitted (os error 1)")));
        let version = env!("CARGO_PKG_VERSION");
        let wanted = format!(
            "backend  iptables (attach sk_lookup: Operation not permitted (os error 1))\n\
             boot     b00t\n\
             object   0123456789abcdef (shunt {version})\n\
             took     42 ms\n\
             \x20 lock           works\n\
             \x20 cgroup2        works\n\
             \x20 scratch        works\n\
             \x20 load           works\n\
             \x20 attach-shared  works\n\
             \x20 entries        works\n\
             \x20 attach-pod     fails: attach sk_lookup: Operation not permitted (os error 1)\n\
             \x20 tidy           works\n"
        );
        assert_eq!(said.as_deref(), Some(wanted.as_str()));
        let said = text(&answer(healthy())).unwrap();
        assert!(said.starts_with("backend  ebpf\n"), "{said}");
    }

    #[test]
    fn json_is_the_file() {
        let answer = answer(healthy());
        let said: serde_json::Value = serde_json::from_str(&json(&answer).unwrap()).unwrap();
        assert_eq!(said["backend"], "ebpf");
        assert_eq!(said["bootId"], "b00t");
        assert_eq!(said["steps"][0], serde_json::json!({"step": "lock", "result": "works"}));
        assert_eq!(said["steps"].as_array().unwrap().len(), Step::ALL.len());
        assert_eq!(said["tookUs"], 41_234);
    }
}
