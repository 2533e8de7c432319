//! `udp: block`: what would leave is refused, what stays or answers is not.

use serde_json::{Value, json};
use shunt_tests::ask::{address, plain};
use shunt_tests::datagram::{Answering, Oracle, Step, play};
use shunt_tests::net::Shape;

use crate::dns::{OTHER4, OTHER6, Scene, answered, last, listening_at, question, script, sockets};

/// A pod whose other UDP is blocked; DNS is captured as well if asked for.
fn scene(dns: bool, keys: &[(&str, Value)]) -> Scene {
    shaped(Shape::dual(), dns, keys)
}

fn shaped(shape: Shape, dns: bool, keys: &[(&str, Value)]) -> Scene {
    let scene = Scene::before_add(shape);
    scene.mesh.node.configure(|entry| {
        entry["udp"] = json!("block");
        entry["captureDns"] = json!(dns);
    });
    for (key, value) in keys {
        scene.mesh.node.redirect(key, value.clone());
    }
    scene.mesh.add();
    scene
}

/// Somewhere in the world, from every kind of socket.
const OUTSIDE: [(bool, &str); 4] =
    [(false, OTHER4), (true, OTHER6), (true, "[::ffff:10.96.0.10]:9999"), (true, OTHER4)];

fn connected(to: &str) -> [Step; 4] {
    [Step::Connect(address(to)), Step::Names, Step::Send("q".to_owned()), Step::Receive]
}

#[test]
fn what_would_leave_is_refused_at_once() {
    let mut scene = scene(false, &[]);
    for (v6, to) in OUTSIDE {
        let at = address(to);
        for send in [
            Step::SendTo(at, "q".to_owned()),
            Step::SendMessage(at, "q".to_owned()),
            Step::SendMany(vec![(at, "q".to_owned())]),
        ] {
            let did = scene.app(&script(v6, [send]));
            assert_eq!(last(&did).outcome(), "EPERM", "{to}: {did:?}");
        }
    }
    scene.nothing_got_out();
}

/// A connect sends nothing and tells the app its own address: `getaddrinfo` sorts by that. What is sent then is refused.
#[test]
fn a_connected_socket_has_its_names_and_is_refused_when_it_sends() {
    let mut scene = scene(false, &[]);
    let bare = scene.mesh.bare_twin();
    for (v6, to) in OUTSIDE {
        let did = scene.app(&script(v6, connected(to)));
        let without = play(&bare.app(), &script(v6, connected(to)));
        assert_eq!(last(&without).outcome(), "world", "{without:?}");
        let own = scene.mesh.pod.ip(address(to).is_ipv6() && !plain(address(to)).is_ipv4());
        assert_eq!(did[0].outcome(), "ok", "{to}: {did:?}");
        assert_eq!(did[1].peer, without[1].peer, "{to}");
        assert_eq!(did[1].local().map(|at| at.ip()), Some(own), "{to}");
        assert_eq!(last(&did).outcome(), "ECONNREFUSED", "{to}: {did:?}");
    }
    assert_eq!(scene.world.asked().len(), OUTSIDE.len(), "only the other pod's");
}

/// What glibc does to sort addresses: one socket connected to each, dissolved in between when the family changes.
#[test]
fn sorting_addresses_works_as_without_us() {
    let scene = scene(false, &[]);
    let bare = scene.mesh.bare_twin();
    for port in [443, 0] {
        let v4 = address(&format!("10.96.0.10:{port}"));
        let v6 = address(&format!("[fd96::10]:{port}"));
        let steps = [
            Step::Connect(v6),
            Step::Names,
            Step::Dissolve,
            Step::Connect(v4),
            Step::Names,
            Step::Connect(address(&format!("10.96.0.11:{port}"))),
            Step::Names,
        ];
        let (with, without) =
            (scene.app(&script(true, steps.clone())), play(&bare.app(), &script(true, steps)));
        for (with, without) in with.iter().zip(&without) {
            assert_eq!(with.error, without.error, "port {port}: {with:?}");
            let network = |did: &shunt_tests::datagram::Did| {
                did.local.map(|at| at.ip().to_string().replace(['2', '3'], ""))
            };
            assert_eq!(network(with), network(without), "port {port}");
        }
    }
}

#[test]
fn a_family_without_an_address_fails_as_without_us() {
    let scene = shaped(Shape::only_v4(), false, &[]);
    let did =
        scene.app(&script(true, [Step::Connect(address(OTHER6)), Step::SendTo(address(OTHER6), "q".into())]));
    assert_eq!((did[0].outcome(), did[1].outcome()), ("ENETUNREACH", "ENETUNREACH"));
}

/// A refused socket is not spoilt: it can go where it may.
#[test]
fn a_refused_socket_connected_elsewhere_works() {
    let scene = scene(true, &[("excludeOutboundPorts", json!([443]))]);
    let _dns = Oracle::start(&scene.mesh.pod.proxy(), &listening_at(&["127.0.0.1", "[::1]"]));
    for (v6, refused, dns, open, inside) in [
        (false, OTHER4, "10.96.0.53:53", "10.96.0.10:443", "127.0.0.1:9999"),
        (true, OTHER6, "[fd96::53]:53", "[fd96::10]:443", "[::1]:9999"),
    ] {
        let _app = Oracle::start(&scene.mesh.pod.app(), &Answering::at([("app", inside)]).exact());
        let steps = [refused, open, dns, refused, inside].map(connected).concat();
        let did = scene.app(&script(v6, steps));
        for (did, (to, outcome)) in did.chunks(4).zip([
            (refused, "ECONNREFUSED"),
            (open, "world"),
            (dns, "dns"),
            (refused, "ECONNREFUSED"),
            (inside, "app"),
        ]) {
            assert_eq!(did[0].outcome(), "ok", "{to}: {did:?}");
            assert_eq!(did[1].peer, Some(address(to)), "{to}");
            assert_eq!(did[3].outcome(), outcome, "{to}: {did:?}");
        }
    }
}

#[test]
fn what_stays_inside_passes() {
    let scene = scene(false, &[]);
    let at = ["127.0.0.1:9999", "[::1]:9999", "10.77.0.2:9999", "[fd77::2]:9999"];
    let _app = Oracle::start(&scene.mesh.pod.app(), &Answering::at(at.map(|at| ("app", at))));
    for (v6, to) in
        [(false, at[0]), (true, at[1]), (false, at[2]), (true, at[3]), (true, "[::ffff:127.0.0.1]:9999")]
    {
        let did = scene.app(&script(v6, [question(to).to_vec(), connected(to).to_vec()].concat()));
        assert_eq!((did[1].outcome(), last(&did).outcome()), ("app", "app"), "{to}: {did:?}");
    }
    let did = scene.app(&script(false, question("0.0.0.0:9999")));
    assert_eq!(last(&did).outcome(), "app");
}

#[test]
fn the_proxy_and_what_is_excluded_pass() {
    let keys: [&[(&str, Value)]; 4] = [
        &[("excludeOutboundPorts", json!([9999]))],
        &[("excludeOutboundPorts", json!(["9000-9999"]))],
        &[("excludeOutboundCidrs", json!(["10.96.0.0/24", "fd96::/64"]))],
        &[("includeOutboundCidrs", json!(["172.16.0.0/12"]))],
    ];
    for keys in keys {
        let scene = scene(false, keys);
        for (v6, to) in OUTSIDE {
            let did = scene.app(&script(v6, [question(to).to_vec(), connected(to).to_vec()].concat()));
            assert_eq!(
                (did[1].outcome(), last(&did).outcome()),
                ("world", "world"),
                "{keys:?} {to}: {did:?}"
            );
        }
    }
    let scene = scene(false, &[]);
    for (v6, to) in OUTSIDE {
        let steps = [question(to).to_vec(), connected(to).to_vec()].concat();
        let did = play(&scene.mesh.pod.proxy(), &script(v6, steps));
        assert_eq!(
            (did[1].outcome(), last(&did).outcome()),
            ("world", "world"),
            "the proxy to {to}: {did:?}"
        );
    }
    let bare = scene.mesh.bare_twin();
    assert_eq!(last(&play(&bare.app(), &script(false, question(OTHER4)))).outcome(), "world");
}

#[test]
fn dns_keeps_working_captured_or_not() {
    for dns in [false, true] {
        let mut scene = scene(dns, &[]);
        scene.start(&listening_at(&["127.0.0.1", "[::1]"]));
        for (v6, server) in sockets() {
            let did =
                scene.app(&script(v6, [question(server).to_vec(), connected(server).to_vec()].concat()));
            for did in [&did[1], last(&did)] {
                if dns {
                    answered(did, server);
                } else {
                    assert_eq!(did.outcome(), "world", "{server}: {did:?}");
                }
            }
        }
        let did = scene.app(&script(false, question(OTHER4)));
        assert_eq!(did[0].outcome(), "EPERM");
    }
}

/// A server answers those who ask it from outside; it may send from its port whatever it likes.
#[test]
fn a_server_of_udp_answers() {
    let scene = scene(false, &[]);
    let _app =
        Oracle::start(&scene.mesh.pod.app(), &Answering::at([("app", "0.0.0.0:5000"), ("app", "[::]:5000")]));
    for (v6, to) in [(false, "10.77.0.2:5000"), (true, "[fd77::2]:5000")] {
        let did = play(&crate::mesh::outside(&scene.mesh.world), &script(v6, question(to)));
        assert_eq!(last(&did).outcome(), "app", "{did:?}");
    }
    for (v6, bind, to) in [(false, "0.0.0.0:5001", OTHER4), (true, "[::]:5002", OTHER6)] {
        let steps = [question(to).to_vec(), connected(to).to_vec()].concat();
        let did = scene.app(&script(v6, steps.clone()).bind(bind));
        assert_eq!((did[1].outcome(), last(&did).outcome()), ("world", "world"), "{did:?}");
        // Bound, but to a port of the kernel's choice: a client's.
        let any = bind.replace("5001", "0").replace("5002", "0");
        let did = scene.app(&script(v6, steps).bind(&any));
        assert_eq!((did[0].outcome(), last(&did).outcome()), ("EPERM", "ECONNREFUSED"), "{did:?}");
    }
    for (v6, bind, to) in [(false, "10.77.0.2:0", OTHER4), (true, "[fd77::2]:0", OTHER6)] {
        let did = scene.app(&script(v6, [question(to).to_vec(), connected(to).to_vec()].concat()).bind(bind));
        assert_eq!((did[0].outcome(), last(&did).outcome()), ("EPERM", "ECONNREFUSED"), "{did:?}");
    }
}

#[test]
fn multicast_and_broadcast_are_the_kernels_business() {
    let scene = scene(false, &[]);
    let bare = scene.mesh.bare_twin();
    for (v6, to) in [(false, "224.0.0.251:5353"), (false, "255.255.255.255:9"), (true, "[ff02::fb%2]:5353")] {
        let to = to.replace("%2", "");
        let steps = [Step::SendTo(address(&to), "q".to_owned())];
        let (with, without) = (scene.app(&script(v6, steps.clone())), play(&bare.app(), &script(v6, steps)));
        assert_eq!(with, without, "{to}");
    }
}

#[test]
fn a_server_from_before_a_repeated_add_answers() {
    let scene = scene(false, &[]);
    scene.mesh.node.configure(|entry| entry["udp"] = json!("pass"));
    scene.mesh.add();
    let _app =
        Oracle::start(&scene.mesh.pod.app(), &Answering::at([("app", "0.0.0.0:5000"), ("app", "[::]:5000")]));
    scene.mesh.node.configure(|entry| entry["udp"] = json!("block"));
    scene.mesh.add();
    for (v6, to) in [(false, "10.77.0.2:5000"), (true, "[fd77::2]:5000")] {
        let did = play(&crate::mesh::outside(&scene.mesh.world), &script(v6, question(to)));
        assert_eq!(last(&did).outcome(), "app", "{did:?}");
    }
}

#[test]
fn a_repeated_add_switches_it_on_and_off() {
    let scene = scene(false, &[]);
    let outcome = |scene: &Scene| scene.app(&script(false, question(OTHER4)))[0].outcome().to_owned();
    assert_eq!(outcome(&scene), "EPERM");
    scene.mesh.node.configure(|entry| entry["udp"] = json!("pass"));
    scene.mesh.add();
    assert_eq!(outcome(&scene), "ok");
    scene.mesh.node.configure(|entry| entry["udp"] = json!("block"));
    scene.mesh.add();
    assert_eq!(outcome(&scene), "EPERM");
    scene.mesh.node.del(&scene.mesh.pod);
    assert_eq!(outcome(&scene), "ok");
}
