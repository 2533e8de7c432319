//! What interception costs a connection: round trips, whole connections, streams and DNS through a pod's proxy, out and in, beside
//! nothing, beside REDIRECT, beside Istio's own rules and beside the rewriting to 127.0.0.1 of older eBPF meshes.
//!
//! The proxy is a server that answers at once, so that what is left is the path. Both ends are on one CPU, where a round trip is
//! work and no waiting for the other CPU to wake. `RUNS=20 make bench ONLY=path`.

#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a bench prints its figures and stops where it cannot measure"
)]

#[path = "path/measures.rs"]
mod measures;
#[path = "path/programs.rs"]
mod programs;
#[path = "path/subjects.rs"]
mod subjects;

use measures::{MAIN, Measure, Pace, Setting, VARIED, group, measure};
use shunt_tests::figures::{Depth, Figures};
use shunt_tests::load::Order;
use shunt_tests::need;
use subjects::{Means, Subject};

const CONNECTIONS: usize = 1000;

fn main() {
    need::root();
    let depth = Depth::of_this_run();
    let pace = Pace { rounds: depth.rounds(5, 20), ms: if depth == Depth::Quick { 30 } else { 40 } };
    let mut figures =
        Figures::new("path", "what interception costs a connection; both ends' CPU by getrusage");
    let mut subjects = Means::ALL.map(|means| Subject::new(means, false));
    subjects.iter_mut().for_each(Subject::check);
    conntrack(&mut figures, &mut subjects);
    for inbound in [false, true] {
        let base = Setting::base(inbound);
        say(base);
        measure(&mut figures, &mut subjects, base, &MAIN, pace);
    }
    if depth == Depth::Full {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        for setting in [false, true].into_iter().flat_map(Setting::variations) {
            if setting.cpus > cpus {
                println!("{}: left out, this machine has {cpus} CPU", setting.name());
                continue;
            }
            say(setting);
            measure(&mut figures, &mut subjects, setting, &VARIED, pace);
        }
    }
    let ours = subjects.iter_mut().find(|subject| subject.means == Means::Ebpf).expect("one of them");
    programs::measure(&mut figures, ours, pace.rounds, pace.ms);
    drop(subjects);
    dns(&mut figures, pace);
    figures.done();
}

/// What a thousand connections leave with the kernel's connection tracking.
fn conntrack(figures: &mut Figures, subjects: &mut [Subject]) {
    let rows: Vec<(&str, Vec<f64>)> = subjects
        .iter_mut()
        .map(|subject| {
            let before = subject.conntrack();
            let way = subject.way(false, false);
            let order =
                Order::Connects { way, connections: 1, ms: 60_000, most: CONNECTIONS, may_fail: false };
            let (did, _) = subject.order(false, &order);
            assert_eq!(did.count, 1000, "{}: {way:?}", subject.means.name());
            (subject.means.name(), vec![subject.conntrack() - before])
        })
        .collect();
    let words = ("conntrack entries", "outbound, after 1,000 connections", "", "");
    figures.groups.push(group(words, rows.into_iter()));
}

/// DNS in pods of its own: rules for it would be in the way of the others.
fn dns(figures: &mut Figures, pace: Pace) {
    let means = Means::ALL.into_iter().filter(|means| *means != Means::Loopback);
    let mut subjects: Vec<Subject> = means.map(|means| Subject::new(means, true)).collect();
    let measures = [true, false].map(|connected| Measure::Questions { connected });
    println!("DNS");
    measure(figures, &mut subjects, Setting::base(false), &measures, pace);
}

fn say(setting: Setting) {
    println!("{}", setting.name());
}
