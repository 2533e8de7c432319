//! Every form of connect an app can use reaches the proxy with its destination.

use shunt_tests::ask::{Dial, How, plain};

use crate::mesh::{Mesh, SERVICE4, SERVICE6, SERVICES, captured};

#[test]
fn each_family_is_captured_and_sees_what_it_would_see_without_us() {
    let mut mesh = Mesh::new();
    for seen in mesh.app(SERVICES) {
        captured(&seen);
        let v6 = plain(seen.to).is_ipv6();
        assert_eq!(seen.peer, Some(plain(seen.to)), "getpeername names the service: {seen:?}");
        assert_eq!(
            seen.local.map(|at| at.ip()),
            Some(mesh.pod.ip(v6)),
            "the source is the pod's own: {seen:?}"
        );
        assert_eq!(Some(seen.greeted().peer()), seen.local, "the proxy sees the app's own address: {seen:?}");
    }
    mesh.nothing_got_out();
}

fn form(how: How, peer_is_kept: bool) {
    let mut mesh = Mesh::new();
    // Three times each: a second Fast Open carries data in its SYN, the first only asks for the cookie.
    let to = SERVICES.iter().flat_map(|to| [to; 3]);
    for seen in mesh.pod.dial(&Dial::to(to).how(how)) {
        captured(&seen);
        assert!(!peer_is_kept || seen.peer == Some(plain(seen.to)), "getpeername: {seen:?}");
    }
    mesh.nothing_got_out();
}

#[test]
fn non_blocking_connect() {
    form(How::NonBlocking, true);
}

#[test]
fn fast_open_by_connect() {
    form(How::FastOpenConnect, true);
}

#[test]
fn fast_open_by_send() {
    form(How::FastOpenSend, true);
}

/// The subflow's address is what getpeername tells of MPTCP: a limit that is documented.
#[test]
fn multipath_tcp() {
    form(How::Mptcp, false);
}

#[test]
fn a_socket_bound_to_a_device() {
    let mut mesh = Mesh::new();
    let dial = Dial { device: Some("eth0".to_owned()), ..Dial::to(SERVICES) };
    // Binding to a device is for root until 5.7 and for all since; root keeps the test about one thing.
    for seen in shunt_tests::process::dial(&mesh.pod.place(0, 0), &dial) {
        captured(&seen);
    }
    mesh.nothing_got_out();
}

#[test]
fn a_reply_of_any_size_comes_back_whole_and_both_ways_work() {
    let mesh = Mesh::new();
    let mut talking = shunt_tests::process::Talking::start(&mesh.pod.app(), &Dial::to([SERVICE4, SERVICE6]));
    talking.tries.iter().for_each(captured);
    for _round in 0..3 {
        assert_eq!(talking.echo(), ["same"; 2]);
    }
}

/// With connection tracking in the pod the kernel has an answer of its own to `SO_ORIGINAL_DST`, and it is not ours.
#[test]
fn connection_tracking_in_the_pod() {
    shunt_tests::need::tool("iptables");
    let mut mesh = Mesh::new();
    for tool in ["iptables", "ip6tables"] {
        let tracked = ["-A", "INPUT", "-m", "conntrack", "--ctstate", "NEW,ESTABLISHED", "-j", "ACCEPT"];
        mesh.pod.netns.run(tool, &tracked, "");
        mesh.pod.netns.run(tool, &["-t", "nat", "-A", "OUTPUT", "-p", "udp", "-j", "RETURN"], "");
    }
    let seen = mesh.app(SERVICES.iter().flat_map(|to| [to; 20]));
    seen.iter().for_each(captured);
    for v6 in [false, true] {
        let seen = mesh.arriving(v6, 8080);
        assert_eq!(seen.outcome(), "inbound", "{seen:?}");
        assert_eq!(seen.greeted().original(), Some(plain(seen.to)), "{seen:?}");
    }
    mesh.nothing_got_out();
}
