use std::collections::BTreeSet;

use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

use super::*;

/// An end of every word, as it is counted.
fn ends() -> Vec<End> {
    let skipped = Reason::LABELS.map(End::Skipped);
    let failed = Kind::ALL.map(End::Failed);
    let others = [End::Intercepted, End::Passed, End::Removed, End::Nothing, End::Partial, End::Ok];
    others.into_iter().chain(skipped).chain(failed).collect()
}

fn counts() -> Vec<Count> {
    let backends = [None, Some(Backend::Ebpf), Some(Backend::Iptables)];
    let mut counts = Vec::new();
    for (command, word) in ROWS {
        for end in ends().into_iter().filter(|end| end.word() == word) {
            counts.extend(backends.map(|backend| Count { command, end, backend, took_us: 3_000 }));
        }
    }
    counts
}

fn written(tally: &Tally) -> Vec<u8> {
    let mut bytes = HEADER.to_vec();
    bytes.extend(tally.0.iter().flat_map(|slot| slot.to_le_bytes()));
    bytes
}

fn told(tally: &Tally) -> Report {
    let mut report = Report::default();
    tally.tell(&mut report);
    report
}

#[test]
fn every_row_can_be_reached_and_no_two_share_a_slot() {
    let mut slots = BTreeSet::new();
    let mut series = BTreeSet::new();
    for count in counts() {
        let patches = count.patches();
        assert!(!patches.is_empty(), "{count:?}");
        let key = (count.command.as_str(), count.end.word(), count.backend);
        if series.insert(format!("{key:?}")) {
            let first = patches[0].first;
            assert!((first..first + SERIES).all(|slot| slots.insert(slot)), "{count:?}");
        }
        for patch in patches {
            assert!(patch.first + patch.amounts.len() <= SLOTS, "{count:?}");
        }
    }
    assert_eq!(series.len(), ROWS.len() * BACKENDS.len());
    let whys: BTreeSet<usize> =
        counts().iter().filter_map(|count| Some(count.patches().get(1)?.first)).collect();
    assert_eq!(whys.len(), Reason::LABELS.len() + Kind::ALL.len());
    assert!(whys.is_disjoint(&slots));
    assert!(whys.iter().all(|slot| *slot < DECISIONS));
}

#[test]
fn a_command_has_no_end_of_another() {
    let count = Count { command: Command::Del, end: End::Intercepted, backend: None, took_us: 1 };
    assert_eq!(count.patches(), []);
    let count = Count { command: Command::Version, end: End::Ok, backend: None, took_us: 1 };
    assert_eq!(count.patches(), []);
}

#[test]
fn a_time_is_in_the_first_bucket_that_holds_it() {
    for (took_us, bucket) in
        [(0, Some(0)), (500, Some(0)), (501, Some(1)), (5_000_000, Some(12)), (5_000_001, None)]
    {
        let count = Count { command: Command::Check, end: End::Ok, backend: Some(Backend::Ebpf), took_us };
        let mut tally = Tally::default();
        count.patches().iter().for_each(|patch| drop(tally.add(patch)));
        let report = told(&tally);
        let calls = &report.calls[0];
        assert_eq!((calls.count, calls.sum_us), (1, took_us));
        assert_eq!(calls.buckets.iter().position(|count| *count == 1), bucket, "{took_us}");
        assert_eq!(calls.buckets.len(), BUCKETS_US.len());
    }
}

#[test]
fn what_is_told() {
    let mut tally = Tally::default();
    let skipped =
        Count { command: Command::Add, end: End::Skipped("no-marker"), backend: None, took_us: 700 };
    let failed = Count {
        command: Command::Add,
        end: End::Failed(Kind::Attach),
        backend: Some(Backend::Ebpf),
        took_us: 9_000_000,
    };
    for count in [skipped, skipped, failed] {
        count.patches().iter().for_each(|patch| drop(tally.add(patch)));
    }
    tally.add(&decided(&[(Decision::Outbound, 7), (Decision::ExcludedUid, 2)]));
    tally.add(&decided(&[(Decision::Outbound, 1)]));
    let report = told(&tally);
    let calls: Vec<_> = report
        .calls
        .iter()
        .map(|calls| (calls.command.as_str(), calls.outcome.as_str(), calls.backend.as_str(), calls.count))
        .collect();
    assert_eq!(calls, [("ADD", "skipped", "none", 2), ("ADD", "failed", "ebpf", 1)]);
    assert_eq!(report.calls[1].buckets.iter().sum::<u64>(), 0);
    assert_eq!(report.skipped, [("no-marker".to_owned(), 2)].into());
    assert_eq!(report.failed, [("attach".to_owned(), 1)].into());
    assert_eq!(report.decisions, [("excluded-uid".to_owned(), 2), ("outbound".to_owned(), 8)].into());
    assert_eq!(told(&Tally::default()), Report::default());
}

#[test]
fn what_is_not_of_this_layout() {
    let good = written(&Tally::default());
    assert_eq!(good.len(), LENGTH);
    assert_eq!(Tally::decode(&good), Some(Tally::default()));
    let mut other_version = good.clone();
    other_version[15] += 1;
    let longer = [good.as_slice(), b"x"].concat();
    for bad in [&[][..], &good[..16], &good[..LENGTH - 1], &longer, &other_version, &vec![0; LENGTH]] {
        assert_eq!(Tally::decode(bad), None);
    }
}

#[test]
fn labels_are_short_names_and_each_reason_has_one() {
    let reasons = [
        Reason::NamespaceExcluded { namespace: "a".to_owned() },
        Reason::NotMarked { key: "a" },
        Reason::OptedOut { key: "a" },
        Reason::OwnRules { key: "a", container: "a" },
        Reason::NotASidecar { key: "a" },
    ];
    assert_eq!(reasons.map(|reason| reason.label()), Reason::LABELS);
    let plain = |label: &str| label.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    assert!(Reason::LABELS.iter().all(|label| plain(label)));
}

proptest! {
    #[test]
    fn numbers_survive(numbers in prop::collection::vec(any::<u64>(), SLOTS)) {
        let tally = Tally(numbers);
        prop_assert_eq!(Tally::decode(&written(&tally)), Some(tally));
    }

    #[test]
    fn any_calls_are_told_as_they_were(
        calls in prop::collection::vec((0..1_000_usize, any::<u64>()), 0..200),
    ) {
        let kinds = counts();
        let mut tally = Tally::default();
        let mut file = written(&tally);
        for (index, took_us) in &calls {
            let count = Count { took_us: *took_us, ..kinds[index % kinds.len()] };
            for patch in count.patches() {
                let (offset, bytes) = tally.add(&patch);
                let at = usize::try_from(offset).expect("small");
                file[at..at + bytes.len()].copy_from_slice(&bytes);
            }
        }
        prop_assert_eq!(Tally::decode(&file), Some(tally.clone()));
        let report = told(&tally);
        let total: u64 = report.calls.iter().map(|calls| calls.count).sum();
        prop_assert_eq!(total, calls.len() as u64);
        let of = |word: &str| -> u64 {
            report.calls.iter().filter(|calls| calls.outcome == word).map(|calls| calls.count).sum()
        };
        prop_assert_eq!(report.skipped.values().sum::<u64>(), of("skipped"));
        prop_assert_eq!(report.failed.values().sum::<u64>(), of("failed"));
        prop_assert!(report.calls.iter().all(|calls| calls.buckets.iter().sum::<u64>() <= calls.count));
    }
}
