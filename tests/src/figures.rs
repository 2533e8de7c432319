//! Figures of the benches: taken in turns, told as ratios first, written down as JSON for `make bench`'s report.
//!
//! A bench makes a [`Figures`], adds a [`Group`] for each thing it measures, whose subjects took turns ([`turns::take`]), and ends with
//! [`Figures::done`]. Ratios are of pairs: each round's value of a subject by the same round's value of the one it is compared with,
//! so that a machine which is slow for a while is slow for both.

pub mod machine;
pub mod sample;
pub mod turns;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::figures::machine::Machine;
use crate::figures::sample::Spread;

/// Who takes turns, by the names that the goals know.
pub mod names {
    /// A pod that is left alone.
    pub const NOTHING: &str = "no interception";
    /// Two rules.
    pub const REDIRECT: &str = "nft REDIRECT";
    /// Ours.
    pub const EBPF: &str = "shunt, eBPF";
    /// Ours, by rules.
    pub const IPTABLES: &str = "shunt, iptables";
}

/// All that one bench found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Figures {
    /// Its name, a word: `process`.
    pub bench: String,
    /// What it is about, in a line.
    pub title: String,
    /// Where and when.
    pub machine: Machine,
    /// What took turns.
    pub groups: Vec<Group>,
    /// What grows with something.
    pub curves: Vec<Curve>,
}

/// Subjects that took turns at one thing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Group {
    /// What was measured: `round trip, 64 B`.
    pub what: String,
    /// Under which circumstances: `outbound, IPv4, 1 connection, one CPU`. May be empty.
    pub setting: String,
    /// Which figure of it: `p50`, `p99`; empty where there is one only.
    pub figure: String,
    /// `us`, `KiB`, `Gbit/s`.
    pub unit: String,
    /// Whom the others are compared with.
    pub base: String,
    /// Who.
    pub subjects: Vec<Subject>,
}

/// One of a group, and its value in each round.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Subject {
    /// `shunt, eBPF`.
    pub name: String,
    /// A value for each round, in order.
    pub values: Vec<f64>,
}

/// Something over something.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Curve {
    /// `ADD`.
    pub what: String,
    /// `pods on the node`.
    pub over: String,
    /// Of what it shows.
    pub unit: String,
    /// A name and its points.
    pub lines: Vec<(String, Vec<(f64, f64)>)>,
}

/// How much time there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// `make bench-quick`: a fifth of the rounds, and the main rows alone.
    Quick,
    /// `make bench`.
    Full,
}

impl Depth {
    /// As `BENCH_QUICK` says.
    pub fn of_this_run() -> Self {
        if std::env::var_os("BENCH_QUICK").is_some_and(|value| !value.is_empty()) {
            Self::Quick
        } else {
            Self::Full
        }
    }

    /// `RUNS` if the caller gave it, else one of these two.
    pub fn rounds(self, quick: usize, full: usize) -> usize {
        std::env::var("RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(match self {
            Self::Quick => quick,
            Self::Full => full,
        })
    }
}

/// Where benches leave what they found: `target/bench`, or what `BENCH_OUT` names.
pub fn directory() -> PathBuf {
    std::env::var_os("BENCH_OUT")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bench")), PathBuf::from)
}

impl Figures {
    /// An empty page.
    pub fn new(bench: &str, title: &str) -> Self {
        Self {
            bench: bench.to_owned(),
            title: title.to_owned(),
            machine: Machine::this(),
            groups: Vec::new(),
            curves: Vec::new(),
        }
    }

    /// Prints all of it and writes it to `target/bench/NAME.json`.
    pub fn done(&self) {
        #[expect(clippy::print_stdout, reason = "what a bench is for")]
        {
            print!("{}", self.text());
        }
        let dir = directory();
        std::fs::create_dir_all(&dir).expect("a directory of ours");
        let json = serde_json::to_string(self).expect("plain values");
        std::fs::write(dir.join(format!("{}.json", self.bench)), json).expect("a file of ours");
    }

    /// As text, ratios first.
    pub fn text(&self) -> String {
        let mut text = format!("\n{}: {}\n{}\n", self.bench, self.title, self.machine);
        for group in &self.groups {
            text.push_str(&group.text());
        }
        for curve in &self.curves {
            text.push_str(&curve.text());
        }
        text
    }

    /// A group of it.
    pub fn group(&self, what: &str, setting: &str, figure: &str) -> Option<&Group> {
        self.groups
            .iter()
            .find(|group| group.what == what && group.setting == setting && group.figure == figure)
    }
}

impl Group {
    /// One of these subjects, the first of whom the others are compared with. The words are what, setting, figure and unit.
    pub fn of<'a>(
        [what, setting, figure, unit]: [&str; 4],
        subjects: impl IntoIterator<Item = (&'a str, Vec<f64>)>,
    ) -> Self {
        let subjects: Vec<Subject> =
            subjects.into_iter().map(|(name, values)| Subject { name: name.to_owned(), values }).collect();
        Self {
            what: what.to_owned(),
            setting: setting.to_owned(),
            figure: figure.to_owned(),
            unit: unit.to_owned(),
            base: subjects.first().map(|subject| subject.name.clone()).unwrap_or_default(),
            subjects,
        }
    }

    /// The same with another of them to compare with.
    #[must_use]
    pub fn beside(mut self, base: &str) -> Self {
        base.clone_into(&mut self.base);
        self
    }

    /// What, under which circumstances, and which figure of it, in words.
    pub fn title(&self) -> String {
        let words = [&self.what, &self.setting, &self.figure];
        words.into_iter().map(String::as_str).filter(|word| !word.is_empty()).collect::<Vec<_>>().join("; ")
    }

    /// The values of one subject.
    pub fn values(&self, name: &str) -> Option<&[f64]> {
        self.subjects.iter().find(|subject| subject.name == name).map(|subject| subject.values.as_slice())
    }

    /// A subject by another, round by round.
    pub fn ratio(&self, subject: &str, to: &str) -> Option<Spread> {
        let (subject, to) = (self.values(subject)?, self.values(to)?);
        let pairs: Vec<f64> =
            subject.iter().zip(to).filter(|(_, to)| **to != 0.0).map(|(one, to)| one / to).collect();
        Spread::of(&pairs)
    }

    /// Its lines of text.
    pub fn text(&self) -> String {
        let rounds = self.subjects.iter().map(|subject| subject.values.len()).max().unwrap_or(0);
        let unit = &self.unit;
        let mut text = format!("\n{} ({rounds} rounds; ratios to: {})\n", self.title(), self.base);
        text.push_str(&format!(
            "{:>7} {:>15}  {:>12} {:>25}\n",
            "ratio", "p10 .. p90", "median", "p10 .. p90"
        ));
        for subject in &self.subjects {
            let Some(value) = Spread::of(&subject.values) else { continue };
            let ratio = self.ratio(&subject.name, &self.base);
            let (middle, ends) = ratio.map_or_else(Default::default, |ratio| {
                (format!("{:.2}", ratio.median), format!("{:.2} .. {:.2}", ratio.p10, ratio.p90))
            });
            text.push_str(&format!(
                "{middle:>7} {ends:>15}  {:>12} {:>25}  {}\n",
                format!("{} {unit}", sample::short(value.median)),
                format!("{} .. {} {unit}", sample::short(value.p10), sample::short(value.p90)),
                subject.name
            ));
        }
        text
    }
}

impl Curve {
    /// Its lines of text: a row for each place that any line has a point at.
    pub fn text(&self) -> String {
        let mut text = format!("\n{}, {} over {}\n", self.what, self.unit, self.over);
        for (name, points) in &self.lines {
            let points: Vec<String> =
                points.iter().map(|(x, y)| format!("{}: {}", sample::short(*x), sample::short(*y))).collect();
            text.push_str(&format!("  {name:<32} {}\n", points.join("   ")));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> Group {
        Group {
            what: "ADD".into(),
            setting: String::new(),
            figure: String::new(),
            unit: "us".into(),
            base: "tuning".into(),
            subjects: vec![
                Subject { name: "shunt".into(), values: vec![1.0, 20.0, 3.0] },
                Subject { name: "tuning".into(), values: vec![2.0, 40.0, 3.0] },
            ],
        }
    }

    #[test]
    fn a_ratio_is_of_pairs() {
        let ratio = group().ratio("shunt", "tuning").expect("both are there");
        assert!((ratio.median - 0.5).abs() < 1e-9, "{ratio:?}");
        assert!(group().ratio("shunt", "nobody").is_none());
    }

    #[test]
    fn a_base_of_nothing_has_no_ratio() {
        let mut group = group();
        group.subjects[1].values = vec![0.0; 3];
        assert!(group.ratio("shunt", "tuning").is_none());
    }

    #[test]
    fn the_ratio_comes_first() {
        let text = group().text();
        let line = text.lines().find(|line| line.ends_with("shunt")).expect("a line for each");
        assert!(line.trim_start().starts_with("0.50"), "{text}");
    }

    #[test]
    fn it_survives_its_file() {
        let mut figures = Figures::new("process", "whole processes");
        figures.groups.push(group());
        let json = serde_json::to_string(&figures).expect("plain values");
        let back: Figures = serde_json::from_str(&json).expect("its own");
        assert_eq!(back.text(), figures.text());
    }
}
