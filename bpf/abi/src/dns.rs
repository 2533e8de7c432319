//! DNS over UDP: how an answer finds its way back to the resolver's name when one socket asks several.
//!
//! A query goes to the proxy's DNS listener on the loopback address. All answers then come from that one address, and a socket
//! that asked two resolvers could not tell them apart. So a query leaves with a *marker* as its source, one for each resolver of
//! the socket; the proxy answers to the marker, and its answer is given the same marker as its source.

use crate::Address;

/// Where DNS servers listen.
pub const PORT: u16 = 53;

/// Resolvers that one socket can ask at the same time; `resolv.conf` has room for three.
pub const RESOLVERS: u32 = 4;

/// 127.53.0.0: all of 127.0.0.0/8 is local in every namespace.
const MARKER4: u32 = 0x7f35_0000;
/// `::7f35:0:0/96`: made local by a route on `lo`, because IPv6 has one loopback address only.
const MARKER6: [u32; 3] = [0, 0, 0x7f35_0000];
/// Length of the IPv6 prefix that must be local.
pub const MARKER6_PREFIX: u8 = 124;

/// The source address of queries to the resolver in place `index` (below [`RESOLVERS`]), in the family of the proxy's listener.
#[inline(always)]
pub const fn marker(index: u32, v4: bool) -> Address {
    let last = 1 + index;
    if v4 {
        Address::v4((MARKER4 | last).to_be())
    } else {
        Address([MARKER6[0], MARKER6[1], MARKER6[2].to_be(), last.to_be()])
    }
}

/// The place whose marker `address` is.
#[inline(always)]
pub const fn marked(address: Address) -> Option<u32> {
    let mut index = 0;
    while index < RESOLVERS {
        if address.same(marker(index, true)) || address.same(marker(index, false)) {
            return Some(index);
        }
        index += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_found_again_and_is_of_its_family() {
        for index in 0..RESOLVERS {
            for v4 in [true, false] {
                let address = marker(index, v4);
                assert_eq!(marked(address), Some(index), "{}", address.ip());
                assert_eq!(address.is_v4(), v4, "{}", address.ip());
                assert!(!address.is_unspecified());
            }
        }
        assert!(marker(0, true).is_loopback());
        assert_eq!(std::format!("{}", marker(0, false).ip()), "::7f35:0:0:1");
        for other in [Address::LOOPBACK4, Address::LOOPBACK6, Address::PASSTHROUGH4, Address::PASSTHROUGH6] {
            assert_eq!(marked(other), None);
        }
    }
}
