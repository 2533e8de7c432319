//! What arrives: the proxy first, as if it had listened on the app's address itself.

use shunt_tests::ask::{Dial, Serve, address, at};
use shunt_tests::net::Shape;
use shunt_tests::process::{self, Talking};

use crate::mesh::{Mesh, outcome, outside};

const APP_PORT: u16 = 8080;

fn app_everywhere() -> Serve {
    Serve::at([("app", "0.0.0.0:8080"), ("app", "[::]:8080")])
}

#[test]
fn what_arrives_goes_to_the_proxy_under_its_own_destination() {
    let mesh = Mesh::new();
    let mut app = mesh.pod.serve(&app_everywhere());
    for (v6, gateway) in [(false, "10.77.0.1"), (true, "fd77::1")] {
        let seen = mesh.arriving(v6, APP_PORT);
        assert_eq!(seen.outcome(), "inbound", "{seen:?}");
        let greeting = seen.greeted();
        let dialled = address(&at(mesh.pod.ip(v6), APP_PORT));
        assert_eq!(greeting.local(), dialled, "the local address is the original destination");
        assert_eq!(greeting.original(), Some(dialled), "proxies ask SO_ORIGINAL_DST and must be told");
        assert_eq!(greeting.peer().ip().to_string(), gateway, "the source is the caller's own");
        assert_eq!(seen.peer, Some(dialled), "the caller sees whom it called");
    }
    assert!(app.seen().is_empty(), "the app was reached past the proxy");
}

#[test]
fn any_port_goes_to_the_proxy_whether_or_not_an_app_listens() {
    let mesh = Mesh::new();
    for port in [1, 22, 8080, 15006, 15001, 61000, 65535] {
        for v6 in [false, true] {
            let seen = mesh.arriving(v6, port);
            assert_eq!(seen.outcome(), "inbound", "{port}: {seen:?}");
            assert_eq!(seen.greeted().local().port(), port, "{seen:?}");
        }
    }
}

/// The pass-through call of a proxy: from `127.0.0.6` or `::6` to the app's own address.
#[test]
fn the_proxy_hands_on_to_the_app() {
    let mesh = Mesh::before_add(Shape::dual());
    mesh.pod.netns.ip("addr add ::6/128 dev lo nodad");
    mesh.add();
    let mut mesh = mesh;
    mesh.start_proxy();
    let _app = mesh.pod.serve(&app_everywhere());
    for (v6, source) in [(false, "127.0.0.6:0"), (true, "[::6]:0")] {
        let dial = Dial::to([at(mesh.pod.ip(v6), APP_PORT)]).bind(source);
        let seen = process::dial(&mesh.pod.proxy(), &dial);
        assert_eq!(outcome(&seen), "app", "{seen:?}");
    }
}

/// While the proxy serves a connection to the app's port, the app stops and starts again.
#[test]
fn an_app_without_reuse_address_starts_again_while_connections_hold_its_port() {
    let mesh = Mesh::new();
    let bare = mesh.bare_twin();
    for ip in ["0.0.0.0", "[::]", "10.77.0.2", "[fd77::2]"] {
        let v6 = ip.starts_with('[');
        let held = Talking::start(&outside(&mesh.world), &Dial::to([at(mesh.pod.ip(v6), APP_PORT)]));
        assert_eq!(outcome(&held.tries), "inbound");
        let here = format!("{ip}:{APP_PORT}");
        let serve = Serve { reuse_address: false, ..Serve::at([("app", here.as_str())]) };
        let started = process::Server::try_start(&mesh.pod.app(), &serve);
        assert!(started.is_ok(), "{here}: {started:?}");
    }
    // The same app binds where nobody has been: what it gets with us is what it gets without.
    let serve = Serve { reuse_address: false, ..app_everywhere() };
    assert!(process::Server::try_start(&bare.app(), &serve).is_ok());
}

/// Two servers of the app cannot have one port, with us as without.
#[test]
fn a_port_that_is_taken_stays_taken() {
    let mesh = Mesh::new();
    let serve = Serve { reuse_address: false, ..Serve::at([("app", "0.0.0.0:8080")]) };
    let _first = mesh.pod.serve(&serve);
    let second = process::Server::try_start(&mesh.pod.app(), &serve).map(drop);
    assert_eq!(second, Err("bind EADDRINUSE".to_owned()));
}

#[test]
fn lengths_of_the_original_destination() {
    let mut mesh = Mesh::before_add(Shape::dual());
    mesh.beyond = process::Server::start(
        &outside(&mesh.world),
        &Serve {
            lengths: true,
            only_v6: false,
            ..Serve::at([("world", "[::]:81"), ("world", "0.0.0.0:82")])
        },
    );
    // What the kernel itself says of level 41 on a v4 socket.
    let kernels_own = level_41(&mesh.app(["10.96.0.10:82"]));
    mesh.add();
    let everywhere = crate::mesh::everywhere();
    mesh.proxy = Some(process::Server::start(&mesh.pod.proxy(), &Serve { lengths: true, ..everywhere }));

    let v4 = mesh.app(["10.96.0.10:80"]);
    let lengths = crate::mesh::only(v4.clone()).greeted().lengths.clone();
    for room in [16, 28, 32, 128, 4096, 8192] {
        assert!(lengths.split(',').any(|part| part == format!("0/{room}=16")), "v4: {lengths}");
    }
    assert_eq!(level_41(&v4), kernels_own, "level 41 on a v4 socket is the kernel's own affair");

    let lengths = crate::mesh::only(mesh.app(["[fd96::10]:80"])).greeted().lengths.clone();
    for room in [28, 32, 128, 4096, 8192] {
        assert!(lengths.split(',').any(|part| part == format!("41/{room}=28")), "v6: {lengths}");
    }
}

fn level_41(tries: &[shunt_tests::ask::Try]) -> Vec<String> {
    let lengths = crate::mesh::only(tries.to_vec()).greeted().lengths.clone();
    lengths.split(',').filter(|part| part.starts_with("41/")).map(str::to_owned).collect()
}
