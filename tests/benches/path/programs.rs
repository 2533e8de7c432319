//! What each of our programs takes of a connection, as the kernel counts it. Counting itself costs some tens of nanoseconds a run, so this
//! is measured apart from everything else.

use std::collections::BTreeMap;

use shunt_tests::figures::{Figures, Group};
use shunt_tests::held::{Counting, Runs, runs};
use shunt_tests::load::Order;

use crate::measures::Setting;
use crate::subjects::{Means, Subject};

/// Nanoseconds of each program for one connection that is opened, asked about by the proxy, and closed.
pub(crate) fn measure(figures: &mut Figures, subject: &mut Subject, rounds: usize, ms: u64) {
    assert_eq!(subject.means, Means::Ebpf, "the one whose programs these are");
    let _counting = Counting::start();
    for inbound in [false, true] {
        let mut each: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for round in 0..=rounds {
            subject.move_on();
            let way = subject.way(inbound, false);
            let order = Order::Connects { way, connections: 1, ms, most: usize::MAX, may_fail: false };
            let before = runs(subject.node.bpf_dir());
            let (did, _) = subject.order(inbound, &order);
            let after = runs(subject.node.bpf_dir());
            // The first round warms up.
            if round > 0 {
                note(&mut each, &before, &after, did.count);
            }
        }
        let subjects = each
            .iter()
            .filter(|(_, values)| values.iter().any(|value| *value > 0.0))
            .map(|(name, values)| (name.as_str(), values.clone()));
        let setting = Setting::base(inbound).name();
        figures.groups.push(Group::of(["our programs in a connection", &setting, "", "ns"], subjects));
    }
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds of a bench")]
fn note(
    each: &mut BTreeMap<String, Vec<f64>>,
    before: &BTreeMap<String, Runs>,
    after: &BTreeMap<String, Runs>,
    connections: u64,
) {
    let mut all = 0.0;
    for (name, runs) in after {
        let before = before.get(name).copied().unwrap_or_default();
        let took = runs.nanoseconds.saturating_sub(before.nanoseconds) as f64 / connections.max(1) as f64;
        all += took;
        each.entry(name.clone()).or_default().push(took);
    }
    each.entry("all of them".to_owned()).or_default().push(all);
}
