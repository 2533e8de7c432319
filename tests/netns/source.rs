//! Sockets with a source of their own choice.

use shunt_tests::ask::{Close, Dial, Serve, Try, address};
use shunt_tests::net::Shape;
use shunt_tests::node::Pod;
use shunt_tests::process;

use crate::mesh::{Mesh, SERVICE_MAPPED, SERVICE4, SERVICE6, captured, only};

#[test]
fn a_bound_source_is_kept() {
    let mut mesh = Mesh::new();
    let rows = [
        (SERVICE4, "0.0.0.0:40001", 40001),
        (SERVICE4, "10.77.0.2:40002", 40002),
        (SERVICE4, "10.77.0.2:0", 0),
        (SERVICE6, "[::]:40003", 40003),
        (SERVICE6, "[fd77::2]:40004", 40004),
        (SERVICE6, "[fd77::2]:0", 0),
        (SERVICE_MAPPED, "[::]:40005", 40005),
        (SERVICE_MAPPED, "[::ffff:10.77.0.2]:40006", 40006),
    ];
    for (to, from, port) in rows {
        for no_port in [false, true] {
            let dial = Dial { no_port, ..Dial::to([to]).bind(from).close(Close::Abort) };
            let seen = only(mesh.pod.dial(&dial));
            captured(&seen);
            let local = seen.local.unwrap_or_else(|| panic!("{seen:?}"));
            let v6 = shunt_tests::ask::plain(seen.to).is_ipv6();
            assert_eq!(local.ip(), mesh.pod.ip(v6), "bound to {from}: {seen:?}");
            assert!(port == 0 || local.port() == port, "bound to {from}: {seen:?}");
            assert_eq!(seen.greeted().peer(), local, "the proxy sees the source the app has: {seen:?}");
        }
    }
    mesh.nothing_got_out();
}

fn without_addresses(tries: &[Try]) -> Vec<String> {
    let brief = |seen: &Try| match &seen.error {
        Some((step, error)) => format!("{}: {step} {error}", seen.to),
        None => format!("{}: works", seen.to),
    };
    tries.iter().map(brief).collect()
}

/// What a pod that has us gets must be what one without us gets; returns the former.
#[track_caller]
fn as_without_us(mesh: &Mesh, bare: &Pod, dial: &Dial) -> Vec<Try> {
    let ours = mesh.pod.dial(dial);
    let bare = bare.dial(dial);
    assert_eq!(without_addresses(&ours), without_addresses(&bare), "with us, without us; {dial:?}");
    ours
}

#[test]
fn one_source_port_to_two_destinations_at_once() {
    let mesh = Mesh::new();
    let bare = mesh.bare_twin();
    let rows = [
        (["10.96.0.10:80", "10.96.0.11:80", "10.96.0.10:443"], "0.0.0.0:40001"),
        (["[fd96::10]:80", "[fd96::11]:80", "[fd96::10]:443"], "[::]:40001"),
    ];
    for (to, from) in rows {
        let dial = Dial::to(to).bind(from).reuse_address().close(Close::Never);
        let seen = as_without_us(&mesh, &bare, &dial);
        assert_eq!(seen.len(), 3);
        seen.iter().for_each(captured);
    }
}

#[test]
fn one_source_port_to_one_destination_twice_fails_as_it_does_without_us() {
    let mesh = Mesh::new();
    let bare = mesh.bare_twin();
    for (to, from) in [(SERVICE4, "0.0.0.0:40001"), (SERVICE6, "[::]:40001")] {
        let dial = Dial::to([to, to]).bind(from).reuse_address().close(Close::Never);
        let seen = as_without_us(&mesh, &bare, &dial);
        assert_eq!(seen.iter().filter(|one| one.error.is_some()).count(), 1, "{seen:?}");
    }
}

/// The app aborts, so no side keeps the connection; the next from the same port names its own destination.
#[test]
fn a_four_tuple_is_used_again_after_an_abort() {
    let mesh = Mesh::new();
    let bare = mesh.bare_twin();
    for (one, other, from) in
        [(SERVICE4, "10.96.0.11:80", "0.0.0.0:40001"), (SERVICE6, "[fd96::11]:80", "[::]:40001")]
    {
        let to = [one, other, one, one, other, other, one];
        let dial = Dial::to(to).bind(from).reuse_address().close(Close::Abort);
        let seen = as_without_us(&mesh, &bare, &dial);
        seen.iter().for_each(captured);
    }
}

/// Who keeps `TIME_WAIT` differs between the app closing first and second; what the app gets does not differ by us.
#[test]
fn a_four_tuple_is_used_again_after_a_close() {
    for hang_up in [false, true] {
        let mut mesh = Mesh::before_add(Shape::dual());
        mesh.beyond = process::Server::start(
            &crate::mesh::outside(&mesh.world),
            &Serve { hang_up, ..Serve::at([("world", "0.0.0.0:81"), ("world", "[::]:81")]) },
        );
        mesh.add();
        mesh.proxy =
            Some(process::Server::start(&mesh.pod.proxy(), &Serve { hang_up, ..crate::mesh::everywhere() }));
        let bare = mesh.bare_twin();
        let close = if hang_up { Close::Second } else { Close::First };
        for (to, from) in [("10.96.0.10:81", "0.0.0.0:40001"), ("[fd96::10]:81", "[::]:40001")] {
            let dial = Dial::to([to, to]).bind(from).reuse_address().close(close);
            as_without_us(&mesh, &bare, &dial);
        }
    }
}

/// The proxy's side of a captured connection has a port of our choosing; an app may want that very port.
#[test]
fn an_app_may_bind_the_port_a_captured_connection_uses() {
    let mesh = Mesh::new();
    let held = process::Talking::start(&mesh.pod.app(), &Dial::to([SERVICE4, SERVICE6]));
    for seen in &held.tries {
        captured(seen);
        let taken = seen.greeted().local();
        let any = if taken.is_ipv6() { "[::]" } else { "0.0.0.0" };
        for at in [format!("{any}:{}", taken.port()), taken.to_string()] {
            let serve = Serve { reuse_address: false, ..Serve::at([("app", at.as_str())]) };
            let server = process::Server::try_start(&mesh.pod.app(), &serve);
            assert!(server.is_ok(), "{at}: {server:?}");
        }
    }
}

/// An app that listens in the range we take ports from is still reached, from inside and from outside.
#[test]
fn an_app_may_listen_in_the_range_of_our_ports() {
    let mesh = Mesh::new();
    let _app = mesh.pod.serve(&Serve::at([("app", "0.0.0.0:62000"), ("app", "[::]:62000")]));
    for v6 in [false, true] {
        let own = shunt_tests::ask::at(mesh.pod.ip(v6), 62000);
        assert_eq!(mesh.outcome(&own), "app", "{own}");
        let seen = mesh.arriving(v6, 62000);
        assert_eq!(seen.outcome(), "inbound", "{seen:?}");
        assert_eq!(seen.greeted().local(), address(&own), "{seen:?}");
    }
}
