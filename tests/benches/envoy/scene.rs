//! A world and two pods, with an Envoy each where they are intercepted, and fortio's server in all three.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::poll::poll;
use shunt_tests::ask::Place;
use shunt_tests::net::{Shape, World};
use shunt_tests::node::{Node, Pod};

use crate::load::{Found, Kind, Length, fortio, run};
use crate::peers::port;
use crate::proxy::{Envoy, PATIENCE};
use crate::subjects::{Means, istio};

/// A service that the world answers for.
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const TURN: Duration = Duration::from_millis(600);

/// Which way the requests go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Out,
    In,
    Through,
}

impl Way {
    pub(crate) const ALL: [Self; 3] = [Self::Out, Self::In, Self::Through];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Out => "outbound",
            Self::In => "inbound",
            Self::Through => "pod to pod",
        }
    }
}

/// Field order is the order of the end: processes, pods, world, node.
pub(crate) struct Scene {
    pub(crate) means: Means,
    envoys: Vec<Envoy>,
    _servers: [Server; 3],
    pods: [Pod; 2],
    world: World,
    _node: Node,
}

impl Scene {
    pub(crate) fn new(means: Means) -> Self {
        let node = Node::on(if means == Means::Iptables { "iptables" } else { "ebpf" });
        let world = node.world();
        let pods = [2, 3].map(|number| node.pod(&world, Shape::dual().numbered(number)));
        for pod in &pods {
            match means {
                Means::Istio => istio(&pod.netns, false),
                Means::Ebpf | Means::Iptables => node.add(pod),
                Means::Nothing => {}
                Means::Nft | Means::Loopback => panic!("{}: no mesh with an Envoy does this", means.name()),
            }
        }
        let envoys = if means == Means::Nothing {
            Vec::new()
        } else {
            pods.iter().map(|pod| Envoy::quiet(&node, pod)).collect()
        };
        let [a, b] = &pods;
        let servers = [world.place(), a.app(), b.app()].map(|place| Server::start(&place));
        Self { means, envoys, _servers: servers, pods, world, _node: node }
    }

    fn client(&self, way: Way) -> (Place, String) {
        let [a, b] = &self.pods;
        let (place, ip) = match way {
            Way::Out => (a.app(), SERVICE.into()),
            Way::In => (self.world.place(), a.ip(false)),
            Way::Through => (a.app(), b.ip(false)),
        };
        (place, format!("http://{ip}:{}/", port::HTTP))
    }

    /// Every request goes by each Envoy of its way, and by no other.
    pub(crate) fn check(&self, way: Way) {
        const REQUESTS: u64 = 20;
        let before = self.passed();
        let (place, url) = self.client(way);
        // It makes one more before it counts.
        let found = run(&place, &url, Kind::NewConnection, Length::Requests(REQUESTS));
        assert_eq!(found.requests, REQUESTS, "{}, {}", self.means.name(), way.name());
        let passed: Vec<[u64; 2]> = self
            .passed()
            .iter()
            .zip(before)
            .map(|(now, before)| [now[0] - before[0], now[1] - before[1]])
            .collect();
        let came = |count: u64| count >= REQUESTS;
        let by: Vec<[bool; 2]> = passed.iter().map(|counts| counts.map(came)).collect();
        let wanted = match (self.means, way) {
            (Means::Nothing, _) => Vec::new(),
            (_, Way::Out) => vec![[true, false], [false, false]],
            (_, Way::In) => vec![[false, true], [false, false]],
            (_, Way::Through) => vec![[true, false], [false, true]],
        };
        assert_eq!(
            by,
            wanted,
            "{}, {}: requests out and in by each Envoy: {passed:?}",
            self.means.name(),
            way.name()
        );
    }

    /// Requests that each Envoy has taken, out and in.
    fn passed(&self) -> Vec<[u64; 2]> {
        let count = |pod: &Pod, name: &str| {
            let text = Envoy::admin(pod, &format!("/stats?filter=^http.{name}.downstream_rq_total$"));
            let line = text.lines().find_map(|line| line.split_once("downstream_rq_total: "));
            line.and_then(|(_, count)| count.trim().parse().ok()).unwrap_or(0)
        };
        let pods = self.pods.iter().zip(&self.envoys);
        pods.map(|(pod, _)| ["passthrough", "inbound-http"].map(|name| count(pod, name))).collect()
    }

    /// One turn.
    pub(crate) fn measure(&self, way: Way, kind: Kind) -> Found {
        let (place, url) = self.client(way);
        let before = self.cpu();
        let found = run(&place, &url, kind, Length::For(TURN));
        #[expect(clippy::cast_precision_loss, reason = "counts of a bench")]
        let cpu = (self.cpu() - before) as f64 / 1e3 / found.requests.max(1) as f64;
        Found { cpu, ..found }
    }

    /// Nanoseconds that all threads of the Envoys have been on a CPU.
    fn cpu(&self) -> u64 {
        self.envoys.iter().map(|envoy| on_cpu(envoy.process())).sum()
    }
}

fn on_cpu(process: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{process}/task")).expect("it runs");
    let time = |entry: fs::DirEntry| {
        let text = fs::read_to_string(entry.path().join("schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|time| time.parse::<u64>().ok()).unwrap_or(0)
    };
    threads.filter_map(Result::ok).map(time).sum()
}

/// fortio's server; killed on drop.
struct Server(Child);

impl Server {
    fn start(place: &Place) -> Self {
        let port = port::HTTP.to_string();
        let mut arguments = vec!["server", "-quiet", "-http-port", &port];
        for other in ["-grpc-port", "-tcp-port", "-udp-port", "-redirect-port"] {
            arguments.extend([other, "disabled"]);
        }
        let child = fortio(place, &arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the probe can be run");
        let mut server = Self(child);
        server.wait_listening(place);
        server
    }

    fn wait_listening(&mut self, place: &Place) {
        let netns = fs::File::open(place.netns.as_ref().expect("a pod or the world")).expect("it is mounted");
        let end = Instant::now() + PATIENCE;
        let listening = || {
            nix::sched::setns(&netns, nix::sched::CloneFlags::CLONE_NEWNET).expect("root may enter");
            TcpStream::connect((Ipv4Addr::LOCALHOST, port::HTTP)).is_ok()
        };
        while !std::thread::scope(|scope| scope.spawn(listening).join().expect("it looks")) {
            let ended = self.0.try_wait().expect("our child");
            assert!(ended.is_none() && Instant::now() < end, "fortio's server does not listen: {ended:?}");
            let _waited = poll(&mut [], 10_u8);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}
