//! The release changes while pods come and go.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::cluster::Cluster;
use crate::objects::{meshed, plain};
use crate::scenario::Bed;
use crate::wait::PATIENCE;

/// Pods at once in each round.
const MESHED: usize = 4;

/// What became of pods that came and went.
#[derive(Default)]
struct Churned {
    rounds: usize,
    stuck: Vec<String>,
}

/// Makes pods and deletes them, round after round, until told to stop; at least two rounds.
fn churn(cluster: &Cluster, there: &[String], stop: &AtomicBool) -> Churned {
    let image = &cluster.images.pod;
    let mut done = Churned::default();
    while done.rounds < 2 || !stop.load(Ordering::Relaxed) {
        let round = done.rounds;
        let mut pods: Vec<_> =
            (0..MESHED).map(|n| meshed(&format!("churn-{round}-{n}"), image, there)).collect();
        pods.push(plain(&format!("plainly-{round}"), image, there));
        let names: Vec<String> =
            pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned)).collect();
        cluster.apply(&pods);
        done.stuck.extend(not_ready(cluster, &names));
        let mut arguments = vec!["-n", crate::cluster::NAMESPACE, "delete", "pod", "--timeout=120s"];
        arguments.extend(names.iter().map(String::as_str));
        if let Err(error) = cluster.try_kubectl(&arguments) {
            done.stuck.push(format!("deleting {names:?}: {error}"));
        }
        done.rounds += 1;
        if !done.stuck.is_empty() {
            break;
        }
    }
    done
}

/// Those that do not become ready.
fn not_ready(cluster: &Cluster, names: &[String]) -> Vec<String> {
    let end = Instant::now() + PATIENCE;
    loop {
        let pods = cluster.pods();
        let is_ready = |name: &&String| {
            let conditions = pods.get(*name).and_then(|pod| pod["status"]["conditions"].as_array());
            conditions
                .is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
        };
        let waiting: Vec<String> = names.iter().filter(|name| !is_ready(name)).cloned().collect();
        if waiting.is_empty() {
            return waiting;
        }
        if Instant::now() > end {
            return waiting.iter().map(|name| cluster.why(&[name])).collect();
        }
        let _waited = nix::poll::poll(&mut [], 200_u8);
    }
}

/// A new image, then a changed entry, then back again, while pods are created and deleted: none is bare, none gets stuck.
pub(crate) fn upgrade_under_churn(bed: &mut Bed) -> String {
    let (cluster, there) = (bed.cluster.clone(), bed.world.addresses());
    let stop = AtomicBool::new(false);
    let (churned, kept) = std::thread::scope(|threads| {
        let churning = threads.spawn(|| churn(&cluster, &there, &stop));
        let upgraded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            cluster.release(&cluster.images.next, &[]);
            cluster.release(&cluster.images.next, &["entry.log.level=debug"]);
            cluster.release(&cluster.images.installer, &[]);
            cluster.release(&cluster.images.next, &[]);
        }));
        stop.store(true, Ordering::Relaxed);
        (churning.join().expect("it does not panic"), upgraded)
    });
    if let Err(panic) = kept {
        std::panic::resume_unwind(panic);
    }
    let mut bare: Vec<String> = bed.world.bare("churn-").iter().map(|note| format!("{note:?}")).collect();
    // A pod from before all this was captured all the while.
    bare.extend(bed.world.bare("meshed").iter().map(|note| format!("{note:?}")));
    assert!(!bed.world.notes("churn-").is_empty(), "nobody was asked");
    assert!(bed.world.notes("plainly-").iter().all(|note| !note.by_proxy()), "plain pods are left alone");
    bed.judge(churned.rounds * MESHED, &bare, &churned.stuck);
    format!("4 upgrades, {} rounds of {} pods", churned.rounds, MESHED + 1)
}
