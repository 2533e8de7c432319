//! A family the pod has no address in at ADD, or a link-local one only: what is there, or comes later, is no way around the proxy.

use std::net::{IpAddr, SocketAddr};

use serde_json::json;
use shunt_tests::ask::{Dial, How, address};
use shunt_tests::datagram::Step;
use shunt_tests::net::{Netns, Shape};
use shunt_tests::process;

use crate::dns::{Scene, last, listening_at, question, script};
use crate::mesh::{Mesh, captured, mapped, only, outcome, outside};

/// The link-local address of an interface.
fn link_local(netns: &Netns, interface: &str) -> IpAddr {
    let said = netns.run("ip", &["-6", "-o", "address", "show", "dev", interface, "scope", "link"], "");
    let ip = said
        .split_whitespace()
        .find(|word| word.starts_with("fe80:"))
        .and_then(|word| word.split('/').next());
    ip.and_then(|ip| ip.parse().ok()).unwrap_or_else(|| panic!("every interface has one: {said}"))
}

/// The gateway on the pod's link, as the pod names it.
fn neighbour(mesh: &Mesh, port: u16) -> SocketAddr {
    scoped(link_local(mesh.world.netns(), "br0"), index(&mesh.pod.netns, "eth0"), port)
}

fn index(netns: &Netns, interface: &str) -> u32 {
    let said = netns.run("ip", &["-o", "link", "show", "dev", interface], "");
    let index = said.split(':').next().and_then(|index| index.parse().ok());
    index.unwrap_or_else(|| panic!("a line of one interface: {said}"))
}

fn scoped(ip: IpAddr, index: u32, port: u16) -> SocketAddr {
    address(&format!("[{ip}%{index}]:{port}"))
}

#[test]
fn a_neighbour_on_the_link_is_captured_whatever_the_pods_families() {
    for shape in [Shape::only_v4(), Shape::only_v6(), Shape::dual()] {
        let mut mesh = Mesh::of(shape);
        let to = neighbour(&mesh, 80);
        let seen = only(mesh.app([to.to_string()]));
        assert_eq!(seen.outcome(), "outbound", "{seen:?}");
        assert_eq!(seen.greeted().original().map(|at| (at.ip(), at.port())), Some((to.ip(), 80)), "{seen:?}");
        mesh.nothing_got_out();
        let own = scoped(link_local(&mesh.pod.netns, "eth0"), index(mesh.world.netns(), "br0"), 8080);
        let seen = only(process::dial(&outside(&mesh.world), &Dial::to([own.to_string()])));
        assert_eq!(seen.outcome(), "inbound", "{seen:?}");
    }
}

/// What is sent to a link-local address leaves by the interface it names, which is not where the proxy's loopback address is. A
/// resolver that connects its socket is answered.
#[test]
fn a_dns_server_on_the_link_is_not_asked() {
    for shape in [Shape::only_v4(), Shape::dual()] {
        let mut scene = Scene::before_add(shape);
        scene.mesh.add();
        scene.start(&listening_at(&["127.0.0.1", "[::1]"]));
        let server = neighbour(&scene.mesh, 53);
        let did = scene.app(&script(true, question(&server.to_string())));
        assert_eq!(did[0].outcome(), "EPERM", "{did:?}");
        let connected = [Step::Connect(server), Step::Send("q".to_owned()), Step::Receive];
        let did = scene.app(&script(true, connected));
        assert_eq!(last(&did).outcome(), "dns", "{did:?}");
        scene.nothing_got_out();
    }
}

/// By a router's advertisement, or with an interface that another plugin adds. ADD has not seen it, and there is none after it.
#[test]
fn an_address_that_comes_later_is_no_way_out() {
    for (shape, v4, to, late) in [
        (
            Shape::only_v4(),
            false,
            "[fd96::10]:80",
            "addr add fd77::2/64 dev eth0 nodad\nroute add default via fd77::1",
        ),
        (
            Shape::only_v6(),
            true,
            "10.96.0.10:80",
            "addr add 10.77.0.2/16 dev eth0\nroute add default via 10.77.0.1",
        ),
    ] {
        let excluded = to.replace(":80", ":443");
        let mut mesh = Mesh::before_add(shape);
        mesh.node.redirect("excludeOutboundPorts", json!([443]));
        mesh.add();
        mesh.start_proxy();
        let bare = mesh.bare_twin();
        for to in [to.to_owned(), mapped(to)] {
            let without = outcome(&bare.dial(&Dial::to([&to])));
            assert_eq!(mesh.outcome(&to), without, "{to}: as without us");
        }
        mesh.pod.netns.ip(late);
        if !v4 {
            mesh.pod.netns.settle(std::net::Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2));
        }
        for to in [to.to_owned(), mapped(to)] {
            for how in [How::Plain, How::NonBlocking, How::FastOpenConnect, How::FastOpenSend, How::Mptcp] {
                let seen = only(mesh.pod.dial(&Dial::to([&to]).how(how)));
                assert_eq!(seen.outcome(), "ENETUNREACH", "{to} {how:?}: {seen:?}");
            }
            let bound = Dial { device: Some("eth0".to_owned()), ..Dial::to([&to]) };
            assert_eq!(
                outcome(&process::dial(&mesh.pod.place(0, 0), &bound)),
                "ENETUNREACH",
                "{to} from eth0"
            );
        }
        mesh.nothing_got_out();
        assert_eq!(mesh.outcome(&excluded), "world", "what is not to be captured goes");
        // An ADD that sees it captures.
        mesh.add();
        captured(&only(mesh.app([to])));
        mesh.beyond.seen();
    }
}
