//! What a long exclude list costs: loading it, and a connection that has to be looked up in it.
//!
//! Two pods of one node, one with ten entries and one with a hundred thousand (with iptables: a thousand and ten thousand), take
//! turns. Nobody listens as their proxy, so that a connection is the hook, the look-ups and a refusal, and nothing else.

#![expect(clippy::expect_used, reason = "a bench stops where it cannot measure")]

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Instant;

use serde_json::{Value, json};
use shunt_tests::crowd::timed;
use shunt_tests::figures::sample::percentile;
use shunt_tests::figures::turns::take;
use shunt_tests::figures::{Depth, Figures, Group};
use shunt_tests::net::Shape;
use shunt_tests::node::{Node, Pod};
use shunt_tests::runtime_call::Call;
use shunt_tests::{cgroup, need};

const FEW: u32 = 10;
const CONNECTIONS: u32 = 1000;

fn main() {
    need::root();
    let depth = Depth::of_this_run();
    let mut figures = Figures::new("rules", "a plan with a long list of networks to leave alone");
    compare(&mut figures, depth, "ebpf", 100_000);
    compare(&mut figures, depth, "iptables", 1_000);
    compare(&mut figures, depth, "iptables", 10_000);
    figures.done();
}

fn compare(figures: &mut Figures, depth: Depth, backend: &str, most: u32) {
    let node = Node::new();
    node.configure(|entry| entry["backend"] = json!(backend));
    let world = node.world();
    let setting = format!("{backend}, up to {most} networks");
    let names = [FEW, most].map(|entries| format!("{entries} networks"));
    let mut pods = [FEW, most].map(|entries| {
        let pod = node.pod(&world, Shape::dual());
        node.redirect("excludeOutboundCidrs", networks(entries));
        let calls = ["ADD", "DEL"].map(|verb| node.prepared(verb, &pod, "eth0"));
        (pod, calls)
    });
    let group = |what: &str, unit: &str, values: Vec<Vec<f64>>| {
        Group::of([what, &setting, "", unit], names.iter().map(String::as_str).zip(values))
    };
    let loads = take(&mut pods, 0, depth.rounds(1, 3), |(_, [add, del])| load(add, del));
    figures.groups.push(group("ADD with a list", "ms", loads));
    for (_, [add, _]) in &pods {
        timed(add);
    }
    let connections = take(&mut pods, 2, depth.rounds(15, 60), |(pod, _)| connect(pod));
    figures.groups.push(group("connection, refused where the proxy would be", "us", connections));
    // Out of it again, or it could not be removed.
    let root = cgroup::mount_point().expect("a cgroup2 mount");
    std::fs::write(root.join("cgroup.procs"), std::process::id().to_string()).expect("the root");
}

fn load(add: &Call, del: &Call) -> f64 {
    let took = timed(add);
    timed(del);
    took.as_secs_f64() * 1e3
}

/// Networks spread over 11.0.0.0/8 and following, none of which is the one dialled.
fn networks(entries: u32) -> Value {
    (0..entries).map(|n| json!(format!("{}/32", Ipv4Addr::from(0x0b00_0000 + n * 257)))).collect()
}

/// The middle one of many connections from inside the pod, in microseconds.
fn connect(pod: &Pod) -> f64 {
    let to = SocketAddr::from((Ipv4Addr::new(203, 0, 113, 7), 80));
    // The hooks are where the pods' processes are.
    std::fs::write(pod.cgroup.join("cgroup.procs"), std::process::id().to_string())
        .expect("a cgroup of ours");
    pod.netns.enter(|| {
        let times: Vec<f64> = (0..CONNECTIONS)
            .map(|_| {
                let started = Instant::now();
                let refused = TcpStream::connect(to).expect_err("nobody listens");
                let took = started.elapsed();
                assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "captured and refused");
                took.as_secs_f64() * 1e6
            })
            .collect();
        percentile(&times, 50.0).expect("there are some")
    })
}
