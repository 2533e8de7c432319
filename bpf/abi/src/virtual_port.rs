//! Virtual ports: the destination port a captured connection gets instead of the proxy's.
//!
//! With one destination for all connections a pod would have 28,232 four-tuples and no more: 470 new connections a second
//! while the app closes first. A port that changes with every connection multiplies that by [`COUNT`].

use crate::Address;

/// First virtual port: above the default range of ephemeral ports (32768–60999).
pub const FIRST: u16 = 61000;
/// Last virtual port.
pub const LAST: u16 = u16::MAX;
/// How many there are.
pub const COUNT: u32 = LAST as u32 - FIRST as u32 + 1;

const GOLDEN: u32 = 0x9e37_79b1;
const SPREAD: u32 = 0x85eb_ca6b;

/// Finaliser of MurmurHash3: every input bit changes every output bit.
#[inline(always)]
const fn mix(mut h: u32) -> u32 {
    h ^= h >> 16;
    h = h.wrapping_mul(SPREAD);
    h ^= h >> 13;
    h = h.wrapping_mul(0xc2b2_ae35);
    h ^ (h >> 16)
}

/// The virtual port of a connection to `destination`:`port`.
///
/// `rotation` is different for every connection, except from a socket bound to `source_port`, where it is 0: the plain hash
/// makes "same source port, same destination twice" fail as it does without us. Never equal to `source_port` (0 for unbound),
/// because a connection whose two ends are the same meets itself and would pass the proxy by.
#[inline(always)]
pub const fn pick(destination: Address, port: u16, rotation: u32, source_port: u16) -> u16 {
    let mut h = (port.to_be() as u32).wrapping_mul(GOLDEN);
    h = mix(h ^ destination.0[0]);
    h = mix(h ^ destination.0[1]);
    h = mix(h ^ destination.0[2]);
    h = mix(h ^ destination.0[3]);
    h = h.wrapping_add(rotation);
    let offset = ((h as u64 * COUNT as u64) >> 32) as u16;
    let picked = FIRST + offset;
    if picked != source_port {
        picked
    } else if picked == LAST {
        FIRST
    } else {
        picked + 1
    }
}

/// The rotation term for the `count`-th connection made on `cpu`.
#[inline(always)]
pub const fn rotation(count: u32, cpu: u32) -> u32 {
    count.wrapping_mul(GOLDEN).wrapping_add(cpu.wrapping_mul(SPREAD))
}

/// True for a virtual port.
#[inline(always)]
pub const fn contains(port: u32) -> bool {
    port >= FIRST as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn always_one_of_them_and_never_the_source_port(a: u32, port: u16, rotation: u32, source: u16) {
            let picked = pick(Address::v4(a), port, rotation, source);
            prop_assert!(contains(u32::from(picked)));
            prop_assert_ne!(picked, source);
        }

        /// Without rotation the port is a function of the destination, so that a bound socket fails where it would fail.
        #[test]
        fn a_bound_socket_gets_the_same_port_for_the_same_destination(a: u32, port: u16, source in 1_u16..FIRST) {
            prop_assert_eq!(pick(Address::v4(a), port, 0, source), pick(Address::v4(a), port, 0, source));
        }
    }

    #[test]
    fn rotation_reaches_every_port_about_evenly() {
        let mut hits = std::vec![0_u32; COUNT as usize];
        let each = 64;
        for count in 0..COUNT * each {
            let picked = pick(Address::v4(0x0100_007f), 80, rotation(count, 0), 0);
            hits[usize::from(picked - FIRST)] += 1;
        }
        let (least, most) = (hits.iter().min().copied(), hits.iter().max().copied());
        assert!(least > Some(each / 2) && most < Some(each * 2), "{least:?} {most:?}");
    }

    #[test]
    fn the_port_after_the_last_is_the_first() {
        let destination = Address::v4(0x0100_007f);
        for port in 0..u16::MAX {
            if pick(destination, port, 0, 0) == LAST {
                assert_eq!(pick(destination, port, 0, LAST), FIRST);
                return;
            }
        }
        unreachable!("no port of {destination:?} hashes to the last virtual port");
    }
}
