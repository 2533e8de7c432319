//! Many connections: at once, one after the other, and more than there are ports.

use shunt_tests::ask::{Dial, Many, Sum};
use shunt_tests::net::Shape;
use shunt_tests::process::{Holding, Server, dial_many};

use crate::mesh::{Mesh, SERVICE4, SERVICE6, all_exact, everywhere};

fn destinations(v6: bool, count: usize) -> Vec<String> {
    (1..=count).map(|n| if v6 { format!("[fd96::{n:x}]:80") } else { format!("10.96.1.{n}:80") }).collect()
}

/// A mesh whose proxy keeps no list of what it saw.
fn quiet_mesh(workers: usize) -> Mesh {
    let mut mesh = Mesh::before_add(Shape::dual());
    // Closed connections stay for a minute; the default would forget some of them under this load.
    mesh.pod.netns.set("ipv4/tcp_max_tw_buckets", "1000000");
    mesh.pod.netns.set("core/somaxconn", "16384");
    mesh.add();
    let mut proxy = everywhere();
    proxy.quiet = true;
    proxy.workers = workers;
    mesh.proxy = Some(Server::start(&mesh.pod.proxy(), &proxy));
    mesh
}

#[test]
fn two_thousand_at_once_each_with_its_own_destination() {
    let mut mesh = quiet_mesh(1);
    for v6 in [false, true] {
        let dial = Dial::to(destinations(v6, 50)).many(Many::AtOnce(2000));
        all_exact(&dial_many(&mesh.pod.app(), &dial), "outbound", 2000);
    }
    mesh.nothing_got_out();
}

#[test]
fn clients_in_parallel_of_both_families() {
    let mut mesh = quiet_mesh(1);
    let kinds = [
        destinations(false, 50),
        destinations(true, 50),
        vec![SERVICE4.to_owned()],
        vec![SERVICE6.to_owned()],
    ];
    let dials: Vec<Dial> = kinds.iter().map(|to| Dial::to(to).many(Many::Churn(5000, 2))).collect();
    let mut running: Vec<Holding> = dials.iter().map(|dial| Holding::start(&mesh.pod.app(), dial)).collect();
    for client in &mut running {
        all_exact(&client.opened(), "outbound", 5000);
    }
    mesh.nothing_got_out();
}

fn churn(v6: bool, destinations_count: usize) {
    let mut mesh = quiet_mesh(1);
    let dial = Dial::to(destinations(v6, destinations_count)).many(Many::Churn(200_000, 2));
    all_exact(&dial_many(&mesh.pod.app(), &dial), "outbound", 200_000);
    mesh.nothing_got_out();
}

#[test]
fn churn_to_one_destination_v4() {
    churn(false, 1);
}

#[test]
fn churn_to_one_destination_v6() {
    churn(true, 1);
}

#[test]
fn churn_to_fifty_destinations_v4() {
    churn(false, 50);
}

#[test]
fn churn_to_fifty_destinations_v6() {
    churn(true, 50);
}

/// Several processes on each side, for one may not have so many files open.
fn forty_thousand_open(to: &[String]) {
    let mut mesh = quiet_mesh(4);
    let dial = Dial::to(to).many(Many::Hold(10_000));
    let mut sum = Sum::default();
    let mut open = Vec::new();
    for _client in 0..4 {
        let mut client = Holding::start(&mesh.pod.app(), &dial);
        sum.add(client.opened());
        open.push(client);
    }
    all_exact(&sum, "outbound", 40_000);
    mesh.nothing_got_out();
}

#[test]
fn forty_thousand_open_at_once_to_fifty_destinations() {
    forty_thousand_open(&destinations(false, 50));
}

#[test]
fn forty_thousand_open_at_once_to_one_destination() {
    forty_thousand_open(&[SERVICE6.to_owned()]);
}

/// The pod's source ports overlap the ports we take: no connection may meet itself.
#[test]
fn a_widened_port_range() {
    let mut mesh = Mesh::before_add(Shape::dual());
    mesh.pod.netns.set("ipv4/ip_local_port_range", "1024 65535");
    mesh.pod.netns.set("ipv4/tcp_max_tw_buckets", "1000000");
    mesh.add();
    let mut proxy = everywhere();
    proxy.quiet = true;
    mesh.proxy = Some(Server::start(&mesh.pod.proxy(), &proxy));
    for v6 in [false, true] {
        let dial = Dial::to(destinations(v6, 50)).many(Many::Churn(30_000, 2));
        all_exact(&dial_many(&mesh.pod.app(), &dial), "outbound", 30_000);
    }
    mesh.nothing_got_out();
}

/// A pod may change its settings after ADD, so that its source ports come from our range and nothing is reserved. Now
/// and then a connection then has our port for its own and meets itself: a limit, one in 4,536. None may be told a wrong
/// destination or get past the proxy.
#[test]
fn a_pod_that_takes_our_ports_for_its_own_fools_only_itself() {
    let mut mesh = quiet_mesh(1);
    mesh.pod.netns.set("ipv4/ip_local_reserved_ports", "\n");
    mesh.pod.netns.set("ipv4/ip_local_port_range", "61000 65535");
    for to in [SERVICE4, SERVICE6] {
        let dial = Dial { patience: 3, ..Dial::to([to]).many(Many::Churn(10_000, 4)) };
        let sum = dial_many(&mesh.pod.app(), &dial);
        assert!(sum.wrong_count == 0 && sum.exact > 9_900, "{sum:?}");
    }
    mesh.nothing_got_out();
}

/// What a refused connection leaves behind gives way to what comes after it.
#[test]
fn after_more_refused_connections_than_we_remember_the_next_ones_are_exact() {
    let mut mesh = quiet_mesh(1);
    mesh.proxy = None;
    let count = 70_000;
    let refused = dial_many(&mesh.pod.app(), &Dial::to(destinations(false, 50)).many(Many::Churn(count, 2)));
    assert_eq!(refused.failed.get("connect ECONNREFUSED"), Some(&count), "{refused:?}");
    mesh.start_proxy();
    for v6 in [false, true] {
        let dial = Dial::to(destinations(v6, 50)).many(Many::AtOnce(2000));
        all_exact(&dial_many(&mesh.pod.app(), &dial), "outbound", 2000);
    }
    mesh.nothing_got_out();
}

#[test]
fn reserved_ports_of_the_pod_are_kept() {
    let mesh = Mesh::before_add(Shape::dual());
    mesh.pod.netns.set("ipv4/ip_local_reserved_ports", "30000-30010,40000");
    mesh.add();
    let reserved = mesh.pod.netns.get("ipv4/ip_local_reserved_ports");
    assert!(reserved.contains("30000-30010") && reserved.contains("40000"), "{reserved}");
}
