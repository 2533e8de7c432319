//! `case × backend`, for people: a file that CI prints, and the page of differences.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::case::{Backend, Case};
use crate::judge::Verdict;
use crate::scene::Group;
use crate::table;

/// What came of all rows.
pub(crate) struct Report {
    text: String,
    pub(crate) failures: Vec<String>,
}

impl Report {
    pub(crate) fn new(groups: &[Group], backends: &[Backend], verdicts: &[Verdict]) -> Self {
        let mut text = String::from("ebpf        iptables    case\n");
        let mut failures = Vec::new();
        let (mut counts, mut differ) = ([0_usize; 2], 0_usize);
        for group in groups {
            for case in group.cases {
                let mut line = String::new();
                for (backend, count) in Backend::ALL.into_iter().zip(&mut counts) {
                    if !backends.contains(&backend) {
                        write!(line, "{:<12}", "not run").expect("text grows");
                        continue;
                    }
                    let verdict = verdicts.iter().find(|one| one.case == case.id && one.backend == backend);
                    let word = word(case, backend, verdict);
                    *count += usize::from(!word.starts_with("FAILED"));
                    write!(line, "{word:<12}").expect("text grows");
                    if verdict.is_none() {
                        failures.push(format!("{}, {}: was not run", case.id, backend.name()));
                    }
                    for failure in verdict.iter().flat_map(|one| &one.failures) {
                        failures.push(format!(
                            "{} [{}], {}: {failure}",
                            case.id,
                            case.source,
                            backend.name()
                        ));
                    }
                }
                let families: Vec<&str> = case.families.iter().map(|family| family.name()).collect();
                write!(text, "{line}{} [{}]", named(group, case), families.join(" ")).expect("text grows");
                if let Some(why) = case.why {
                    differ += 1;
                    write!(text, " differs: {}", why.title).expect("text grows");
                }
                text.push('\n');
            }
        }
        for failure in &failures {
            writeln!(text, "FAILED {failure}").expect("text grows");
        }
        let total: usize = groups.iter().map(|group| group.cases.len()).sum();
        let [ebpf, iptables] = counts;
        writeln!(
            text,
            "cases: {ebpf} of {total} as expected on ebpf, {iptables} of {total} on iptables; {differ} differ as documented"
        )
        .expect("text grows");
        Self { text, failures }
    }

    /// Into `target/cases.txt`, which `conf/test.sh` prints.
    pub(crate) fn write(&self) {
        fs::write(root().join("target/cases.txt"), &self.text).expect("target/ is writable");
    }
}

/// The row with its group, unless it says itself where it belongs.
fn named(group: &Group, case: &Case) -> String {
    if case.id.contains(": ") { case.id.to_owned() } else { format!("{}: {}", group.id, case.id) }
}

fn word(case: &Case, backend: Backend, verdict: Option<&Verdict>) -> &'static str {
    match verdict {
        Some(one) if one.failures.is_empty() => {
            if case.why.is_some() && case.ebpf != case.iptables && backend == Backend::Iptables {
                "ok, differs"
            } else {
                "ok"
            }
        }
        Some(_) | None => "FAILED",
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The page as the table has it.
fn page() -> String {
    let mut text = String::from(
        "# Where the backends differ\n\n\
         Both backends carry out the same plan. The same list of cases runs on both (`tests/cases`), and this page, written \
         from that list, names every case whose answer is not the same.\n",
    );
    for (difference, cases) in table::differences() {
        write!(
            text,
            "\n## {}\n\n- `ebpf`: {}\n- `iptables`: {}\n\nWhy: {}\n\nCases: {}.\n",
            difference.title,
            difference.ebpf,
            difference.iptables,
            difference.why,
            cases.join("; "),
        )
        .expect("text grows");
    }
    text
}

/// Compares the page with the table; `SHUNT_BLESS=1` writes it.
pub(crate) fn check_page() {
    let path = root().join("conf/differences.md");
    let page = page();
    if std::env::var_os("SHUNT_BLESS").is_some() {
        fs::write(&path, &page).expect("the page is writable");
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    assert!(there == page, "conf/differences.md is not what the table says; SHUNT_BLESS=1 writes it anew");
}
