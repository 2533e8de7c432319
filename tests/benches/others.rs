//! What Shunt costs those it has nothing to do with: calls in pods that are not meshed, and in meshed ones whose traffic it leaves alone,
//! on a node with none, one, a hundred and a thousand meshed pods; and how many connections all pods of a node make together.
//!
//! All calls are on loopback. A process of the same pod that is not below the cgroup of all pods, where the programs are, is what they are
//! compared with; both run the same loop, so that what the loop itself takes is in both. `RUNS=30 PODS=100 make bench ONLY=others`.

#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a bench stops where it cannot measure")]

use serde_json::json;
use shunt_tests::ask::Place;
use shunt_tests::cost::{Cost, Rush, Rushing, cost};
use shunt_tests::figures::turns::{take, take_many};
use shunt_tests::figures::{Depth, Figures, Group};
use shunt_tests::node::{APP, Node, Pod};
use shunt_tests::{crowd, need, scratch};

/// Pods that connect at the same time.
const TOGETHER: usize = 16;
const CONNECTIONS: u32 = 2000;

fn main() {
    need::root();
    let most: usize = std::env::var("PODS").ok().and_then(|pods| pods.parse().ok()).unwrap_or(1000);
    let mut figures = Figures::new("others", "what calls cost that Shunt has nothing to do with");
    measure(&mut figures, Depth::of_this_run(), most);
    assert!(scratch::own().is_empty(), "left behind: {:?}", scratch::own());
    figures.done();
}

fn measure(figures: &mut Figures, depth: Depth, most: usize) {
    let node = Node::new();
    node.configure(|entry| entry["log"]["level"] = json!("info"));
    let bare = node.crowd(TOGETHER);
    let crowd = node.crowd(most.max(TOGETHER));
    let mut sites = vec![("no programs", outside(&node, &bare[0])), ("not meshed", bare[0].app())];
    calls(figures, &mut sites, &pods(0), depth);
    sites.push(("meshed", crowd[0].app()));
    let full = node.crowd(1);
    let mut meshed = 0;
    for count in [1, 100, 1000].into_iter().filter(|count| *count <= most) {
        let adds: Vec<_> = crowd[meshed..count].iter().map(|pod| node.prepared("ADD", pod, "eth0")).collect();
        crowd::each(&adds, crowd::timed);
        meshed = count;
        let setting = pods(count);
        if count == 100 {
            // One more, from here on.
            node.redirect("dnsPort", json!(15053));
            node.configure(|entry| (entry["captureDns"], entry["udp"]) = (json!(true), json!("block")));
            node.add(&full[0]);
            sites.push(("meshed, dns, udp block", full[0].app()));
        }
        calls(figures, &mut sites, &setting, depth);
    }
    rate(figures, &node, [&bare, &crowd[..TOGETHER.min(meshed)]], &pods(meshed), depth);
}

fn pods(meshed: usize) -> String {
    format!("{meshed} meshed pod{}", if meshed == 1 { "" } else { "s" })
}

/// A process of the pod's namespace whose cgroup is not below that of all pods.
fn outside(node: &Node, pod: &Pod) -> Place {
    Place { cgroup: Some(node.system_cgroup()), ..pod.place(APP, APP) }
}

fn calls(figures: &mut Figures, sites: &mut [(&str, Place)], setting: &str, depth: Depth) {
    let found = take_many(sites, 1, depth.rounds(5, 20), |(_, place)| cost(place));
    let first: &[Cost] = &found[0][0];
    for (index, Cost { call, v6, .. }) in first.iter().enumerate() {
        let figure = if *v6 { "IPv6" } else { "" };
        let values = |rounds: &[Vec<Cost>]| rounds.iter().map(|all| all[index].nanoseconds / 1e3).collect();
        let subjects = sites.iter().zip(&found).map(|((name, _), rounds)| (*name, values(rounds)));
        figures.groups.push(Group::of([call, setting, figure, "us"], subjects));
    }
}

/// Processes of many pods at once.
fn rate(figures: &mut Figures, node: &Node, [bare, meshed]: [&[Pod]; 2], setting: &str, depth: Depth) {
    let app = |pods: &[Pod]| -> Vec<Place> { pods.iter().map(Pod::app).collect() };
    let free: Vec<Place> = bare.iter().map(|pod| outside(node, pod)).collect();
    let mut sites = vec![("no programs", free), ("not meshed", app(bare))];
    // As many processes as the others have, or it would be another thing.
    if meshed.len() == TOGETHER {
        sites.push(("meshed", app(meshed)));
    }
    let names: Vec<&str> = sites.iter().map(|(name, _)| *name).collect();
    let rush = Rush { connections: CONNECTIONS };
    let mut running: Vec<Rushing> = sites.iter().map(|(_, places)| Rushing::start(places, rush)).collect();
    let total = f64::from(CONNECTIONS) * f64::from(u32::try_from(TOGETHER).expect("a few"));
    let rates = take(&mut running, 2, depth.rounds(5, 20), |all| total / all.go().as_secs_f64());
    let what = format!("TCP, connects a second, {TOGETHER} pods at once");
    figures.groups.push(Group::of([&what, setting, "", "/s"], names.into_iter().zip(rates)));
}
