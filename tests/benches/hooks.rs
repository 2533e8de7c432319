//! What the kernel programs cost calls they have nothing to do with: in pods that are not meshed, and in meshed ones whose UDP is
//! left alone.
//!
//! Each place takes its turn in every round; what counts is the difference of medians. `RUNS=30 make bench`.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::collections::BTreeMap;

use serde_json::json;
use shunt_tests::ask::Place;
use shunt_tests::datagram::cost;
use shunt_tests::need;
use shunt_tests::net::Shape;
use shunt_tests::node::Node;

fn main() {
    need::root();
    let runs: usize = std::env::var("RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(30);
    let node = Node::new();
    let world = node.world();
    let meshed = node.pod(&world, Shape::dual());
    node.add(&meshed);
    node.redirect("dnsPort", json!(15053));
    node.configure(|entry| (entry["captureDns"], entry["udp"]) = (json!(true), json!("block")));
    let full = node.pod(&world, Shape::dual().numbered(3));
    node.add(&full);
    let bare = node.pod(&world, Shape::dual().numbered(4));
    // The programs are attached to the cgroup of all pods: this one is not below it.
    let free = Place { cgroup: Some(node.system_cgroup()), ..bare.app() };
    let places = [
        ("no programs", free),
        ("not meshed", bare.app()),
        ("meshed", meshed.app()),
        ("meshed, dns, udp block", full.app()),
    ];
    let mut found: BTreeMap<(String, usize), Vec<u64>> = BTreeMap::new();
    for _round in 0..runs {
        for (index, (_, place)) in places.iter().enumerate() {
            for (call, nanoseconds) in cost(place) {
                found.entry((call, index)).or_default().push(nanoseconds);
            }
        }
    }
    println!("nanoseconds a call, median of {runs} rounds; in brackets more than with no programs");
    let mut without = 0;
    for ((call, index), mut times) in found {
        times.sort_unstable();
        let median = times.get(times.len() / 2).copied().unwrap_or_default();
        if index == 0 {
            without = median;
            println!("{call}");
        }
        let name = places.get(index).map_or("", |(name, _)| name);
        let spread = (times.first().copied().unwrap_or_default(), times.last().copied().unwrap_or_default());
        let more = i128::from(median) - i128::from(without);
        println!("  {name:24} {median:6} ({more:+}), from {} to {}", spread.0, spread.1);
    }
}
