//! A pod as a runtime has it, and the traffic of its app and its proxy.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};
use shunt_tests::ask::{Dial, Serve, Try, at, plain};
use shunt_tests::kernel;
use shunt_tests::node::{INBOUND_PORT, OUTBOUND_PORT, Pod};
use shunt_tests::process::{self, Server};

use crate::site::{HOST_V4, HOST_V6, Site};

/// The app's port.
pub(crate) const APP_PORT: u16 = 8080;

/// The sandbox.
#[derive(Debug)]
pub(crate) struct Sandbox {
    app: Option<Server>,
    proxy: Option<Server>,
    /// The pod in it.
    pub(crate) pod: Pod,
    /// The node's port that leads to the app.
    pub(crate) host_port: u16,
    /// Addresses, once ADD has said them.
    pub(crate) ips: Vec<IpAddr>,
    /// What the kernel's programs know its namespace by.
    cookie: u64,
    /// The runtime has lost its namespace.
    pub(crate) lost: bool,
}

impl Sandbox {
    pub(crate) fn new(pod: Pod, number: u16) -> Self {
        let open = shunt::netns::Netns::open(pod.netns.path());
        let cookie = open.and_then(|open| open.cookie()).expect("a namespace has a cookie");
        Self { app: None, proxy: None, pod, host_port: 30000 + number, ips: Vec::new(), cookie, lost: false }
    }

    /// What the kernel's programs know it by.
    pub(crate) const fn cookie(&self) -> u64 {
        self.cookie
    }

    /// What the runtime says of its namespace.
    pub(crate) fn netns(&self) -> String {
        if self.lost { String::new() } else { self.pod.netns.path().display().to_string() }
    }

    /// `CNI_ARGS`.
    pub(crate) fn arguments(&self) -> Vec<[String; 2]> {
        let [.., (_, text)] = self.pod.environment("eth0");
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').expect("name=value");
            [name.to_owned(), value.to_owned()]
        };
        text.split(';').map(pair).collect()
    }

    /// `CNI_ARGS` as Multus writes them for a delegate.
    pub(crate) fn multus_arguments(&self) -> Vec<[String; 2]> {
        let mut arguments = self.arguments();
        arguments.retain(|[name, _]| name != "IgnoreUnknown");
        arguments.insert(0, ["IgnoreUnknown".to_owned(), "true".to_owned()]);
        arguments
    }

    /// What containerd would hand over, in its spelling.
    pub(crate) fn capabilities(&self) -> Value {
        json!({
            "io.kubernetes.cri.pod-annotations": self.pod.annotations,
            "cgroupPath": self.pod.cgroup_path,
            "portMappings": [{ "HostPort": self.host_port, "ContainerPort": APP_PORT, "Protocol": "tcp", "HostIP": "" }],
            "bandwidth": {
                "IngressRate": 1_000_000_000_u64, "IngressBurst": 4_294_967_295_u64,
                "EgressRate": 1_000_000_000_u64, "EgressBurst": 4_294_967_295_u64,
            },
        })
    }

    /// Takes the addresses of one of its interfaces from a result.
    pub(crate) fn learn(&mut self, result: &Value, interface: &str) {
        let empty = Vec::new();
        let named = result["interfaces"].as_array().unwrap_or(&empty);
        let index = named
            .iter()
            .position(|one| {
                one["name"] == interface && one["sandbox"].as_str().is_some_and(|at| !at.is_empty())
            })
            .unwrap_or_else(|| panic!("no {interface} in {result}"));
        let ips = result["ips"].as_array().unwrap_or(&empty);
        self.ips = ips
            .iter()
            .filter(|ip| ip["interface"].as_u64() == u64::try_from(index).ok())
            .map(|ip| ip["address"].as_str().and_then(|text| text.split('/').next()).expect("an address"))
            .map(|ip| ip.parse().expect("an address"))
            .collect();
        assert!(!self.ips.is_empty(), "no address in {result}");
    }

    /// Its app and its proxy start, if they have not.
    pub(crate) fn start(&mut self) {
        let serve = |listeners: &[(&str, u16)]| {
            let sockets: Vec<(&str, String)> = listeners
                .iter()
                .flat_map(|(name, port)| {
                    [(*name, format!("0.0.0.0:{port}")), (*name, format!("[::]:{port}"))]
                })
                .collect();
            Serve::at(sockets.iter().map(|(name, at)| (*name, at.as_str())))
        };
        if self.app.is_none() {
            self.app = Some(self.pod.serve(&serve(&[("app", APP_PORT)])));
        }
        if self.proxy.is_none() {
            let ports = serve(&[("outbound", OUTBOUND_PORT), ("inbound", INBOUND_PORT)]);
            self.proxy = Some(Server::start(&self.pod.proxy(), &ports));
        }
    }

    /// Its processes end.
    pub(crate) fn stop(&mut self) {
        self.app = None;
        self.proxy = None;
    }

    fn families(&self) -> impl Iterator<Item = (IpAddr, &'static str)> + '_ {
        self.ips.iter().map(|ip| (*ip, if ip.is_ipv6() { "[fd96::10]:80" } else { "10.96.0.10:80" }))
    }

    /// What leaves goes to its proxy and what arrives does, in each family it has; the world sees nothing.
    #[track_caller]
    pub(crate) fn is_captured(&mut self, site: &Site) {
        self.start();
        site.forget_who_got_out();
        let to: Vec<&str> = self.families().map(|(_, service)| service).collect();
        for seen in self.pod.dial(&Dial::to(to)) {
            told(&seen, "outbound", seen.to);
        }
        let to: Vec<String> = self.ips.iter().map(|ip| at(*ip, APP_PORT)).collect();
        for seen in process::dial(&site.world.place(), &Dial::to(to)) {
            told(&seen, "inbound", seen.to);
        }
        site.nothing_got_out();
    }

    /// What leaves reaches the world and what arrives reaches its app.
    #[track_caller]
    pub(crate) fn is_direct(&mut self, site: &Site) {
        self.start();
        let to: Vec<&str> = self.families().map(|(_, service)| service).collect();
        for seen in self.pod.dial(&Dial::to(to)) {
            assert_eq!(seen.outcome(), "world", "{seen:?}");
        }
        let to: Vec<String> = self.ips.iter().map(|ip| at(*ip, APP_PORT)).collect();
        for seen in process::dial(&site.world.place(), &Dial::to(to)) {
            assert_eq!(seen.outcome(), "app", "{seen:?}");
        }
        site.forget_who_got_out();
    }

    /// A port of the node, asked from the world, leads to whoever `by` names; the original destination is the app's.
    #[track_caller]
    pub(crate) fn host_port_leads_to(&self, site: &Site, by: &str) {
        for ip in &self.ips {
            let node: IpAddr =
                if ip.is_ipv6() { HOST_V6.parse().expect("an address") } else { HOST_V4.into() };
            let dial = Dial::to([at(node, self.host_port)]);
            for seen in process::dial(&site.world.place(), &dial) {
                told(&seen, by, SocketAddr::new(*ip, APP_PORT));
            }
        }
    }

    /// Nobody answers at its port of the node.
    #[track_caller]
    pub(crate) fn host_port_is_closed(&self, site: &Site) {
        let dial = Dial::to([
            at(HOST_V4, self.host_port),
            at(HOST_V6.parse::<IpAddr>().expect("an address"), self.host_port),
        ]);
        for seen in process::dial(&site.world.place(), &dial) {
            assert_eq!(seen.outcome(), "ECONNREFUSED", "{seen:?}");
        }
    }

    /// The namespace goes without a DEL, and the runtime knows its path no more. The kernel takes it apart a moment after its
    /// last reference, which may be somebody's copy of the test's mounts; nothing here waits for that.
    pub(crate) fn vanish(&mut self) {
        self.stop();
        self.pod.netns.vanish();
        self.lost = true;
    }

    /// Everything our plugin has of it: records, pins, map entries, rules, settings of its namespace.
    pub(crate) fn traces(&self, site: &Site) -> Vec<String> {
        let kept = site.node.kept();
        let mut found: Vec<String> = kept
            .iter()
            .map(|path| path.display().to_string())
            .filter(|path| path.contains(self.pod.container()))
            .collect();
        found.extend(kernel::entries(site.node.bpf_dir(), self.cookie));
        if !self.lost {
            found.extend(self.pod.netns.rules_of_ours());
            let reserved = self.pod.netns.get("ipv4/ip_local_reserved_ports");
            found.extend(reserved.contains("61000").then(|| format!("reserved ports {reserved}")));
            let addresses = self.pod.netns.run("ip", &["-o", "addr", "show", "dev", "lo"], "");
            found.extend(addresses.contains("::6/128").then(|| "::6 on lo".to_owned()));
        }
        found
    }

    /// Nothing of it is left: ours, and what others of the chain had. No other pod may be there.
    #[track_caller]
    pub(crate) fn left_nothing(&self, site: &Site) {
        assert_eq!(self.traces(site), [""; 0], "of ours; log: {}", site.node.log());
        assert_eq!(site.kept_by_others(), [""; 0], "of others");
        if !self.lost {
            let links = self.pod.netns.run("ip", &["-o", "link"], "");
            assert_eq!(links.lines().count(), 1, "only lo: {links}");
        }
    }
}

/// The right one took it. A proxy knows where it was going; an app is where it was going.
#[track_caller]
fn told(seen: &Try, by: &str, destination: SocketAddr) {
    assert_eq!(seen.outcome(), by, "{seen:?}");
    let greeting = seen.greeted();
    let known = if by == "app" { Some(greeting.local()) } else { greeting.original() };
    assert_eq!(known, Some(plain(destination)), "{seen:?}");
    assert_eq!(seen.peer, Some(plain(seen.to)), "the client sees whom it called: {seen:?}");
}
