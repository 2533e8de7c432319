//! `shuntctl backend`: what `backend: auto` takes on this node, and why.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use nix::unistd::geteuid;

use super::{Directories, EXIT_CODES, FAILED, Format, Said, TOLD, UNKNOWN};
use crate::backend::Places;
use crate::probe;
use crate::probe::cache::{self, Answer};
use crate::probe::report::Found;

/// Longer than a probe and its wait for another take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Tells what `backend: auto` takes on this node, and why
///
/// Once per boot the plugin tries whether eBPF works here, by redirecting real connections in a network namespace of its own. This tells
/// how each step of that went. Pods captured before keep the backend they have.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Args {
    /// Probe now, whatever is known from before; the answer is kept.
    #[arg(long)]
    probe: bool,
    /// How it is printed.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: Format,
    #[command(flatten)]
    directories: Directories,
}

/// Looks it up, or probes.
pub(super) fn run(args: &Args) -> Said {
    let places = args.directories.places();
    if !geteuid().is_root() {
        return Said::failed(FAILED, "only root may probe and read the answer");
    }
    let answer = if args.probe {
        probe::anew(places, Instant::now() + PATIENCE)
    } else {
        match probe::kept(places) {
            Some(answer) => answer,
            None => return Said::failed(UNKNOWN, &unknown(places)),
        }
    };
    let text = match args.output {
        Format::Json => json(&answer),
        Format::Table => text(&answer),
    };
    match (text, answer.transient) {
        (Some(text), false) => Said::told(TOLD, text),
        (Some(text), true) => {
            Said::told(TOLD, text).but(FAILED, "this may go otherwise the next time: it is not kept")
        }
        (None, _) => Said::failed(FAILED, "the answer cannot be printed"),
    }
}

fn unknown(places: Places<'_>) -> String {
    format!(
        "this node has not been probed since it booted, or not with this version: nothing of use in {}\n\
         The first ADD or STATUS with `backend: auto` probes; so does --probe.",
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
    use clap::Parser;
    use shunt_api::paths;

    use super::*;
    use crate::probe::report::tests::{broken, healthy};
    use crate::probe::report::{Finding, Report, Step};

    fn answer(findings: Vec<Finding>) -> Answer {
        Answer::new("b00t", "0123456789abcdef", Report { findings, transient: false }, 41_234)
    }

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn flags_take_the_place_of_the_defaults() {
        let parse = |words: &[&str]| {
            Line::try_parse_from(std::iter::once(&"backend").chain(words)).expect("well-formed").args
        };
        let default = parse(&[]);
        assert_eq!((default.probe, default.output), (false, Format::Table));
        let directories =
            |state: &str, bpf: &str| Directories { state_dir: state.into(), bpf_dir: bpf.into() };
        assert_eq!(default.directories, directories(paths::STATE_DIR, paths::BPF_DIR));
        let args = parse(&["--probe", "--output", "json", "--state-dir", "/a", "--bpf-dir", "/b"]);
        assert_eq!(args, Args { probe: true, output: Format::Json, directories: directories("/a", "/b") });
        // As it was called before there were other formats.
        assert_eq!(parse(&["--output", "text"]).output, Format::Table);
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
        assert_eq!(said["version"], super::super::JSON_VERSION);
        assert_eq!(said["backend"], "ebpf");
        assert_eq!(said["bootId"], "b00t");
        assert_eq!(said["steps"][0], serde_json::json!({"step": "lock", "result": "works"}));
        assert_eq!(said["steps"].as_array().unwrap().len(), Step::ALL.len());
        assert_eq!(said["tookUs"], 41_234);
    }
}
