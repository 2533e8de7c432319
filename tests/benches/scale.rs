//! A node with a thousand pods: what ADD and DEL take with so many others there, 32 at once, what the node's own commands take, a restart of
//! the installer, and the memory the kernel spends on each pod. Under both backends; what is left at the end must be nothing.
//!
//! Two nodes of two and of `PODS=1000` pods take turns. `RUNS=30 PODS=100 make bench ONLY=scale`.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a bench stops where it cannot measure, and JSON takes keys by index"
)]
#![expect(dead_code, reason = "hosts can more than a bench needs")]

#[path = "../install/host.rs"]
mod host;
#[path = "../install/live.rs"]
mod live;
#[path = "scale/memory.rs"]
mod memory;
#[path = "../install/runtime.rs"]
mod runtime;
#[path = "scale/site.rs"]
mod site;

use std::time::Duration;

use shunt_tests::crowd::{at_once, timed};
use shunt_tests::figures::names::{EBPF, IPTABLES};
use shunt_tests::figures::sample::percentile;
use shunt_tests::figures::turns::{take, take_many};
use shunt_tests::figures::{Curve, Depth, Figures, Group};
use shunt_tests::runtime_call::Call;
use shunt_tests::{need, scratch};

use crate::host::until;
use crate::memory::Memory;
use crate::site::Site;

/// How many the node of the 500th pod has before it.
const OTHERS: usize = 499;
/// How many a runtime starts at once when a node comes back.
const AT_ONCE: usize = 32;
/// Where the curves have points, and memory is looked at.
const PLACES: [usize; 8] = [1, 10, 50, 100, 250, 500, 750, 1000];

fn main() {
    need::root();
    let most: usize = std::env::var("PODS").ok().and_then(|pods| pods.parse().ok()).unwrap_or(1000);
    assert!(most >= 10, "PODS={most} is no crowd");
    let mut figures = Figures::new("scale", "a node with many pods");
    let held = measure(&mut figures, Depth::of_this_run(), most);
    assert!(scratch::own().is_empty(), "left behind: {:?}", scratch::own());
    // What has lost its last pin goes when the kernel comes round to it.
    until("the kernel has freed the maps and programs", || held.alive() == 0);
    figures.done();
}

fn measure(figures: &mut Figures, depth: Depth, most: usize) -> shunt_tests::held::Held {
    let (mut near, mut far) = (Site::new(2), Site::new(most));
    let mut adds = Vec::new();
    let mut dels = Vec::new();
    let mut held = shunt_tests::held::Held::default();
    for (name, backend) in [(EBPF, "ebpf"), (IPTABLES, "iptables")] {
        near.backend(backend);
        far.backend(backend);
        near.add(0..1);
        let mut memory = (backend == "ebpf").then(|| Memory::before(&far));
        let others = OTHERS.min(most - 1);
        let mut times = grow(&mut far, 0, others, memory.as_mut());
        figures.groups.push(of_a_node(&near, &far, backend, depth));
        together(figures, &far, backend, depth);
        times.extend(grow(&mut far, others, most, memory.as_mut()));
        adds.push((name.to_owned(), curve(&times, most)));
        near.add(1..2);
        if let Some(memory) = memory {
            held = memory.tell(figures);
        }
        full(figures, &mut near, &mut far, name, depth);
        let times: Vec<Duration> = (0..most).rev().map(|index| timed(&far.prepared("DEL", index))).collect();
        // The one that leaves a node of one is the first point.
        let from_the_first: Vec<Duration> = times.iter().rev().copied().collect();
        dels.push((name.to_owned(), curve(&from_the_first, most)));
        whole(figures, "DEL of all pods, one after the other", name, most, times.iter().sum());
        for batch in (0..most).collect::<Vec<_>>().chunks(AT_ONCE) {
            far.at_once(batch);
        }
        let none = far.collect(0);
        whole(figures, "GC, no attachment valid", name, most, timed(&none));
        assert_eq!(far.attachments(), 0, "GC has removed all");
        near.collect(0).run().ok();
    }
    for (what, lines) in [("ADD", adds), ("DEL", dels)] {
        let over = "pods on the node".to_owned();
        figures.curves.push(Curve { what: what.to_owned(), over, unit: "us".to_owned(), lines });
    }
    held
}

/// ADD of one pod after the other.
fn grow(far: &mut Site, from: usize, to: usize, mut memory: Option<&mut Memory>) -> Vec<Duration> {
    let add = |index: usize| {
        let took = timed(&far.prepared("ADD", index));
        if let Some(memory) = memory.as_mut().filter(|_| PLACES.contains(&(index + 1))) {
            memory.look(far, index + 1);
        }
        took
    };
    (from..to).map(add).collect()
}

/// The middle of the last few up to each place.
#[expect(clippy::cast_precision_loss, reason = "pods on a node")]
fn curve(times: &[Duration], most: usize) -> Vec<(f64, f64)> {
    const FEW: usize = 9;
    let places = PLACES.into_iter().filter(|place| *place <= most);
    let middle = |place: usize| {
        let few: Vec<f64> = times[place.saturating_sub(FEW)..place].iter().map(us).collect();
        (place as f64, percentile(&few, 50.0).expect("there are some"))
    };
    places.map(middle).collect()
}

fn us(time: &Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// The second of a node and the five hundredth of another, in turns. On a node without any other, ADD would switch the hooks on.
fn of_a_node(near: &Site, far: &Site, backend: &str, depth: Depth) -> Group {
    let others = OTHERS.min(far.len() - 1);
    let mut sites = [(near, 1), (far, others)];
    let values = take(&mut sites, 3, depth.rounds(20, 60), |(site, index)| {
        let took = timed(&site.prepared("ADD", *index));
        timed(&site.prepared("DEL", *index));
        us(&took)
    });
    let last = if others == OTHERS { "500th pod" } else { "last pod" };
    let setting = match (backend, others) {
        ("ebpf", OTHERS) => "of a node".to_owned(),
        (_, OTHERS) => format!("of a node, {backend}"),
        _ => format!("of a node of {} pods, {backend}", others + 1),
    };
    Group::of(["ADD", &setting, "", "us"], ["first pod", last].into_iter().zip(values))
}

/// As many ADDs as fit, at once and one after the other, with others on the node.
fn together(figures: &mut Figures, far: &Site, backend: &str, depth: Depth) {
    let others = OTHERS.min(far.len() - 1);
    let count = AT_ONCE.min(far.len() - others);
    let calls = |verb: &str| -> Vec<Call> {
        (others..others + count).map(|index| far.prepared(verb, index)).collect()
    };
    let (adds, dels) = (calls("ADD"), calls("DEL"));
    let values = take_many(&mut [true, false], 1, depth.rounds(3, 10), |at_once_| {
        let (wall, each) = if *at_once_ {
            at_once(&adds)
        } else {
            let each: Vec<Duration> = adds.iter().map(timed).collect();
            (each.iter().sum(), each)
        };
        for del in &dels {
            timed(del);
        }
        let each: Vec<f64> = each.iter().map(us).collect();
        (wall.as_secs_f64() * 1e3, percentile(&each, 50.0).expect("some") / 1e3)
    });
    let names = ["at once", "one after the other"];
    let what = format!("{count} ADDs");
    let setting = format!("{backend}, {others} others");
    for (figure, of) in [("all of them", 0), ("one, p50", 1)] {
        let pick = |rounds: &Vec<(f64, f64)>| {
            rounds.iter().map(|(all, one)| if of == 0 { *all } else { *one }).collect()
        };
        let subjects = names.into_iter().zip(values.iter().map(pick));
        figures.groups.push(Group::of([&what, &setting, figure, "ms"], subjects));
    }
}

/// Commands about the whole node, of two pods and of all of them.
fn full(figures: &mut Figures, near: &mut Site, far: &mut Site, name: &str, depth: Depth) {
    let rounds = depth.rounds(5, 20);
    let names = [near, far].map(|site| (format!("{} pods", site.len()), &*site));
    let mut tell = |what: &str, rounds: usize, work: &dyn Fn(&Site) -> Duration| {
        let mut sites = names.clone();
        let values = take(&mut sites, 1, rounds, |(_, site)| us(&work(site)) / 1e3);
        let subjects = names.iter().map(|(name, _)| name.as_str()).zip(values);
        figures.groups.push(Group::of([what, name, "", "ms"], subjects));
    };
    tell("STATUS", rounds, &|site| timed(&site.status()));
    tell("GC, all attachments valid", rounds, &|site| {
        let took = timed(&site.collect(site.len()));
        assert_eq!(site.attachments(), site.len(), "GC has left all");
        took
    });
    tell("shuntctl status", rounds, &Site::shuntctl_status);
    tell("shunt report", rounds, &Site::report);
    tell("restart of the installer, until ready", rounds.div_ceil(4), &Site::restart);
}

/// Something that can be had once.
#[expect(clippy::cast_precision_loss, reason = "pods on a node")]
fn whole(figures: &mut Figures, what: &str, name: &str, pods: usize, took: Duration) {
    let setting = format!("{pods} pods");
    let milliseconds = took.as_secs_f64() * 1e3;
    let subjects = [("all", milliseconds), ("for each pod", milliseconds / pods as f64)];
    let subjects = subjects.map(|(name, value)| (name, vec![value]));
    figures.groups.push(Group::of([what, &setting, name, "ms"], subjects));
}
