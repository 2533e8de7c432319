//! IP networks as people write them, brought to one form.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnetwork::IpNetwork;
use serde::de::{Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};

/// An IPv4 or IPv6 network, normalised: host bits are zero and `::ffff:a.b.c.d/96+n` is `a.b.c.d/n`, so that one set of
/// addresses has one form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Network(IpNetwork);

/// Why a text is not a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an address or a network such as 10.0.0.0/8 or fd00::/8")]
pub struct NetworkError {
    text: String,
}

impl Network {
    /// Brings `network` to its one form.
    pub fn normalised(network: IpNetwork) -> Self {
        let cleared = IpNetwork::new(network.network(), network.prefix()).unwrap_or(network);
        let IpNetwork::V6(v6) = cleared else { return Self(cleared) };
        let mapped = v6.ip().to_ipv4_mapped().zip(v6.prefix().checked_sub(96));
        let v4 = mapped.and_then(|(address, prefix)| IpNetwork::new(IpAddr::V4(address), prefix).ok());
        Self(v4.unwrap_or(cleared))
    }

    /// The network itself.
    pub const fn get(self) -> IpNetwork {
        self.0
    }
}

impl From<Network> for IpNetwork {
    fn from(network: Network) -> Self {
        network.0
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    /// `address` or `address/bits`; blanks around it are ignored.
    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let bad = || NetworkError { text: crate::entry::shortened(text) };
        let trimmed = text.trim();
        let (address, bits) =
            trimmed.split_once('/').map_or((trimmed, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().ok().ok_or_else(bad)?;
        let widest = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => widest,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().ok().ok_or_else(bad)?
            }
            Some(_) => return Err(bad()),
        };
        IpNetwork::new(address, bits).ok().map(Self::normalised).ok_or_else(bad)
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;

        impl Visitor<'_> for Written {
            type Value = Network;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a network such as \"10.0.0.0/8\"")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Network, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Written)
    }
}

#[cfg(test)]
mod tests {
    use super::Network;

    #[test]
    fn one_form_for_one_set() {
        for (written, form) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            (" 10.1.2.3 ", "10.1.2.3/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("fd00::1", "fd00::1/128"),
            ("fd00::1/8", "fd00::/8"),
            ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
            ("::ffff:10.1.2.3", "10.1.2.3/32"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::ffff:0:0/90", "::ffc0:0:0/90"),
        ] {
            assert_eq!(
                written.parse::<Network>().map(|network| network.to_string()).as_deref(),
                Ok(form),
                "{written}"
            );
        }
    }

    #[test]
    fn what_is_not_a_network() {
        for text in [
            "",
            "*",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0/8",
            "::/129",
            "10.0.0.0/255.0.0.0",
            "10.0.0.0/+8",
            "fe80::1%eth0",
            "a",
        ] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }
}
