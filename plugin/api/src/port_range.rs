//! Ports and port ranges as people write them.

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Unexpected, Visitor};
use serde::ser::{Serialize, Serializer};

/// Ports `first` to `last`, both included, `1 <= first <= last`.
///
/// Written as a number (`80`) or as text (`"80"`, `"8000-8999"`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// Why a text is not a port or a range of ports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a port (1-65535) or a range of ports such as \"8000-8999\"")]
pub struct PortRangeError {
    text: String,
}

impl PortRange {
    /// `first` to `last`; `None` when `first` is 0 or above `last`.
    pub const fn new(first: u16, last: u16) -> Option<Self> {
        if first == 0 || first > last { None } else { Some(Self { first, last }) }
    }

    /// One port; `None` for 0.
    pub const fn single(port: u16) -> Option<Self> {
        Self::new(port, port)
    }

    /// Lowest port of the range.
    pub const fn first(self) -> u16 {
        self.first
    }

    /// Highest port of the range.
    pub const fn last(self) -> u16 {
        self.last
    }

    /// Whether `port` is one of them.
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl fmt::Debug for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PortRange {
    type Err = PortRangeError;

    /// `port` or `first-last`; blanks around the numbers are ignored.
    fn from_str(text: &str) -> Result<Self, PortRangeError> {
        let number = |digits: &str| {
            let digits = digits.trim();
            digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse::<u16>().ok()).flatten()
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        number(first)
            .zip(number(last))
            .and_then(|(first, last)| Self::new(first, last))
            .ok_or_else(|| PortRangeError { text: crate::entry::shortened(text) })
    }
}

impl Serialize for PortRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.first == self.last {
            serializer.serialize_u16(self.first)
        } else {
            serializer.collect_str(self)
        }
    }
}

impl<'de> Deserialize<'de> for PortRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;

        impl Visitor<'_> for Written {
            type Value = PortRange;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port (1-65535) or a range of ports such as \"8000-8999\"")
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<PortRange, E> {
                u16::try_from(number)
                    .ok()
                    .and_then(PortRange::single)
                    .ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &self))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<PortRange, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Written)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::PortRange;

    #[test]
    fn what_is_a_range() {
        for (text, first, last) in [
            ("80", 80, 80),
            (" 80 ", 80, 80),
            ("8000-8999", 8000, 8999),
            ("1 - 65535", 1, 65535),
            ("007", 7, 7),
        ] {
            assert_eq!(text.parse().ok(), PortRange::new(first, last), "{text}");
        }
        for text in [
            "",
            "0",
            "65536",
            "-1",
            "1-",
            "-",
            "2-1",
            "0-5",
            "80,81",
            "+80",
            "8 0",
            "1-2-3",
            "http",
            "99999999999999999999",
        ] {
            assert!(text.parse::<PortRange>().is_err(), "{text}");
        }
    }

    #[test]
    fn json_takes_numbers_and_texts() {
        let list: Vec<PortRange> = serde_json::from_str(r#"[80, "80", "8000-8999"]"#).expect("valid");
        assert_eq!(serde_json::to_string(&list).expect("plain"), r#"[80,80,"8000-8999"]"#);
        for text in ["[0]", "[65536]", "[-1]", "[1.5]", "[true]", "[null]", "[\"x\"]"] {
            assert!(serde_json::from_str::<Vec<PortRange>>(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_and_range_agree(a in any::<u16>(), b in any::<u16>(), port in any::<u16>()) {
            let parsed = format!("{a}-{b}").parse::<PortRange>().ok();
            prop_assert_eq!(parsed.is_some(), a > 0 && a <= b);
            if let Some(range) = parsed {
                prop_assert_eq!(range.contains(port), (a..=b).contains(&port));
                prop_assert_eq!(range.to_string().parse::<PortRange>(), Ok(range));
            }
        }

        #[test]
        fn any_text_is_answered(text in ".*") {
            let _ = text.parse::<PortRange>();
        }
    }
}
