//! What a long exclude list costs: loading it, and a connection that has to be looked up in it.
//!
//! Two pods of one node, one with ten entries and one with a hundred thousand (with iptables: a thousand and ten thousand), take
//! turns. Nobody listens as their proxy, so that a connection is the hook, the look-ups and a refusal, and nothing else.

#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "a bench prints its figures and stops where it cannot measure"
)]

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shunt_tests::need;
use shunt_tests::net::Shape;
use shunt_tests::node::{Node, Pod};

const ROUNDS: usize = 60;
const CONNECTIONS: u32 = 1000;

fn main() {
    need::root();
    compare("ebpf", 100_000);
    compare("iptables", 1_000);
    compare("iptables", 10_000);
}

fn compare(backend: &str, most: u32) {
    let node = Node::new();
    node.configure(|entry| entry["backend"] = json!(backend));
    let world = node.world();
    let pods = [10_u32, most].map(|entries| {
        let pod = node.pod(&world, Shape::dual());
        node.redirect("excludeOutboundCidrs", networks(entries));
        let started = Instant::now();
        node.add(&pod);
        (entries, pod, started.elapsed(), Vec::new())
    });
    let [mut few, mut many] = pods;
    // A process of the pods' cgroup: that is where the hooks are.
    std::fs::write(few.1.cgroup.join("cgroup.procs"), std::process::id().to_string())
        .expect("a cgroup of ours");
    for _ in 0..ROUNDS {
        for (_, pod, _, times) in [&mut few, &mut many] {
            times.push(connect(pod));
        }
    }
    // Out of it again, or it could not be removed.
    let root = shunt_tests::cgroup::mount_point().expect("a cgroup2 mount");
    std::fs::write(root.join("cgroup.procs"), std::process::id().to_string()).expect("the root");
    println!(
        "\n{backend}: {ROUNDS} rounds of {CONNECTIONS} connections, in turns; the middle connection of each round\n"
    );
    println!("{:<10} {:>12} {:>12} {:>10} {:>10}", "entries", "ADD", "median", "p10", "p90");
    for (entries, _, add, times) in [&few, &many] {
        let at = |share| at(times, share).as_nanos();
        println!(
            "{entries:<10} {:>9} ms {:>9} ns {:>7} ns {:>7} ns",
            add.as_millis(),
            at(50),
            at(10),
            at(90)
        );
    }
    let ratio = at(&many.3, 50).as_secs_f64() / at(&few.3, 50).as_secs_f64();
    println!("\nratio of medians, {most} to 10: {ratio:.3}");
}

/// Networks spread over 11.0.0.0/8 and following, none of which is the one dialled.
fn networks(entries: u32) -> Value {
    (0..entries).map(|n| json!(format!("{}/32", Ipv4Addr::from(0x0b00_0000 + n * 257)))).collect()
}

fn at(times: &[Duration], percent: usize) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted.get((sorted.len() - 1) * percent / 100).copied().unwrap_or_default()
}

/// The median time of a connection from inside the pod.
fn connect(pod: &Pod) -> Duration {
    let to = SocketAddr::from((Ipv4Addr::new(203, 0, 113, 7), 80));
    pod.netns.enter(|| {
        let times: Vec<Duration> = (0..CONNECTIONS)
            .map(|_| {
                let started = Instant::now();
                let refused = TcpStream::connect(to).expect_err("nobody listens");
                let took = started.elapsed();
                assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "captured and refused");
                took
            })
            .collect();
        at(&times, 50)
    })
}
