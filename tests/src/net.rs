//! Network namespaces: pods, and the world beyond them.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::poll;
use nix::sched::{CloneFlags, setns, unshare};

use crate::ask::Place;

/// Any address in here is answered by the world; apps dial it as they dial a Service.
pub const SERVICES_V4: &str = "10.96.0.0/16";
/// The same for IPv6.
pub const SERVICES_V6: &str = "fd96::/64";

/// A network namespace, held by a bind mount so that a path can be given to the plugin.
#[derive(Debug)]
pub struct Netns {
    path: PathBuf,
}

impl Netns {
    /// A new namespace with `lo` up, mounted at `dir/name`.
    pub fn new(dir: &Path, name: &str) -> Self {
        let path = dir.join(name);
        File::create(&path).expect("scratch directory is writable");
        // A namespace belongs to a thread; this one makes it, pins it and ends.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).expect("root may make network namespaces");
                mount(Some("/proc/thread-self/ns/net"), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                    .expect("a namespace can be bind mounted");
            });
        });
        Self { path }.prepared()
    }

    /// The same owned by a user namespace of its own, whose ids begin at `first` outside: the namespace of a pod with
    /// `hostUsers: false`.
    pub fn of_user_namespace(dir: &Path, name: &str, first: u32) -> Self {
        let path = dir.join(name);
        File::create(&path).expect("scratch directory is writable");
        let mut holder = Command::new("unshare")
            .args(["--user", "--net", "sleep", "60"])
            .spawn()
            .expect("unshare can be run");
        let of = |what: &str| PathBuf::from(format!("/proc/{}/{what}", holder.id()));
        let own = fs::read_link("/proc/self/ns/net").expect("a process has a namespace");
        while fs::read_link(of("ns/net")).expect("it sleeps") == own {
            let _waited = poll(&mut [], 1_u8);
        }
        for map in ["uid_map", "gid_map"] {
            fs::write(of(map), format!("0 {first} 65536")).expect("root may map ids");
        }
        mount(Some(&of("ns/net")), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .expect("a namespace can be bind mounted");
        holder.kill().expect("it is our child");
        holder.wait().expect("it ends");
        Self { path }.prepared()
    }

    /// That of a process of ours, for as long as it runs.
    pub fn of_process(process: nix::unistd::Pid) -> Self {
        Self { path: PathBuf::from(format!("/proc/{process}/ns/net")) }
    }

    fn prepared(self) -> Self {
        let new = self;
        for key in ["all/accept_dad", "default/accept_dad", "default/accept_ra", "default/dad_transmits"] {
            new.set(&format!("ipv6/conf/{key}"), "0");
        }
        new.ip("link set lo up");
        new
    }

    /// The path of the mount.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The namespace goes, as with a sandbox that died; its name stays.
    pub fn vanish(&self) {
        umount2(&self.path, MntFlags::MNT_DETACH).expect("it is mounted");
    }

    /// Runs something on a thread inside the namespace.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            let namespace = File::open(&self.path).expect("the mount is there as long as we are");
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("root may enter network namespaces");
            work()
        };
        std::thread::scope(|scope| {
            scope.spawn(inside).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs `ip` commands, one a line.
    pub fn ip(&self, commands: &str) {
        self.run("ip", &["-batch", "-"], commands);
    }

    /// Runs a tool inside with some input; its failure is the test's.
    pub fn run(&self, tool: &str, arguments: &[&str], input: &str) -> String {
        self.enter(|| {
            let mut child = Command::new(tool)
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap_or_else(|error| panic!("{tool}: {error}"));
            let mut stdin = child.stdin.take().expect("stdin is piped");
            stdin.write_all(input.as_bytes()).expect("the tool reads its input");
            drop(stdin);
            let done = child.wait_with_output().expect("the tool ends");
            let said = String::from_utf8_lossy(&done.stderr);
            assert!(done.status.success(), "{tool} {arguments:?} <<{input}>>: {said}");
            String::from_utf8_lossy(&done.stdout).into_owned()
        })
    }

    /// Waits until the kernel routes an IPv6 address to itself. It does so from a work queue, a moment after the address
    /// was added; what connects to it in that moment asks the neighbours. The plugins that make a pod's interfaces wait
    /// for it too.
    pub fn settle(&self, ip: Ipv6Addr) {
        let own = format!("{:032x} 80 ", ip.to_bits());
        let arrived = || {
            let routes = fs::read_to_string("/proc/thread-self/net/ipv6_route").unwrap_or_default();
            routes.lines().filter(|line| line.starts_with(&own)).any(is_local)
        };
        self.enter(|| {
            for _round in 0..1000 {
                if arrived() {
                    return;
                }
                let _waited = poll(&mut [], 5_u8);
            }
            panic!("the kernel never took {ip} for its own");
        });
    }

    /// Writes a setting below `/proc/sys/net`.
    pub fn set(&self, key: &str, value: &str) {
        self.enter(|| fs::write(format!("/proc/sys/net/{key}"), value))
            .unwrap_or_else(|error| panic!("net/{key} = {value}: {error}"));
    }

    /// Reads a file as one sees it from inside, such as those of `/proc/thread-self/net`.
    pub fn read(&self, path: &str) -> String {
        self.enter(|| fs::read_to_string(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Rules and chains of ours, and the address that comes with them.
    pub fn rules_of_ours(&self) -> Vec<String> {
        let mut found = Vec::new();
        for word in ["iptables-nft", "ip6tables-nft"] {
            let text = self.run(&format!("{word}-save"), &[], "");
            let ours = text.lines().filter(|line| line.contains("SHUNT_"));
            found.extend(ours.map(|line| format!("{word} {line}")));
        }
        found
    }

    /// Reads a setting below `/proc/sys/net`.
    pub fn get(&self, key: &str) -> String {
        self.enter(|| fs::read_to_string(format!("/proc/sys/net/{key}")))
            .unwrap_or_else(|error| panic!("net/{key}: {error}"))
            .trim()
            .to_owned()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // A process's goes with the process.
        if self.path.starts_with("/proc") {
            return;
        }
        let _gone = umount2(&self.path, MntFlags::MNT_DETACH);
        let _gone = fs::remove_file(&self.path);
    }
}

/// Everything that is not the pod: two networks with a gateway each, and all services.
#[derive(Debug)]
pub struct World {
    netns: Netns,
}

impl World {
    pub(crate) fn new(dir: &Path, name: &str) -> Self {
        let netns = Netns::new(dir, name);
        let mut setup = String::new();
        // A bridge without an address of its own has the lowest of its ports', so that it changes when another pod goes,
        // some time after that pod's namespace did; who asked for the gateway before then sends to nobody.
        for net in [0, 1] {
            setup += &format!(
                "link add br{net} address 02:00:00:00:{second}:01 type bridge mcast_snooping 0\n\
                 link set br{net} up\n\
                 addr add 10.{second}.0.1/16 dev br{net}\n\
                 addr add fd{second}::1/64 dev br{net} nodad\n",
                second = 77 + net,
            );
        }
        setup += &format!("route add local {SERVICES_V4} dev lo\nroute add local {SERVICES_V6} dev lo\n");
        netns.ip(&setup);
        netns.set("ipv4/tcp_fastopen", "3");
        Self { netns }
    }

    /// The namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Somewhere in it.
    pub fn place(&self) -> Place {
        Place { netns: Some(self.netns.path().to_owned()), ..Place::default() }
    }
}

/// One interface of a pod.
#[derive(Debug, Clone)]
pub struct Interface {
    /// Its name inside.
    pub name: &'static str,
    /// Which of the world's networks it is on, 0 or 1.
    pub net: u8,
    /// Its IPv4 address, in `10.77.0.0/16` or `10.78.0.0/16`.
    pub v4: Option<Ipv4Addr>,
    /// Its IPv6 address, in `fd77::/64` or `fd78::/64`.
    pub v6: Option<Ipv6Addr>,
}

/// What a pod's network looks like before we come.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Its interfaces; the first has the default routes.
    pub interfaces: Vec<Interface>,
    /// Whether there are default routes.
    pub default_route: bool,
}

impl Shape {
    /// `eth0` with a v4 and a v6 address.
    pub fn dual() -> Self {
        let eth0 = Interface {
            name: "eth0",
            net: 0,
            v4: Some(Ipv4Addr::new(10, 77, 0, 2)),
            v6: Some(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2)),
        };
        Self { interfaces: vec![eth0], default_route: true }
    }

    /// `eth0` with v4 only.
    pub fn only_v4() -> Self {
        Self::dual().each(|interface| interface.v6 = None)
    }

    /// `eth0` with v6 only.
    pub fn only_v6() -> Self {
        Self::dual().each(|interface| interface.v4 = None)
    }

    /// `eth0` and `net1`, each on a network of its own, both dual.
    pub fn two_interfaces() -> Self {
        let mut shape = Self::dual();
        shape.interfaces.push(Interface {
            name: "net1",
            net: 1,
            v4: Some(Ipv4Addr::new(10, 78, 0, 2)),
            v6: Some(Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, 2)),
        });
        shape
    }

    /// The same without default routes.
    #[must_use]
    pub fn no_default_route(mut self) -> Self {
        self.default_route = false;
        self
    }

    /// The same with a number of its own in place of the last 2 of each address.
    #[must_use]
    pub fn numbered(self, number: u8) -> Self {
        self.each(|interface| {
            interface.v4 = interface.v4.map(|ip| {
                let [a, b, c, _] = ip.octets();
                Ipv4Addr::new(a, b, c, number)
            });
            interface.v6 = interface.v6.map(|ip| {
                let [first, ..] = ip.segments();
                Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, u16::from(number))
            });
        })
    }

    fn each(mut self, change: impl Fn(&mut Interface)) -> Self {
        self.interfaces.iter_mut().for_each(change);
        self
    }
}

/// Wires a pod's namespace to the world.
pub(crate) fn wire(netns: Netns, world: &World, shape: &Shape, number: u32) -> Netns {
    let mut outside = String::new();
    let mut inside = String::new();
    for (index, Interface { name, net, v4, v6 }) in shape.interfaces.iter().enumerate() {
        outside += &format!(
            "link add v{number}-{index} type veth peer name {name} netns {path}\n\
             link set v{number}-{index} master br{net} up\n",
            path = netns.path().display(),
        );
        inside += &format!("link set {name} up\n");
        if let Some(ip) = v4 {
            inside += &format!("addr add {ip}/16 dev {name}\n");
            if shape.default_route && index == 0 {
                inside += &format!("route add default via 10.{}.0.1\n", 77 + net);
            }
        }
        if let Some(ip) = v6 {
            inside += &format!("addr add {ip}/64 dev {name} nodad\n");
            if shape.default_route && index == 0 {
                inside += &format!("route add default via fd{}::1\n", 77 + net);
            }
        }
    }
    world.netns.ip(&outside);
    netns.ip(&inside);
    netns.set("ipv4/tcp_fastopen", "3");
    shape.interfaces.iter().filter_map(|interface| interface.v6).for_each(|ip| netns.settle(ip));
    netns
}

/// The pod's interfaces with nobody at their other end, which stays in the pod: where a pod only has to be there. A bridge has a thousand
/// ports at most.
pub(crate) fn wire_to_nobody(netns: Netns, shape: &Shape) -> Netns {
    let mut inside = String::new();
    for Interface { name, v4, v6, .. } in &shape.interfaces {
        inside += &format!(
            "link add {name} type veth peer name far-{name}\nlink set far-{name} up\nlink set {name} up\n"
        );
        if let Some(ip) = v4 {
            inside += &format!("addr add {ip}/16 dev {name}\n");
        }
        if let Some(ip) = v6 {
            inside += &format!("addr add {ip}/64 dev {name} nodad\n");
        }
    }
    netns.ip(&inside);
    netns
}

/// Whether a line of `/proc/net/ipv6_route` is of the kind the kernel makes for own addresses (`RTF_LOCAL`).
fn is_local(line: &str) -> bool {
    let flags = line.split_whitespace().nth(8).and_then(|flags| u32::from_str_radix(flags, 16).ok());
    flags.is_some_and(|flags| flags & 0x8000_0000 != 0)
}

/// The address of that family on an interface; the test's mistake if there is none.
pub fn ip_of(interface: &Interface, v6: bool) -> IpAddr {
    let ip = if v6 { interface.v6.map(IpAddr::V6) } else { interface.v4.map(IpAddr::V4) };
    ip.unwrap_or_else(|| panic!("{interface:?} has no such address"))
}
