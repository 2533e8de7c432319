//! One table of traffic cases, each run under every backend and over every family it is about: who answers, what the client
//! sees, what the proxy is told. Where the backends rightly differ, the row has both answers and the reason.
//!
//! `CASES=word` runs the rows whose id, group or source holds the word. `CASES_BACKENDS=iptables` runs them under that backend
//! only, for kernels that have no other; `CASES_WITHOUT=multipath` leaves the row of that id out, for a kernel built without MPTCP.

#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot be judged must fail")]

mod case;
mod judge;
mod report;
mod scene;
mod table;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use case::Backend;
use judge::Verdict;

/// Pods at work at the same time; most of what they do is wait.
const WORKERS: usize = 3;

#[test]
fn every_case_under_every_backend() {
    let groups = table::wanted(
        &std::env::var("CASES").unwrap_or_default(),
        std::env::var("CASES_WITHOUT").ok().as_deref(),
    );
    let backends = Backend::wanted(std::env::var("CASES_BACKENDS").ok().as_deref());
    let jobs: Vec<_> =
        groups.iter().flat_map(|group| backends.iter().map(move |backend| (group, *backend))).collect();
    let next = AtomicUsize::new(0);
    let verdicts = Mutex::new(Vec::<Verdict>::new());
    std::thread::scope(|scope| {
        for _worker in 0..WORKERS {
            scope.spawn(|| {
                while let Some((group, backend)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let done = judge::run(group, *backend);
                    // Shown with `--nocapture`: where a group takes long, somebody waits.
                    let fine = done.iter().filter(|verdict| verdict.failures.is_empty()).count();
                    println!("{}, {}: {fine} of {} rows", group.id, backend.name(), done.len());
                    verdicts.lock().unwrap_or_else(PoisonError::into_inner).extend(done);
                }
            });
        }
    });
    let verdicts = verdicts.into_inner().unwrap_or_else(PoisonError::into_inner);
    let report = report::Report::new(&groups, &backends, &verdicts);
    report.write();
    assert!(report.failures.is_empty(), "{}", report.failures.join("\n"));
}

#[test]
fn the_documentation_names_every_difference() {
    report::check_page();
}
