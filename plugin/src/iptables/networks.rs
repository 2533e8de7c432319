//! Long lists of networks as few rules on the way of a packet.
//!
//! A chain is read from its top. A list of thousands would be read whole by every new connection, so it is cut into groups
//! that have a prefix of their own and nothing in common: a packet reads the groups' prefixes and then one group.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

/// Lists up to this length, and groups, stay flat.
pub const FLAT: usize = 64;

/// Networks with one prefix that covers them all, and no network of another group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The prefix.
    pub prefix: IpNetwork,
    /// What it covers; never empty.
    pub networks: Vec<IpNetwork>,
}

/// The same set of addresses of one family, without what another network of the list covers, in order.
pub fn reduced(list: &[IpNetwork]) -> Vec<IpNetwork> {
    let mut sorted = list.to_vec();
    sorted.sort_unstable_by_key(|network| (network.network(), network.prefix()));
    let mut kept: Vec<IpNetwork> = Vec::with_capacity(sorted.len());
    for network in sorted {
        if !kept.last().is_some_and(|last| covers(last, &network)) {
            kept.push(network);
        }
    }
    kept
}

/// Cuts a [`reduced`] list into groups of at most [`FLAT`].
pub fn grouped(reduced: &[IpNetwork]) -> Vec<Group> {
    let mut groups = Vec::new();
    let mut waiting = vec![reduced];
    // In order: the left half is taken from the end before the right one.
    while let Some(run) = waiting.pop() {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
        let length = common(first, last);
        if run.len() <= FLAT {
            if let Ok(prefix) = IpNetwork::new(first.network(), length) {
                let prefix = IpNetwork::new(prefix.network(), length).unwrap_or(prefix);
                groups.push(Group { prefix, networks: run.to_vec() });
            }
            continue;
        }
        let (left, right) = run.split_at(run.partition_point(|network| !bit(network, length)));
        waiting.push(right);
        waiting.push(left);
    }
    groups
}

/// How many leading bits two networks share; no more than the shorter one has.
fn common(one: &IpNetwork, other: &IpNetwork) -> u8 {
    let same = match (one.network(), other.network()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        _ => 0,
    };
    u8::try_from(same).unwrap_or(u8::MAX).min(one.prefix()).min(other.prefix())
}

/// The bit after `length` leading ones.
fn bit(network: &IpNetwork, length: u8) -> bool {
    match network.network() {
        IpAddr::V4(ip) => ip.to_bits().checked_shl(length.into()).is_some_and(|bits| bits >> 31 == 1),
        IpAddr::V6(ip) => ip.to_bits().checked_shl(length.into()).is_some_and(|bits| bits >> 127 == 1),
    }
}

fn covers(outer: &IpNetwork, inner: &IpNetwork) -> bool {
    outer.is_ipv4() == inner.is_ipv4() && common(outer, inner) >= outer.prefix()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, any, prop, prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn v4(bits: u32, prefix: u8) -> IpNetwork {
        let network = IpNetwork::new(IpAddr::V4(bits.into()), prefix).unwrap();
        IpNetwork::new(network.network(), prefix).unwrap()
    }

    #[test]
    fn what_is_covered_goes() {
        let list = ["10.1.0.0/16", "10.0.0.0/8", "10.1.0.0/16", "11.0.0.0/8", "10.255.0.0/16"];
        let list: Vec<IpNetwork> = list.iter().map(|text| text.parse().unwrap()).collect();
        let kept: Vec<String> = reduced(&list).iter().map(ToString::to_string).collect();
        assert_eq!(kept, ["10.0.0.0/8", "11.0.0.0/8"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

        #[test]
        fn groups_are_the_list_and_disjoint(
            list in prop::collection::vec((any::<u32>(), 0_u8..=32), 0..600),
            narrow in prop::collection::vec((0_u32..0xffff, 24_u8..=32), 0..600),
        ) {
            let list: Vec<IpNetwork> =
                list.into_iter().filter(|(_, prefix)| *prefix > 6).chain(narrow).map(|(bits, prefix)| v4(bits, prefix)).collect();
            let kept = reduced(&list);
            for network in &list {
                prop_assert!(kept.iter().any(|outer| covers(outer, network)));
            }
            let groups = grouped(&kept);
            let flat: Vec<IpNetwork> = groups.iter().flat_map(|group| group.networks.clone()).collect();
            prop_assert_eq!(flat, kept);
            for (index, group) in groups.iter().enumerate() {
                prop_assert!(group.networks.len() <= FLAT);
                prop_assert!(group.networks.iter().all(|network| covers(&group.prefix, network)));
                for other in groups.iter().skip(index + 1) {
                    prop_assert!(!covers(&group.prefix, &other.prefix) && !covers(&other.prefix, &group.prefix));
                }
            }
        }
    }
}
