//! Fifty pods at once, as after a node was drained, and all of them gone again.

use std::time::Instant;

use crate::host::Host;
use crate::pods::Spec;

const COUNT: usize = 50;

pub(crate) fn run(host: &mut Host) -> String {
    let host = &*host;
    let begun = Instant::now();
    // Every fifth is plain.
    let specs: Vec<Spec> = (0..COUNT)
        .map(|number| {
            let name = format!("pod-{number}");
            if number % 5 == 4 { Spec::plain(&name) } else { Spec::meshed(&name) }
        })
        .collect();
    let made = all(&specs, |spec| {
        let mut pod = host.sandbox(spec).unwrap_or_else(|why| panic!("{}: {why}", spec.name));
        // One container for both: the test dials from it as the app.
        if spec.is_meshed() {
            pod.start_proxy();
        } else {
            pod.start_app();
        }
        pod
    });
    let up = begun.elapsed();
    // What is asked of the runtime below waits for others of its kind: a few at a time.
    for some in made.chunks(8) {
        all(some, |pod| {
            let right = if pod.spec.is_meshed() { pod.captured() } else { pod.direct() };
            assert_eq!(right, Ok(()));
        });
    }
    let meshed = specs.iter().filter(|spec| spec.is_meshed()).count();
    assert_eq!(host.recorded(), meshed, "a record for each meshed pod: {:#?}", host.ours());
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for pod in made {
            scope.spawn(|| pod.remove());
        }
    });
    let down = begun.elapsed();
    host.nothing_left();
    format!(
        "up in {:.1} s, down in {:.1} s; {meshed} captured, {} direct",
        up.as_secs_f32(),
        down.as_secs_f32(),
        COUNT - meshed
    )
}

/// Does something with each, all at once.
pub(crate) fn all<A: Sync, B: Send>(of: &[A], work: impl Fn(&A) -> B + Sync) -> Vec<B> {
    std::thread::scope(|scope| {
        let running: Vec<_> = of.iter().map(|one| scope.spawn(|| work(one))).collect();
        running
            .into_iter()
            .map(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}
