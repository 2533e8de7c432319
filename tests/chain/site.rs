//! The ground: a node in a namespace of its own, the world it has an uplink to, and directories for what a runtime and its
//! plugins keep.

use std::cell::{Cell, RefCell};
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};
use shunt_tests::ask::Serve;
use shunt_tests::net::{Interface, Shape, World};
use shunt_tests::node::{Node, Pod};
use shunt_tests::process::Server;
use shunt_tests::scratch::with_own_mounts;
use shunt_tests::{bin, need};

use crate::network::Network;
use crate::sandbox::Sandbox;

/// Where a runtime finds its host's tools.
pub(crate) const USUAL_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// What lies at `/var/lib` and `/run` of the machine is not for the plugins of a test.
const HIDDEN: [&str; 2] = ["/var/lib", "/run"];

/// Field order is the order of the end: processes, namespaces, the node's directories.
pub(crate) struct Site {
    /// Answers at every service address, and remembers who came.
    beyond: RefCell<Server>,
    /// The node's own network. `eth0` is the uplink, `eth1` a second link without addresses.
    pub(crate) host: Pod,
    /// What the uplinks lead to.
    pub(crate) world: World,
    /// Our plugin's directories and entry.
    pub(crate) node: Node,
    next: Cell<u16>,
}

impl Site {
    /// A node whose entry has this backend.
    pub(crate) fn new(backend: &str) -> Self {
        need::root();
        need::tool("ip");
        need::tool("iptables");
        let node = Node::on(backend);
        let world = node.world();
        let mut shape = Shape::dual();
        shape.interfaces.push(Interface { name: "eth1", net: 1, v4: None, v6: None });
        let host = node.pod(&world, shape);
        for netns in [&host.netns, world.netns()] {
            netns.set("ipv4/ip_forward", "1");
            netns.set("ipv6/conf/all/forwarding", "1");
        }
        world.netns().ip("route add 10.244.0.0/16 via 10.77.0.2\nroute add fd44::/16 via fd77::2\n");
        for dir in ["var-lib", "run", "net.d", "bin", "cache"] {
            fs::create_dir_all(node.directory().join(dir)).expect("own directory");
        }
        let site = Self {
            beyond: RefCell::new(Server::start(
                &world.place(),
                &Serve::at([("world", "0.0.0.0:80"), ("world", "[::]:80")]),
            )),
            host,
            world,
            node,
            next: Cell::new(0),
        };
        site.install_plugins();
        // What takes time on a busy machine, loading the programs, is not part of the ADDs of a test.
        until("the node can intercept", || site.node.call_bare("STATUS", |_| {}).code == 0);
        site
    }

    /// The directory of the plugins: what `make deps` built, ours, and the one that writes down its calls.
    fn install_plugins(&self) {
        let tools = tools();
        for name in [
            "bridge",
            "host-local",
            "ptp",
            "macvlan",
            "portmap",
            "tuning",
            "bandwidth",
            "firewall",
            "sbr",
            "vrf",
        ] {
            self.link(&tools.join(name), name);
        }
        self.link(&bin::shunt(), "shunt");
        self.link(&bin::probe().with_file_name("recorder"), "recorder");
    }

    fn link(&self, program: &Path, name: &str) {
        let program = fs::canonicalize(program)
            .unwrap_or_else(|error| panic!("{}: {error}: `make deps` brings it", program.display()));
        symlink(program, self.plugins().join(name)).expect("own directory");
    }

    /// Where the plugins are.
    pub(crate) fn plugins(&self) -> PathBuf {
        self.path("bin")
    }

    /// A path below the test's own directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.node.directory().join(name)
    }

    /// Our entry.
    pub(crate) fn entry(&self) -> Value {
        let mut found = Value::Null;
        self.node.configure(|entry| found.clone_from(entry));
        found
    }

    /// A number nobody else of this site has.
    pub(crate) fn number(&self) -> u16 {
        self.next.set(self.next.get() + 1);
        self.next.get()
    }

    /// A list with this name and content, in a file of the node.
    pub(crate) fn network(&self, name: &str, list: &Value) -> Network<'_> {
        Network::new(self, name, list)
    }

    /// A pod without any interface that is marked as meshed.
    pub(crate) fn meshed(&self) -> Sandbox {
        let pod = self.node.pod(&self.world, Shape { interfaces: Vec::new(), default_route: false });
        // Apps and proxies of a test listen on low ports without being root.
        pod.netns.set("ipv4/ip_unprivileged_port_start", "0");
        Sandbox::new(pod, self.number())
    }

    /// The same without the mark.
    pub(crate) fn plain(&self) -> Sandbox {
        let mut sandbox = self.meshed();
        sandbox.pod.annotations.clear();
        sandbox
    }

    /// Runs a program as the node's runtime runs: in the node's network, with its own `/var/lib` and `/run`. It is ended if it
    /// takes minutes. Nobody in there can run the programs `without`.
    pub(crate) fn run(
        &self,
        program: &Path,
        arguments: &[&str],
        environment: &[(&str, String)],
        stdin: &str,
        without: &[&str],
    ) -> Output {
        let input = self.path(&format!("input{}", self.number()));
        fs::write(&input, stdin).expect("own file");
        let dirs = [self.path("var-lib"), self.path("run")];
        let mut command = Command::new("/usr/bin/timeout");
        command
            .args(["-k", "5", "120"])
            .arg(program)
            .args(arguments)
            .env_clear()
            .env("PATH", USUAL_PATH)
            .envs(environment.iter().map(|(name, value)| (*name, value)))
            .stdin(Stdio::from(fs::File::open(&input).expect("own file")));
        let done = self.host.netns.enter(move || {
            with_own_mounts(move || {
                for (dir, at) in dirs.iter().zip(HIDDEN) {
                    mount(Some(dir), at, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("as root");
                }
                for at in without {
                    mount(Some("/dev/null"), *at, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                        .unwrap_or_else(|error| panic!("{at}: {error}"));
                }
                command.output().expect("`timeout` is there")
            })
        });
        fs::remove_file(input).expect("own file");
        done
    }

    /// What recorders have written down is forgotten.
    pub(crate) fn forget_calls(&self) {
        let _none = fs::remove_file(self.path("calls"));
    }

    /// What a tool says in the node's network.
    pub(crate) fn host_says(&self, tool: &str, arguments: &[&str]) -> String {
        self.host.netns.run(tool, arguments, "")
    }

    /// What plugins beside ours keep on the node for attachments: rules, devices, addresses, results. Empty when no pod has any.
    pub(crate) fn kept_by_others(&self) -> Vec<String> {
        let mut found = Vec::new();
        for tool in ["iptables-nft-save", "ip6tables-nft-save"] {
            let rules = self.host_says(tool, &[]);
            // Portmap's chain of an attachment; firewall's rules name an address of a pod.
            let about_pods = |line: &&str| {
                line.contains("CNI-DN-")
                    || (line.starts_with("-A")
                        && (line.contains("10.244.") || line.contains("10.78.") || line.contains("fd44:")))
            };
            found.extend(rules.lines().filter(about_pods).map(|line| format!("{tool}: {line}")));
        }
        let links = self.host_says("ip", &["-o", "link"]);
        let of_pods = |line: &&str| line.contains("veth") || line.contains("bwp");
        found.extend(links.lines().filter(of_pods).map(str::to_owned));
        let networks = self.path("addresses");
        for network in fs::read_dir(networks).into_iter().flatten().filter_map(Result::ok) {
            for address in fs::read_dir(network.path()).into_iter().flatten().filter_map(Result::ok) {
                let name = address.file_name().to_string_lossy().into_owned();
                if name.parse::<std::net::IpAddr>().is_ok() {
                    found.push(format!("address {name}"));
                }
            }
        }
        for result in fs::read_dir(self.path("cache/results")).into_iter().flatten().filter_map(Result::ok) {
            found.push(format!("cache: {}", result.file_name().to_string_lossy()));
        }
        found
    }

    /// What reached the world so far is forgotten.
    pub(crate) fn forget_who_got_out(&self) {
        self.beyond.borrow_mut().seen();
    }

    /// No connection reached the world since the last time asked.
    #[track_caller]
    pub(crate) fn nothing_got_out(&self) {
        let seen = self.beyond.borrow_mut().seen();
        assert!(seen.is_empty(), "these went past the proxy: {seen:?}");
    }
}

/// Where `make deps` links the tools: `SHUNT_TOOLS`, else in the workspace.
pub(crate) fn tools() -> PathBuf {
    std::env::var_os("SHUNT_TOOLS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools"), PathBuf::from)
}

/// The node's address on its uplink.
pub(crate) const HOST_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// The same in IPv6.
pub(crate) const HOST_V6: &str = "fd77::2";

/// Where host-local keeps its addresses.
pub(crate) fn addresses(site: &Site) -> Value {
    json!(site.path("addresses"))
}

/// Waits until something is so.
#[track_caller]
pub(crate) fn until(what: &str, mut so: impl FnMut() -> bool) {
    for _round in 0..6000 {
        if so() {
            return;
        }
        let _waited = nix::poll::poll(&mut [], 10_u8);
    }
    panic!("never: {what}");
}
