//! What the kernel does with our rules: the matches and targets that we use, and no others.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::iptables::rules::{Rules, Table};

/// One packet where a rule sees it.
#[derive(Debug, Clone)]
pub(super) struct Packet {
    pub(super) protocol: &'static str,
    /// The first of a connection; for UDP without meaning.
    pub(super) syn: bool,
    pub(super) reply: bool,
    pub(super) invalid: bool,
    pub(super) input: Option<&'static str>,
    pub(super) output: Option<&'static str>,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) port: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// `LOCAL`, `BROADCAST`, `MULTICAST` or `UNICAST`.
    pub(super) kind: &'static str,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Accept,
    Drop,
    Redirect(u16),
    Zone(u16),
}

/// Walks a kernel's chain of a table.
pub(super) fn walk(rules: &Rules, table: &str, base: &str, packet: &Packet) -> End {
    let Some(table) = rules.tables.iter().find(|known| known.name == table) else { return End::Accept };
    for jump in table.jumps.iter().filter(|jump| jump.from == base) {
        if let Some(end) = apply(table, &jump.rule, packet).and_then(Step::end) {
            return end;
        }
    }
    End::Accept
}

/// What a matching rule leads to.
enum Step {
    End(End),
    /// Back to who called the chain.
    Return,
    /// The chain called has come back.
    On,
}

impl Step {
    fn end(self) -> Option<End> {
        match self {
            Self::End(end) => Some(end),
            _ => None,
        }
    }
}

fn chain(table: &Table, name: &str, packet: &Packet) -> Option<End> {
    let chain =
        table.chains.iter().find(|chain| chain.name == name).unwrap_or_else(|| panic!("no chain {name}"));
    for rule in &chain.rules {
        match apply(table, rule, packet) {
            None | Some(Step::On) => {}
            Some(Step::End(end)) => return Some(end),
            Some(Step::Return) => return None,
        }
    }
    None
}

/// None: the rule does not match.
fn apply(table: &Table, rule: &str, packet: &Packet) -> Option<Step> {
    let mut words = rule.split(' ').peekable();
    let mut matches = true;
    let mut modules = vec![""];
    let (mut protocol, mut target) = (false, None);
    while let Some(word) = words.next() {
        let (negated, option) = if word == "!" { (true, words.next().unwrap()) } else { (false, word) };
        let mut value = || words.next().unwrap_or_else(|| panic!("{rule}: {option} wants a value"));
        let needs = |module: &str| assert!(modules.contains(&module), "{rule}: {option} without -m {module}");
        let hit = match option {
            "-m" => {
                modules.push(value());
                continue;
            }
            "-j" | "-g" => {
                let name = value();
                let to = (name == "REDIRECT").then(|| {
                    assert!(protocol, "{rule}: ports of no protocol");
                    assert_eq!(value(), "--to-ports");
                    End::Redirect(value().parse().unwrap())
                });
                let to = to.or_else(|| {
                    (name == "CT").then(|| {
                        assert_eq!(value(), "--zone-orig");
                        End::Zone(value().parse().unwrap())
                    })
                });
                target = Some((option, name, to));
                continue;
            }
            "-p" => {
                protocol = true;
                value() == packet.protocol
            }
            "-i" => Some(value()) == packet.input,
            "-o" => Some(value()) == packet.output,
            "-s" => value().parse::<IpNetwork>().unwrap().contains(packet.source),
            "-d" => value().parse::<IpNetwork>().unwrap().contains(packet.destination),
            "--uid-owner" => {
                needs("owner");
                value().parse::<u32>().unwrap() == packet.uid
            }
            "--gid-owner" => {
                needs("owner");
                value().parse::<u32>().unwrap() == packet.gid
            }
            "--dport" => {
                needs(packet_module(rule));
                let text = value();
                let (first, last) = text.split_once(':').unwrap_or((text, text));
                (first.parse::<u16>().unwrap()..=last.parse().unwrap()).contains(&packet.port)
            }
            "--tcp-flags" => {
                assert_eq!((value(), value()), ("FIN,SYN,RST,ACK", "SYN"), "{rule}");
                packet.syn
            }
            "--dst-type" => {
                needs("addrtype");
                value().split(',').any(|kind| kind == packet.kind)
            }
            "--ctdir" => {
                assert_eq!(value(), "REPLY");
                packet.reply
            }
            "--ctstate" => {
                assert_eq!(value(), "INVALID");
                packet.invalid
            }
            other => panic!("{rule}: the kernel of these tests does not know {other}"),
        };
        matches &= hit != negated;
    }
    let (how, name, end) = target.unwrap_or_else(|| panic!("{rule}: no target"));
    if !matches {
        return None;
    }
    Some(match (name, end) {
        (_, Some(end)) => Step::End(end),
        ("RETURN", _) => Step::Return,
        ("DROP", _) => Step::End(End::Drop),
        ("ACCEPT", _) => Step::End(End::Accept),
        (ours, _) => match (chain(table, ours, packet), how) {
            (Some(end), _) => Step::End(end),
            (None, "-g") => Step::Return,
            (None, _) => Step::On,
        },
    })
}

fn packet_module(rule: &str) -> &'static str {
    if rule.contains("-p tcp") { "tcp" } else { "udp" }
}
