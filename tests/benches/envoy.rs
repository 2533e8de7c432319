//! A real Envoy in the path, set up as Istio sets up its own, and fortio as the client and the server: requests over one connection
//! and a new connection for each, out of a pod, into one, and from one to another through both their Envoys.
//!
//! Envoy works on each request far longer than interception takes: this shows what is left to see of the difference.

#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a bench prints its figures and stops where it cannot measure"
)]

#[path = "envoy/load.rs"]
mod load;
#[path = "envoy/scene.rs"]
mod scene;

// What the bench and the suite with a real Envoy have in common.
#[path = "../envoy/istio.rs"]
mod istio;
#[expect(dead_code, reason = "the suite uses the rest")]
#[path = "../envoy/peers.rs"]
mod peers;
#[expect(dead_code, reason = "the suite uses the rest")]
#[path = "../envoy/proxy.rs"]
mod proxy;
#[expect(dead_code, reason = "another bench uses the rest")]
#[path = "path/subjects.rs"]
mod subjects;

use load::{Found, Kind};
use scene::{Scene, Way};
use shunt_tests::figures::{Depth, Figures, Group, turns};
use shunt_tests::need;
use subjects::Means;

fn main() {
    need::root();
    let rounds = Depth::of_this_run().rounds(2, 7);
    let mut figures = Figures::new("envoy", "real Envoy in the path, load by fortio; CPU of the Envoys");
    let mut scenes = [Means::Nothing, Means::Istio, Means::Ebpf, Means::Iptables].map(Scene::new);
    for way in Way::ALL {
        for scene in &scenes {
            scene.check(way);
        }
    }
    for way in Way::ALL {
        for kind in Kind::ALL {
            println!("{}, {}", way.name(), kind.name());
            let found = turns::take_many(&mut scenes, 1, rounds, |scene| scene.measure(way, kind));
            let names = scenes.each_ref().map(|scene| scene.means.name());
            note(&mut figures, &names, &found, way, kind);
        }
    }
    figures.done();
}

/// A group for each figure.
fn note(figures: &mut Figures, names: &[&str], found: &[Vec<Found>], way: Way, kind: Kind) {
    let mut add = |figure: &str, unit: &str, value: &dyn Fn(&Found) -> f64| {
        let values = |found: &Vec<Found>| found.iter().map(value).collect();
        let subjects = names.iter().zip(found).map(|(name, found)| (*name, values(found)));
        let setting = format!("{}, IPv4, 1 connection", way.name());
        let group = Group::of([kind.name(), &setting, figure, unit], subjects);
        // All that have an Envoy have what it costs; what is asked is what the way to it costs.
        figures.groups.push(group.beside(Means::Istio.name()));
    };
    for (index, figure) in ["p50", "p99", "p99.9"].into_iter().enumerate() {
        add(figure, "us", &|found| found.percentiles[index]);
    }
    add("requests", "1/s", &|found| found.rate);
    add("CPU", "us", &|found| found.cpu);
}
