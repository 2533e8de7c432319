//! Where the proxy listens, who accepts, and what happens when nobody does.

use std::fs;

use shunt::bpf::pins::Layout;
use shunt_abi::names;
use shunt_tests::ask::{Dial, Many, Place, Serve};
use shunt_tests::net::Shape;
use shunt_tests::process::{Server, dial_many};

use crate::mesh::{
    Mesh, SERVICE_MAPPED, SERVICE4, SERVICE6, SERVICES, captured, everywhere, outcome, outcomes, proxy_at,
};

fn with_proxy(serve: &Serve) -> Mesh {
    let mut mesh = Mesh::before_add(Shape::dual());
    mesh.add();
    mesh.proxy = Some(Server::start(&mesh.pod.proxy(), serve));
    mesh
}

#[test]
fn a_proxy_is_found_wherever_it_listens() {
    let dual = |ips: &[&str]| Serve { only_v6: false, ..proxy_at(ips) };
    let rows: [(&str, Serve, &[&str]); 8] = [
        ("127.0.0.1", proxy_at(&["127.0.0.1"]), &[SERVICE4, SERVICE_MAPPED]),
        ("0.0.0.0", proxy_at(&["0.0.0.0"]), &[SERVICE4, SERVICE_MAPPED]),
        ("10.77.0.2", proxy_at(&["10.77.0.2"]), &[SERVICE4, SERVICE_MAPPED]),
        ("[::1]", proxy_at(&["[::1]"]), &[SERVICE6]),
        (":: for its own family", proxy_at(&["[::]"]), &[SERVICE6]),
        (":: for both", dual(&["[::]"]), &SERVICES),
        ("0.0.0.0 and ::", everywhere(), &SERVICES),
        ("127.0.0.1 and ::1", proxy_at(&["127.0.0.1", "[::1]"]), &SERVICES),
    ];
    for (place, serve, reached) in rows {
        let mut mesh = with_proxy(&serve);
        for to in SERVICES {
            let seen = crate::mesh::only(mesh.app([to]));
            if reached.contains(&to) {
                captured(&seen);
            } else {
                assert_eq!(seen.outcome(), "ECONNREFUSED", "proxy at {place}: {seen:?}");
            }
        }
        for v6 in [false, true] {
            let seen = mesh.arriving(v6, 8080);
            let expected = reached.contains(&if v6 { SERVICE6 } else { SERVICE4 });
            assert_eq!(
                seen.outcome(),
                if expected { "inbound" } else { "ECONNREFUSED" },
                "proxy at {place}: {seen:?}"
            );
        }
        mesh.nothing_got_out();
    }
}

#[test]
fn workers_that_share_a_port_all_get_some() {
    let mut serve = everywhere();
    (serve.workers, serve.quiet) = (4, true);
    let mesh = with_proxy(&serve);
    let seen = mesh.app([SERVICE4; 200]);
    seen.iter().for_each(captured);
    let mut pids: Vec<u32> = seen.iter().map(|one| one.greeted().pid).collect();
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 4, "of four workers these answered: {pids:?}");
    let sum = dial_many(&mesh.pod.app(), &Dial::to([SERVICE6]).many(Many::AtOnce(500)));
    crate::mesh::all_exact(&sum, "outbound", 500);
}

#[test]
fn one_process_binds_and_another_accepts() {
    let mut mesh = with_proxy(&Serve { hand_over: true, ..everywhere() });
    for seen in mesh.app(SERVICES) {
        captured(&seen);
    }
    assert_eq!(mesh.arriving(false, 8080).outcome(), "inbound");
    mesh.nothing_got_out();
}

#[test]
fn a_proxy_that_does_not_set_reuse_address() {
    let mesh = with_proxy(&Serve { reuse_address: false, ..everywhere() });
    mesh.app(SERVICES).iter().for_each(captured);
}

#[test]
fn before_the_proxy_listens_nothing_gets_out() {
    let mut mesh = Mesh::before_add(Shape::dual());
    mesh.add();
    assert_eq!(outcomes(&mesh.app(SERVICES)), ["ECONNREFUSED"; 3]);
    mesh.start_proxy();
    mesh.app(SERVICES).iter().for_each(captured);
    mesh.nothing_got_out();
}

#[test]
fn a_dead_proxy_means_refused_in_both_directions() {
    let mut mesh = Mesh::new();
    mesh.app(SERVICES).iter().for_each(captured);
    let mut app = mesh.pod.serve(&Serve::at([("app", "0.0.0.0:8080"), ("app", "[::]:8080")]));
    mesh.proxy = None;
    assert_eq!(outcomes(&mesh.app(SERVICES)), ["ECONNREFUSED"; 3]);
    for v6 in [false, true] {
        let seen = mesh.arriving(v6, 8080);
        assert_eq!(seen.outcome(), "ECONNREFUSED", "{seen:?}");
    }
    assert!(app.seen().is_empty(), "the app was reached past the proxy");
    mesh.nothing_got_out();
}

/// A pod's own program only says whose a connection is. Without the one that decides, which goes when somebody removes the pin that
/// holds it, nothing gets to the app and nothing out.
#[test]
fn a_pod_is_closed_when_the_program_that_decides_is_gone() {
    let mut mesh = Mesh::new();
    let mut app = mesh.pod.serve(&Serve::at([("app", "0.0.0.0:8080"), ("app", "[::]:8080")]));
    mesh.app(SERVICES).iter().for_each(captured);
    let layouts = Layout::all(mesh.node.bpf_dir()).expect("pins can be listed");
    assert_eq!(layouts.len(), 1, "one object is loaded");
    for layout in layouts {
        fs::remove_file(layout.map(names::LOOKUPS)).expect("the map is pinned");
    }
    assert_eq!(outcomes(&mesh.app(SERVICES)), ["ECONNREFUSED"; 3]);
    for v6 in [false, true] {
        assert_eq!(mesh.arriving(v6, 8080).outcome(), "ECONNREFUSED");
    }
    assert!(app.seen().is_empty(), "the app was reached past the proxy");
    mesh.nothing_got_out();
}

#[test]
fn a_restarted_proxy_is_found() {
    let mut mesh = Mesh::new();
    for _round in 0..3 {
        mesh.app(SERVICES).iter().for_each(captured);
        mesh.proxy = None;
        assert_eq!(outcomes(&mesh.app(SERVICES)), ["ECONNREFUSED"; 3]);
        mesh.start_proxy();
    }
    mesh.app(SERVICES).iter().for_each(captured);
    mesh.nothing_got_out();
}

/// The old process drains: its listeners are closed, its connections live.
#[test]
fn a_new_listener_replaces_an_old_one_that_drains() {
    let mut mesh = Mesh::new();
    let mut held = shunt_tests::process::Talking::start(&mesh.pod.app(), &Dial::to(SERVICES));
    held.tries.iter().for_each(captured);
    let mut old = mesh.proxy.take();
    if let Some(old) = &mut old {
        old.stop_listening();
    }
    assert_eq!(outcome(&mesh.app([SERVICE4])), "ECONNREFUSED");
    mesh.start_proxy();
    let fresh = mesh.app(SERVICES);
    fresh.iter().for_each(captured);
    let old_pid = held.tries.first().map(|seen| seen.greeted().pid);
    assert!(
        fresh.iter().all(|seen| Some(seen.greeted().pid) != old_pid),
        "the old one was given new connections"
    );
    assert_eq!(held.echo(), ["same"; 3], "connections of the old one live on");
    mesh.nothing_got_out();
}

/// More workers than there are places for, family after family, and another such process that takes over.
#[test]
fn many_workers_and_a_hot_restart_of_them() {
    let mut mesh = Mesh::before_add(Shape::dual());
    mesh.add();
    let start = |mesh: &Mesh| {
        ["0.0.0.0", "[::]"].map(|ip| {
            let mut serve = proxy_at(&[ip]);
            (serve.workers, serve.quiet) = (12, true);
            Server::start(&mesh.pod.proxy(), &serve)
        })
    };
    let works = |mesh: &Mesh| {
        mesh.app(SERVICES).iter().for_each(captured);
        for v6 in [false, true] {
            assert_eq!(mesh.arriving(v6, 8080).outcome(), "inbound");
        }
    };
    let old = start(&mesh);
    works(&mesh);
    let seen = mesh.app([SERVICE4; 300]);
    let pids: std::collections::BTreeSet<u32> = seen.iter().map(|one| one.greeted().pid).collect();
    assert_eq!(pids.len(), 12, "of twelve workers these answered: {pids:?}");
    // The new one gives up again; the next one stays.
    let given_up = start(&mesh);
    works(&mesh);
    drop(given_up);
    works(&mesh);
    let new = start(&mesh);
    drop(old);
    works(&mesh);
    drop(new);
    assert_eq!(outcomes(&mesh.app(SERVICES)), ["ECONNREFUSED"; 3]);
    mesh.nothing_got_out();
}

/// A sidecar that is an init container starts before the others; its container may be started again, in a cgroup of its own.
#[test]
fn a_native_sidecar_serves_the_init_containers_after_it() {
    for before_proxy in ["closed", "bypass"] {
        let mut mesh = Mesh::before_add(Shape::dual());
        mesh.node.configure(|entry| entry["beforeProxy"] = serde_json::json!(before_proxy));
        mesh.add();
        for round in 0..2 {
            let cgroup = mesh.pod.cgroup.join(format!("sidecar{round}"));
            fs::create_dir_all(&cgroup).expect("root may make cgroups");
            let place = Place { cgroup: Some(cgroup), ..mesh.pod.proxy() };
            mesh.proxy = Some(Server::start(&place, &everywhere()));
            for init in [mesh.pod.place(0, 0), mesh.pod.app()] {
                shunt_tests::process::dial(&init, &Dial::to(SERVICES)).iter().for_each(captured);
            }
            mesh.proxy = None;
            let init = mesh.pod.place(0, 0);
            let seen = shunt_tests::process::dial(&init, &Dial::to(SERVICES));
            assert_eq!(outcomes(&seen), ["ECONNREFUSED"; 3], "{before_proxy}");
        }
        mesh.nothing_got_out();
    }
}

/// A hot restart: the new process listens beside the old one before the old one stops.
#[test]
fn a_hot_restart_loses_nothing() {
    let mut mesh = Mesh::before_add(Shape::dual());
    mesh.add();
    let mut serve = everywhere();
    (serve.workers, serve.quiet) = (2, true);
    let old = Server::start(&mesh.pod.proxy(), &serve);
    mesh.app([SERVICE4; 20]).iter().for_each(captured);
    let new = Server::start(&mesh.pod.proxy(), &serve);
    mesh.app([SERVICE4; 20]).iter().for_each(captured);
    drop(old);
    mesh.app([SERVICE4; 20]).iter().for_each(captured);
    mesh.app([SERVICE6; 20]).iter().for_each(captured);
    drop(new);
    assert_eq!(mesh.outcome(SERVICE4), "ECONNREFUSED");
    mesh.nothing_got_out();
}
