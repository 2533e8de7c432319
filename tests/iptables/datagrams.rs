//! DNS and UDP: the rendered rules, put into a pod by hand, because they are about the kernel and not about ADD.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::socket as sys;
use nix::sys::socket::sockopt::ReuseAddr;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage};
use nix::unistd::{Uid, setfsuid};
use shunt::iptables::Family;
use shunt::iptables::render::rendered;
use shunt::iptables::rules::{Rules, transaction};
use shunt::plan::{BeforeProxy, Dns, DnsTcp, Inbound, Include, Mesh as Name, Outbound, Plan, Udp};
use shunt_tests::net::{Netns, SERVICES_V4, Shape};
use shunt_tests::node::{APP, PROXY};

use crate::mesh::Mesh;

const DNS_PORT: u16 = 15053;
const RESOLVERS: [[&str; 2]; 2] = [["10.96.0.10:53", "10.96.0.11:53"], ["[fd96::10]:53", "[fd96::11]:53"]];

fn plan() -> Plan {
    Plan {
        mesh: Name::Custom,
        outbound_port: 15001,
        inbound_port: 15006,
        exempt_uids: vec![PROXY],
        exempt_gids: vec![],
        outbound: Outbound {
            cidrs: Include::All,
            exclude_cidrs: vec![],
            extra_ports: vec![],
            exclude_ports: vec!["9001".parse().unwrap()],
            exclude_uids: vec![],
            own_addresses: false,
        },
        inbound: Inbound { ports: Include::All, exclude_ports: vec![], exclude_cidrs: vec![] },
        exclude_interfaces: vec![],
        tunnel_port: None,
        self_calls: true,
        before_proxy: BeforeProxy::Closed,
        dns: Some(Dns { port: DNS_PORT, tcp: DnsTcp::Capture, servers: Include::All }),
        udp: Udp::Block,
        drop_invalid: true,
    }
}

fn apply(netns: &Netns, plan: &Plan, flavour: &str) {
    for (family, word) in [(Family::V4, "iptables"), (Family::V6, "ip6tables")] {
        let text = transaction(&rendered(plan, family).unwrap(), &Rules::default());
        netns.run(&format!("{word}-{flavour}-restore"), &["--noflush"], &text);
    }
}

/// A socket of this user: rules ask who made it. Its port may be taken over at once: another thread that starts a program may
/// hold a closed socket open for a moment.
fn socket(uid: u32, at: &str) -> UdpSocket {
    let address: SocketAddr = at.parse().unwrap();
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    setfsuid(Uid::from_raw(uid));
    let fd = sys::socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).unwrap();
    setfsuid(Uid::from_raw(0));
    sys::setsockopt(&fd, ReuseAddr, &true).unwrap();
    sys::bind(fd.as_raw_fd(), &SockaddrStorage::from(address))
        .unwrap_or_else(|error| panic!("{at}: {error}"));
    let socket = UdpSocket::from(fd);
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    socket
}

/// Tells the servers to end, also when a test has failed.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Answers with its name until told to stop.
fn answering<T: Send>(servers: &[(&Netns, u32, &str, &str)], work: impl FnOnce() -> T + Send) -> T {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (netns, uid, at, name) in servers {
            let stop = &stop;
            let bound = netns.enter(|| socket(*uid, at));
            bound.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            scope.spawn(move || {
                let mut buffer = [0; 64];
                while !stop.load(Ordering::Relaxed) {
                    if let Ok((_, from)) = bound.recv_from(&mut buffer) {
                        let _lost = bound.send_to(name.as_bytes(), from);
                    }
                }
            });
        }
        let _at_the_end = Stop(&stop);
        work()
    })
}

fn ask(socket: &UdpSocket, to: &str) -> (String, SocketAddr) {
    let mut buffer = [0; 64];
    socket.send_to(b"?", to).unwrap_or_else(|error| panic!("{to}: {error}"));
    let (length, from) = socket.recv_from(&mut buffer).unwrap_or_else(|error| panic!("{to}: {error}"));
    (String::from_utf8_lossy(&buffer[..length]).into_owned(), from)
}

fn any(v6: bool, port: u16) -> String {
    if v6 { format!("[::]:{port}") } else { format!("0.0.0.0:{port}") }
}

#[test]
fn answers_come_from_whom_was_asked_and_the_proxys_queries_pass() {
    assert!(SERVICES_V4.starts_with("10.96."));
    for flavour in ["nft", "legacy"] {
        let mesh = Mesh::before_add(Shape::dual());
        let (pod, world) = (&mesh.pod.netns, mesh.world.netns());
        apply(pod, &plan(), flavour);
        let (proxy4, proxy6) = (format!("127.0.0.1:{DNS_PORT}"), format!("[::1]:{DNS_PORT}"));
        let servers = [
            (pod, PROXY, proxy4.as_str(), "proxy"),
            (pod, PROXY, proxy6.as_str(), "proxy"),
            (world, 0, "0.0.0.0:53", "world"),
        ];
        answering(&servers, || {
            pod.enter(|| {
                for (v6, resolvers) in [false, true].into_iter().zip(RESOLVERS) {
                    let app = socket(APP, &any(v6, 0));
                    // Two resolvers of one socket, in turns.
                    for to in resolvers.into_iter().chain(resolvers) {
                        let (name, from) = ask(&app, to);
                        assert_eq!((name.as_str(), from), ("proxy", to.parse().unwrap()), "{flavour}");
                    }
                    // A resolver on loopback is captured too.
                    let local = if v6 { "[::1]:53" } else { "127.0.0.53:53" };
                    assert_eq!(ask(&socket(APP, &any(v6, 0)), local).0, "proxy");
                    if v6 {
                        continue;
                    }
                    // From the port that the app has just used, the proxy asks the same resolver.
                    let port = app.local_addr().unwrap().port();
                    drop(app);
                    let proxy = socket(PROXY, &any(v6, port));
                    assert_eq!(ask(&proxy, resolvers[0]).0, "world", "{flavour}");
                    drop(proxy);
                    // And the app from the port of the proxy.
                    assert_eq!(ask(&socket(APP, &any(v6, port)), resolvers[0]).0, "proxy", "{flavour}");
                }
            });
        });
        // Without zones it would be asking itself.
        pod.run(&format!("iptables-{flavour}-restore"), &["--noflush"], "*raw\n-F SHUNT_ZONE\nCOMMIT\n");
        answering(&servers, || {
            pod.enter(|| {
                let app = socket(APP, &any(false, 0));
                assert_eq!(ask(&app, RESOLVERS[0][0]).0, "proxy");
                let port = app.local_addr().unwrap().port();
                drop(app);
                assert_eq!(ask(&socket(PROXY, &any(false, port)), RESOLVERS[0][0]).0, "proxy", "{flavour}");
            });
        });
    }
}

#[test]
fn other_udp_is_refused_at_once() {
    for flavour in ["nft", "legacy"] {
        let mesh = Mesh::before_add(Shape::dual());
        let (pod, world) = (&mesh.pod.netns, mesh.world.netns());
        apply(pod, &plan(), flavour);
        let servers = [
            (world, 0, "0.0.0.0:9000", "world"),
            (world, 0, "0.0.0.0:9001", "world"),
            (pod, APP, "0.0.0.0:7000", "app"),
            (pod, APP, "[::1]:7001", "app"),
        ];
        answering(&servers, || {
            pod.enter(|| {
                for (v6, to) in [(false, "10.96.0.10:9000"), (true, "[fd96::10]:9000")] {
                    let app = socket(APP, &any(v6, 0));
                    let error = app.send_to(b"?", to).unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{flavour} {error}");
                    assert_eq!(error.raw_os_error(), Some(libc::EPERM));
                    app.connect(to).unwrap();
                    assert_eq!(app.send(b"?").unwrap_err().raw_os_error(), Some(libc::EPERM), "{flavour}");
                    // Nothing is kept on the socket.
                    assert!(app.take_error().unwrap().is_none());
                }
                let app = socket(APP, "0.0.0.0:0");
                for own in ["127.0.0.1:7000".to_owned(), format!("{}:7000", mesh.pod.ip(false))] {
                    assert_eq!(ask(&app, &own).0, "app", "{flavour} {own}");
                }
                assert_eq!(ask(&socket(APP, "[::]:0"), "[::1]:7001").0, "app");
                assert_eq!(ask(&app, "10.96.0.10:9001").0, "world", "an excluded port");
                assert_eq!(ask(&socket(PROXY, "0.0.0.0:0"), "10.96.0.10:9000").0, "world");
                let many = [IpAddr::from([224, 0, 0, 251]), "10.77.255.255".parse().unwrap()];
                app.set_broadcast(true).unwrap();
                for ip in many {
                    app.send_to(b"?", (ip, 9000)).unwrap_or_else(|error| panic!("{ip}: {error}"));
                }
            });
            // A reply leaves.
            world.enter(|| {
                let client = socket(0, "0.0.0.0:0");
                assert_eq!(ask(&client, &format!("{}:7000", mesh.pod.ip(false))).0, "app", "{flavour}");
            });
        });
    }
}
