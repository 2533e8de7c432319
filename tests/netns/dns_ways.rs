//! DNS in pods of other shapes, with proxies of other habits, and over its life.

use serde_json::json;
use shunt_tests::ask::{address, plain};
use shunt_tests::datagram::{Answering, Script, Step, play};
use shunt_tests::net::Shape;

use crate::dns::{Scene, answered, last, listening_at, question, script, sockets};

/// Asked unconnected and connected, from sockets of every kind.
#[track_caller]
fn served(scene: &mut Scene, sockets: &[(bool, &str)], proxy: &Answering) {
    for (v6, server) in sockets {
        let connected = [Step::Connect(address(server)), Step::Send("q".to_owned()), Step::Receive];
        let steps = [question(server).to_vec(), connected.to_vec()].concat();
        let did = scene.app(&script(*v6, steps));
        let [_, unconnected, _, _, connected] = did.as_slice() else { panic!("five steps: {did:?}") };
        for received in [unconnected, connected] {
            assert_eq!(received.outcome(), "dns", "{server}, {proxy:?}: {did:?}");
            assert_eq!(received.got().from, Some(plain(address(server))), "{proxy:?}: {received:?}");
        }
    }
    scene.nothing_got_out();
}

#[test]
fn wherever_the_proxy_listens_and_however_it_answers() {
    for ips in [&["127.0.0.1", "[::1]"] as &[&str], &["0.0.0.0", "[::]"]] {
        for exact in [false, true] {
            let mut scene = Scene::before_add(Shape::dual());
            scene.mesh.add();
            let answering = Answering { exact, ..listening_at(ips) };
            scene.start(&answering);
            served(&mut scene, &sockets(), &answering);
        }
    }
}

#[test]
fn one_listener_for_both_families() {
    for exact in [false, true] {
        let mut scene = Scene::before_add(Shape::dual());
        scene.mesh.add();
        let answering = Answering { exact, only_v6: false, ..listening_at(&["[::]"]) };
        scene.start(&answering);
        served(&mut scene, &sockets(), &answering);
    }
}

#[test]
fn pods_of_one_family() {
    let mut scene = Scene::before_add(Shape::only_v4());
    scene.mesh.add();
    let answering = listening_at(&["127.0.0.1"]);
    scene.start(&answering);
    served(&mut scene, &[(false, "10.96.0.53:53"), (true, "[::ffff:10.96.0.53]:53")], &answering);
    let did = scene.app(&Script::v6(question("[fd96::53]:53")).impatient());
    assert_eq!(did[0].outcome(), "ENETUNREACH", "as without us");

    let mut scene = Scene::before_add(Shape::only_v6());
    scene.mesh.add();
    let answering = listening_at(&["[::1]"]);
    scene.start(&answering);
    served(&mut scene, &[(true, "[fd96::53]:53")], &answering);
}

/// A socket bound to a device cannot reach the loopback address a proxy listens on; REDIRECT rules lose such queries too. The
/// app gets an error or nothing, and nothing gets out.
#[test]
fn a_socket_bound_to_a_device_is_not_served_and_does_not_get_out() {
    let mut scene = Scene::new();
    let root = scene.mesh.pod.place(0, 0);
    for (v6, server) in sockets() {
        let unconnected = Script { device: Some("eth0".to_owned()), ..script(v6, question(server)) };
        let connected = [Step::Connect(address(server)), Step::Send("q".to_owned()), Step::Receive];
        let connected = Script { steps: connected.to_vec(), ..unconnected.clone() };
        for script in [unconnected, connected] {
            let did = play(&root, &script.impatient());
            assert!(did.iter().any(|did| did.error.is_some()), "{server}: {did:?}");
        }
    }
    scene.nothing_got_out();
}

#[test]
fn a_dead_dns_listener_is_refused_or_silent_as_a_dead_server_is() {
    let mut scene = Scene::new();
    scene.proxy = None;
    for _round in 0..2 {
        for (v6, server) in sockets() {
            let did = scene.app(&script(v6, question(server)).impatient());
            assert_eq!(last(&did).outcome(), "EAGAIN", "unconnected, {server}: {did:?}");
            let connected = [Step::Connect(address(server)), Step::Send("q".to_owned()), Step::Receive];
            let did = scene.app(&script(v6, connected).impatient());
            assert_eq!(last(&did).outcome(), "ECONNREFUSED", "connected, {server}: {did:?}");
        }
        scene.nothing_got_out();
        let answering = listening_at(&["127.0.0.1", "[::1]"]);
        scene.start(&answering);
        served(&mut scene, &sockets(), &answering);
        scene.proxy = None;
    }
}

fn has_marker_route(scene: &Scene) -> bool {
    scene
        .mesh
        .pod
        .netns
        .run("ip", &["-6", "route", "show", "table", "local"], "")
        .contains("::7f35:0:0:0/124")
}

#[test]
fn the_markers_route_comes_with_add_and_goes_with_del() {
    let mut scene = Scene::before_add(Shape::dual());
    assert!(!has_marker_route(&scene));
    let check = |scene: &Scene| scene.mesh.node.call("CHECK", &scene.mesh.pod, "eth0");
    for _again in 0..2 {
        scene.mesh.add();
        assert!(has_marker_route(&scene));
        check(&scene).ok();
    }
    scene.mesh.pod.netns.ip("route del local ::7f35:0:0:0/124 dev lo table local\n");
    assert!(check(&scene).refused().1.contains("::7f35:0:0:0/124"), "CHECK names what is gone");
    scene.mesh.add();
    check(&scene).ok();
    let answering = listening_at(&["127.0.0.1", "[::1]"]);
    scene.start(&answering);
    served(&mut scene, &sockets(), &answering);
    scene.mesh.node.del(&scene.mesh.pod);
    assert!(!has_marker_route(&scene), "it is left");
    for (v6, server) in sockets() {
        assert_eq!(last(&scene.app(&script(v6, question(server)))).outcome(), "world", "{server}");
    }
    scene.mesh.node.configure(|entry| entry["captureDns"] = json!(false));
    scene.mesh.add();
    assert!(!has_marker_route(&scene), "nobody needs it");
    assert_eq!(last(&scene.app(&Script::v4(question("10.96.0.53:53")))).outcome(), "world");
}

/// The second ADD finds the route there, and whoever made it keeps it.
#[test]
fn a_route_that_was_there_stays() {
    let scene = Scene::before_add(Shape::dual());
    scene.mesh.pod.netns.ip("route add local ::7f35:0:0:0/124 dev lo table local\n");
    scene.mesh.add();
    scene.mesh.node.del(&scene.mesh.pod);
    assert!(has_marker_route(&scene), "it was not ours");
}

#[test]
fn a_pod_without_ipv6_needs_no_route() {
    let scene = Scene::before_add(Shape::only_v4());
    scene.mesh.add();
    assert!(!has_marker_route(&scene));
}

/// Servers reached over either interface.
#[test]
fn a_pod_with_two_interfaces() {
    let mut scene = Scene::before_add(Shape::two_interfaces());
    scene.mesh.add();
    let answering = listening_at(&["127.0.0.1", "[::1]"]);
    scene.start(&answering);
    served(
        &mut scene,
        &[(false, "10.77.0.1:53"), (false, "10.78.0.1:53"), (true, "[fd77::1]:53"), (true, "[fd78::1]:53")],
        &answering,
    );
    let steps = [Step::Connect(address("10.78.0.1:53")), Step::Names];
    let did = scene.app(&Script::v4(steps));
    assert_eq!(last(&did).local().map(|at| at.ip().to_string()).as_deref(), Some("10.78.0.2"));
    answered(last(&scene.app(&Script::v4(question("10.78.0.1:53")))), "10.78.0.1:53");
}

#[test]
fn a_server_over_an_excluded_interface_is_asked_itself() {
    let mut scene = Scene::before_add(Shape::two_interfaces());
    scene.mesh.node.redirect("excludeInterfaces", json!(["net1"]));
    scene.mesh.node.configure(|entry| entry["udp"] = json!("block"));
    scene.mesh.add();
    scene.start(&listening_at(&["127.0.0.1", "[::1]"]));
    for (v6, server, other, by, error) in [
        (false, "10.78.0.1:53", "10.78.0.1:9999", "world", "ok"),
        (true, "[fd78::1]:53", "[fd78::1]:9999", "world", "ok"),
        (false, "10.77.0.1:53", "10.77.0.1:9999", "dns", "EPERM"),
        (true, "[fd77::1]:53", "[fd77::1]:9999", "dns", "EPERM"),
    ] {
        assert_eq!(last(&scene.app(&script(v6, question(server)))).outcome(), by, "{server}");
        assert_eq!(scene.app(&script(v6, question(other)))[0].outcome(), error, "{other}");
    }
}

/// The exempt group counts for UDP as it does for TCP.
#[test]
fn a_group_may_be_exempt_instead_of_a_user() {
    let scene = Scene::before_add(Shape::dual());
    scene.mesh.node.redirect("proxyUids", json!([]));
    scene.mesh.node.redirect("proxyGids", json!([3000]));
    scene.mesh.node.configure(|entry| entry["udp"] = json!("block"));
    scene.mesh.add();
    for (uid, gid, error, by) in [(5, 3000, "ok", "world"), (3000, 5, "EPERM", "EAGAIN")] {
        let place = scene.mesh.pod.place(uid, gid);
        let did = play(&place, &Script::v4(question("10.96.0.10:9999")).impatient());
        assert_eq!(did[0].outcome(), error);
        let did = play(&place, &Script::v4(question("10.96.0.53:53")).impatient());
        assert_eq!(last(&did).outcome(), by);
    }
}

/// The one difference an app can see: a socket that has a port already and no address gets a loopback one when it is connected to
/// a server, and has to be dissolved before it is connected somewhere else. Without us it need not be.
#[test]
fn a_socket_with_a_port_connected_to_a_server_must_be_dissolved_first() {
    let mut scene = Scene::new();
    for (v6, bind, server, other) in [
        (false, "0.0.0.0:40011", "10.96.0.53:53", "10.96.0.10:9999"),
        (true, "[::]:40012", "[fd96::53]:53", "[fd96::10]:9999"),
    ] {
        let connect = |to: &str| [Step::Connect(address(to)), Step::Send("q".to_owned()), Step::Receive];
        let steps = [connect(server).to_vec(), vec![Step::Dissolve], connect(other).to_vec()].concat();
        let did = scene.app(&script(v6, steps).bind(bind));
        answered(&did[2], server);
        assert_eq!(last(&did).outcome(), "world", "{did:?}");
        let did = scene.app(&script(v6, [connect(server), connect(other)].concat()).bind(bind).impatient());
        answered(&did[2], server);
        assert_ne!(last(&did).outcome(), "world", "it works: say so in the documentation: {did:?}");
    }
    scene.world.asked();
}
