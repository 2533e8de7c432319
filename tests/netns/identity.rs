//! Who is the proxy, and who only says so.

use shunt_tests::ask::{Dial, Place};
use shunt_tests::node::{APP, PROXY};
use shunt_tests::process;

use crate::mesh::{Mesh, SERVICE4, SERVICES, captured, outcomes};

#[test]
fn any_other_user_is_captured() {
    let mut mesh = Mesh::new();
    for uid in [0, 1, 1000, 1336, 1338, 65534] {
        process::dial(&mesh.pod.place(uid, PROXY), &Dial::to(SERVICES)).iter().for_each(captured);
    }
    mesh.nothing_got_out();
}

/// Inside a user namespace of its own making a process may call itself what it likes.
#[test]
fn a_nested_user_namespace_that_fakes_the_proxys_user_is_captured() {
    let mut mesh = Mesh::new();
    let faker = Place { pretend: Some(PROXY), ..mesh.pod.app() };
    process::dial(&faker, &Dial::to(SERVICES)).iter().for_each(captured);
    mesh.nothing_got_out();
}

#[test]
fn a_setuid_program_of_the_proxys_user_is_captured() {
    let mut mesh = Mesh::new();
    let setuid = Place { euid: Some(PROXY), ..mesh.pod.app() };
    process::dial(&setuid, &Dial::to(SERVICES)).iter().for_each(captured);
    mesh.nothing_got_out();
}

/// In the pod's network but in no pod's cgroup, as a debugger on the node is: the programs sit on `kubepods`, so what
/// it dials goes out directly; what arrives is decided by the namespace and is captured.
#[test]
fn a_process_of_the_node_in_the_pods_network() {
    let mesh = Mesh::new();
    let visitor = Place { cgroup: Some(mesh.node.system_cgroup()), ..mesh.pod.app() };
    let seen = process::dial(&visitor, &Dial::to(SERVICES));
    assert_eq!(outcomes(&seen), ["world"; 3], "{seen:?}");
    assert_eq!(mesh.arriving(false, 8080).outcome(), "inbound");
    assert_eq!(mesh.arriving(true, 8080).outcome(), "inbound");
}

/// The network namespace says which pod it is, not the cgroup.
#[test]
fn a_process_of_another_pod_in_the_pods_network_is_captured() {
    let mut mesh = Mesh::new();
    let other = mesh.bare_twin();
    let visitor = Place { netns: Some(mesh.pod.netns.path().to_owned()), ..other.app() };
    process::dial(&visitor, &Dial::to(SERVICES)).iter().for_each(captured);
    mesh.nothing_got_out();
}

#[test]
fn a_process_of_the_pods_cgroup_in_another_network_is_left_alone() {
    let mesh = Mesh::new();
    let other = mesh.bare_twin();
    let away = Place { netns: Some(other.netns.path().to_owned()), ..mesh.pod.app() };
    assert_eq!(outcomes(&process::dial(&away, &Dial::to(SERVICES))), ["world"; 3]);
}

#[test]
fn pods_without_us_are_left_alone() {
    let mesh = Mesh::new();
    let other = mesh.bare_twin();
    let seen = process::dial(&other.place(APP, APP), &Dial::to(SERVICES));
    assert_eq!(outcomes(&seen), ["world"; 3], "{seen:?}");
}

/// The proxy's cgroup and its user are not what the app can borrow by asking the proxy's port directly.
#[test]
fn the_proxys_outbound_port_from_outside_is_not_a_way_in() {
    let mesh = Mesh::new();
    for v6 in [false, true] {
        let seen = mesh.arriving(v6, 15001);
        assert_ne!(seen.outcome(), "outbound", "{seen:?}");
    }
    captured(&crate::mesh::only(mesh.app([SERVICE4])));
}
