//! A minute of connections to one destination, one after the other, the app closing first: without interception a pod runs out of
//! ports; with it none may fail, each has to be known by its own destination, and nothing may be left when they are over.

#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a bench prints its figures and stops where it cannot measure"
)]

#[expect(dead_code, reason = "another bench uses the rest")]
#[path = "path/subjects.rs"]
mod subjects;

use shunt::bpf::pins::Layout;
use shunt_abi::names;
use shunt_tests::ask::at;
use shunt_tests::figures::{Figures, Group};
use shunt_tests::hooked;
use shunt_tests::load::{Did, Order, Ports, Sink, Way};
use shunt_tests::need;
use subjects::{Means, Subject};

const MINUTE: u64 = 60_000;

fn main() {
    need::root();
    let mut figures =
        Figures::new("churn", "a minute of connections to one destination, the app closing first");
    let found = [Means::Nothing, Means::Ebpf].map(|means| (means.name(), churn(means)));
    for (what, value) in [
        ("connections in a minute, one destination", (|did| did.count) as fn(&Did) -> u64),
        ("failed in that minute", |did| did.failed),
    ] {
        let subjects = found.iter().map(|(name, did)| (*name, counted(value(did))));
        figures.groups.push(Group::of([what, "", "", ""], subjects));
    }
    figures.done();
}

#[expect(clippy::cast_precision_loss, reason = "counts of a minute")]
fn counted(value: u64) -> Vec<f64> {
    vec![value as f64]
}

fn churn(means: Means) -> Did {
    println!("a minute of {}", means.name());
    let mut subject = Subject::new(means, false);
    // Closed connections stay for a minute; the default would forget some of them under this load.
    subject.pod.netns.set("ipv4/tcp_max_tw_buckets", "1000000");
    subject.check();
    subject.pin(1);
    let way = subject.way(false, false);
    // What is not intercepted goes out to a server in the world: to its own loopback a pod may take a port again at once.
    let (way, _world) = if means == Means::Nothing {
        let to: std::net::SocketAddr = at([10, 96, 0, 10], way.to.port()).parse().expect("an address");
        let server = Sink::start(&subject.world.place(), &Ports { tcp: vec![to.port()], udp: Vec::new() });
        server.pin(0);
        (Way { to, answers: to.port(), ask: false }, Some(server))
    } else {
        (way, None)
    };
    let order = Order::Connects { way, connections: 1, ms: MINUTE, most: usize::MAX, may_fail: true };
    let (did, _) = subject.order(false, &order);
    println!("{} connections, {} failed", did.count, did.failed);
    if means == Means::Ebpf {
        assert_eq!(left(&subject), 0, "entries of connections that are over");
    }
    did
}

/// Entries that the plugin's maps still have of connections.
fn left(subject: &Subject) -> usize {
    let layouts = Layout::all(subject.node.bpf_dir()).expect("the plugin's directory");
    assert!(!layouts.is_empty(), "a meshed pod is there, and so are its maps");
    layouts.iter().map(|layout| hooked::entries(&layout.map(names::PAIRS)).expect("a pinned map")).sum()
}
