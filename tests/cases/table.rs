//! The table: every group of rows.

mod addresses;
mod differences;
mod inbound;
mod istio;
mod lists;
mod meshes;
mod nested;
mod outbound;
mod packets;
mod plays;
mod policy;
mod proxy;
mod udp;

use crate::case::{Case, Difference};
use crate::scene::Group;

fn groups() -> Vec<Group> {
    let tables = [
        outbound::GROUPS,
        addresses::GROUPS,
        inbound::GROUPS,
        proxy::GROUPS,
        lists::GROUPS,
        policy::GROUPS,
        udp::GROUPS,
        istio::GROUPS,
        meshes::GROUPS,
    ];
    tables.concat()
}

/// The groups with the rows that match a word, but for those with this id.
pub(crate) fn wanted(word: &str, without: Option<&str>) -> Vec<Group> {
    let matches = |group: &Group, case: &Case| {
        [group.id, case.id, case.source].iter().any(|text| text.contains(word)) && without != Some(case.id)
    };
    let mut wanted = groups();
    if !word.is_empty() || without.is_some() {
        for group in &mut wanted {
            let cases: Vec<Case> = group.cases.iter().filter(|case| matches(group, case)).copied().collect();
            group.cases = cases.leak();
        }
        wanted.retain(|group| !group.cases.is_empty());
    }
    wanted
}

/// Every difference with the rows it explains, in the order of the table.
pub(crate) fn differences() -> Vec<(&'static Difference, Vec<&'static str>)> {
    let mut found: Vec<(&Difference, Vec<&str>)> = Vec::new();
    for group in groups() {
        for case in group.cases {
            let Some(why) = case.why else { continue };
            match found.iter_mut().find(|(known, _)| *known == why) {
                Some((_, cases)) => cases.push(case.id),
                None => found.push((why, vec![case.id])),
            }
        }
    }
    found
}

#[test]
fn rows_have_names_of_their_own_and_differ_for_a_reason() {
    let mut ids = std::collections::BTreeSet::new();
    for group in groups() {
        for case in group.cases {
            assert!(ids.insert(case.id), "two rows are called {:?}", case.id);
            assert_eq!(case.ebpf != case.iptables, case.why.is_some(), "{:?}", case.id);
            assert!(!case.source.is_empty() && !case.families.is_empty(), "{:?}", case.id);
        }
    }
}
