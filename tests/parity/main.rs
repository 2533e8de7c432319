//! Random plans and random connections, run for real under every backend: each must go where the pure decision says.
//!
//! `PLANS` says how many, `SEED` which ones. What fails is made as small as it gets and printed as one line of JSON, which
//! `REPLAY` takes.

#![expect(clippy::indexing_slicing, clippy::panic, reason = "a test that cannot be judged must fail")]

mod bed;
mod generate;
mod model;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::str::FromStr;

use bed::{Bed, Wrong};
use generate::{Case, Connection};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

const BACKENDS: [&str; 2] = ["ebpf", "iptables"];

/// Every reason the generated connections must have met.
const REASONS: [&str; 17] = [
    "Datagram",
    "Dns",
    "DnsTcp",
    "Exempt",
    "ExcludedCidr",
    "ExcludedInterface",
    "ExcludedPort",
    "Inbound",
    "Loopback",
    "NotIncluded",
    "Outbound",
    "OutboundPort",
    "OwnAddress",
    "Passthrough",
    "SelfCall",
    "Tunnel",
    "UdpBlocked",
];

/// Plans tried at the same time.
const WORKERS: u32 = 2;

fn setting<T: FromStr>(name: &str, default: T) -> T {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_error| panic!("{name}={text} is not a number")),
        Err(_unset) => default,
    }
}

#[test]
fn plans_and_connections_go_where_the_decision_says() {
    if let Ok(text) = std::env::var("REPLAY") {
        let case: Case = serde_json::from_str(&text).unwrap_or_else(|error| panic!("REPLAY: {error}"));
        let wrong: Vec<Wrong> =
            BACKENDS.iter().flat_map(|backend| Bed::new(backend).disagreements(&case)).collect();
        assert!(wrong.is_empty(), "{}", told(&wrong));
        return;
    }
    let (plans, seed): (u32, u64) = (setting("PLANS", 240), setting("SEED", 1));
    println!("PLANS={plans} SEED={seed}");
    let ended: Vec<Done> = std::thread::scope(|scope| {
        let workers: Vec<_> =
            (0..WORKERS).map(|worker| scope.spawn(move || work(plans / WORKERS, seed, worker))).collect();
        let join = |worker: std::thread::ScopedJoinHandle<'_, Done>| {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        workers.into_iter().map(join).collect()
    });
    let mut reasons = BTreeMap::<String, usize>::new();
    let mut failures = Vec::new();
    for Done { failure, given } in ended {
        failures.extend(failure);
        for (reason, count) in given {
            *reasons.entry(reason).or_default() += count;
        }
    }
    println!("{} connections: {reasons:?}", reasons.values().sum::<usize>());
    assert!(failures.is_empty(), "PLANS={plans} SEED={seed}\n{}", failures.join("\n"));
    let missing: Vec<&&str> = REASONS.iter().filter(|reason| !reasons.contains_key(**reason)).collect();
    assert!(missing.is_empty(), "no connection was decided so, the generator is lame: {missing:?}");
}

fn told(wrong: &[Wrong]) -> String {
    wrong.iter().map(|one| one.text.as_str()).collect::<Vec<_>>().join("\n")
}

/// What came of one worker's plans.
struct Done {
    failure: Option<String>,
    given: BTreeMap<String, usize>,
}

fn work(plans: u32, seed: u64, worker: u32) -> Done {
    let config = Config {
        cases: plans,
        failure_persistence: None,
        max_shrink_iters: 400,
        max_shrink_time: 15_000,
        ..Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..12].copy_from_slice(&worker.to_le_bytes());
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let beds = RefCell::new(BACKENDS.map(Bed::new));
    let done = runner.run(&generate::case(), |case| {
        let mut beds = beds.borrow_mut();
        let wrong: Vec<Wrong> = beds.iter_mut().flat_map(|bed| bed.disagreements(&case)).collect();
        if wrong.is_empty() {
            return Ok(());
        }
        let text = told(&wrong);
        let mut connections: Vec<Connection> = Vec::new();
        for failed in wrong.iter().filter_map(|one| one.connection) {
            // One that fails under both backends is there twice.
            if !connections.contains(&failed) {
                connections.push(failed);
            }
        }
        // Of what failed last nothing but what failed: the smallest case there is when time is up.
        let smallest = Case { connections, ..case };
        let replay = format!("{text}\nREPLAY='{}'", serde_json::json!(smallest));
        Err(TestCaseError::fail(replay))
    });
    let failure = match done {
        Ok(()) => None,
        Err(TestError::Fail(why, _)) => Some(why.to_string()),
        Err(TestError::Abort(why)) => Some(format!("given up: {why}")),
    };
    let given = beds.borrow().iter().flat_map(|bed| bed.reasons.clone()).fold(
        BTreeMap::new(),
        |mut sum, (reason, count)| {
            *sum.entry(reason).or_default() += count;
            sum
        },
    );
    Done { failure, given }
}
