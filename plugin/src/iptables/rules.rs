//! Our chains and jumps of one family as values, and the text that makes the kernel's equal to them.

use std::fmt::Write as _;

/// Everything of ours in one family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// Tables that hold something of ours.
    pub tables: Vec<Table>,
}

/// What one table holds of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// `nat`, `filter`, `mangle` or `raw`.
    pub name: String,
    /// Our own chains.
    pub chains: Vec<Chain>,
    /// What leads into them from the kernel's chains, in order; nothing stands before it there.
    pub jumps: Vec<Jump>,
}

/// A chain of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Its rules, without `-A` and the name.
    pub rules: Vec<String>,
}

/// A rule in a chain of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jump {
    /// `OUTPUT` or `PREROUTING`.
    pub from: String,
    /// The rule, without `-A` and the name.
    pub rule: String,
    /// Its number in the chain, of one that was found there.
    pub at: usize,
}

/// Order in which tables are written: what captures comes last, when all that it needs is there.
const ORDER: [&str; 4] = ["raw", "mangle", "filter", "nat"];

impl Rules {
    /// True if there is nothing.
    pub fn is_empty(&self) -> bool {
        self.tables.iter().all(|table| table.chains.is_empty() && table.jumps.is_empty())
    }

    fn table(&self, name: &str) -> Option<&Table> {
        self.tables.iter().find(|table| table.name == name)
    }
}

/// Text for `iptables-restore --noflush` that turns `found` into `wanted`. Each table changes at once: at no moment is a chain of
/// ours empty, and jumps come to the top again. Empty when there is nothing on either side.
///
/// Of `found` no more than names and numbers go into the text: who may write rules in the pod is not to write what the host's tool reads.
pub fn transaction(wanted: &Rules, found: &Rules) -> String {
    let mut text = String::new();
    let others = wanted.tables.iter().chain(&found.tables).map(|table| table.name.as_str());
    let mut names: Vec<&str> = ORDER.into_iter().chain(others.filter(|name| !ORDER.contains(name))).collect();
    names.dedup();
    for name in names {
        let (wanted, found) = (wanted.table(name), found.table(name));
        if wanted.is_some() || found.is_some() {
            text.push_str(&change(name, wanted, found));
        }
    }
    text
}

#[expect(unused_must_use, reason = "writing to a String does not fail")]
fn change(name: &str, wanted: Option<&Table>, found: Option<&Table>) -> String {
    let chains = wanted.map_or(&[][..], |table| &table.chains);
    let jumps = wanted.map_or(&[][..], |table| &table.jumps);
    let old_chains = found.map_or(&[][..], |table| &table.chains);
    let old_jumps = found.map_or(&[][..], |table| &table.jumps);
    let mut stale = Vec::new();
    let mut text = format!("*{name}\n");
    // A line for a chain makes it, or empties it if it is there.
    for Chain { name, .. } in chains {
        writeln!(text, ":{name} - [0:0]");
    }
    for Chain { name, .. } in old_chains {
        if !chains.iter().any(|chain| chain.name == *name) {
            writeln!(text, ":{name} - [0:0]");
            stale.push(name);
        }
    }
    for Chain { name, rules } in chains {
        for rule in rules {
            writeln!(text, "-A {name} {rule}");
        }
    }
    // From the last one: a number counts those before it.
    let mut old_jumps: Vec<(&str, usize)> =
        old_jumps.iter().map(|jump| (jump.from.as_str(), jump.at)).collect();
    old_jumps.sort_unstable_by_key(|(_, at)| std::cmp::Reverse(*at));
    for (from, at) in old_jumps {
        writeln!(text, "-D {from} {at}");
    }
    // Each at the top, the first one last.
    for Jump { from, rule, .. } in jumps.iter().rev() {
        writeln!(text, "-I {from} {rule}");
    }
    for name in stale {
        writeln!(text, "-X {name}");
    }
    text.push_str("COMMIT\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(rule: &str, chains: &[&str]) -> Rules {
        let chain = |name: &&str| Chain { name: (*name).to_owned(), rules: vec![rule.to_owned()] };
        let jump = |rule: &str, at| Jump { from: "OUTPUT".to_owned(), rule: rule.to_owned(), at };
        Rules {
            tables: vec![Table {
                name: "nat".to_owned(),
                chains: chains.iter().map(chain).collect(),
                jumps: vec![jump("-p tcp -j SHUNT_A", 1), jump("-p udp -j SHUNT_A", 3)],
            }],
        }
    }

    #[test]
    fn first_replaced_and_removed() {
        let one = rules("-j RETURN", &["SHUNT_A", "SHUNT_B"]);
        let two = rules("-j ACCEPT", &["SHUNT_A"]);
        let none = Rules::default();
        assert_eq!(
            transaction(&two, &none),
            "*nat\n:SHUNT_A - [0:0]\n-A SHUNT_A -j ACCEPT\n-I OUTPUT -p udp -j SHUNT_A\n-I OUTPUT -p tcp -j SHUNT_A\nCOMMIT\n"
        );
        assert_eq!(
            transaction(&two, &one),
            "*nat\n:SHUNT_A - [0:0]\n:SHUNT_B - [0:0]\n-A SHUNT_A -j ACCEPT\n-D OUTPUT 3\n\
             -D OUTPUT 1\n-I OUTPUT -p udp -j SHUNT_A\n-I OUTPUT -p tcp -j SHUNT_A\n-X SHUNT_B\nCOMMIT\n"
        );
        assert_eq!(
            transaction(&none, &two),
            "*nat\n:SHUNT_A - [0:0]\n-D OUTPUT 3\n-D OUTPUT 1\n-X SHUNT_A\nCOMMIT\n"
        );
        assert_eq!(transaction(&none, &none), "");
        assert!(none.is_empty() && !one.is_empty());
    }
}
