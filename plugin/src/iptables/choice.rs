//! Which flavour writes: a function of what was seen.
//!
//! Rules of one flavour beside rules of the other are in force and shown by neither's tools together; so whatever a namespace
//! has already decides, and where the tool for that is missing the answer is no.

use super::Flavour;

/// What a namespace and the host have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "observations, each on its own")]
pub struct Seen {
    /// Tables of `ip_tables` or `ip6_tables` in the namespace.
    pub legacy_tables: bool,
    /// Tables of `nf_tables` in the namespace that iptables could have made.
    pub nft_tables: bool,
    /// The kernel answers for `nf_tables`.
    pub nft_kernel: bool,
    /// The host has all tools of the nft flavour.
    pub nft_tools: bool,
    /// The host has all tools of the legacy flavour.
    pub legacy_tools: bool,
    /// What an earlier ADD of ours used in the namespace.
    pub before: Option<Flavour>,
}

impl Seen {
    const fn has(self, flavour: Flavour) -> bool {
        match flavour {
            Flavour::Nft => self.nft_tools,
            Flavour::Legacy => self.legacy_tools,
        }
    }
}

/// The flavours to try, in order: the second only where the kernel refuses the first and nothing is there yet. Else why none
/// can be used, for people.
pub fn chosen(seen: &Seen) -> Result<Vec<Flavour>, String> {
    let held = match (seen.before, seen.legacy_tables, seen.nft_tables) {
        (Some(before), _, _) => Some((before, "an earlier ADD wrote")),
        // Both: nft tables come with a mere look, legacy ones hardly.
        (None, true, true) if !seen.legacy_tools => Some((Flavour::Nft, "the namespace holds")),
        (None, true, _) => Some((Flavour::Legacy, "the namespace holds")),
        (None, false, true) => Some((Flavour::Nft, "the namespace holds")),
        (None, false, false) => None,
    };
    match held {
        Some((flavour, _)) if seen.has(flavour) => Ok(vec![flavour]),
        Some((flavour, who)) => Err(format!(
            "{who} rules of the {0} flavour and the host has no iptables-{0}-restore to add to them",
            flavour.as_str()
        )),
        None => {
            let usable =
                |flavour: &Flavour| seen.has(*flavour) && (*flavour != Flavour::Nft || seen.nft_kernel);
            let usable: Vec<Flavour> = Flavour::ALL.into_iter().filter(usable).collect();
            match (usable.is_empty(), seen.nft_tools) {
                (false, _) => Ok(usable),
                (true, true) => {
                    Err("the host's iptables is of the nft flavour and the kernel has no nf_tables"
                        .to_owned())
                }
                (true, false) => {
                    Err("the host has no iptables-restore and ip6tables-restore of one flavour".to_owned())
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Flavour::{Legacy, Nft};
    use super::*;

    #[test]
    fn table() {
        let all = Seen { nft_kernel: true, nft_tools: true, legacy_tools: true, ..Seen::default() };
        let nft = Seen { legacy_tools: false, ..all };
        let legacy = Seen { nft_tools: false, ..all };
        let old = Seen { nft_kernel: false, ..all };
        let l = |seen: Seen| Seen { legacy_tables: true, ..seen };
        let n = |seen: Seen| Seen { nft_tables: true, ..seen };
        let b = |seen: Seen, before| Seen { before: Some(before), ..seen };
        for (seen, wanted) in [
            (all, &[Nft, Legacy][..]),
            (nft, &[Nft]),
            (legacy, &[Legacy]),
            (old, &[Legacy]),
            (l(all), &[Legacy]),
            (n(all), &[Nft]),
            (l(n(all)), &[Legacy]),
            (l(n(nft)), &[Nft]),
            (l(n(legacy)), &[Legacy]),
            (b(all, Nft), &[Nft]),
            (b(all, Legacy), &[Legacy]),
            (b(l(all), Nft), &[Nft]),
            (b(n(all), Legacy), &[Legacy]),
        ] {
            assert_eq!(chosen(&seen).as_deref(), Ok(wanted), "{seen:?}");
        }
        for (seen, says) in [
            (Seen::default(), "no iptables-restore"),
            (Seen { nft_kernel: false, ..nft }, "no nf_tables"),
            (l(nft), "the namespace holds rules of the legacy flavour"),
            (n(legacy), "no iptables-nft-restore"),
            (b(legacy, Nft), "an earlier ADD wrote rules of the nft flavour"),
        ] {
            assert!(chosen(&seen).unwrap_err().contains(says), "{seen:?}");
        }
    }
}
