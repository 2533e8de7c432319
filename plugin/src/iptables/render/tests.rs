//! Goldens, and agreement with the decision over generated plans and connections.

mod kernel;
mod parity;

use std::path::Path;

use super::*;
use crate::iptables::rules::transaction;
use crate::plan::{Inbound, Mesh, Outbound};

/// A plan with nothing in its lists.
fn plain() -> Plan {
    Plan {
        mesh: Mesh::Custom,
        outbound_port: 15001,
        inbound_port: 15006,
        exempt_uids: vec![1337],
        exempt_gids: vec![],
        outbound: Outbound {
            cidrs: Include::All,
            exclude_cidrs: vec![],
            extra_ports: vec![],
            exclude_ports: vec![],
            exclude_uids: vec![],
            own_addresses: false,
        },
        inbound: Inbound { ports: Include::All, exclude_ports: vec![], exclude_cidrs: vec![] },
        exclude_interfaces: vec![],
        tunnel_port: None,
        self_calls: false,
        before_proxy: BeforeProxy::Closed,
        dns: None,
        udp: Udp::Pass,
        drop_invalid: false,
    }
}

fn range(text: &str) -> PortRange {
    text.parse().unwrap()
}

fn networks(list: &[&str]) -> Vec<IpNetwork> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

type Change = fn(&mut Plan);

/// One file for each family and feature.
const GOLDENS: [(&str, Change); 11] = [
    ("plain", |_| ()),
    ("istio", |plan| {
        plan.exempt_gids = vec![1337];
        plan.tunnel_port = Some(15008);
        plan.self_calls = true;
        plan.inbound.exclude_ports = vec![range("15020"), range("15021"), range("15090")];
        plan.dns = Some(Dns { port: 15053, tcp: DnsTcp::Capture, servers: Include::All });
    }),
    ("consul", |plan| {
        plan.outbound.own_addresses = true;
        plan.outbound.exclude_uids = vec![5996];
        let servers = ["127.0.0.1", "::1", "::ffff:10.96.0.10"].map(|ip| ip.parse().unwrap());
        plan.dns = Some(Dns { port: 8600, tcp: DnsTcp::Capture, servers: Include::Only(servers.to_vec()) });
    }),
    ("dns-over-tcp-passes", |plan| {
        plan.dns = Some(Dns { port: 15053, tcp: DnsTcp::Pass, servers: Include::All });
    }),
    ("dns-port-excluded", |plan| {
        plan.outbound.exclude_ports = vec![range("1-100")];
        plan.dns = Some(Dns { port: 15053, tcp: DnsTcp::Capture, servers: Include::All });
    }),
    ("lists", |plan| {
        plan.outbound.exclude_ports = vec![range("22"), range("8000-8999")];
        plan.outbound.exclude_cidrs = networks(&["169.254.169.254/32", "fd00:ec2::254/128"]);
        plan.outbound.extra_ports = vec![range("443")];
        plan.outbound.cidrs = Include::Only(networks(&["10.96.0.0/12", "10.96.1.0/24", "fd96::/64"]));
        plan.inbound.ports = Include::Only(vec![range("80"), range("9000-9100")]);
        plan.inbound.exclude_ports = vec![range("4190")];
        plan.inbound.exclude_cidrs = networks(&["192.0.2.0/24", "2001:db8::/32"]);
    }),
    ("everything-named", |plan| {
        plan.outbound.cidrs = Include::Only(networks(&["0.0.0.0/0", "::/0"]));
        plan.inbound.exclude_cidrs = networks(&["0.0.0.0/0"]);
    }),
    ("nothing-included", |plan| {
        plan.outbound.cidrs = Include::Only(vec![]);
        plan.inbound.ports = Include::Only(vec![]);
    }),
    ("udp-block", |plan| {
        plan.udp = Udp::Block;
        plan.outbound.exclude_uids = vec![7];
        plan.outbound.exclude_ports = vec![range("123")];
        plan.outbound.exclude_cidrs = networks(&["192.0.2.0/24"]);
        plan.dns = Some(Dns { port: 15053, tcp: DnsTcp::Capture, servers: Include::All });
    }),
    ("drop-invalid", |plan| {
        plan.drop_invalid = true;
        plan.exclude_interfaces = vec!["net1".to_owned()];
    }),
    ("interfaces", |plan| {
        plan.exclude_interfaces = vec!["lo".to_owned(), "net1".to_owned()];
        plan.self_calls = true;
        plan.udp = Udp::Block;
        plan.dns = Some(Dns { port: 15053, tcp: DnsTcp::Capture, servers: Include::All });
    }),
];

/// `SHUNT_BLESS=1` writes them anew.
#[test]
fn goldens() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/iptables/golden");
    for (name, change) in GOLDENS {
        let mut plan = plain();
        change(&mut plan);
        for family in Family::ALL {
            let text = transaction(&rendered(&plan, family).unwrap(), &Rules::default());
            let path = directory.join(format!("{name}.{}", if family == Family::V4 { "v4" } else { "v6" }));
            if std::env::var_os("SHUNT_BLESS").is_some() {
                std::fs::write(&path, &text).unwrap();
            }
            let wanted = std::fs::read_to_string(&path).unwrap_or_default();
            assert_eq!(text, wanted, "{} (SHUNT_BLESS=1 writes it anew)", path.display());
            // What is ours can be put back after an ADD that failed.
            for table in &rendered(&plan, family).unwrap().tables {
                let rules = table.chains.iter().flat_map(|chain| &chain.rules);
                for rule in rules.chain(table.jumps.iter().map(|jump| &jump.rule)) {
                    assert!(crate::iptables::saved::is_plain(rule), "{rule}");
                }
            }
        }
    }
}

#[test]
fn what_is_repeated_is_written_once() {
    let mut plan = plain();
    plan.outbound.exclude_ports = vec![range("80"); 100_000];
    plan.exempt_uids = vec![1337; 100_000];
    let text = transaction(&rendered(&plan, Family::V4).unwrap(), &Rules::default());
    assert!(text.lines().count() < 40, "{}", text.lines().count());
}

#[test]
fn a_long_list_is_read_in_groups() {
    let mut plan = plain();
    let list =
        |third: u32| IpNetwork::new(std::net::Ipv4Addr::from(0x0a00_0000 + (third << 8)).into(), 24).unwrap();
    plan.outbound.exclude_cidrs = (0..1000).map(|third| list(third * 2)).collect();
    let rules = rendered(&plan, Family::V4).unwrap();
    let nat = &rules.tables[0];
    let chain = |name: &str| nat.chains.iter().find(|chain| chain.name == name).unwrap();
    assert!(chain("SHUNT_OUT").rules.len() < 40, "{}", chain("SHUNT_OUT").rules.len());
    assert_eq!(chain("SHUNT_OUT").rules.last().unwrap(), "-g SHUNT_OUT_X");
    assert_eq!(chain("SHUNT_OUT_X").rules, ["-p tcp -j REDIRECT --to-ports 15001"]);
    assert!(nat.chains.iter().all(|chain| chain.rules.len() <= FLAT + 1 && chain.name.len() < 29));
}

#[test]
fn what_rules_cannot_say_is_refused_by_name() {
    let mut cases = vec![(plain(), "\"beforeProxy\": \"bypass\"".to_owned())];
    cases[0].0.before_proxy = BeforeProxy::Bypass;
    // A plus at the end stands for any name that begins so.
    for name in ["eth+", "!eth0", "-j", "a'b"] {
        cases.push((plain(), format!("{name:?} (excludeInterfaces)")));
        cases.last_mut().unwrap().0.exclude_interfaces = vec!["eth0".to_owned(), name.to_owned()];
    }
    for (plan, says) in cases {
        for family in Family::ALL {
            let error = rendered(&plan, family).unwrap_err();
            assert_eq!(error.kind(), Kind::Unsupported);
            assert!(
                error.details().contains(&says) && error.details().contains("iptables"),
                "{}",
                error.details()
            );
        }
    }
}
