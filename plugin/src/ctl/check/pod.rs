//! Pods that are captured.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use shunt_abi::{VERSION, slot};

use super::super::attached::{Attached, Kernel, Objects, Side, sides, words};
use super::super::explain::find::{Target, find};
use super::super::sockets::{Socket, listening};
use super::{Finding, called, conntrack, host};
use crate::backend::{Places, Receipt, iptables};
use crate::fault::{Outcome, Tried as _};
use crate::netns::Netns;
use crate::record::Record;
use crate::userns;

/// How long the tools may take to list one pod's rules.
const PATIENCE: Duration = Duration::from_secs(4);

/// How the names of chains and tables of other tools begin, and whose they are.
const TOOLS: [(&str, &str); 12] = [
    ("ISTIO_", "Istio"),
    ("istio-", "Istio"),
    ("PROXY_INIT_", "Linkerd"),
    ("linkerd", "Linkerd"),
    ("KUMA_", "Kuma"),
    ("MESH_", "Kuma"),
    ("CONSUL_", "Consul"),
    ("OSM_PROXY_", "OSM"),
    ("FSM_PROXY_", "FSM"),
    ("PROXY_", "OSM"),
    ("APPMESH_", "App Mesh"),
    ("KMESH_", "Kmesh"),
];

/// Looks at each.
pub(super) fn findings(places: Places<'_>, attached: &[Attached]) -> Vec<Finding> {
    let mut objects = Objects::default();
    attached.iter().filter(|one| one.alive).flat_map(|one| looked(places, one, &mut objects)).collect()
}

/// Of a pod that is asked about and not captured.
pub(super) fn not_captured(places: Places<'_>, target: &str) -> Result<Vec<Finding>, String> {
    let found = find(places, &Target::here(target)?)?;
    Ok(found.notes.iter().filter_map(host::note).collect())
}

fn looked(places: Places<'_>, one: &Attached, objects: &mut Objects) -> Vec<Finding> {
    let pod = called(one);
    let mut findings = drift(places, one, &pod);
    if let (Some(record), Some(netns)) = (&one.record, &one.netns) {
        let kernel = objects.kernel(places, &record.receipt).unwrap_or_default();
        match proxy(record, netns, kernel.as_ref()) {
            Ok(found) => findings.extend(found),
            Err(fault) => findings.push(unknown(&words(&fault))),
        }
        match conntrack::leftovers(record, netns) {
            Ok(found) => findings.extend(found),
            Err(fault) => findings.push(unknown(&words(&fault))),
        }
        findings.extend(loopback(netns).unwrap_or_else(|fault| Some(unknown(&words(&fault)))));
        match iptables::chains(netns, Instant::now() + PATIENCE) {
            Ok(chains) => findings.extend(strangers(&chains)),
            Err(fault) => findings.push(unknown(&words(&fault))),
        }
    }
    findings.into_iter().map(|finding| finding.of(&pod)).collect()
}

fn unknown(why: &str) -> Finding {
    Finding::note("pod-unknown", format!("it could not be looked at: {why}"), "nothing, if the pod is ending")
}

fn drift(places: Places<'_>, one: &Attached, pod: &str) -> Vec<Finding> {
    let others = matches!(
        one.record.as_ref().map(|record| &record.receipt),
        Some(Receipt::Ebpf { abi, .. }) if *abi != VERSION
    );
    if others {
        return vec![Finding::note(
            "other-version",
            "programs of another version of the plugin serve it",
            "nothing: they go on until the pod ends",
        )];
    }
    let todo = match (&one.record, &one.netns) {
        (Some(_), Some(_)) => format!("shuntctl repair {pod}"),
        (Some(_), None) => "look for the namespace by a process of the pod: shuntctl explain PID".to_owned(),
        (None, _) => "restart the pod".to_owned(),
    };
    let finding = |seen| Finding::error("drift", seen, todo.clone());
    one.drift(places, true).into_iter().map(finding).collect()
}

fn proxy(record: &Record, netns: &Netns, kernel: Option<&Kernel>) -> Outcome<Vec<Finding>> {
    let sockets = listening(netns)?;
    let ids = userns::outside(netns, &record.plan)?.uids;
    let mut findings = Vec::new();
    for side in sides(&record.plan) {
        let there: Vec<Socket> = sockets
            .iter()
            .filter(|socket| socket.port == side.port && (side.slot == slot::DNS || !socket.udp))
            .copied()
            .collect();
        findings.extend(match (&record.receipt, kernel) {
            _ if there.is_empty() => vec![silent(side)],
            (Receipt::Ebpf { .. }, Some(kernel)) if side.slot != slot::DNS => {
                known(side, &there, &ids, kernel)
            }
            (Receipt::Ebpf { .. }, None) => Vec::new(),
            (Receipt::Iptables { v6, .. }, _) => {
                stranger(side, &there, &ids).into_iter().chain(reached(side, &there, *v6)).collect()
            }
            (Receipt::Ebpf { .. }, _) => reached(side, &there, false),
        });
    }
    Ok(findings)
}

fn silent(Side { role, port, .. }: Side) -> Finding {
    Finding::error(
        "proxy-silent",
        format!("nobody listens on its {role} port {port}: what is captured for it is refused"),
        "see the proxy's container: it has not started, has ended, or listens elsewhere",
    )
}

/// By whom it is bound, where that is nobody of the proxy's ids. A gid cannot be seen from here.
fn stranger(side: Side, there: &[Socket], ids: &[u32]) -> Option<Finding> {
    let Side { role, port, .. } = side;
    if ids.is_empty() || there.iter().any(|socket| ids.contains(&socket.uid)) {
        return None;
    }
    let by: Vec<String> = there.iter().map(|socket| socket.uid.to_string()).collect();
    let list = |ids: &[u32]| ids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    Some(Finding::error(
        "proxy-stranger",
        format!("uid {} listens on its {role} port {port}, and the proxy's are {}", by.first()?, list(ids)),
        "run the proxy under its own id, or name the id it has (proxyUids): its own connections would be captured",
    ))
}

/// Under eBPF: what the programs know counts, wherever it is bound.
fn known(side: Side, there: &[Socket], ids: &[u32], kernel: &Kernel) -> Vec<Finding> {
    let Side { role, port, slot } = side;
    if !kernel.listeners.iter().any(|known| known.is_proxys() && known.slot == slot) {
        let before = || {
            Finding::error(
                "proxy-unknown",
                format!(
                    "who listens on its {role} port {port} is not known as the proxy: it was bound before ADD, or outside the pods' cgroup"
                ),
                "restart the proxy's container, so that it binds the port anew",
            )
        };
        return vec![stranger(side, there, ids).unwrap_or_else(before)];
    }
    let takes_v6 = |socket: &Socket| matches!(socket.ip, IpAddr::V6(_));
    // One of IPv6 may take IPv4 too: that cannot be seen from here.
    if kernel.v6 && !there.iter().any(takes_v6) {
        return vec![Finding::warning(
            "proxy-family",
            format!("the pod has IPv6, and its {role} port {port} is open for IPv4 alone: IPv6 is refused"),
            "let the proxy listen on IPv6 too (Istio: dual stack)",
        )];
    }
    Vec::new()
}

/// Where packets are sent to by number: DNS to the loopback address; under iptables what leaves to the loopback address, and what
/// arrives to the address it came to.
fn reached(Side { role, port, slot }: Side, there: &[Socket], v6: bool) -> Vec<Finding> {
    let is_right = |ip: IpAddr| ip.is_unspecified() || ip.is_loopback() != (slot == slot::INBOUND);
    let mut findings = Vec::new();
    if !there.iter().any(|socket| is_right(socket.ip)) {
        let at: Vec<String> = there.iter().map(|socket| socket.ip.to_string()).collect();
        let where_to = if slot == slot::INBOUND { "the pod's address" } else { "the loopback address" };
        findings.push(Finding::error(
            "proxy-address",
            format!(
                "its {role} port {port} is open on {} alone, and {where_to} is where connections go",
                at.join(", ")
            ),
            "let the proxy listen on all addresses",
        ));
    } else if v6 && slot != slot::DNS && !there.iter().any(|socket| socket.ip.is_ipv6()) {
        findings.push(Finding::warning(
            "proxy-family",
            format!("the pod's rules are for IPv6 too, and its {role} port {port} is open for IPv4 alone: IPv6 is refused"),
            "let the proxy listen on IPv6 too, if the pod has it (Istio: dual stack)",
        ));
    }
    findings
}

fn loopback(netns: &Netns) -> Outcome<Option<Finding>> {
    let up = netns.run(|| {
        let interfaces = getifaddrs().tried(|| "list the pod's interfaces")?;
        let mut lo = interfaces.filter(|interface| interface.interface_name == "lo");
        Ok(lo.any(|interface| interface.flags.contains(InterfaceFlags::IFF_UP)))
    })?;
    Ok((!up).then(|| {
        Finding::error(
            "lo-down",
            "its loopback interface is down: captured connections time out",
            "ip -n NETNS link set lo up; runtimes do that with the plugin `loopback`",
        )
    }))
}

/// Chains of other tools.
fn strangers(chains: &[String]) -> Vec<Finding> {
    let whose = |chain: &String| TOOLS.iter().find(|(begin, _)| chain.starts_with(begin)).map(|(_, of)| *of);
    let mut findings: Vec<(&str, Vec<&str>)> = Vec::new();
    for chain in chains {
        let Some(of) = whose(chain) else { continue };
        match findings.iter_mut().find(|(known, _)| *known == of) {
            Some((_, chains)) => chains.push(chain),
            None => findings.push((of, vec![chain])),
        }
    }
    let finding = |(of, chains): (&str, Vec<&str>)| {
        Finding::error(
            "foreign-rules",
            format!("rules of {of} are in the pod too: {}", chains.join(", ")),
            format!(
                "let one intercept: take {of}'s init container away (its CNI mode), or its own CNI plugin"
            ),
        )
    };
    findings.into_iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::strangers;

    #[test]
    fn chains_and_whose_they_are() {
        let chains = ["INPUT", "ISTIO_INBOUND", "ISTIO_OUTPUT", "KUMA_MESH_OUTBOUND", "SHUNT_OUTPUT", "nat"];
        let found = strangers(&chains.map(str::to_owned));
        let seen: Vec<&str> = found.iter().map(|finding| finding.seen.as_str()).collect();
        assert_eq!(
            seen,
            [
                "rules of Istio are in the pod too: ISTIO_INBOUND, ISTIO_OUTPUT",
                "rules of Kuma are in the pod too: KUMA_MESH_OUTBOUND"
            ]
        );
    }
}
