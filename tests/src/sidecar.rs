//! What the tests' sidecar and those who look for its traces agree on.

use std::net::SocketAddr;
use std::ops::RangeInclusive;

/// Where it takes what leaves: Istio's port.
pub const OUTBOUND: u16 = 15001;
/// Where it takes what arrives: Istio's port.
pub const INBOUND: u16 = 15006;
/// Where it answers that it serves: a port that Istio leaves alone.
pub const HEALTH: u16 = 15021;
/// The user it runs as: Istio's.
pub const USER: u32 = 1337;
/// The ports it goes out from. The kernel chooses none of them for others (`ip_local_port_range` begins above), and a
/// server that is asked from another port was asked by somebody who went around the proxy.
pub const SOURCES: RangeInclusive<u16> = 20000..=27999;

/// Whether a server that saw this peer was asked by way of the proxy.
pub fn went_through(peer: SocketAddr) -> bool {
    SOURCES.contains(&peer.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_the_kernel_chooses_are_not_the_proxys() {
        let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").expect("Linux has it");
        let first: u16 = range.split_whitespace().next().and_then(|port| port.parse().ok()).expect("a port");
        assert!(first > *SOURCES.end(), "{range}");
    }
}
