//! Whole processes: what ADD, CHECK and DEL of the plugin cost a runtime, beside what a user would have instead: the reference plugins
//! `tuning`, `portmap` and `bandwidth`, Istio's `istio-iptables` and the bare start of its CNI plugin, and a static program that reads its
//! input and prints an answer, as the least that any plugin can cost.
//!
//! All of them take turns. A stage of ADD is the difference to a call that ends before it; the system calls of each are counted by strace,
//! in runs of their own. `RUNS=300 make bench ONLY=process`.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a bench stops where it cannot measure, and JSON takes keys by index"
)]

#[path = "process/calls.rs"]
mod calls;
#[path = "process/run.rs"]
mod run;
#[path = "process/syscalls.rs"]
mod syscalls;

use serde_json::json;
use shunt_tests::figures::names::{EBPF, IPTABLES};
use shunt_tests::figures::turns::take;
use shunt_tests::figures::{Depth, Figures, Group, Subject};
use shunt_tests::net::{Shape, World};
use shunt_tests::node::{Node, Pod};
use shunt_tests::{bin, need};

use crate::calls::{Calls, NOTHING};
use crate::run::Run;

const WARM_UP: usize = 3;

fn main() {
    need::root();
    need::tool("strace");
    let depth = Depth::of_this_run();
    let mut figures = Figures::new("process", "a plugin's whole process, spawn to exit");
    let node = Node::new();
    node.configure(|entry| entry["log"]["level"] = json!("info"));
    let world = node.world();
    let pod = node.pod(&world, Shape::dual());
    // A node has other pods: without one, every ADD would switch the kernel's hooks on and every DEL off again.
    let neighbour = node.pod(&world, Shape::dual());
    node.add(&neighbour);
    let calls = Calls::new(&node, &pod, &world);
    let mut memory = Vec::new();
    steady(&mut figures, &calls, &mut memory, depth.rounds(30, 120));
    start(&mut figures, &calls, depth.rounds(15, 100));
    syscalls::count(&mut figures, &calls, EBPF, "");
    node.del(&pod);
    node.configure(|entry| entry["backend"] = json!("iptables"));
    let calls = Calls::new(&node, &pod, &world);
    with_rules(&mut figures, &calls, &mut memory, depth.rounds(8, 40));
    syscalls::count(&mut figures, &calls, IPTABLES, ", rules");
    cold(&mut figures, depth.rounds(3, 20));
    figures.groups.push(group("peak memory", "", "KiB", NOTHING, memory));
    figures.groups.push(sizes());
    figures.done();
}

fn group(what: &str, setting: &str, unit: &str, base: &str, subjects: Vec<Subject>) -> Group {
    Group { subjects, ..Group::of([what, setting, "", unit], []) }.beside(base)
}

/// Turns of all; a subject for each. What an ADD takes at most of memory is kept as well.
fn measure(runs: &mut [Run], rounds: usize, verb: &str, memory: &mut Vec<Subject>) -> Vec<Subject> {
    let values = take(runs, WARM_UP, rounds, Run::once);
    if verb == "ADD" {
        for run in runs
            .iter_mut()
            .filter(|run| memory.iter().all(|known| known.name != run.name))
            .collect::<Vec<_>>()
        {
            memory.push(Subject { name: run.name.to_owned(), values: (0..5).map(|_| run.peak()).collect() });
        }
    }
    runs.iter().zip(values).map(|(run, values)| Subject { name: run.name.to_owned(), values }).collect()
}

/// A node that has served pods before.
fn steady(figures: &mut Figures, calls: &Calls<'_>, memory: &mut Vec<Subject>, rounds: usize) {
    // An ADD of ours is a first one: DEL comes before the next turn, and is measured by itself.
    for verb in ["ADD", "CHECK", "DEL"] {
        let mut runs = vec![
            calls.nothing(),
            calls.shunt(EBPF, verb),
            calls.tuning(verb),
            calls.portmap(verb),
            calls.bandwidth(verb),
        ];
        let subjects = measure(&mut runs, rounds, verb, memory);
        figures.groups.push(group(verb, "steady", "us", "tuning", subjects));
    }
}

/// What a process costs before it does anything: stages, as far as they show from outside.
fn start(figures: &mut Figures, calls: &Calls<'_>, rounds: usize) {
    let mut runs = vec![
        calls.nothing(),
        calls.shunt_version(),
        calls.shunt_not_selected(),
        calls.shunt(EBPF, "ADD"),
        calls.tuning_version(),
        calls.istio_cni_version(),
    ];
    let subjects = measure(&mut runs, rounds, "", &mut Vec::new());
    let differences = |what: &str, later: usize, earlier: usize| Subject {
        name: what.to_owned(),
        values: subjects[later].values.iter().zip(&subjects[earlier].values).map(|(l, e)| l - e).collect(),
    };
    let stages = vec![
        Subject { name: "any process".to_owned(), values: subjects[0].values.clone() },
        differences("start of ours beyond that, VERSION", 1, 0),
        differences("read, decide, log", 2, 1),
        differences("namespace, programs, maps, links, record", 3, 2),
        Subject { name: "all of ADD".to_owned(), values: subjects[3].values.clone() },
    ];
    figures.groups.push(group("start", "", "us", NOTHING, subjects));
    figures.groups.push(group("stages of ADD, eBPF", "", "us", "all of ADD", stages));
}

/// Plugins that write rules.
fn with_rules(figures: &mut Figures, calls: &Calls<'_>, memory: &mut Vec<Subject>, rounds: usize) {
    for verb in ["ADD", "CHECK", "DEL"] {
        let mut runs = vec![calls.nothing(), calls.shunt(IPTABLES, verb), calls.portmap(verb)];
        if verb != "CHECK" {
            runs.push(calls.istio_iptables(verb));
        }
        let subjects = measure(&mut runs, rounds, verb, memory);
        figures.groups.push(group(verb, "steady, rules", "us", "portmap", subjects));
    }
}

/// The first pod of a node that has just booted: nothing is pinned, and what the kernel can is not known yet.
fn cold(figures: &mut Figures, rounds: usize) {
    let first = |backend: &str| {
        let node = Node::on(backend);
        let world: World = node.world();
        let pod: Pod = node.pod(&world, Shape::dual());
        Calls::new(&node, &pod, &world).shunt(EBPF, "ADD").once()
    };
    let mut backends = [(EBPF, "ebpf"), (IPTABLES, "iptables"), ("shunt, auto: tried first", "auto")];
    let values = take(&mut backends, 1, rounds, |(_, backend)| first(backend));
    let subjects = backends
        .iter()
        .zip(values)
        .map(|((name, _), values)| Subject { name: (*name).to_owned(), values })
        .collect();
    figures.groups.push(group("ADD", "first of a node since boot", "us", EBPF, subjects));
}

fn sizes() -> Group {
    let kib = |path: std::path::PathBuf| {
        #[expect(clippy::cast_precision_loss, reason = "no program is that big")]
        let size = std::fs::metadata(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
            .len() as f64;
        vec![size / 1024.0]
    };
    let subjects = vec![
        Subject { name: "shunt".to_owned(), values: kib(bin::shunt()) },
        Subject { name: "shunt-installer".to_owned(), values: kib(bin::installer()) },
        Subject { name: "shuntctl".to_owned(), values: kib(bin::shuntctl()) },
        Subject { name: "tuning".to_owned(), values: kib(bin::tool("tuning")) },
        Subject { name: "istio-iptables".to_owned(), values: kib(bin::tool("istio-iptables")) },
        Subject { name: "istio-cni".to_owned(), values: kib(bin::tool("istio-cni")) },
    ];
    group("size", "", "KiB", "shunt", subjects)
}
