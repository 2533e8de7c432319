//! What `iptables-save` says, as values. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ipnetwork::IpNetwork;
use sha2::{Digest as _, Sha256};

use super::PREFIX;
use super::rules::{Chain, Jump, Rules, Table};
use crate::fault::{Fault, Outcome};

/// The tables of one family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Saved {
    tables: Vec<SavedTable>,
    /// Tables that are there and not shown: `nft` has written into them what iptables has no words for.
    hidden: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct SavedTable {
    name: String,
    chains: Vec<String>,
    /// Chain and rule, in the order of the text.
    rules: Vec<(String, String)>,
}

impl Saved {
    /// Reads the text of `iptables-save`.
    ///
    /// # Errors
    /// It is no such text, or ends too soon.
    pub fn parse(text: &str) -> Outcome<Self> {
        let mut tables: Vec<SavedTable> = Vec::new();
        let mut hidden = Vec::new();
        let mut open: Option<SavedTable> = None;
        for line in whole_lines(text) {
            let strange =
                || Fault::new("read what iptables-save prints", format!("it says {:?}", shortened(line)));
            match (line.chars().next(), &mut open) {
                (Some('#'), _) => hidden.extend(hidden_table(line).map(str::to_owned)),
                (None, _) => {}
                (Some('*'), None) => {
                    let name = line.trim_start_matches('*').to_owned();
                    if !is_name(&name) {
                        return Err(strange());
                    }
                    open = Some(SavedTable { name, ..SavedTable::default() });
                }
                (Some(':'), Some(table)) => {
                    let name = line.trim_start_matches(':').split(' ').next().ok_or_else(strange)?;
                    table.chains.push(name.to_owned());
                }
                _ if line == "COMMIT" => tables.push(open.take().ok_or_else(strange)?),
                (_, Some(table)) => {
                    // Counters, where they are asked for, stand first.
                    let rule = line.split_once("-A ").map(|(_, rule)| rule).ok_or_else(strange)?;
                    let (chain, rule) = rule.split_once(' ').unwrap_or((rule, ""));
                    table.rules.push((chain.to_owned(), rule.to_owned()));
                }
                _ => return Err(strange()),
            }
        }
        match open {
            None => Ok(Self { tables, hidden }),
            Some(table) => Err(Fault::new(
                "read what iptables-save prints",
                format!("it ends within table {:?}", shortened(&table.name)),
            )),
        }
    }

    /// What is ours: chains by their name, jumps by where they lead. Foreign rules between our jumps are not in it.
    pub fn ours(&self) -> Rules {
        let tables = self.tables.iter().map(SavedTable::ours);
        Rules { tables: tables.filter(|table| !table.chains.is_empty() || !table.jumps.is_empty()).collect() }
    }

    /// True of a table whose rules are not shown.
    pub fn hides(&self, table: &str) -> bool {
        self.hidden.iter().any(|hidden| hidden == table)
    }

    /// The same as it can be written again: rules in the words that ours are made of. Others are somebody else's in a chain of
    /// ours, and what they hold (a comment, a path) is not for the host's tool to read.
    pub fn restorable(&self) -> Rules {
        let mut rules = self.ours();
        for table in &mut rules.tables {
            table.chains.iter_mut().for_each(|chain| chain.rules.retain(|rule| is_plain(rule)));
            table.jumps.retain(|jump| is_plain(&jump.rule));
        }
        rules
    }

    /// What decides whether our rules work, one line for each rule: ours, and foreign ones that stand before our jumps.
    pub fn state(&self) -> Vec<String> {
        let mut state = Vec::new();
        for table in &self.tables {
            table.state(&mut state);
        }
        state.sort();
        state
    }
}

/// ``# Table `nat' is incompatible, use 'nft' tool.``
fn hidden_table(line: &str) -> Option<&str> {
    let (name, rest) = line.split_once('`')?.1.split_once('\'')?;
    rest.starts_with(" is incompatible").then_some(name)
}

/// The lines of a text; the end of a line within quotes, in somebody's comment, ends none.
fn whole_lines(text: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |c| {
        let was_escaped = std::mem::take(&mut escaped);
        match c {
            '\\' => escaped = quoted && !was_escaped,
            '"' if !was_escaped => quoted = !quoted,
            _ => {}
        }
        c == '\n' && !quoted
    })
}

fn is_ours(chain: &str) -> bool {
    chain.starts_with(PREFIX) && is_name(chain)
}

/// A name of a chain or a table that has no other meaning to the tool. The kernel takes any.
fn is_name(text: &str) -> bool {
    !text.starts_with('-') && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
}

/// The options of the rules that are rendered.
const OPTIONS: [&str; 17] = [
    "-p",
    "-m",
    "-s",
    "-d",
    "-i",
    "-o",
    "-j",
    "-g",
    "--dport",
    "--tcp-flags",
    "--uid-owner",
    "--gid-owner",
    "--to-ports",
    "--dst-type",
    "--ctstate",
    "--ctdir",
    "--zone-orig",
];

/// Whether a rule is made of nothing but what rules of ours are made of.
pub(super) fn is_plain(rule: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-@,:/!".contains(c);
    rule.split_ascii_whitespace()
        .all(|word| word.chars().all(is_plain) && (!word.starts_with('-') || OPTIONS.contains(&word)))
}

fn is_jump(rule: &str) -> bool {
    let mut words = rule.split_ascii_whitespace().rev();
    words.next().is_some_and(is_ours) && matches!(words.next(), Some("-j" | "-g"))
}

impl SavedTable {
    fn of<'a>(&'a self, chain: &'a str) -> impl Iterator<Item = &'a str> {
        self.rules.iter().filter(move |(name, _)| name == chain).map(|(_, rule)| rule.as_str())
    }

    fn ours(&self) -> Table {
        let chain =
            |name: &String| Chain { name: name.clone(), rules: self.of(name).map(str::to_owned).collect() };
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let numbered = self.rules.iter().map(|(from, rule)| {
            let at = counts.entry(from).or_default();
            *at += 1;
            (from, rule, *at)
        });
        let jumps = numbered.filter(|(from, rule, _)| !is_ours(from) && is_name(from) && is_jump(rule));
        Table {
            name: self.name.clone(),
            chains: self.chains.iter().filter(|name| is_ours(name)).map(chain).collect(),
            jumps: jumps
                .map(|(from, rule, at)| Jump { from: from.clone(), rule: rule.clone(), at })
                .collect(),
        }
    }

    fn state(&self, into: &mut Vec<String>) {
        for chain in &self.chains {
            let rules: Vec<&str> = self.of(chain).collect();
            let count = if is_ours(chain) {
                into.push(format!("{} {chain}", self.name));
                rules.len()
            } else {
                rules.iter().rposition(|rule| is_jump(rule)).map_or(0, |last| last + 1)
            };
            for (index, rule) in rules.iter().take(count).enumerate() {
                into.push(format!("{} {chain} {:05} {}", self.name, index + 1, normal(rule)));
            }
        }
    }
}

/// The same of rules that are to be written.
pub fn state(rules: &Rules) -> Vec<String> {
    let mut tables = Vec::new();
    for Table { name, chains, jumps } in &rules.tables {
        let mut table = SavedTable { name: name.clone(), ..SavedTable::default() };
        for Jump { from, rule, .. } in jumps {
            if !table.chains.contains(from) {
                table.chains.push(from.clone());
            }
            table.rules.push((from.clone(), rule.clone()));
        }
        for Chain { name, rules } in chains {
            table.chains.push(name.clone());
            table.rules.extend(rules.iter().map(|rule| (name.clone(), rule.clone())));
        }
        tables.push(table);
    }
    Saved { tables, hidden: Vec::new() }.state()
}

/// The first line in which two states differ, for people; none when they are the same.
pub fn difference(wanted: &[String], found: &[String]) -> Option<String> {
    let missing = wanted.iter().find(|line| found.binary_search(line).is_err());
    let foreign = found.iter().find(|line| wanted.binary_search(line).is_err());
    match (missing, foreign) {
        (Some(missing), None) => Some(format!("rule missing: {missing}")),
        (None, Some(foreign)) => Some(format!("rule that was not written: {foreign}")),
        (Some(missing), Some(foreign)) => Some(format!("instead of rule {missing:?} there is {foreign:?}")),
        (None, None) => (wanted.len() != found.len()).then(|| "rules are there twice".to_owned()),
    }
}

/// Stands for a state in a receipt.
#[expect(unused_must_use, reason = "writing to a String does not fail")]
pub fn digest<'a>(states: impl IntoIterator<Item = &'a [String]>) -> String {
    let mut hasher = Sha256::new();
    for state in states {
        for line in state {
            hasher.update(line);
            hasher.update("\n");
        }
        hasher.update("\n");
    }
    let mut text = String::new();
    for byte in hasher.finalize().iter().take(16) {
        write!(text, "{byte:02x}");
    }
    text
}

/// A rule in one form, whatever order and spelling a version of the tool prints.
fn normal(rule: &str) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut negated = false;
    for word in rule.split_ascii_whitespace() {
        if word == "!" {
            negated = true;
        } else if word.starts_with('-') && !word.starts_with("-1") {
            parts.push(if std::mem::take(&mut negated) { format!("! {word}") } else { word.to_owned() });
        } else if let Some(last) = parts.last_mut() {
            let value = value(last, word);
            last.push(' ');
            last.push_str(&value);
        } else {
            parts.push(word.to_owned());
        }
    }
    // Named by the options that follow; the protocols' own are printed or not.
    parts.retain(|part| !matches!(part.as_str(), "-m tcp" | "-m udp"));
    parts.sort();
    parts.join(" ")
}

fn value(option: &str, word: &str) -> String {
    let numbered = || match word {
        "6" => "tcp".to_owned(),
        "17" => "udp".to_owned(),
        _ => word.to_owned(),
    };
    let sorted = || {
        let mut list: Vec<&str> = word.split(',').collect();
        list.sort_unstable();
        list.join(",")
    };
    match option.trim_start_matches("! ") {
        "-p" => numbered(),
        "-s" | "-d" => {
            word.parse::<IpNetwork>().map_or_else(|_| word.to_owned(), |network| network.to_string())
        }
        option if option.starts_with("--tcp-flags") || option.starts_with("--dst-type") => sorted(),
        _ => word.to_owned(),
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(120).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# Generated by iptables-save v1.8.9 on Sat Nov 21 07:50:52 2026
*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [12:34]
:FOREIGN - [0:0]
:SHUNT_OUT - [0:0]
-A OUTPUT -p udp -j FOREIGN
-A OUTPUT -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j SHUNT_OUT
-A OUTPUT -j FOREIGN
-A SHUNT_OUT ! -d 127.0.0.1/32 -o lo -p tcp -m owner --uid-owner 1337 -m comment --comment \"a b\" -j RETURN
-A SHUNT_OUT -p tcp -j REDIRECT --to-ports 15001
COMMIT
# Completed
";

    #[test]
    fn what_is_ours_and_what_stands_before_it() {
        let saved = Saved::parse(TEXT).unwrap();
        let ours = saved.ours();
        assert_eq!(ours.tables.len(), 1);
        assert_eq!(ours.tables[0].chains[0].rules.len(), 2);
        assert_eq!(ours.tables[0].jumps.len(), 1);
        let state = saved.state();
        assert_eq!(
            state,
            [
                "nat OUTPUT 00001 -j FOREIGN -p udp",
                "nat OUTPUT 00002 --tcp-flags ACK,FIN,RST,SYN SYN -j SHUNT_OUT -p tcp",
                "nat SHUNT_OUT",
                "nat SHUNT_OUT 00001 ! -d 127.0.0.1/32 --comment \"a b\" --uid-owner 1337 -j RETURN -m comment -m owner -o lo -p tcp",
                "nat SHUNT_OUT 00002 --to-ports 15001 -j REDIRECT -p tcp",
            ]
        );
        let wanted = super::state(&ours);
        assert!(difference(&wanted, &state).unwrap().contains("FOREIGN"));
        assert_eq!(difference(&wanted, &wanted), None);
        assert_ne!(digest([&wanted[..]]), digest([&state[..]]));
        assert_eq!(digest([&wanted[..]]).len(), 32);
    }

    /// Who may write rules in the pod writes their comments too, and the tool prints them as they are, with the end of a line in them.
    #[test]
    fn nothing_of_others_is_written() {
        let evil = "*nat\n:OUTPUT ACCEPT [0:0]\n:SHUNT_Q - [0:0]\n:SHUNT_$(x) - [0:0]\n-A OUTPUT -m comment --comment \"a \\\" \\\\\n\
                    -A OUTPUT --modprobe=/tmp/x -j SHUNT_Q\n\" -j RETURN\n-A OUTPUT --modprobe=/tmp/x -j SHUNT_Q\n\
                    -A --modprobe=/tmp/x -j SHUNT_Q\n-A SHUNT_Q -M /tmp/x -j RETURN\n\
                    -A OUTPUT -m comment --comment \"b -j SHUNT_Q\"\n-A SHUNT_Q -p tcp -j RETURN\n-A OUTPUT -p tcp -j SHUNT_Q\nCOMMIT\n";
        let saved = Saved::parse(evil).unwrap();
        let text = super::super::rules::transaction(&Rules::default(), &saved.ours());
        assert_eq!(text, "*nat\n:SHUNT_Q - [0:0]\n-D OUTPUT 4\n-D OUTPUT 2\n-X SHUNT_Q\nCOMMIT\n");
        let text = super::super::rules::transaction(&saved.restorable(), &Rules::default());
        assert_eq!(
            text,
            "*nat\n:SHUNT_Q - [0:0]\n-A SHUNT_Q -p tcp -j RETURN\n-I OUTPUT -p tcp -j SHUNT_Q\nCOMMIT\n"
        );
        assert!(Saved::parse("*nat --modprobe=/tmp/x\nCOMMIT\n").is_err());
    }

    #[test]
    fn other_spellings_are_the_same_rule() {
        for (one, other) in [
            ("-p tcp -m tcp --dport 80 -j RETURN", "-p 6 --dport 80 -j RETURN"),
            ("-d ::0:1/128 -j RETURN", "-d ::1 -j RETURN"),
            ("-m addrtype --dst-type LOCAL,BROADCAST -j A", "-m addrtype --dst-type BROADCAST,LOCAL -j A"),
            ("-o lo -s 1.2.3.4 -j A", "-s 1.2.3.4/32 -o lo -j A"),
        ] {
            assert_eq!(normal(one), normal(other));
        }
        assert_ne!(normal("! -o lo -j A"), normal("-o lo -j A"));
    }

    #[test]
    fn what_is_no_such_text() {
        for text in
            ["nat", "*nat\n", "COMMIT", "*nat\n*raw\nCOMMIT\n", "*nat\nx\nCOMMIT\n", "-A OUTPUT -j X\n"]
        {
            assert!(Saved::parse(text).is_err(), "{text:?}");
        }
        assert_eq!(Saved::parse("").unwrap(), Saved::default());
        let saved = Saved::parse("# Table `nat' is incompatible, use 'nft' tool.\n*raw\nCOMMIT\n").unwrap();
        assert!(saved.hides("nat") && !saved.hides("raw"));
        let saved =
            Saved::parse("# Table `nat' contains incompatible base-chains, use 'nft' tool to list them.\n")
                .unwrap();
        assert!(!saved.hides("nat"));
    }
}
