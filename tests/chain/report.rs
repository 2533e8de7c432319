//! The table: a row for each chain, a column for each backend. `conf/test.sh` prints the file it is written to.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::BACKENDS;

/// Row and backend to what came of it.
type Rows = BTreeMap<String, BTreeMap<&'static str, String>>;

static ROWS: Mutex<Rows> = Mutex::new(BTreeMap::new());

/// Something held. The file has all that held so far, so the last test to end leaves the whole.
pub(crate) fn held(row: &str, backend: &'static str, result: &str) {
    let mut rows = ROWS.lock().unwrap_or_else(PoisonError::into_inner);
    rows.entry(row.to_owned()).or_default().insert(backend, result.to_owned());
    let mut text = format!("{:<92}{:<10}{}\n", "chain, through libcni", BACKENDS[0], BACKENDS[1]);
    for (row, results) in rows.iter() {
        let of = |backend: &str| results.get(backend).map_or("", String::as_str);
        let line = format!("{row:<92}{:<10}{}", of(BACKENDS[0]), of(BACKENDS[1]));
        writeln!(text, "{}", line.trim_end()).expect("text grows");
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/chain.txt");
    fs::write(path, text).expect("target/ is writable");
}
