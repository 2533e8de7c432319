//! IP addresses of both families as one 16-byte value.

/// An IP address: four words whose bytes in memory are the 16 bytes of the IPv6 form, IPv4 as `::ffff:a.b.c.d`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub [u32; 4]);

crate::layout!(Address, size 16, align 4, fields [u32; 4]);

const MAPPED: u32 = 0xffff_u32.to_be();

impl Address {
    /// `::`
    pub const UNSPECIFIED: Self = Self([0; 4]);
    /// `::1`
    pub const LOOPBACK6: Self = Self([0, 0, 0, 1_u32.to_be()]);
    /// `127.0.0.1`
    pub const LOOPBACK4: Self = Self::v4(0x7f00_0001_u32.to_be());
    /// `127.0.0.6`, the source a mesh proxy binds for inbound traffic it hands on to the app.
    pub const PASSTHROUGH4: Self = Self::v4(0x7f00_0006_u32.to_be());
    /// `::6`, the same for IPv6.
    pub const PASSTHROUGH6: Self = Self([0, 0, 0, 6_u32.to_be()]);

    /// An IPv4 address from its four bytes as they are in memory (network order).
    #[inline(always)]
    pub const fn v4(network_order: u32) -> Self {
        Self([0, 0, MAPPED, network_order])
    }

    /// True for IPv4, native or v4-mapped.
    #[inline(always)]
    pub const fn is_v4(self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == MAPPED
    }

    /// `0.0.0.0`, `::ffff:0.0.0.0` or `::`: the kernel connects these to loopback.
    #[inline(always)]
    pub const fn is_unspecified(self) -> bool {
        self.0[3] == 0 && self.0[1] == 0 && self.0[0] == 0 && (self.0[2] == 0 || self.0[2] == MAPPED)
    }

    /// 127.0.0.0/8 or `::1`. Not the unspecified addresses: see [`Self::is_unspecified`].
    #[inline(always)]
    pub const fn is_loopback(self) -> bool {
        if self.is_v4() { u32::from_be(self.0[3]) >> 24 == 127 } else { self.same(Self::LOOPBACK6) }
    }

    /// 224.0.0.0/4 or `ff00::/8`.
    #[inline(always)]
    pub const fn is_multicast(self) -> bool {
        if self.is_v4() { u32::from_be(self.0[3]) >> 28 == 14 } else { u32::from_be(self.0[0]) >> 24 == 0xff }
    }

    /// `fe80::/10`: reached by the interface that is named with it.
    #[inline(always)]
    pub const fn is_link_local(self) -> bool {
        u32::from_be(self.0[0]) >> 22 == 0xfe80 >> 6
    }

    /// 255.255.255.255. A subnet's broadcast address is known only from the pod's interfaces.
    #[inline(always)]
    pub const fn is_limited_broadcast(self) -> bool {
        self.is_v4() && self.0[3] == u32::MAX
    }

    /// Equality usable in `const` and free of a `memcmp` call in the kernel.
    #[inline(always)]
    pub const fn same(self, other: Self) -> bool {
        self.0[0] == other.0[0]
            && self.0[1] == other.0[1]
            && self.0[2] == other.0[2]
            && self.0[3] == other.0[3]
    }

    /// From the standard library's address; a v4-mapped IPv6 address is the IPv4 one.
    pub fn from_ip(ip: core::net::IpAddr) -> Self {
        let bytes = match ip {
            core::net::IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            core::net::IpAddr::V6(v6) => v6.octets(),
        };
        Self::from_bytes(bytes)
    }

    /// From 16 bytes in network order.
    pub const fn from_bytes(b: [u8; 16]) -> Self {
        Self([
            u32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
            u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
            u32::from_ne_bytes([b[8], b[9], b[10], b[11]]),
            u32::from_ne_bytes([b[12], b[13], b[14], b[15]]),
        ])
    }

    /// The 16 bytes in network order.
    pub const fn bytes(self) -> [u8; 16] {
        let [a, b, c, d] = [
            self.0[0].to_ne_bytes(),
            self.0[1].to_ne_bytes(),
            self.0[2].to_ne_bytes(),
            self.0[3].to_ne_bytes(),
        ];
        [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]]
    }

    /// The standard library's form, IPv4 as IPv4.
    pub fn ip(self) -> core::net::IpAddr {
        core::net::Ipv6Addr::from(self.bytes()).to_canonical()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn families_and_kinds() {
        for (text, v4, loopback, unspecified, multicast) in [
            ("10.0.0.1", true, false, false, false),
            ("::ffff:10.0.0.1", true, false, false, false),
            ("127.255.0.1", true, true, false, false),
            ("::ffff:127.0.0.1", true, true, false, false),
            ("::1", false, true, false, false),
            ("::2", false, false, false, false),
            ("0.0.0.0", true, false, true, false),
            ("::", false, false, true, false),
            ("0.0.0.1", true, false, false, false),
            ("239.1.1.1", true, false, false, true),
            ("223.255.255.255", true, false, false, false),
            ("240.0.0.1", true, false, false, false),
            ("ff02::1", false, false, false, true),
            ("fe80::1", false, false, false, false),
            ("febf::1", false, false, false, false),
            ("fec0::1", false, false, false, false),
        ] {
            let ip: IpAddr = text.parse().unwrap();
            let address = Address::from_ip(ip);
            let seen =
                (address.is_v4(), address.is_loopback(), address.is_unspecified(), address.is_multicast());
            assert_eq!(seen, (v4, loopback, unspecified, multicast), "{text}");
            assert_eq!(address.is_link_local(), matches!(text, "fe80::1" | "febf::1"), "{text}");
            assert_eq!(address.ip(), ip.to_canonical(), "{text}");
            assert_eq!(Address::from_bytes(address.bytes()), address, "{text}");
        }
    }
}
