//! `protocol × way × family × backend`, for people: a file that `conf/test.sh` prints.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::hops::Way;
use crate::traffic::TALKS;

/// A place in the table.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) talk: String,
    pub(crate) way: Way,
    pub(crate) family: &'static str,
    pub(crate) backend: &'static str,
}

type Key = (String, &'static str, &'static str, &'static str);

/// All that is known so far.
static REPORT: Mutex<Report> = Mutex::new(Report { rows: BTreeMap::new(), notes: Vec::new() });

struct Report {
    rows: BTreeMap<Key, bool>,
    notes: Vec<String>,
}

/// Notes how a talk came out.
pub(crate) fn put(row: Row, is_ok: bool) {
    change(|report| _ = report.rows.insert((row.talk, row.backend, row.way.name(), row.family), is_ok));
}

/// Notes what steady traffic met.
pub(crate) fn note(backend: &str, step: &str, counts: &BTreeMap<String, u64>) {
    let counts: Vec<String> = counts.iter().map(|(outcome, count)| format!("{outcome} {count}")).collect();
    change(|report| report.notes.push(format!("{backend:<9} {step}: {}", counts.join(", "))));
}

/// Writes the file anew.
fn change(how: impl FnOnce(&mut Report)) {
    let mut report = REPORT.lock().unwrap_or_else(PoisonError::into_inner);
    how(&mut report);
    report.notes.sort_by_key(|note| note.split(' ').next().map(str::to_owned));
    fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/envoy.txt"), text(&report))
        .expect("target/ is writable");
}

fn text(Report { rows, notes }: &Report) -> String {
    let mut text = String::new();
    if !rows.is_empty() {
        table(rows, &mut text);
    }
    let ok = rows.values().filter(|is_ok| **is_ok).count();
    let failed = rows.len() - ok;
    for note in notes {
        writeln!(text, "{note}").expect("text grows");
    }
    writeln!(text, "envoy: {ok} talks as expected, {failed} not").expect("text grows");
    text
}

/// A line for each protocol, a column for each family, way and backend.
fn table(rows: &BTreeMap<Key, bool>, text: &mut String) {
    const BACKENDS: [&str; 2] = ["ebpf", "iptables"];
    for is_title in [true, false] {
        write!(text, "{:<22}", if is_title { "Envoy" } else { "" }).expect("text grows");
        for (backend, way) in BACKENDS.iter().flat_map(|backend| Way::ALL.map(|way| (*backend, way))) {
            let word = match (is_title, way) {
                (false, _) => way.name(),
                (true, Way::Out) => backend,
                (true, _) => "",
            };
            write!(text, "{word:<10}").expect("text grows");
        }
        text.push('\n');
    }
    for talk in TALKS {
        write!(text, "{talk:<22}").expect("text grows");
        for (backend, way) in BACKENDS.iter().flat_map(|backend| Way::ALL.map(|way| (*backend, way))) {
            for (family, short) in [("IPv4", "v4"), ("IPv6", "v6")] {
                let word = match rows.get(&(talk.to_owned(), backend, way.name(), family)) {
                    Some(true) => short,
                    Some(false) => "NOT",
                    None => "",
                };
                write!(text, "{word:<5}").expect("text grows");
            }
        }
        text.push('\n');
    }
}
