//! Versions of the CNI specification.

use std::fmt;

/// A version we speak. Ordered by age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// 0.3.0
    V0_3_0,
    /// 0.3.1
    V0_3_1,
    /// 0.4.0: CHECK, prevResult on DEL.
    V0_4_0,
    /// 1.0.0
    V1_0_0,
    /// 1.1.0: GC, STATUS.
    V1_1_0,
}

impl Version {
    /// All we speak, oldest first.
    pub const ALL: [Self; 5] = [Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    /// The newest; answers are in it where no other was asked for.
    pub const LATEST: Self = Self::V1_1_0;

    /// As written in `cniVersion`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// The version written so, if we speak it. Exact match, as in CNI's `pkg/version/reconcile.go`.
    pub fn exact(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.as_str() == text)
    }

    /// `0.3.0, 0.3.1, …`, for people.
    pub fn list() -> String {
        Self::ALL.map(Self::as_str).join(", ")
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::Version;

    #[test]
    fn exact_only() {
        for version in Version::ALL {
            assert_eq!(Version::exact(version.as_str()), Some(version));
        }
        for text in ["", "0.1.0", "0.2.0", "0.3", "1.0", "1.0.1", "1.1.0 ", "v1.0.0", "1.2.0", "01.0.0"] {
            assert_eq!(Version::exact(text), None, "{text}");
        }
        assert!(Version::ALL.is_sorted());
        assert_eq!(Version::ALL.last(), Some(&Version::LATEST));
    }
}
