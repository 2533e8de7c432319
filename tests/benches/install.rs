//! The installer: how soon pods get a network that its owner has changed, what it takes when nothing happens, and what `once` costs.
//! `RUNS=200 make bench ONLY=install`.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a bench stops where it cannot measure"
)]
#![expect(dead_code, reason = "hosts can more than a bench needs")]

#[path = "../install/host.rs"]
mod host;
#[path = "../install/live.rs"]
mod live;
#[path = "../install/neighbours.rs"]
mod neighbours;
#[path = "../install/runtime.rs"]
mod runtime;

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use shunt_tests::figures::{Depth, Figures, Group};

use crate::host::{Host, moment, replace};
use crate::live::Live;
use crate::neighbours::{ALL, Neighbour};

const CALICO: Neighbour = ALL[0];

/// A file that changes more often than this within a minute is followed at a slower pace; a new process begins anew.
const AT_FULL_PACE: usize = 25;

/// A machine with nothing else to do shows what an idle process takes sooner than this.
const IDLE: Duration = Duration::from_secs(20);

fn main() {
    shunt_tests::need::root();
    let depth = Depth::of_this_run();
    let mut figures = Figures::new("install", "the installer");
    // A pause of 150 ms and more goes before each, so that there are not many.
    let rounds = depth.rounds(10, 50);
    for (setting, busy) in [("", false), ("another file rewritten every 50 ms", true)] {
        let subjects = ["owned", "chained"].map(|mode| (mode, convergence(mode, busy, rounds)));
        let words = ["from the rename by the owner until pods get it", setting, "", "ms"];
        figures.groups.push(Group::of(words, subjects));
    }
    idle(&mut figures);
    let once = Host::new();
    CALICO.settle(&once);
    once.once();
    let times = (0..depth.rounds(10, 30)).map(|_| {
        let begun = Instant::now();
        once.once();
        ms(begun.elapsed())
    });
    let subjects = [("shunt-installer", times.collect())];
    let words = ["`once` with nothing to do, STATUS of the plugin included", "", "", "ms"];
    figures.groups.push(Group::of(words, subjects));
    figures.done();
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Changes of the primary's file, one after the other.
fn convergence(mode: &str, busy: bool, rounds: usize) -> Vec<f64> {
    let mut host = Host::new();
    host.options = vec!["--mode".to_owned(), mode.to_owned()];
    CALICO.settle(&host);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while busy && !done.load(Ordering::Relaxed) {
                replace(&host.conf("calico-kubeconfig"), b"token: other\n", 0o600);
                moment(50);
            }
        });
        let mut times = Vec::new();
        let mut running = None;
        for round in 0..rounds {
            if round % AT_FULL_PACE == 0 {
                let started = Live::start(&host);
                started.ready();
                running = Some(started);
            }
            // Two writes of one file are at least 100 ms apart; the moment is any.
            moment(150 + u16::try_from(round * 7 % 50).unwrap_or_default());
            let text = CALICO.primary.text.replace("\"mtu\": 0", &format!("\"mtu\": {}", 1000 + round));
            let begun = Instant::now();
            replace(&host.conf("10-calico.conflist"), text.as_bytes(), 0o600);
            while !host.follows(&text) {
                assert!(begun.elapsed() < host::PATIENCE, "it is never followed");
                std::hint::spin_loop();
            }
            times.push(ms(begun.elapsed()));
        }
        drop(running);
        done.store(true, Ordering::Relaxed);
        times
    })
}

/// Memory and processor time of one that has nothing to do.
fn idle(figures: &mut Figures) {
    let host = Host::new();
    CALICO.settle(&host);
    let idle = Live::start(&host);
    idle.ready();
    rest(IDLE);
    let read = |name: &str| fs::read_to_string(format!("/proc/{}/{name}", idle.pid())).expect("it runs");
    let kib = |text: &str, key: &str| -> Vec<f64> {
        let found = text.lines().find_map(|line| line.strip_prefix(key)).expect("the kernel says it");
        vec![found.trim().trim_end_matches(" kB").parse().expect("a number")]
    };
    let (status, memory) = (read("status"), read("smaps_rollup"));
    for (what, value) in [
        ("idle memory", kib(&status, "VmRSS:")),
        ("peak memory", kib(&status, "VmHWM:")),
        ("idle memory, its share of what others use too", kib(&memory, "Pss:")),
    ] {
        figures.groups.push(Group::of([what, "", "", "KiB"], [("shunt-installer", value)]));
    }
    let ticks = || -> f64 {
        let stat = read("stat");
        let (_, rest) = stat.rsplit_once(')').expect("as proc(5) has it");
        rest.split_whitespace().skip(11).take(4).filter_map(|ticks| ticks.parse::<f64>().ok()).sum()
    };
    let before = ticks();
    rest(IDLE);
    // A tick is 10 ms.
    let each_minute = (ticks() - before) * 10.0 * 60.0 / IDLE.as_secs_f64();
    let words = ["processor time in a minute of nothing, its plugin's included", "", "", "ms"];
    figures.groups.push(Group::of(words, [("shunt-installer", vec![each_minute])]));
}

fn rest(time: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        moment(500);
    }
}
