//! Scenarios, one after the other on one cluster, and the table of what came of them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::node::{Node, Whole};
use crate::world::World;

/// What scenarios play on.
pub(crate) struct Bed {
    pub(crate) cluster: Cluster,
    pub(crate) world: World,
    /// The node, where it is one of ours.
    pub(crate) node: Option<Node>,
    /// What that node looked like before there was a release.
    pub(crate) before: Option<Whole>,
    /// What was counted so far.
    pub(crate) count: Count,
}

/// Pods that were made to be meshed, and those that were not as promised.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Count {
    pub(crate) meshed: usize,
    pub(crate) bare: usize,
    pub(crate) stuck: usize,
}

impl Bed {
    /// The node, in a scenario that needs one.
    pub(crate) fn node(&mut self) -> &mut Node {
        self.node.as_mut().expect("only scenarios on a node ask for it")
    }

    /// The node as it was before there was a release.
    pub(crate) fn before(&self) -> Whole {
        self.before.clone().expect("only scenarios on a node ask for it")
    }

    /// Counts pods that were to be meshed, and fails if one was bare or stuck.
    #[track_caller]
    pub(crate) fn judge(&mut self, meshed: usize, bare: &[String], stuck: &[String]) {
        self.count.meshed += meshed;
        self.count.bare += bare.len();
        self.count.stuck += stuck.len();
        assert!(meshed > 0, "nothing was counted");
        assert!(bare.is_empty() && stuck.is_empty(), "of {meshed} pods: bare {bare:?}, stuck {stuck:?}");
    }
}

/// One of them.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// Plays it; what it returns is for the reader of the table.
    pub(crate) play: fn(&mut Bed) -> String,
}

struct Played {
    name: &'static str,
    time: Duration,
    /// What it returned, or the panic's message.
    outcome: Result<String, String>,
    count: Count,
}

/// Plays those that are wanted; whether all went well.
pub(crate) fn play_all(bed: &mut Bed, scenarios: &[Scenario], wanted: impl Fn(&Scenario) -> bool) -> bool {
    let mut played = Vec::new();
    for scenario in scenarios.iter().filter(|scenario| wanted(scenario)) {
        println!("{:<34} ...", scenario.name);
        let (begun, before) = (Instant::now(), bed.count);
        let outcome =
            catch_unwind(AssertUnwindSafe(|| (scenario.play)(bed))).map_err(|panic| message(&*panic));
        let time = begun.elapsed();
        let count = Count {
            meshed: bed.count.meshed - before.meshed,
            bare: bed.count.bare - before.bare,
            stuck: bed.count.stuck - before.stuck,
        };
        let word = if outcome.is_ok() { "ok" } else { "FAILED" };
        println!("{:<34} {word}  {:.1} s", scenario.name, time.as_secs_f64());
        if let Err(error) = &outcome {
            println!("  {error}\n{}", bed.cluster.picture());
            if let Some(node) = &bed.node {
                println!("{}", node.picture());
            }
        }
        let failed = outcome.is_err();
        played.push(Played { name: scenario.name, time, outcome, count });
        // What comes after stands on what came before.
        if failed {
            break;
        }
    }
    table(&played);
    let all = !played.is_empty() && played.iter().all(|played| played.outcome.is_ok());
    let Count { meshed, bare, stuck } = bed.count;
    let left = scenarios.iter().filter(|scenario| wanted(scenario)).count() - played.len();
    let passed = played.iter().filter(|played| played.outcome.is_ok()).count();
    println!(
        "\n{passed} scenarios passed, {} failed, {left} not reached; of {meshed} pods that were counted {bare} were bare and {stuck} stuck",
        played.len() - passed
    );
    all
}

fn table(played: &[Played]) {
    println!(
        "\n| scenario | result | seconds | pods counted | bare | stuck | what was seen |\n|---|---|---|---|---|---|---|"
    );
    for Played { name, time, outcome, count } in played {
        let (word, remark) = match outcome {
            Ok(remark) => ("ok", remark.as_str()),
            Err(error) => ("FAILED", error.lines().next().unwrap_or_default()),
        };
        let Count { meshed, bare, stuck } = count;
        let counts = if *meshed == 0 { "| |".to_owned() } else { format!("{meshed} | {bare} | {stuck}") };
        println!("| {name} | {word} | {:.1} | {counts} | {remark} |", time.as_secs_f64());
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "a panic".to_owned())
}
