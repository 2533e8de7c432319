//! Who takes turns: pods that are intercepted in one way or another, each on a node of its own with a server that plays the proxy and
//! clients in the pod and beyond it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use serde_json::json;
use shunt_tests::figures::names;
use shunt_tests::foreign::{Does, Hook, Program, linked};
use shunt_tests::load::{Client, Did, Order, Ports, Sink, Way};
use shunt_tests::net::{Netns, Shape, World};
use shunt_tests::node::{INBOUND_PORT, Node, OUTBOUND_PORT, PROXY, Pod};
use shunt_tests::{bin, redirect};

/// The ports that clients dial, one after the other: what a closed connection leaves behind for a minute shall not be in the way of
/// the next ones.
const DIALLED: std::ops::Range<u16> = 8080..8096;
/// Where the proxy answers DNS.
const DNS_PORT: u16 = 15053;
const SERVICE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)), IpAddr::V6(Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 0x10))];
const RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 53);

/// How a pod is intercepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Means {
    Nothing,
    Nft,
    Istio,
    Loopback,
    Ebpf,
    Iptables,
}

impl Means {
    pub(crate) const ALL: [Self; 6] =
        [Self::Nothing, Self::Nft, Self::Istio, Self::Loopback, Self::Ebpf, Self::Iptables];

    /// As figures have it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nothing => names::NOTHING,
            Self::Nft => names::REDIRECT,
            Self::Istio => "istio-iptables",
            Self::Loopback => "rewrite to 127.0.0.1",
            Self::Ebpf => names::EBPF,
            Self::Iptables => names::IPTABLES,
        }
    }
}

/// One of them. Field order is the order of the end: processes, programs, pod, world, node.
pub(crate) struct Subject {
    pub(crate) means: Means,
    /// A client in the pod and one in the world.
    clients: [Client; 2],
    sink: Sink,
    _links: Vec<OwnedFd>,
    programs: Vec<Program>,
    pub(crate) pod: Pod,
    pub(crate) world: World,
    pub(crate) node: Node,
    turn: u16,
}

impl Subject {
    /// A pod under these means; `dns`: its DNS is captured too.
    pub(crate) fn new(means: Means, dns: bool) -> Self {
        let node = Node::on(if means == Means::Iptables { "iptables" } else { "ebpf" });
        let world = node.world();
        let pod = node.pod(&world, Shape::dual());
        let (mut programs, mut links) = (Vec::new(), Vec::new());
        match means {
            Means::Nothing => {}
            Means::Nft => nft(&pod.netns, dns),
            Means::Istio => istio(&pod.netns, dns),
            Means::Loopback => {
                let does = Does::Loopback { but: PROXY, port: OUTBOUND_PORT };
                programs = [Hook::Connect4, Hook::Connect6]
                    .map(|hook| Program::load("to_loopback", hook, does))
                    .into();
                links = linked(&programs, &pod.cgroup, 0);
            }
            Means::Ebpf | Means::Iptables => {
                if dns {
                    node.configure(|entry| entry["captureDns"] = json!(true));
                    node.redirect("dnsPort", json!(DNS_PORT));
                }
                node.add(&pod);
            }
        }
        let tcp = [OUTBOUND_PORT, INBOUND_PORT].into_iter().chain(DIALLED).collect();
        let udp = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, DNS_PORT))];
        let sink = Sink::start(&pod.proxy(), &Ports { tcp, udp });
        let clients = [Client::start(&pod.app()), Client::start(&world.place())];
        Self { means, clients, sink, _links: links, programs, pod, world, node, turn: 0 }
    }

    /// Where a client goes and who has to answer, and whether that one can know where the client wanted to go.
    pub(crate) fn way(&self, inbound: bool, v6: bool) -> Way {
        let port = DIALLED.start + self.turn % u16::try_from(DIALLED.len()).expect("a few ports");
        let captured = self.means != Means::Nothing;
        let ip = match (inbound, captured) {
            (true, _) => self.pod.ip(v6),
            (false, true) => SERVICE[usize::from(v6)],
            (false, false) if v6 => Ipv6Addr::LOCALHOST.into(),
            (false, false) => Ipv4Addr::LOCALHOST.into(),
        };
        Way {
            to: SocketAddr::new(ip, port),
            answers: match (captured, inbound) {
                (false, _) => port,
                (true, true) => INBOUND_PORT,
                (true, false) => OUTBOUND_PORT,
            },
            ask: captured && self.means != Means::Loopback,
        }
    }

    /// The next connections go to another port.
    pub(crate) fn move_on(&mut self) {
        self.turn += 1;
    }

    /// Whom a client asks for names.
    pub(crate) fn resolver(&self) -> SocketAddr {
        if self.means == Means::Nothing {
            SocketAddr::from((Ipv4Addr::LOCALHOST, DNS_PORT))
        } else {
            SocketAddr::from((RESOLVER, 53))
        }
    }

    /// Has a client do something; with it, microseconds of CPU that both ends used.
    pub(crate) fn order(&mut self, inbound: bool, order: &Order) -> (Did, f64) {
        let before = self.sink.cpu();
        let did = self.clients[usize::from(inbound)].order(order);
        (did, did.cpu + self.sink.cpu() - before)
    }

    /// Clients to the first CPU, the server to the first or the second.
    pub(crate) fn pin(&self, cpus: usize) {
        self.clients.iter().for_each(|client| client.pin(0));
        self.sink.pin(cpus - 1);
    }

    /// What the pod's network and the world's may carry at a time.
    pub(crate) fn mtu(&self, mtu: u32) {
        self.pod.netns.ip(&format!("link set eth0 mtu {mtu}\n"));
        let links = self.world.netns().run("ip", &["-o", "link", "show", "type", "veth"], "");
        for line in links.lines() {
            let name = line.split([' ', '@']).nth(1).expect("a number and a name");
            self.world.netns().ip(&format!("link set {name} mtu {mtu}\n"));
        }
        self.world.netns().ip(&format!("link set br0 mtu {mtu}\n"));
    }

    /// Entries the kernel's connection tracking has for the pod.
    pub(crate) fn conntrack(&self) -> f64 {
        self.pod.netns.get("netfilter/nf_conntrack_count").parse().expect("a count")
    }

    /// The subject is what it says: who answers is who has to, and knows the destination where it can, in both families. A client
    /// ends at the first connection that is not so, here and in each measurement.
    pub(crate) fn check(&mut self) {
        for inbound in [false, true] {
            if inbound && self.means == Means::Loopback {
                continue;
            }
            for v6 in [false, true] {
                let way = self.way(inbound, v6);
                let order = Order::Connects { way, connections: 1, ms: 20_000, most: 3, may_fail: false };
                let (did, _) = self.order(inbound, &order);
                assert_eq!(did.count, 3, "{}: {way:?}", self.means.name());
            }
        }
        assert!(self.programs.iter().all(Program::has_kept), "the programs have not seen a connection");
    }
}

/// The least there is: two rules for what leaves and one for what arrives.
fn nft(netns: &Netns, dns: bool) {
    let dns = if dns { format!("udp dport 53 redirect to :{DNS_PORT}") } else { String::new() };
    let rules = format!(
        "table inet mesh {{
            chain output {{
                type nat hook output priority -100;
                meta skuid {PROXY} return
                oifname \"lo\" return
                meta l4proto tcp redirect to :{OUTBOUND_PORT}
                {dns}
            }}
            chain prerouting {{
                type nat hook prerouting priority -100;
                meta l4proto tcp redirect to :{INBOUND_PORT}
            }}
        }}"
    );
    netns.run("nft", &["-f", "-"], &rules);
}

/// As Istio's own init container calls it.
pub(crate) fn istio(netns: &Netns, dns: bool) {
    let own = redirect::istio_arguments();
    let mut arguments: Vec<&str> = own.iter().map(String::as_str).collect();
    if dns {
        arguments.extend(["--redirect-dns", "--capture-all-dns"]);
    }
    netns.run(&bin::tool("istio-iptables").display().to_string(), &arguments, "");
}
