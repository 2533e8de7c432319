//! `beforeProxy`: what an app gets until its proxy has listened for the first time, and that this time does not come back.

use std::fs;

use serde_json::json;
use shunt_tests::ask::{Dial, Serve};
use shunt_tests::datagram::{Oracle, play};
use shunt_tests::net::Shape;
use shunt_tests::process::Server;

use crate::dns::{OTHER4, Scene, last, listening_at, question, script, sockets};
use crate::mesh::{Mesh, SERVICES, captured, everywhere, outcomes, proxy_at};

fn bypassing() -> Mesh {
    let mesh = Mesh::before_add(Shape::dual());
    mesh.node.configure(|entry| entry["beforeProxy"] = json!("bypass"));
    mesh
}

/// The app goes past where the proxy will be.
#[track_caller]
fn passes(mesh: &mut Mesh) {
    assert_eq!(outcomes(&mesh.app(SERVICES)), ["world"; 3]);
    assert_eq!(mesh.beyond.seen().len(), 3);
}

/// The proxy is dead, and the app does not get past where it was.
#[track_caller]
fn is_closed(mesh: &mut Mesh) {
    assert_eq!(outcomes(&mesh.app(SERVICES)), ["ECONNREFUSED"; 3]);
    mesh.nothing_got_out();
}

#[test]
fn an_init_container_goes_out_until_the_proxy_has_listened() {
    let mut mesh = bypassing();
    mesh.add();
    passes(&mut mesh);
    // Again, as long as nobody has listened.
    mesh.add();
    passes(&mut mesh);
    mesh.start_proxy();
    mesh.app(SERVICES).iter().for_each(captured);
    mesh.nothing_got_out();
    mesh.proxy = None;
    is_closed(&mut mesh);
    mesh.add();
    is_closed(&mut mesh);
    mesh.start_proxy();
    mesh.app(SERVICES).iter().for_each(captured);
    mesh.add();
    mesh.app(SERVICES).iter().for_each(captured);
    mesh.nothing_got_out();
}

#[test]
fn closed_is_closed_from_the_start() {
    let mut mesh = Mesh::before_add(Shape::dual());
    mesh.node.configure(|entry| entry["beforeProxy"] = json!("closed"));
    mesh.add();
    is_closed(&mut mesh);
}

/// Only what leaves: nobody reaches an app whose proxy is not there yet.
#[test]
fn what_arrives_waits_for_the_proxy_all_the_same() {
    let mut mesh = bypassing();
    mesh.add();
    let mut app = mesh.pod.serve(&Serve::at([("app", "0.0.0.0:8080"), ("app", "[::]:8080")]));
    for v6 in [false, true] {
        assert_eq!(mesh.arriving(v6, 8080).outcome(), "ECONNREFUSED");
    }
    assert!(app.seen().is_empty());
    passes(&mut mesh);
}

/// The app's own listener on the proxy's port, or the proxy's inbound port alone, is not the proxy listening for what leaves.
#[test]
fn only_the_proxys_outbound_listener_counts() {
    let mut mesh = bypassing();
    mesh.add();
    let impostor = mesh.pod.serve(&everywhere());
    passes(&mut mesh);
    drop(impostor);
    let inbound = Server::start(
        &mesh.pod.proxy(),
        &Serve::at([("inbound", "0.0.0.0:15006"), ("inbound", "[::]:15006")]),
    );
    passes(&mut mesh);
    drop(inbound);
    // One family of it is enough: from here on the other is refused.
    mesh.proxy = Some(Server::start(&mesh.pod.proxy(), &proxy_at(&["127.0.0.1"])));
    assert_eq!(outcomes(&mesh.app(SERVICES)), ["outbound", "ECONNREFUSED", "outbound"]);
    mesh.nothing_got_out();
}

/// An app that holds the proxy's port keeps the proxy away, and gains nothing by it.
#[test]
fn a_proxy_that_cannot_have_its_port_ends_it_too() {
    let mut mesh = bypassing();
    mesh.add();
    let squatter = mesh.pod.serve(&everywhere());
    passes(&mut mesh);
    for ips in [["127.0.0.1"], ["0.0.0.0"]] {
        Server::try_start(&mesh.pod.proxy(), &proxy_at(&ips)).expect_err("the port is taken");
        is_closed(&mut mesh);
    }
    drop(squatter);
    is_closed(&mut mesh);
    mesh.start_proxy();
    mesh.app(SERVICES).iter().for_each(captured);
    mesh.nothing_got_out();
}

#[test]
fn it_begins_anew_with_a_new_pod() {
    let mut mesh = bypassing();
    mesh.add();
    mesh.start_proxy();
    mesh.app(SERVICES).iter().for_each(captured);
    mesh.proxy = None;
    is_closed(&mut mesh);
    mesh.node.del(&mesh.pod);
    mesh.add();
    passes(&mut mesh);
}

#[test]
fn it_is_about_one_pod() {
    let mut mesh = bypassing();
    mesh.add();
    let other = mesh.node.pod(&mesh.world, Shape::dual().numbered(9));
    mesh.node.add(&other);
    let _others_proxy = Server::start(&other.proxy(), &everywhere());
    passes(&mut mesh);
}

/// An upgrade brings another object. The pod stays with the one that knows its proxy, beside new pods under the new one.
#[test]
fn after_an_upgrade_a_proxy_that_was_seen_is_remembered() {
    const OLD: &str = "0123456789abcdef";
    let mut mesh = bypassing();
    mesh.add();
    passes(&mut mesh);
    mesh.start_proxy();
    mesh.app(SERVICES).iter().for_each(captured);
    let hash = entries(mesh.node.bpf_dir()).into_iter().next().expect("an object is loaded");
    fs::rename(mesh.node.bpf_dir().join(&hash), mesh.node.bpf_dir().join(OLD)).expect("own pins");
    for path in mesh
        .node
        .kept()
        .into_iter()
        .filter(|path| path.components().any(|part| part.as_os_str() == "attachments"))
    {
        let text = fs::read_to_string(&path).expect("own records");
        fs::write(&path, text.replace(&hash, OLD)).expect("own records");
    }
    let new = mesh.node.pod(&mesh.world, Shape::dual().numbered(9));
    mesh.node.add(&new);
    assert!(mesh.node.bpf_dir().join(&hash).is_dir() && mesh.node.bpf_dir().join(OLD).is_dir());
    for again in [false, true] {
        if again {
            mesh.add();
        }
        mesh.app(SERVICES).iter().for_each(captured);
        assert_eq!(mesh.arriving(false, 8080).outcome(), "inbound");
        mesh.nothing_got_out();
        // The new pod's time before its proxy is its own.
        let seen = shunt_tests::process::dial(&new.app(), &Dial::to(SERVICES));
        assert_eq!(outcomes(&seen), ["world"; 3]);
        mesh.beyond.seen();
        mesh.proxy = None;
        is_closed(&mut mesh);
        mesh.start_proxy();
    }
    let news = Server::start(&new.proxy(), &everywhere());
    shunt_tests::process::dial(&new.app(), &Dial::to(SERVICES)).iter().for_each(captured);
    mesh.app(SERVICES).iter().for_each(captured);
    drop(news);
    let seen = shunt_tests::process::dial(&new.app(), &Dial::to(SERVICES));
    assert_eq!(outcomes(&seen), ["ECONNREFUSED"; 3]);
    // The old object goes with its last pod.
    mesh.node.del(&mesh.pod);
    assert!(!mesh.node.bpf_dir().join(OLD).exists(), "{}", mesh.node.log());
    mesh.nothing_got_out();
}

/// What the kernel knew of a pod is gone with another version's programs. The pod may have had a proxy: closed.
#[test]
fn after_an_upgrade_that_keeps_nothing_it_is_closed() {
    for with_record in [true, false] {
        let mut mesh = bypassing();
        mesh.add();
        passes(&mut mesh);
        for hash in entries(mesh.node.bpf_dir()) {
            let old = mesh.node.bpf_dir().join(&hash);
            fs::rename(&old, mesh.node.bpf_dir().join("0123456789abcdef")).expect("own pins");
        }
        if !with_record {
            fs::remove_dir_all(mesh.node.directory().join("state/attachments")).expect("own records");
        }
        mesh.add();
        is_closed(&mut mesh);
        mesh.start_proxy();
        mesh.app(SERVICES).iter().for_each(captured);
        mesh.nothing_got_out();
    }
}

fn entries(dir: &std::path::Path) -> Vec<String> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect()
}

#[test]
fn dns_and_other_udp_pass_until_then_too() {
    let mut scene = Scene::before_add(Shape::dual());
    scene.mesh.node.configure(|entry| {
        entry["beforeProxy"] = json!("bypass");
        entry["udp"] = json!("block");
    });
    scene.mesh.add();
    let tcp = |scene: &Scene| outcomes(&scene.mesh.app(SERVICES)).join(" ");
    let dns = |scene: &Scene, (v6, server): (bool, &str)| {
        last(&scene.app(&script(v6, question(server)).impatient())).outcome().to_owned()
    };
    let other = |scene: &Scene| scene.app(&script(false, question(OTHER4)))[0].outcome().to_owned();

    assert_eq!((tcp(&scene).as_str(), other(&scene).as_str()), ("world world world", "ok"));
    for socket in sockets() {
        assert_eq!(dns(&scene, socket), "world");
    }
    // The DNS listener alone does not end it.
    scene.proxy = Some(Oracle::start(&scene.mesh.pod.proxy(), &listening_at(&["127.0.0.1", "[::1]"])));
    for socket in sockets() {
        assert_eq!(dns(&scene, socket), "world");
    }
    scene.mesh.start_proxy();
    for socket in sockets() {
        assert_eq!(dns(&scene, socket), "dns");
    }
    assert_eq!((tcp(&scene).as_str(), other(&scene).as_str()), ("outbound outbound outbound", "EPERM"));
    scene.world.asked();
    (scene.mesh.proxy, scene.proxy) = (None, None);
    for socket in sockets() {
        assert_eq!(dns(&scene, socket), "EAGAIN");
    }
    assert_eq!(other(&scene), "EPERM");
    scene.nothing_got_out();
    let proxys = play(&scene.mesh.pod.proxy(), &script(false, question(OTHER4)));
    assert_eq!(last(&proxys).outcome(), "world", "the proxy itself is never held");
}
