//! The installer: how soon pods get a network that its owner has changed, what it takes when nothing happens, and what `once` costs.
//! `ROUNDS=200 make bench`.

#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a bench prints its figures and stops where it cannot measure"
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

use crate::host::{Host, moment, replace};
use crate::live::Live;
use crate::neighbours::{ALL, Neighbour};

const CALICO: Neighbour = ALL[0];

/// A file that changes more often than this within a minute is followed at a slower pace; a new process begins anew.
const AT_FULL_PACE: usize = 25;

fn main() {
    shunt_tests::need::root();
    let rounds: usize = std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(150);
    println!(
        "from the rename by the owner until pods get it, {rounds} rounds      p50        p99        max"
    );
    for mode in ["owned", "chained"] {
        for busy in [false, true] {
            let mut times = convergence(mode, busy, rounds);
            times.sort_unstable();
            let at = |share: usize| times[(times.len() - 1) * share / 100];
            let what = if busy { ", another file rewritten every 50 ms" } else { "" };
            println!(
                "  {:<56} {:>10} {:>10} {:>10}",
                format!("{mode}{what}"),
                shown(at(50)),
                shown(at(99)),
                shown(at(100))
            );
        }
    }
    idle();
    converged();
}

fn shown(time: Duration) -> String {
    format!("{}.{:02} ms", time.as_millis(), time.as_micros() % 1000 / 10)
}

/// Changes of the primary's file, one after the other.
fn convergence(mode: &str, busy: bool, rounds: usize) -> Vec<Duration> {
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
            times.push(begun.elapsed());
        }
        drop(running);
        done.store(true, Ordering::Relaxed);
        times
    })
}

/// Memory and processor time of one that has nothing to do.
fn idle() {
    let host = Host::new();
    CALICO.settle(&host);
    let idle = Live::start(&host);
    idle.ready();
    for _ in 0..30 {
        moment(1000);
    }
    let read = |name: &str| fs::read_to_string(format!("/proc/{}/{name}", idle.pid())).expect("it runs");
    let value = |text: &str, key: &str| -> String {
        let found = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
        found.trim().to_owned()
    };
    let (status, memory) = (read("status"), read("smaps_rollup"));
    println!(
        "idle after 30 s: RSS {}, peak {}, PSS {}",
        value(&status, "VmRSS:"),
        value(&status, "VmHWM:"),
        value(&memory, "Pss:")
    );
    let ticks = || -> u64 {
        let stat = read("stat");
        let (_, rest) = stat.rsplit_once(')').unwrap_or_default();
        rest.split_whitespace().skip(11).take(4).filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
    };
    let before = ticks();
    for _ in 0..60 {
        moment(1000);
    }
    println!("idle for 60 s: {} ms of processor time, its plugin's included", (ticks() - before) * 10);
}

/// `once` where nothing is to be done.
fn converged() {
    let host = Host::new();
    CALICO.settle(&host);
    host.once();
    let mut times: Vec<Duration> = (0..30)
        .map(|_| {
            let begun = Instant::now();
            host.once();
            begun.elapsed()
        })
        .collect();
    times.sort_unstable();
    println!(
        "`once` with nothing to do, STATUS of the plugin included: {} (median of 30)",
        shown(times[times.len() / 2])
    );
}
