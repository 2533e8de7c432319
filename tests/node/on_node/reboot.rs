//! The power goes and comes back. Pods race the installer, or nobody; none may be bare.

use std::fs;

use shunt_tests::machine::containerd::PRIMARY;

use crate::objects::{meshed, plain};
use crate::scenario::Bed;

/// Meshed pods of each kind.
const EACH: usize = 4;
/// Reboots in which everybody starts at once.
const ROUNDS: usize = 3;

fn names(prefix: &str) -> Vec<String> {
    (0..EACH).map(|n| format!("{prefix}-{n}")).collect()
}

fn add_static(bed: &mut Bed) {
    let (image, there) = (bed.cluster.images.pod.clone(), bed.world.addresses());
    for name in names("boot-static") {
        bed.node().add_static(&meshed(&name, &image, &there));
    }
    bed.node().add_static(&plain("plainly-static", &image, &there));
}

fn remove_static(bed: &mut Bed) {
    for name in names("boot-static").iter().map(String::as_str).chain(["plainly-static"]) {
        bed.node().remove_static(name);
    }
}

/// Waits until each of these has asked, by way of a proxy.
#[track_caller]
fn wait_for(bed: &Bed, mark: usize, who: &[String]) {
    let node = bed.node.as_ref().expect("a scenario with a node");
    node.machine.until(&format!("{who:?} have started and ask"), || {
        let notes = bed.world.since(mark, "boot-");
        who.iter().all(|name| notes.iter().filter(|note| note.by_proxy() && note.is_of(name)).count() >= 5)
    });
}

/// All bare requests of meshed pods since a moment.
fn bare(bed: &Bed, mark: usize) -> Vec<String> {
    let notes = bed.world.since(mark, "boot-");
    notes.iter().filter(|note| !note.by_proxy()).map(|note| format!("{note:?}")).collect()
}

/// Static pods start before there is an API server, and so long before an installer; then the rest comes.
pub(crate) fn before_the_installer(bed: &mut Bed) -> String {
    let cluster = bed.cluster.clone();
    let there = bed.world.addresses();
    let api: Vec<_> =
        names("boot-api").iter().map(|name| meshed(name, &cluster.images.pod, &there)).collect();
    cluster.run_pods(&api);
    add_static(bed);
    let mark = bed.world.mark();
    wait_for(bed, mark, &names("boot-static"));

    bed.node().power_off();
    let mark = bed.world.mark();
    bed.node().boot_alone();
    wait_for(bed, mark, &names("boot-static"));
    let early = bed.world.since(mark, "plainly-static");
    assert!(
        !early.is_empty() && early.iter().all(|note| !note.by_proxy()),
        "a plain pod starts too: {early:?}"
    );
    bed.node().start_control();
    wait_for(bed, mark, &names("boot-api"));
    bed.node().wait_ready(&cluster);
    cluster.rolled_out();
    let bare = bare(bed, mark);
    bed.judge(2 * EACH, &bare, &[]);
    format!("{EACH} static pods ran before any installer, {EACH} others raced it")
}

/// The installer is ready before the first pod comes.
pub(crate) fn after_the_installer(bed: &mut Bed) -> String {
    let cluster = bed.cluster.clone();
    let there = bed.world.addresses();
    remove_static(bed);
    let pods = names("boot-api");
    cluster.delete(&pods.iter().map(String::as_str).collect::<Vec<_>>());
    bed.node().power_off();
    let mark = bed.world.mark();
    bed.node().boot();
    bed.node().wait_ready(&cluster);
    cluster.rolled_out();
    assert!(bed.world.since(mark, "boot-").is_empty(), "nobody else has started");
    add_static(bed);
    let api: Vec<_> = pods.iter().map(|name| meshed(name, &cluster.images.pod, &there)).collect();
    cluster.run_pods(&api);
    wait_for(bed, mark, &names("boot-static"));
    wait_for(bed, mark, &pods);
    let bare = bare(bed, mark);
    bed.judge(2 * EACH, &bare, &[]);
    format!("{} pods after it", 2 * EACH)
}

/// Everything starts at once, as on a real node; several times.
pub(crate) fn everybody_races(bed: &mut Bed) -> String {
    let cluster = bed.cluster.clone();
    for _round in 0..ROUNDS {
        bed.node().power_off();
        let mark = bed.world.mark();
        bed.node().boot();
        wait_for(bed, mark, &names("boot-static"));
        wait_for(bed, mark, &names("boot-api"));
        bed.node().wait_ready(&cluster);
        cluster.rolled_out();
        let bare = bare(bed, mark);
        bed.judge(2 * EACH, &bare, &[]);
    }
    remove_static(bed);
    let pods = names("boot-api");
    cluster.delete(&pods.iter().map(String::as_str).collect::<Vec<_>>());
    format!("{ROUNDS} reboots of {} pods", 2 * EACH)
}

/// What mode `chained` is documented not to hold, and the proof that a bare pod is seen here: the primary writes its list anew at boot, and
/// what starts before somebody puts the entry back goes past its proxy.
pub(crate) fn chained_is_open(bed: &mut Bed) -> String {
    let cluster = bed.cluster.clone();
    let primary = bed.node().machine.path("etc/cni/net.d").join(PRIMARY);
    let read = || fs::read_to_string(&primary).expect("the primary has a list");
    let has_entry = || read().contains(r#""type": "shunt""#) || read().contains(r#""type":"shunt""#);
    let as_written = read();
    assert!(!has_entry(), "mode owned leaves it alone");
    cluster.release(&cluster.images.next, &["mode=chained"]);
    assert!(has_entry(), "mode chained puts the entry there: {}", read());
    add_static(bed);
    let mark = bed.world.mark();
    wait_for(bed, mark, &names("boot-static"));

    bed.node().power_off();
    fs::write(&primary, &as_written).expect("own disk");
    let mark = bed.world.mark();
    bed.node().boot_alone();
    let node = bed.node.as_ref().expect("a scenario with a node");
    node.machine.until("static pods have started and ask", || {
        names("boot-static").iter().all(|name| bed.world.since(mark, name).len() >= 5)
    });
    let bare = bare(bed, mark).len();
    assert!(bare >= EACH, "bare requests are seen: {bare}");
    bed.node().start_control();
    bed.node().wait_ready(&cluster);
    cluster.rolled_out();
    remove_static(bed);
    cluster.release(&cluster.images.next, &[]);
    assert_eq!(read(), as_written, "back in mode owned the primary's list is its owner's");
    format!("as documented: {EACH} of {EACH} pods bare where the primary rewrites its list at boot")
}
