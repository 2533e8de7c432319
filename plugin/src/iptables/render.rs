//! A plan as rules of one family. Pure.
//!
//! What a connection gets is what [`shunt_abi::decide`] says of it; a test compares the two over generated plans and
//! connections. What differs from the eBPF backend is what the kernel's rules cannot see:
//!
//! - who calls is the file system's uid and gid of whoever made the socket (`xt_owner`), not the caller's real ones;
//! - a destination without a route gets the kernel's error before any rule is read;
//! - an excluded interface is the one a packet comes in by, not the one that has the address it is sent to;
//! - `udp: block` lets replies pass that connection tracking knows as such; the eBPF backend lets a socket pass that was bound to
//!   a port it chose. And it is sending that is refused (EPERM), not `connect`.
//!
//! `-o lo` is the pod itself: own addresses leave by the loopback interface, whatever they are now and will be later. The table
//! `nat` is asked once for each connection, with its first packet; `--syn` keeps those out that were there before ADD and that
//! connection tracking meets in the middle.
//!
//! Chains of `nat` and `filter` are entered by a jump from the kernel's chain and go on by `-g`, so that a RETURN anywhere means
//! "left alone".

use std::collections::HashSet;
use std::hash::Hash;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::Family;
use super::networks::{FLAT, grouped, reduced};
use super::rules::{Chain, Jump, Rules, Table};
use crate::error::{Error, Kind};
use crate::plan::{BeforeProxy, Dns, DnsTcp, Include, Plan, PortRange, Udp};

/// First packets of connections, as `iptables-save` writes `--syn`.
const SYN: &str = "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN";
const DNS_PORT: u16 = 53;
/// Longest name of an interface that the rules take, and the characters that have no other meaning to the tool.
const PLAIN: &str = "._-@";

/// The rules of a family.
///
/// # Errors
/// [`Kind::Unsupported`] naming what rules cannot express.
pub fn rendered(plan: &Plan, family: Family) -> Result<Rules, Error> {
    expressible(plan)?;
    let plan = &without_repetition(plan.clone());
    let render = Render { plan, family, lists: Lists::new(plan, family) };
    let tables = [render.raw(), render.mangle(), render.filter(), Some(render.nat())];
    Ok(Rules { tables: tables.into_iter().flatten().collect() })
}

fn expressible(plan: &Plan) -> Result<(), Error> {
    let refused =
        |what: String| Err(Error::new(Kind::Unsupported, format!("{what} with backend \"iptables\"")));
    if plan.before_proxy == BeforeProxy::Bypass {
        return refused(
            "key \"beforeProxy\": \"bypass\" is not available: rules cannot tell whether the proxy has listened,".to_owned(),
        );
    }
    for name in &plan.exclude_interfaces {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || PLAIN.contains(c);
        if !name.chars().all(is_plain) || name.starts_with('-') {
            return refused(format!(
                "interface name {name:?} (excludeInterfaces) cannot be written in a rule"
            ));
        }
    }
    Ok(())
}

/// The same plan with each rule once: whoever writes an annotation may repeat a port a hundred thousand times.
fn without_repetition(mut plan: Plan) -> Plan {
    for ids in [&mut plan.exempt_uids, &mut plan.exempt_gids, &mut plan.outbound.exclude_uids] {
        once(ids);
    }
    let inbound = &mut plan.inbound;
    for ranges in
        [&mut plan.outbound.extra_ports, &mut plan.outbound.exclude_ports, &mut inbound.exclude_ports]
    {
        once(ranges);
    }
    if let Include::Only(ranges) = &mut inbound.ports {
        once(ranges);
    }
    once(&mut plan.exclude_interfaces);
    plan
}

/// Keeps the first of what is the same, in its place.
fn once<T: Clone + Eq + Hash>(list: &mut Vec<T>) {
    let mut seen = HashSet::with_capacity(list.len());
    list.retain(|item| seen.insert(item.clone()));
}

struct Render<'a> {
    plan: &'a Plan,
    family: Family,
    lists: Lists,
}

/// The plan's networks of one family.
struct Lists {
    exclude: Vec<IpNetwork>,
    include: Include<IpNetwork>,
    sources: Vec<IpNetwork>,
}

impl Lists {
    fn new(plan: &Plan, family: Family) -> Self {
        let of_family = |list: &[IpNetwork]| -> Vec<IpNetwork> {
            let own = list.iter().filter(|network| network.is_ipv4() == (family == Family::V4));
            reduced(&own.copied().collect::<Vec<_>>())
        };
        Self {
            exclude: of_family(&plan.outbound.exclude_cidrs),
            include: match &plan.outbound.cidrs {
                Include::All => Include::All,
                Include::Only(list) => Include::Only(of_family(list)),
            },
            sources: of_family(&plan.inbound.exclude_cidrs),
        }
    }
}

/// Chains being written.
#[derive(Default)]
struct Chains(Vec<Chain>);

impl Chains {
    fn rule(&mut self, chain: &str, rule: impl Into<String>) {
        let rule = rule.into();
        match self.0.iter_mut().find(|known| known.name == chain) {
            Some(known) => known.rules.push(rule),
            None => self.0.push(Chain { name: chain.to_owned(), rules: vec![rule] }),
        }
    }

    /// What matches a network gets `verdict`; what matches none goes on in the chain that is returned.
    fn networks(
        &mut self,
        chain: &str,
        side: char,
        networks: &[IpNetwork],
        verdict: &str,
        mark: char,
    ) -> String {
        if networks.len() <= FLAT {
            for network in networks {
                self.rule(chain, joined(&[&address(side, network), verdict]));
            }
            return chain.to_owned();
        }
        let rest = format!("{chain}_{mark}");
        for (index, group) in grouped(networks).into_iter().enumerate() {
            let name = format!("{chain}_{mark}{index}");
            self.rule(chain, joined(&[&address(side, &group.prefix), &format!("-g {name}")]));
            let rules = group.networks.iter().map(|network| joined(&[&address(side, network), verdict]));
            let rules = rules.chain([format!("-g {rest}")]).collect();
            self.0.push(Chain { name, rules });
        }
        self.rule(chain, format!("-g {rest}"));
        self.0.push(Chain { name: rest.clone(), rules: Vec::new() });
        rest
    }
}

impl Render<'_> {
    /// Queries that are not captured leave by a zone of their own. Otherwise one from a port from which the app asked the same
    /// server within the last half minute would meet that connection's entry, and be sent to the proxy, which may be who asked.
    /// Answers are looked for where they always are: the zone is the original direction's only.
    fn raw(&self) -> Option<Table> {
        self.dns()?;
        let mut chains = Chains::default();
        for who in self.proxy().chain(self.excluded_users()) {
            chains.rule("SHUNT_ZONE", format!("{who} -j CT --zone-orig 1"));
        }
        Some(table("raw", chains, &[("OUTPUT", format!("-p udp -m udp --dport {DNS_PORT} -j SHUNT_ZONE"))]))
    }

    fn mangle(&self) -> Option<Table> {
        if !self.plan.drop_invalid {
            return None;
        }
        let mut chains = Chains::default();
        for name in self.interfaces() {
            chains.rule("SHUNT_INVALID", format!("-i {name} -j RETURN"));
        }
        chains.rule("SHUNT_INVALID", "-m conntrack --ctstate INVALID -j DROP");
        Some(table("mangle", chains, &[("PREROUTING", "-p tcp -j SHUNT_INVALID".to_owned())]))
    }

    /// UDP that would leave. A DROP here is EPERM for who sends, at once; a REJECT would also put an ICMP error onto the socket.
    fn filter(&self) -> Option<Table> {
        if self.plan.udp == Udp::Pass {
            return None;
        }
        let mut chains = Chains::default();
        let chain = "SHUNT_UDP";
        let mut pass = |what: &str| chains.rule(chain, joined(&[what, "-j RETURN"]));
        pass("-o lo");
        // What `nat` has turned round still has the interface here that it would have left by.
        pass(self.loopback());
        for name in self.interfaces() {
            pass(&format!("-o {name}"));
        }
        self.proxy().chain(self.excluded_users()).for_each(|who| pass(&who));
        self.many().for_each(&mut pass);
        // DNS that `nat` has not turned round is nobody's here, and without it nothing else would work.
        pass("-p udp -m udp --dport 53");
        pass("-m conntrack --ctdir REPLY");
        self.outbound_lists(&mut chains, chain, "udp", "-j DROP");
        Some(table("filter", chains, &[("OUTPUT", "-p udp -j SHUNT_UDP".to_owned())]))
    }

    fn nat(&self) -> Table {
        let mut chains = Chains::default();
        let mut jumps = vec![("OUTPUT", format!("{SYN} -j SHUNT_OUT"))];
        self.outbound(&mut chains);
        if let Some(dns) = self.dns() {
            self.queries(&mut chains, dns);
            jumps.push(("OUTPUT", format!("-p udp -m udp --dport {DNS_PORT} -j SHUNT_DNS")));
        }
        self.inbound(&mut chains);
        // What a pod only passes on, to a container of its own making, is not a connection to the pod.
        jumps.push(("PREROUTING", format!("{SYN} -m addrtype --dst-type LOCAL -j SHUNT_IN")));
        table("nat", chains, &jumps)
    }

    fn outbound(&self, chains: &mut Chains) {
        let chain = "SHUNT_OUT";
        for name in self.interfaces() {
            chains.rule(chain, format!("-o {name} -j RETURN"));
        }
        let proxy = if self.plan.self_calls { "-g SHUNT_SELF" } else { "-j RETURN" };
        for who in self.proxy() {
            chains.rule(chain, format!("{who} {proxy}"));
        }
        for who in self.excluded_users() {
            chains.rule(chain, format!("{who} -j RETURN"));
        }
        if let Some(dns) = self.dns() {
            let verdict = match dns.tcp {
                DnsTcp::Capture => redirect(dns.port),
                DnsTcp::Pass => "-j RETURN".to_owned(),
            };
            for server in self.servers(dns) {
                chains.rule(chain, joined(&[&server, "-p tcp -m tcp --dport 53", &verdict]));
            }
        }
        let own = if self.plan.outbound.own_addresses { self.loopback() } else { "-o lo" };
        chains.rule(chain, format!("{own} -j RETURN"));
        let verdict = format!("-p tcp {}", redirect(self.plan.outbound_port));
        self.outbound_lists(chains, chain, "tcp", &verdict);
        if self.plan.self_calls {
            self.self_calls(chains);
        }
    }

    /// The proxy's own connections that are delivered inside the pod.
    fn self_calls(&self, chains: &mut Chains) {
        let chain = "SHUNT_SELF";
        let (one, passthrough) = match self.family {
            Family::V4 => ("127.0.0.1/32", "127.0.0.6/32"),
            Family::V6 => ("::1/128", "::6/128"),
        };
        chains.rule(chain, "! -o lo -j RETURN");
        chains.rule(chain, format!("-d {one} -j RETURN"));
        chains.rule(chain, format!("-s {passthrough} -j RETURN"));
        let tunnel = self.plan.tunnel_port.and_then(PortRange::single);
        let dns = self.plan.dns.as_ref().and_then(|_| PortRange::single(DNS_PORT));
        for range in tunnel.iter().chain(&dns).chain(&self.plan.outbound.exclude_ports) {
            chains.rule(chain, format!("{} -j RETURN", ports("tcp", *range)));
        }
        chains.rule(chain, format!("-p tcp {}", redirect(self.plan.inbound_port)));
    }

    fn queries(&self, chains: &mut Chains, dns: &Dns) {
        let chain = "SHUNT_DNS";
        let mut pass = |what: &str| chains.rule(chain, joined(&[what, "-j RETURN"]));
        for name in self.interfaces() {
            pass(&format!("-o {name}"));
        }
        self.proxy().chain(self.excluded_users()).for_each(|who| pass(&who));
        self.many().for_each(pass);
        for server in self.servers(dns) {
            chains.rule(chain, joined(&[&server, "-p udp", &redirect(dns.port)]));
        }
    }

    fn inbound(&self, chains: &mut Chains) {
        let chain = "SHUNT_IN";
        let inbound = &self.plan.inbound;
        // `nat` does not ask again for what OUTPUT has seen; this says so to the reader and to other kernels.
        chains.rule(chain, "-i lo -j RETURN");
        for name in self.interfaces() {
            chains.rule(chain, format!("-i {name} -j RETURN"));
        }
        let tunnel = self.plan.tunnel_port.and_then(PortRange::single);
        for range in tunnel.iter().chain(&inbound.exclude_ports) {
            chains.rule(chain, format!("{} -j RETURN", ports("tcp", *range)));
        }
        let chain = chains.networks(chain, 's', &self.lists.sources, "-j RETURN", 'X');
        let verdict = redirect(self.plan.inbound_port);
        match &inbound.ports {
            Include::All => chains.rule(&chain, format!("-p tcp {verdict}")),
            Include::Only(ranges) => {
                for range in ranges {
                    chains.rule(&chain, format!("{} {verdict}", ports("tcp", *range)));
                }
            }
        }
    }

    /// The include and exclude lists, in the order of the decision.
    fn outbound_lists(&self, chains: &mut Chains, chain: &str, protocol: &str, verdict: &str) {
        let outbound = &self.plan.outbound;
        for range in &outbound.exclude_ports {
            chains.rule(chain, format!("{} -j RETURN", ports(protocol, *range)));
        }
        let chain = &chains.networks(chain, 'd', &self.lists.exclude, "-j RETURN", 'X');
        for range in &outbound.extra_ports {
            let bare = verdict.strip_prefix("-p tcp ").unwrap_or(verdict);
            chains.rule(chain, format!("{} {bare}", ports(protocol, *range)));
        }
        match &self.lists.include {
            Include::All => chains.rule(chain, verdict),
            Include::Only(networks) => {
                chains.networks(chain, 'd', networks, verdict, 'I');
            }
        }
    }

    /// DNS that is captured: not when its port is excluded.
    fn dns(&self) -> Option<&Dns> {
        let excluded = self.plan.outbound.exclude_ports.iter().any(|range| range.contains(DNS_PORT));
        self.plan.dns.as_ref().filter(|_| !excluded)
    }

    /// What matches each server of this family; one that matches all.
    fn servers(&self, dns: &Dns) -> Vec<String> {
        let Include::Only(servers) = &dns.servers else {
            return vec![String::new()];
        };
        // An IPv4 server may be written as an IPv6 address.
        let mut own: Vec<IpAddr> = servers.iter().map(IpAddr::to_canonical).collect();
        own.retain(|ip| ip.is_ipv4() == (self.family == Family::V4));
        own.sort_unstable();
        own.dedup();
        own.into_iter().map(|ip| address('d', &IpNetwork::from(ip))).collect()
    }

    /// Interfaces that are left alone. Not the loopback interface: what is inside the pod has rules of its own.
    fn interfaces(&self) -> impl Iterator<Item = &str> {
        self.plan.exclude_interfaces.iter().map(String::as_str).filter(|name| *name != "lo")
    }

    fn proxy(&self) -> impl Iterator<Item = String> {
        let users = self.plan.exempt_uids.iter().map(|uid| format!("-m owner --uid-owner {uid}"));
        users.chain(self.plan.exempt_gids.iter().map(|gid| format!("-m owner --gid-owner {gid}")))
    }

    fn excluded_users(&self) -> impl Iterator<Item = String> {
        self.plan.outbound.exclude_uids.iter().map(|uid| format!("-m owner --uid-owner {uid}"))
    }

    const fn loopback(&self) -> &'static str {
        match self.family {
            Family::V4 => "-d 127.0.0.0/8",
            Family::V6 => "-d ::1/128",
        }
    }

    /// What goes to many at once.
    fn many(&self) -> impl Iterator<Item = &'static str> {
        match self.family {
            Family::V4 => ["-d 224.0.0.0/4", "-m addrtype --dst-type BROADCAST"].as_slice(),
            Family::V6 => ["-d ff00::/8"].as_slice(),
        }
        .iter()
        .copied()
    }
}

fn table(name: &str, mut chains: Chains, jumps: &[(&str, String)]) -> Table {
    // A chain that nothing was written into is led to all the same.
    for target in jumps.iter().filter_map(|(_, rule)| rule.rsplit(' ').next()) {
        if !chains.0.iter().any(|chain| chain.name == target) {
            chains.0.push(Chain { name: target.to_owned(), rules: Vec::new() });
        }
    }
    let jumps = jumps.iter().map(|(from, rule)| Jump { from: (*from).to_owned(), rule: rule.clone(), at: 0 });
    Table { name: name.to_owned(), chains: chains.0, jumps: jumps.collect() }
}

fn redirect(port: u16) -> String {
    format!("-j REDIRECT --to-ports {port}")
}

/// One rule for each range: the match for lists of ports takes no more than 15.
fn ports(protocol: &str, range: PortRange) -> String {
    let (first, last) = (range.first(), range.last());
    if first == last {
        format!("-p {protocol} -m {protocol} --dport {first}")
    } else {
        format!("-p {protocol} -m {protocol} --dport {first}:{last}")
    }
}

/// `-d` or `-s`; nothing for a network that everything is in.
fn address(side: char, network: &IpNetwork) -> String {
    if network.prefix() == 0 { String::new() } else { format!("-{side} {network}") }
}

fn joined(parts: &[&str]) -> String {
    parts.iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
