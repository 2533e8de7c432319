//! DNS goes to the proxy, and the app hears from the server it asked.

use serde_json::json;
use shunt_tests::ask::{Dial, Place, Serve, address, plain};
use shunt_tests::datagram::{Answering, Asked, Did, Oracle, Script, Step, play};
use shunt_tests::net::Shape;
use shunt_tests::process::Server;

use crate::mesh::{Mesh, outside};

/// Servers an app may ask; the world answers for each.
pub(crate) const SERVERS4: [&str; 5] =
    ["10.96.0.53:53", "10.96.0.54:53", "10.96.0.55:53", "10.96.0.56:53", "10.96.0.57:53"];
pub(crate) const SERVERS6: [&str; 3] = ["[fd96::53]:53", "[fd96::54]:53", "[fd96::55]:53"];
/// Not a DNS server; the world answers there too.
pub(crate) const OTHER4: &str = "10.96.0.10:9999";
pub(crate) const OTHER6: &str = "[fd96::10]:9999";
pub(crate) const DNS_PORT: u16 = 15053;

/// Field order is the order of the end, as in [`Mesh`].
pub(crate) struct Scene {
    pub(crate) proxy: Option<Oracle>,
    pub(crate) world: Oracle,
    pub(crate) mesh: Mesh,
}

impl Scene {
    /// A dual-stack pod whose DNS is captured, with a proxy like Istio's: its DNS listener is on the loopback addresses.
    pub(crate) fn new() -> Self {
        let mut scene = Self::before_add(Shape::dual());
        scene.mesh.add();
        scene.start(&listening_at(&["127.0.0.1", "[::1]"]));
        scene
    }

    /// A pod the plugin has not seen, on a node that captures DNS.
    pub(crate) fn before_add(shape: Shape) -> Self {
        let mesh = Mesh::before_add(shape);
        mesh.node.configure(|entry| entry["captureDns"] = json!(true));
        mesh.node.redirect("dnsPort", json!(DNS_PORT));
        let at = ["0.0.0.0:53", "[::]:53", "0.0.0.0:9999", "[::]:9999", "0.0.0.0:443", "[::]:443"];
        let answering = Answering::at(at.map(|at| ("world", at))).exact();
        let world = Oracle::start(&outside(&mesh.world), &answering);
        Self { proxy: None, world, mesh }
    }

    pub(crate) fn start(&mut self, answering: &Answering) {
        self.proxy = Some(Oracle::start(&self.mesh.pod.proxy(), answering));
    }

    pub(crate) fn app(&self, script: &Script) -> Vec<Did> {
        play(&self.mesh.pod.app(), script)
    }

    /// No datagram has reached the world since the last time asked.
    #[track_caller]
    pub(crate) fn nothing_got_out(&mut self) {
        let asked = self.world.asked();
        assert!(asked.is_empty(), "these went past the proxy: {asked:?}");
    }

    /// What the proxy was asked since the last time.
    pub(crate) fn asked(&mut self) -> Vec<Asked> {
        self.proxy.as_mut().map_or_else(Vec::new, Oracle::asked)
    }
}

/// A proxy's DNS listener at these addresses.
pub(crate) fn listening_at(ips: &[&str]) -> Answering {
    let at: Vec<String> = ips.iter().map(|ip| format!("{ip}:{DNS_PORT}")).collect();
    Answering::at(at.iter().map(|at| ("dns", at.as_str())))
}

/// Send one question to a server and take the answer.
pub(crate) fn question(to: &str) -> [Step; 2] {
    [Step::SendTo(address(to), "q".to_owned()), Step::Receive]
}

/// An answer of the proxy under the name of the server that was asked.
#[track_caller]
pub(crate) fn answered(did: &Did, server: &str) {
    assert_eq!(did.outcome(), "dns", "asked {server}: {did:?}");
    assert_eq!(did.got().from, Some(plain(address(server))), "{did:?}");
}

/// The last step's result.
#[track_caller]
pub(crate) fn last(did: &[Did]) -> &Did {
    did.last().unwrap_or_else(|| panic!("a script has steps"))
}

/// Every way a socket can name a server.
pub(crate) fn sockets() -> [(bool, &'static str); 4] {
    [
        (false, "10.96.0.53:53"),
        (true, "[fd96::53]:53"),
        (true, "[::ffff:10.96.0.53]:53"),
        // A v6 socket given a v4 address as it is.
        (true, "10.96.0.53:53"),
    ]
}

pub(crate) fn script(v6: bool, steps: impl IntoIterator<Item = Step>) -> Script {
    if v6 { Script::v6(steps) } else { Script::v4(steps) }
}

#[test]
fn a_question_is_answered_by_the_proxy_in_the_servers_name() {
    let mut scene = Scene::new();
    for (v6, server) in sockets() {
        let to = address(server);
        for send in [
            Step::SendTo(to, "q".to_owned()),
            Step::SendMessage(to, "q".to_owned()),
            Step::SendMany(vec![(to, "q".to_owned())]),
        ] {
            let receive = [Step::Peek, Step::Receive, send.clone(), Step::ReceiveMany(1), send.clone()];
            let steps = [vec![send.clone()], receive.to_vec(), vec![Step::ReceiveUnnamed]].concat();
            let did = scene.app(&script(v6, steps));
            let [sent, peeked, received, _, many, _, unnamed] = did.as_slice() else {
                panic!("seven steps: {did:?}")
            };
            assert_eq!(sent.outcome(), "ok", "{server} by {send:?}");
            for one in [peeked, received, many] {
                answered(one, server);
            }
            assert_eq!(unnamed.outcome(), "dns", "{unnamed:?}");
        }
    }
    scene.nothing_got_out();
}

/// The kernel chooses the port, and the next question goes from it too.
#[test]
fn names_of_an_unconnected_socket_are_as_without_us() {
    let scene = Scene::new();
    let bare = scene.mesh.bare_twin();
    for (v6, server) in sockets() {
        let [send, receive] = question(server);
        let script = script(v6, [send, receive, Step::Names]);
        let (with, without) = (scene.app(&script), play(&bare.app(), &script));
        answered(&with[1], server);
        assert_eq!(without[1].outcome(), "world");
        assert_eq!(with[1].got().from, without[1].got().from);
        let (with, without) = (last(&with), last(&without));
        assert_eq!(with.peer, without.peer, "{server}");
        assert_eq!(with.local.map(|at| at.ip()), without.local.map(|at| at.ip()), "{server}");
    }
}

#[test]
fn several_servers_asked_at_once_from_one_socket_each_answer_for_themselves() {
    let mut scene = Scene::new();
    let mapped: Vec<String> = SERVERS4.iter().map(|at| crate::mesh::mapped(at)).collect();
    let both = [&mapped[0], SERVERS6[0], &mapped[1], SERVERS6[1]].map(str::to_owned).to_vec();
    for (v6, servers) in [
        (false, SERVERS4[..4].iter().map(|at| (*at).to_owned()).collect()),
        (true, SERVERS6.iter().map(|at| (*at).to_owned()).collect()),
        (true, mapped[..4].to_vec()),
        (true, both),
    ] {
        let servers: Vec<String> = servers;
        let asked: Vec<_> = servers.iter().map(|at| (address(at), at.clone())).collect();
        let count = asked.len();
        let steps = [Step::SendMany(asked.clone()), Step::ReceiveMany(count)];
        // Twice: places are kept.
        let did = scene.app(&script(v6, [steps.clone(), steps].concat()));
        for received in [&did[1], &did[3]] {
            assert_eq!(received.got.len(), count, "{received:?}");
            for got in &received.got {
                assert_eq!(got.answer.by, "dns");
                assert_eq!(got.from, Some(plain(address(&got.answer.question))), "{got:?}");
            }
        }
    }
    scene.nothing_got_out();
}

#[test]
fn more_servers_than_places_one_after_the_other() {
    let mut scene = Scene::new();
    let servers: Vec<&str> = SERVERS4.into_iter().chain(SERVERS4).collect();
    let did = scene.app(&Script::v4(servers.iter().flat_map(|server| question(server))));
    for (did, server) in did.chunks(2).zip(&servers) {
        answered(last(did), server);
    }
    scene.nothing_got_out();
}

#[test]
fn a_connected_socket_and_where_it_is_connected_next() {
    let mut scene = Scene::new();
    for (v6, [first, second, other], own) in [
        (false, ["10.96.0.53:53", "10.96.0.54:53", OTHER4], "10.77.0.2"),
        (true, ["[fd96::53]:53", "[fd96::54]:53", OTHER6], "fd77::2"),
        (true, ["[::ffff:10.96.0.53]:53", "[::ffff:10.96.0.54]:53", "[::ffff:10.96.0.10]:9999"], "10.77.0.2"),
        (true, ["10.96.0.53:53", "10.96.0.54:53", OTHER4], "10.77.0.2"),
    ] {
        let visit =
            |to: &str| [Step::Connect(address(to)), Step::Names, Step::Send("q".to_owned()), Step::Receive];
        let steps = [first, second, other, first].map(visit).concat();
        let did = scene.app(&script(v6, steps));
        for (did, to) in did.chunks(4).zip([first, second, other, first]) {
            let [connected, names, sent, received] = did else { panic!("four steps: {did:?}") };
            assert_eq!((connected.outcome(), sent.outcome()), ("ok", "ok"), "{to}: {did:?}");
            assert_eq!(names.peer(), Some(plain(address(to))), "{to}: {names:?}");
            assert_eq!(names.local().map(|at| at.ip().to_string()).as_deref(), Some(own), "{to}: {names:?}");
            if to == other {
                assert_eq!(received.outcome(), "world", "{received:?}");
                assert_eq!(received.got().from, Some(plain(address(to))));
                assert_eq!(received.got().answer.peer.ip(), names.local().expect("named").ip());
            } else {
                answered(received, to);
            }
        }
        let asked = scene.world.asked();
        assert_eq!(asked.len(), 1, "what is not DNS goes where it was going: {asked:?}");
    }
}

#[test]
fn a_connection_that_is_dissolved() {
    let mut scene = Scene::new();
    for (v6, server) in sockets() {
        let steps = [
            Step::Connect(address(server)),
            Step::Dissolve,
            Step::Names,
            Step::Send("q".to_owned()),
            Step::SendTo(address(server), "q".to_owned()),
            Step::Receive,
            Step::Connect(address(server)),
            Step::Send("q".to_owned()),
            Step::Receive,
        ];
        let did = scene.app(&script(v6, steps));
        assert_eq!(did[2].peer, None, "{server}");
        assert_eq!(did[3].outcome(), "EDESTADDRREQ", "{server}");
        answered(&did[5], server);
        answered(&did[8], server);
    }
    scene.nothing_got_out();
}

#[test]
fn a_bound_socket_keeps_its_source() {
    let mut scene = Scene::new();
    for (v6, bind, server, source) in [
        (false, "10.77.0.2:40001", "10.96.0.53:53", Some("10.77.0.2:40001")),
        (false, "0.0.0.0:40002", "10.96.0.53:53", None),
        (true, "[fd77::2]:40003", "[fd96::53]:53", Some("[fd77::2]:40003")),
        (true, "[::]:40004", "[fd96::53]:53", None),
        (true, "[::]:40005", "[::ffff:10.96.0.53]:53", None),
        (true, "[::ffff:10.77.0.2]:40006", "[::ffff:10.96.0.53]:53", Some("10.77.0.2:40006")),
    ] {
        let [send, receive] = question(server);
        let connected =
            [Step::Connect(address(server)), Step::Names, Step::Send("q".to_owned()), Step::Receive];
        let steps = [vec![send, receive], connected.to_vec()].concat();
        let did = scene.app(&script(v6, steps).bind(bind));
        answered(&did[1], server);
        answered(&did[5], server);
        assert_eq!(did[3].peer(), Some(plain(address(server))), "{bind}");
        let asked = scene.asked();
        for one in &asked {
            assert_eq!(one.peer.port(), address(bind).port(), "{one:?}");
        }
        if let Some(source) = source {
            assert_eq!(plain(asked[0].peer), address(source), "{asked:?}");
        }
    }
    scene.nothing_got_out();
}

#[test]
fn the_proxys_own_questions_pass() {
    let mut scene = Scene::new();
    let proxy = scene.mesh.pod.proxy();
    for (v6, server) in sockets() {
        let connected = [Step::Connect(address(server)), Step::Send("q".to_owned()), Step::Receive];
        let steps = [question(server).to_vec(), connected.to_vec()].concat();
        let did = play(&proxy, &script(v6, steps));
        for received in [&did[1], &did[4]] {
            assert_eq!(received.outcome(), "world", "{received:?}");
            assert_eq!(received.got().from, Some(plain(address(server))));
        }
    }
    assert!(scene.asked().is_empty());
}

#[test]
fn an_excluded_port_53_passes() {
    let mut scene = Scene::before_add(Shape::dual());
    scene.mesh.node.redirect("excludeOutboundPorts", json!([53]));
    scene.mesh.add();
    scene.start(&listening_at(&["127.0.0.1", "[::1]"]));
    for (v6, server) in sockets() {
        assert_eq!(last(&scene.app(&script(v6, question(server)))).outcome(), "world", "{server}");
    }
    assert!(scene.asked().is_empty());
}

#[test]
fn what_is_not_dns_and_pods_without_us_are_left_alone() {
    let mut scene = Scene::new();
    for (v6, to) in [(false, OTHER4), (true, OTHER6), (true, "[::ffff:10.96.0.10]:9999")] {
        let did = scene.app(&script(v6, question(to)));
        assert_eq!(last(&did).outcome(), "world", "{did:?}");
        assert_eq!(last(&did).got().from, Some(plain(address(to))));
    }
    let bare = scene.mesh.bare_twin();
    for (v6, server) in sockets() {
        assert_eq!(last(&play(&bare.app(), &script(v6, question(server)))).outcome(), "world");
    }
    assert!(scene.asked().is_empty());
}

/// A server on loopback or on the pod's own address, as Consul's `resolv.conf` has it.
#[test]
fn a_server_inside_the_pod_is_the_proxy_too() {
    let scene = Scene::new();
    for (v6, server) in [
        (false, "127.0.0.1:53"),
        (false, "127.0.0.53:53"),
        (true, "[::1]:53"),
        (true, "[::ffff:127.0.0.1]:53"),
        (false, "10.77.0.2:53"),
        (true, "[fd77::2]:53"),
    ] {
        let connected =
            [Step::Connect(address(server)), Step::Names, Step::Send("q".to_owned()), Step::Receive];
        let did = scene.app(&script(v6, [question(server).to_vec(), connected.to_vec()].concat()));
        answered(&did[1], server);
        assert_eq!(did[3].peer(), Some(plain(address(server))));
        answered(&did[5], server);
    }
    // The unspecified address is the loopback one, as without us.
    let did = scene.app(&Script::v4(question("0.0.0.0:53")));
    answered(last(&did), "127.0.0.1:53");
}

#[test]
fn dns_over_tcp_reaches_the_proxys_dns_port() {
    let scene = Scene::new();
    let _elsewhere = Server::start(
        &outside(&scene.mesh.world),
        &Serve::at([("world", "0.0.0.0:53"), ("world", "[::]:53")]),
    );
    let to = [
        "10.96.0.53:53",
        "[fd96::53]:53",
        "[::ffff:10.96.0.53]:53",
        "127.0.0.1:53",
        "127.0.0.53:53",
        "[::1]:53",
        "10.77.0.2:53",
        "[fd77::2]:53",
    ];
    let dial = |place: Place| shunt_tests::process::dial(&place, &Dial::to(to));
    assert_eq!(crate::mesh::outcomes(&dial(scene.mesh.pod.app())), ["ECONNREFUSED"; 8], "nobody listens yet");
    for ips in [["127.0.0.1", "[::1]"], ["0.0.0.0", "[::]"]] {
        let at = ips.map(|ip| format!("{ip}:{DNS_PORT}"));
        let mut proxy =
            Server::start(&scene.mesh.pod.proxy(), &Serve::at(at.iter().map(|at| ("dns-tcp", at.as_str()))));
        for seen in dial(scene.mesh.pod.app()) {
            assert_eq!(seen.outcome(), "dns-tcp", "{seen:?}");
            assert_eq!(seen.greeted().original(), Some(plain(seen.to)), "{seen:?}");
            assert_eq!(seen.peer, Some(plain(seen.to)));
        }
        assert_eq!(proxy.seen().len(), 8);
        let own = crate::mesh::only(shunt_tests::process::dial(&scene.mesh.pod.proxy(), &Dial::to([to[0]])));
        assert_eq!(own.outcome(), "world", "the proxy's own: {own:?}");
    }
}
