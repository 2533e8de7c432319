//! Neighbours one by one, where they meet something of ours: host ports, forwarding rules, routes, settings.

use serde_json::{Value, json};
use shunt_tests::ask::{Dial, at};
use shunt_tests::process;

use crate::BACKENDS;
use crate::plugins::{Main, firewall, list, portmap};
use crate::report::held;
use crate::sandbox::{APP_PORT, Sandbox};
use crate::site::Site;

/// A list with one neighbour before us, and one with it after us.
fn either_side(site: &Site, version: &str, main: Main, neighbours: &[Value]) -> [Value; 2] {
    let before = [vec![main.entry(site)], neighbours.to_vec(), vec![site.entry()]].concat();
    let after = [vec![main.entry(site), site.entry()], neighbours.to_vec()].concat();
    [list(version, "either", before), list(version, "either", after)]
}

/// The node drops what it forwards unless somebody says otherwise: firewall's rules and ours do not know each other.
#[test]
fn firewall_on_a_node_that_drops_what_it_forwards() {
    for backend in BACKENDS {
        let site = Site::new(backend);
        for version in ["0.4.0", "1.0.0", "1.1.0"] {
            for list in either_side(&site, version, Main::Bridge, &[firewall(), portmap(false)]) {
                let network = site.network("either", &list);
                let mut sandbox = site.meshed();
                network.add(&mut sandbox);
                sandbox.is_captured(&site);
                sandbox.host_port_leads_to(&site, "inbound");
                network.check(&sandbox).ok();
                // What the proxy sends passes by firewall's rules alone.
                let policy = |word: &str| {
                    for tool in ["iptables-nft", "ip6tables-nft"] {
                        site.host_says(tool, &["-P", "FORWARD", word]);
                    }
                };
                policy("DROP");
                for seen in process::dial(&sandbox.pod.proxy(), &Dial::to(["10.96.0.10:80", "[fd96::10]:80"]))
                {
                    assert_eq!(seen.outcome(), "world", "{seen:?}");
                }
                policy("ACCEPT");
                sandbox.stop();
                network.del(&sandbox);
                sandbox.left_nothing(&site);
            }
        }
        held("firewall before us and after us, FORWARD policy DROP; 0.4.0 to 1.1.0", backend, "ok");
    }
}

/// As the kubelet or a person on the node asks for a host port.
#[test]
fn a_host_port_asked_from_the_node_itself() {
    for backend in BACKENDS {
        let site = Site::new(backend);
        for list in either_side(&site, "1.0.0", Main::Ptp, &[portmap(false)]) {
            let network = site.network("either", &list);
            let (mut sandbox, mut plain) = (site.meshed(), site.plain());
            network.add(&mut sandbox);
            network.add(&mut plain);
            sandbox.start();
            plain.start();
            for (one, by) in [(&sandbox, "inbound"), (&plain, "app")] {
                for to in ["127.0.0.1", "10.77.0.2"] {
                    let dial = Dial::to([format!("{to}:{}", one.host_port)]);
                    for seen in process::dial(&site.host.place(0, 0), &dial) {
                        assert_eq!(seen.outcome(), by, "{seen:?}");
                    }
                }
            }
            // A captured pod that asks for another's host port asks its proxy.
            for seen in sandbox.pod.dial(&Dial::to([format!("10.77.0.2:{}", plain.host_port)])) {
                assert_eq!(seen.outcome(), "outbound", "{seen:?}");
            }
            for one in [&mut sandbox, &mut plain] {
                one.stop();
                network.del(one);
            }
            sandbox.left_nothing(&site);
        }
        held("portmap's host port from the node: 127.0.0.1 and its address", backend, "ok");
    }
}

/// A second interface with routes of its own: sbr moves them to a table that only its address uses.
#[test]
fn sbr_on_a_second_interface() {
    for backend in BACKENDS {
        let site = Site::new(backend);
        for version in ["0.3.1", "1.1.0"] {
            let first =
                site.network("first", &list(version, "first", [Main::Bridge.entry(&site), site.entry()]));
            for list in either_side(&site, version, Main::Macvlan, &[json!({ "type": "sbr" })]) {
                let second = site.network("either", &list);
                let mut sandbox = site.meshed();
                first.add(&mut sandbox);
                let eth0 = sandbox.ips.clone();
                let result = second.add_as(&sandbox, "net1").ok();
                sandbox.learn(&result, "net1");
                let net1 = sandbox.ips.clone();
                let rules = sandbox.pod.netns.run("ip", &["rule"], "");
                assert!(rules.contains(&format!("from {}", net1[0])), "sbr: {rules}");
                both_captured(&site, &mut sandbox, &eth0, &net1);
                sandbox.stop();
                second.del_as(&sandbox, "net1").ok();
                sandbox.ips.clone_from(&eth0);
                sandbox.is_captured(&site);
                sandbox.stop();
                first.del(&sandbox);
                sandbox.left_nothing(&site);
            }
        }
        held("sbr before us and after us, on macvlan net1 beside bridge eth0; 0.3.1, 1.1.0", backend, "ok");
    }
}

/// Traffic of both interfaces, each from its own address.
pub(crate) fn both_captured(
    site: &Site,
    sandbox: &mut Sandbox,
    eth0: &[std::net::IpAddr],
    net1: &[std::net::IpAddr],
) {
    for ips in [eth0, net1] {
        ips.clone_into(&mut sandbox.ips);
        sandbox.is_captured(site);
        for ip in ips {
            let service = if ip.is_ipv6() { "[fd96::10]:80" } else { "10.96.0.10:80" };
            for seen in sandbox.pod.dial(&Dial::to([service]).bind(&at(*ip, 0))) {
                assert_eq!(seen.outcome(), "outbound", "from {ip}: {seen:?}");
                assert_eq!(seen.local.map(|local| local.ip()), Some(*ip), "{seen:?}");
            }
        }
    }
    site.nothing_got_out();
}

/// Where the kernel has no VRFs the plugin fails after us; where it has, it works.
#[test]
fn vrf_where_the_kernel_has_it() {
    for backend in BACKENDS {
        let site = Site::new(backend);
        let has_vrf = site.host.netns.enter(|| {
            let made = std::process::Command::new("ip")
                .args(["link", "add", "probe0", "type", "vrf", "table", "77"])
                .output()
                .expect("ip can be run");
            made.status.success()
        });
        let vrf = json!({ "type": "vrf", "vrfname": "blue" });
        let network =
            site.network("vrf", &list("1.0.0", "vrf", [Main::Macvlan.entry(&site), site.entry(), vrf]));
        let mut sandbox = site.meshed();
        let added = network.add_as(&sandbox, "eth0");
        if has_vrf {
            let result = added.ok();
            sandbox.learn(&result, "eth0");
            network.check(&sandbox).ok();
            let links = sandbox.pod.netns.run("ip", &["-o", "link"], "");
            assert!(links.contains("master blue"), "{links}");
        } else {
            let failed = added.failed();
            assert!(failed.text.contains("operation not supported"), "{failed:?}");
            assert_ne!(sandbox.traces(&site), [""; 0], "our own ADD had worked");
        }
        network.del(&sandbox);
        sandbox.left_nothing(&site);
        let result = if has_vrf { "ok" } else { "unwound" };
        held("vrf after us: works, or, in a kernel without VRF, fails and is unwound", backend, result);
    }
}

/// Both want the same setting of the pod: the ports the kernel must not choose.
#[test]
fn tuning_sets_what_we_set() {
    const KEY: &str = "ipv4/ip_local_reserved_ports";
    let tuning = json!({ "type": "tuning", "sysctl": { "net.ipv4.ip_local_reserved_ports": "30000-30010" } });
    let site = Site::new("ebpf");
    let [before, after] = either_side(&site, "0.3.1", Main::Ptp, &[tuning]);

    // Before us: we add to it. Tuning's CHECK compares, and would say no; a list in 0.3.1 has no CHECK.
    let network = site.network("either", &before);
    let mut sandbox = site.meshed();
    network.add(&mut sandbox);
    assert_eq!(sandbox.pod.netns.get(KEY), "30000-30010,61000-65535");
    sandbox.is_captured(&site);
    sandbox.stop();
    let mut newer = before;
    newer["cniVersion"] = json!("1.0.0");
    network.write(&newer);
    network.del(&sandbox);
    assert_eq!(sandbox.pod.netns.get(KEY), "30000-30010", "ours are given back");
    network.add(&mut sandbox);
    let failed = network.check(&sandbox).failed();
    assert!(failed.text.contains("ip_local_reserved_ports"), "{failed:?}");
    network.del(&sandbox);

    // After us: it takes ours away. Connections are captured all the same, and CHECK, which is called at each ADD, does not look.
    let mut after = after;
    after["cniVersion"] = json!("1.0.0");
    network.write(&after);
    let mut sandbox = site.meshed();
    network.add(&mut sandbox);
    assert_eq!(sandbox.pod.netns.get(KEY), "30000-30010");
    sandbox.is_captured(&site);
    network.check(&sandbox).ok();
    sandbox.stop();
    network.del(&sandbox);
    assert_eq!(sandbox.pod.netns.get(KEY), "30000-30010");
    held("tuning sets ip_local_reserved_ports: captured; before us its CHECK fails", "ebpf", "ok");
}

/// What tuning changes after us is in the result, and CHECK of the whole chain still passes.
#[test]
fn tuning_changes_the_interface_after_us() {
    for backend in BACKENDS {
        let site = Site::new(backend);
        let tuning = json!({ "type": "tuning", "mac": "02:00:00:00:77:77", "mtu": 1400, "promisc": true, "dataDir": "/run/tuning" });
        for list in either_side(&site, "1.0.0", Main::Macvlan, &[tuning]) {
            let network = site.network("either", &list);
            let mut sandbox = site.meshed();
            let result = network.add(&mut sandbox);
            assert_eq!(result["interfaces"][0]["mac"], "02:00:00:00:77:77", "{result}");
            network.check(&sandbox).ok();
            sandbox.is_captured(&site);
            let there = process::dial(&site.world.place(), &Dial::to([at(sandbox.ips[0], APP_PORT)]));
            assert_eq!(there.len(), 1);
            sandbox.stop();
            network.del(&sandbox);
            sandbox.left_nothing(&site);
        }
        held("tuning changes MAC, MTU and promiscuity, before us and after us", backend, "ok");
    }
}
