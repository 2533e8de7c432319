//! What `shuntctl trace` costs: connections and UDP while nobody listens, and while one and eight do.
//!
//! Each place is a node of its own, and they take turns. `SHUNT_OLD` names the plugin of another version: a place more, to compare
//! with. `RUNS=60 make bench`.

#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "a bench prints its figures and stops where it cannot measure"
)]

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;
use shunt_tests::ask::Serve;
use shunt_tests::need;
use shunt_tests::net::{Shape, World};
use shunt_tests::node::{Node, OUTBOUND_PORT, Pod};
use shunt_tests::process::Server;
use shunt_tests::watching::Watching;
use socket2::SockRef;

const CALLS: u32 = 500;
const WHAT: [&str; 4] = ["TCP, no proxy", "TCP, to the proxy", "UDP, sendto", "ADD and DEL"];

/// Field order is the order of the end.
struct Site {
    name: &'static str,
    times: [Vec<Duration>; WHAT.len()],
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
        Self {
            name,
            times: Default::default(),
            _listeners: listeners,
            _proxy: proxy,
            pod,
            deaf,
            fresh,
            _world: world,
            node,
        }
    }

    fn measure(&mut self) {
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
        let added = started.elapsed();
        for (times, time) in self.times.iter_mut().zip([refused, taken, sent, added]) {
            times.push(time);
        }
    }
}

/// The hooks are where the pods' processes are.
fn enter(pod: &Pod) {
    std::fs::write(pod.cgroup.join("cgroup.procs"), std::process::id().to_string())
        .expect("a cgroup of ours");
}

/// The middle one of many calls inside a pod.
fn inside(pod: &Pod, call: impl Fn() + Send + Sync) -> Duration {
    enter(pod);
    let mut times: Vec<Duration> = pod.netns.enter(|| {
        (0..CALLS)
            .map(|_| {
                let started = Instant::now();
                call();
                started.elapsed()
            })
            .collect()
    });
    middle(&mut times, 50)
}

fn middle(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times.get(times.len() * percent / 100).copied().unwrap_or_default()
}

fn main() {
    need::root();
    let runs: usize = std::env::var("RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(60);
    let old = std::env::var_os("SHUNT_OLD").map(|old| Site::new("another version", Some(old.into()), 0));
    let mut sites: Vec<Site> = old
        .into_iter()
        .chain([
            Site::new("nobody listens", None, 0),
            Site::new("one listens", None, 1),
            Site::new("eight listen", None, 8),
        ])
        .collect();
    for round in 0..runs {
        // Whoever comes first finds other caches than whoever comes last.
        let first = round % sites.len();
        sites.rotate_left(first);
        sites.iter_mut().for_each(Site::measure);
        sites.rotate_right(first);
    }
    // Out of the pods again, or their cgroups could not be removed.
    let root = shunt_tests::cgroup::mount_point().expect("a cgroup2 mount");
    std::fs::write(root.join("cgroup.procs"), std::process::id().to_string()).expect("the root");
    println!(
        "microseconds, of {runs} rounds in turns the median of medians of {CALLS} calls, p10 and p90 (ADD and DEL: of the rounds)"
    );
    for (index, what) in WHAT.iter().enumerate() {
        println!("{what}");
        let mut first = None;
        for site in &mut sites {
            let Some(times) = site.times.get_mut(index) else { continue };
            let at = |percent, times: &mut [Duration]| middle(times, percent).as_secs_f64() * 1e6;
            let (low, median, high) = (at(10, times), at(50, times), at(90, times));
            let base = *first.get_or_insert(median);
            println!(
                "  {:16} {median:9.2} ({:+6.2}, {:+5.1} %)  {low:.2} to {high:.2}",
                site.name,
                median - base,
                100.0 * (median / base - 1.0)
            );
        }
    }
}
