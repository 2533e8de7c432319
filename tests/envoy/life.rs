//! Envoy restarts, drains, dies and comes back, and loses its listeners, under steady traffic: a connection is captured or refused,
//! never bare. How many failed is counted and said, and what must not fail does not.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::peers::{Steady, Tally};
use crate::proxy::{Envoy, PATIENCE};
use crate::report;
use crate::scene::{SERVICE, Scene, ip};
use crate::witness::Witness;

/// Traffic out of a pod and into it.
struct Traffic {
    out: Steady,
    into: Steady,
}

/// Outcomes and how often, both ways together.
type Counts = BTreeMap<String, u64>;

impl Traffic {
    fn start(scene: &Scene) -> Self {
        let [pod, _] = &scene.pods;
        let out = Steady::start(&pod.app(), &SERVICE.map(ip));
        let into = Steady::start(&scene.world.place(), &[pod.ip(false), pod.ip(true)]);
        Self { out, into }
    }

    fn both(&mut self) -> [Tally; 2] {
        [self.out.came(), self.into.came()]
    }

    /// Waits for many more of something, both ways.
    #[track_caller]
    fn wait_for(&mut self, what: &str, of: impl Fn(&Tally) -> u64) {
        let start = self.both().each_ref().map(&of);
        let end = Instant::now() + PATIENCE;
        loop {
            let now = self.both();
            if now.iter().zip(start).all(|(now, start)| of(now) >= start + 20) {
                return;
            }
            assert!(Instant::now() < end, "no more of `{what}`: {now:?}");
            let _waited = nix::poll::poll(&mut [], 20_u8);
        }
    }

    /// New connections work, and those that are kept carry words.
    #[track_caller]
    fn goes_on(&mut self) {
        self.wait_for("ok", |came| count(&came.came, OK));
        self.wait_for("words", |came| count(&came.kept, WORDS));
    }

    /// New connections are refused.
    #[track_caller]
    fn is_refused(&mut self) {
        self.wait_for(REFUSED, |came| count(&came.came, REFUSED));
    }

    fn counts(&mut self) -> Counts {
        let mut all = Counts::new();
        for Tally { came, kept, .. } in self.both() {
            let kept = kept.into_iter().filter(|(how, _)| how != WORDS);
            let kept = kept.map(|(how, count)| (format!("kept: {how}"), count));
            for (outcome, count) in came.into_iter().chain(kept) {
                *all.entry(outcome).or_default() += count;
            }
        }
        all
    }
}

const OK: &str = "ok";
const WORDS: &str = "words";
const REFUSED: &str = "connect ConnectionRefusedError";

fn count(counts: &Counts, outcome: &str) -> u64 {
    counts.get(outcome).copied().unwrap_or(0)
}

#[test]
fn a_proxys_life_under_ebpf() {
    life("ebpf");
}

#[test]
fn a_proxys_life_under_iptables() {
    life("iptables");
}

fn life(backend: &'static str) {
    let mut scene = Scene::on(backend);
    let mut traffic = Traffic::start(&scene);
    let witness = Witness::new(&scene.pods[0]);
    let (pod, envoy) = (&scene.pods[0], &mut scene.envoys[0]);
    traffic.goes_on();
    let mut last = traffic.counts();
    let mut told = |traffic: &mut Traffic, step: &str| {
        let now = traffic.counts();
        let new: Counts = now
            .iter()
            .map(|(outcome, all)| (outcome.clone(), all - count(&last, outcome)))
            .filter(|(_, new)| *new > 0)
            .collect();
        last = now;
        report::note(backend, step, &new);
        new
    };

    for (step, workers) in
        [("hot restart", 2), ("hot restart, more workers", 4), ("hot restart, fewer workers", 1)]
    {
        envoy.hot_restart(pod, workers);
        envoy.wait_alone();
        traffic.goes_on();
        let came = told(&mut traffic, step);
        // The sockets never close.
        assert_eq!(count(&came, REFUSED), 0, "{backend}, {step}: {came:?}");
    }

    envoy.kill();
    traffic.is_refused();
    envoy.restart(pod);
    traffic.goes_on();
    told(&mut traffic, "killed, and started again");

    envoy.take_listeners();
    envoy.wait_listening(pod, false);
    traffic.is_refused();
    envoy.put_listeners();
    envoy.wait_listening(pod, true);
    traffic.goes_on();
    told(&mut traffic, "listeners removed, and added");

    Envoy::admin(pod, "/drain_listeners");
    envoy.wait_listening(pod, false);
    traffic.is_refused();
    envoy.restart(pod);
    traffic.goes_on();
    told(&mut traffic, "drained, and started again");

    let [out, into] = traffic.both();
    assert_eq!(witness.bare(), 0, "{backend}: connections left the pod bare");
    let seen = |came: &Tally| came.seen.keys().cloned().collect::<Vec<_>>();
    let [own4, own6] = [pod.ip(false).to_string(), format!("[{}]", pod.ip(true))];
    assert_eq!(seen(&out), [own4, own6], "{backend}: the world saw others");
    assert_eq!(seen(&into), ["127.0.0.6", "[::6]"], "{backend}: the app saw others than the proxy");
    let slow: Vec<&String> =
        out.came.keys().chain(into.came.keys()).filter(|how| how.contains("Timeout")).collect();
    assert!(slow.is_empty(), "{backend}: neither captured nor refused: {out:?} {into:?}");
}
