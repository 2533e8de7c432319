//! Interception by REDIRECT rules, written by hand: a yardstick for the harness. What it sees here it would see of any
//! plugin that works.

use crate::net::Netns;
use crate::node::{INBOUND_PORT, OUTBOUND_PORT, PROXY};

/// Puts the rules of a sidecar mesh into a namespace, both families.
pub fn apply(netns: &Netns) {
    for (tool, own_call, loopback) in
        [("iptables-restore", "127.0.0.6/32", "127.0.0.1/32"), ("ip6tables-restore", "::6/128", "::1/128")]
    {
        let rules = format!(
            "*nat\n\
             -A PREROUTING -p tcp ! --dport 15008 -j REDIRECT --to-ports {INBOUND_PORT}\n\
             -A OUTPUT -p tcp -o lo -s {own_call} -j RETURN\n\
             -A OUTPUT -p tcp -o lo ! -d {loopback} ! --dport 15008 -m owner --uid-owner {PROXY} -j REDIRECT --to-ports {INBOUND_PORT}\n\
             -A OUTPUT -p tcp -o lo -m owner ! --uid-owner {PROXY} -j RETURN\n\
             -A OUTPUT -p tcp -m owner --uid-owner {PROXY} -j RETURN\n\
             -A OUTPUT -p tcp -d {loopback} -j RETURN\n\
             -A OUTPUT -p tcp -j REDIRECT --to-ports {OUTBOUND_PORT}\n\
             COMMIT\n"
        );
        netns.run(tool, &["--noflush"], &rules);
    }
}

/// Takes them out again.
pub fn remove(netns: &Netns) {
    for tool in ["iptables", "ip6tables"] {
        netns.run(tool, &["-t", "nat", "-F"], "");
    }
}

/// What Istio's injector gives `istio-iptables`: everything that leaves and arrives, in both families.
pub fn istio_arguments() -> Vec<String> {
    let (outbound, inbound, proxy) = (OUTBOUND_PORT.to_string(), INBOUND_PORT.to_string(), PROXY.to_string());
    let ports = ["-p", &outbound, "-z", &inbound, "-u", &proxy, "-g", &proxy, "-m", "REDIRECT"];
    let what = ["-i", "*", "-x", "", "-b", "*", "-d", "15090,15021,15020", "--dual-stack"];
    ports.into_iter().chain(what).map(str::to_owned).collect()
}
