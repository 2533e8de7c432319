//! What `shuntctl trace` costs: connections and UDP while nobody listens, and while one and eight do.
//!
//! Each place is a node of its own, and they take turns. `SHUNT_OLD` names the plugin of another version: a place more, to compare
//! with. `RUNS=60 make bench ONLY=trace`.

#![expect(clippy::expect_used, reason = "a bench stops where it cannot measure")]

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;
use shunt_tests::ask::Serve;
use shunt_tests::figures::sample::percentile;
use shunt_tests::figures::turns::take_many;
use shunt_tests::figures::{Depth, Figures, Group};
use shunt_tests::net::{Shape, World};
use shunt_tests::node::{Node, OUTBOUND_PORT, Pod};
use shunt_tests::process::Server;
use shunt_tests::watching::Watching;
use shunt_tests::{cgroup, need};
use socket2::SockRef;

const CALLS: u32 = 500;
const WHAT: [&str; 4] = ["TCP, no proxy", "TCP, to the proxy", "UDP, sendto", "ADD and DEL"];

/// Field order is the order of the end.
struct Site {
    name: &'static str,
    _listeners: Vec<Watching>,
    _proxy: Server,
    pod: Pod,
    deaf: Pod,
    fresh: Pod,
    _world: World,
    node: Node,
}

impl Site {
    fn new(name: &'static str, plugin: Option<PathBuf>, listeners: usize) -> Self {
        let node = Node::new();
        node.served_by(plugin);
        node.configure(|entry| entry["captureDns"] = json!(true));
        node.redirect("dnsPort", json!(15053));
        let world = node.world();
        let pod = node.pod(&world, Shape::dual());
        let deaf = node.pod(&world, Shape::dual().numbered(3));
        let fresh = node.pod(&world, Shape::dual().numbered(4));
        node.add(&pod);
        node.add(&deaf);
        let at = format!("0.0.0.0:{OUTBOUND_PORT}");
        let serve = Serve { quiet: true, hang_up: true, ..Serve::at([("outbound", at.as_str())]) };
        let proxy = Server::start(&pod.proxy(), &serve);
        let listeners = (0..listeners).map(|_| Watching::trace(&node, &["--uid", "4242"]).0).collect();
        Self { name, _listeners: listeners, _proxy: proxy, pod, deaf, fresh, _world: world, node }
    }

    /// Microseconds of each.
    fn measure(&mut self) -> [f64; WHAT.len()] {
        let at: SocketAddr = "10.96.0.10:80".parse().expect("an address");
        let refused = inside(&self.deaf, || {
            TcpStream::connect(at).expect_err("nobody listens");
        });
        let taken = inside(&self.pod, || {
            let stream = TcpStream::connect(at).expect("the proxy listens");
            // Nothing stays behind that the next rounds would have to look past.
            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("own socket");
        });
        let bound = self.pod.netns.enter(|| UdpSocket::bind("127.0.0.1:0")).expect("loopback is there");
        let to = bound.local_addr().expect("own socket");
        let client = self.pod.netns.enter(|| {
            enter(&self.pod);
            UdpSocket::bind("127.0.0.1:0").expect("loopback is there")
        });
        let sent = inside(&self.pod, || {
            client.send_to(b"word", to).expect("loopback takes it");
        });
        let started = Instant::now();
        self.node.add(&self.fresh);
        self.node.del(&self.fresh);
        [refused, taken, sent, us(started.elapsed())]
    }
}

/// The hooks are where the pods' processes are.
fn enter(pod: &Pod) {
    std::fs::write(pod.cgroup.join("cgroup.procs"), std::process::id().to_string())
        .expect("a cgroup of ours");
}

/// The middle one of many calls inside a pod.
fn inside(pod: &Pod, call: impl Fn() + Send + Sync) -> f64 {
    enter(pod);
    let times: Vec<f64> = pod.netns.enter(|| {
        (0..CALLS)
            .map(|_| {
                let started = Instant::now();
                call();
                us(started.elapsed())
            })
            .collect()
    });
    percentile(&times, 50.0).expect("there are some")
}

fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn main() {
    need::root();
    let mut figures = Figures::new("trace", "calls of pods while listeners of `shuntctl trace` are there");
    let old = std::env::var_os("SHUNT_OLD").map(|old| Site::new("another version", Some(old.into()), 0));
    let mut sites: Vec<Site> = [
        Site::new("nobody listens", None, 0),
        Site::new("one listens", None, 1),
        Site::new("eight listen", None, 8),
    ]
    .into_iter()
    .chain(old)
    .collect();
    let found = take_many(&mut sites, 2, Depth::of_this_run().rounds(12, 60), Site::measure);
    // Out of the pods again, or their cgroups could not be removed.
    let root = cgroup::mount_point().expect("a cgroup2 mount");
    std::fs::write(root.join("cgroup.procs"), std::process::id().to_string()).expect("the root");
    for (index, what) in WHAT.into_iter().enumerate() {
        let of = |rounds: &Vec<[f64; WHAT.len()]>| {
            rounds.iter().filter_map(|round| round.get(index).copied()).collect()
        };
        let subjects = sites.iter().map(|site| site.name).zip(found.iter().map(of));
        figures.groups.push(Group::of([what, "", "", "us"], subjects));
    }
    figures.done();
}
