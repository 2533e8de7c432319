//! containerd through its CRI, in two versions, with the plugin as the installer puts it there.
//!
//! A program of its own and no test harness: scenarios run one after the other, each on a fresh machine, and what came of them is
//! one table, of which a part is no use. `--test containerd -- WORD...` runs those whose line has all the words.

#![expect(
    clippy::panic,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that cannot be judged must fail; JSON objects take keys by index"
)]

mod captured;
mod changed;
mod deleted;
mod given;
mod host;
mod killed;
mod many;
mod pods;
mod restarted;
mod status;
mod users;

use std::any::Any;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use shunt_tests::machine::containerd::Version;

use crate::host::Host;

/// One thing that must be so.
struct Scenario {
    name: &'static str,
    versions: &'static [Version],
    backends: &'static [&'static str],
    /// Gives what is worth a word in the table.
    run: fn(&mut Host) -> String,
}

const BOTH: &[Version] = &Version::ALL;
const NEW: &[Version] = &[Version::V2];
const EACH: &[&str] = &["ebpf", "iptables"];
const EBPF: &[&str] = &["ebpf"];

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "annotations, cgroupPath and identity",
        versions: BOTH,
        backends: EBPF,
        run: given::run,
    },
    Scenario { name: "meshed captured, plain direct", versions: BOTH, backends: EACH, run: captured::run },
    Scenario { name: "pods with user namespaces", versions: NEW, backends: EACH, run: users::run },
    Scenario { name: "daemon killed during ADD", versions: BOTH, backends: EACH, run: killed::run },
    Scenario { name: "daemon killed at odd moments", versions: BOTH, backends: EBPF, run: killed::odd },
    Scenario { name: "caller gives up during ADD", versions: BOTH, backends: EACH, run: killed::given_up },
    Scenario { name: "daemon killed, pods go on", versions: BOTH, backends: EACH, run: restarted::run },
    Scenario { name: "list edited between ADD and DEL", versions: BOTH, backends: EACH, run: changed::list },
    Scenario {
        name: "plugin replaced between ADD and DEL",
        versions: BOTH,
        backends: EBPF,
        run: changed::plugin,
    },
    Scenario {
        name: "upgrades while pods come and go",
        versions: BOTH,
        backends: EBPF,
        run: changed::under_load,
    },
    Scenario { name: "50 pods at once", versions: BOTH, backends: EACH, run: many::run },
    Scenario { name: "STATUS: not ready, ready again", versions: NEW, backends: EACH, run: status::run },
    Scenario { name: "DEL: namespace gone", versions: BOTH, backends: EACH, run: deleted::namespace_gone },
    Scenario {
        name: "DEL: plugin missing, back again",
        versions: BOTH,
        backends: EBPF,
        run: deleted::plugin_missing,
    },
    Scenario { name: "sandbox removed by force", versions: BOTH, backends: EACH, run: deleted::by_force },
    Scenario {
        name: "power cut, then the same pods",
        versions: BOTH,
        backends: EBPF,
        run: restarted::power_cut,
    },
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let versions: Vec<_> = Version::ALL.iter().map(|version| (*version, host::number_of(*version))).collect();
    let begun = Instant::now();
    let mut table = String::new();
    let (mut passed, mut failed) = (0, 0);
    for scenario in SCENARIOS {
        for (version, number) in versions.iter().filter(|(version, _)| scenario.versions.contains(version)) {
            for backend in scenario.backends {
                let what = format!("{:<38} containerd {number:<12} {backend:<9}", scenario.name);
                if !words.iter().all(|word| what.contains(word.as_str())) {
                    continue;
                }
                println!("{what}...");
                let started = Instant::now();
                let done = catch_unwind(AssertUnwindSafe(|| one(scenario, *version, backend)));
                let seconds = started.elapsed().as_secs_f32();
                let result = match done {
                    Ok(remark) => {
                        passed += 1;
                        format!("ok      {seconds:>6.1} s  {remark}")
                    }
                    Err(panic) => {
                        failed += 1;
                        format!("FAILED  {seconds:>6.1} s  {}", first_line(panic.as_ref()))
                    }
                };
                println!("{what} {result}");
                writeln!(table, "{what} {result}").expect("text grows");
            }
        }
    }
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/containerd.txt"));
    std::fs::write(path, &table).expect("target is there");
    println!(
        "\n{table}\nin {} s; the table is in target/containerd.txt, logs of machines on which something failed in target/machine-logs",
        begun.elapsed().as_secs()
    );
    println!("\n{passed} passed, {failed} failed");
    ExitCode::from(u8::from(failed > 0 || passed == 0))
}

/// What a panic said, as far as it goes into a table.
fn first_line(panic: &(dyn Any + Send)) -> &str {
    let said = panic.downcast_ref::<String>().map(String::as_str);
    let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
    said.lines().next().unwrap_or_default()
}

fn one(scenario: &Scenario, version: Version, backend: &str) -> String {
    let name = format!(
        "{}-{}-{backend}",
        scenario.name.replace(|letter: char| !letter.is_alphanumeric(), "-"),
        version.directory()
    );
    let mut host = Host::new(&name, version, backend);
    let remark = (scenario.run)(&mut host);
    let bare = host.bare_connections();
    assert!(bare.is_empty(), "connections of meshed apps that went around the proxy: {bare:?}");
    remark
}
