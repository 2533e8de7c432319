//! Looks at a host all the time while something goes on there.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::host::{Host, moment};

/// What was seen and must not be.
#[derive(Debug, Default)]
struct Seen {
    wrong: Mutex<Vec<String>>,
    looks: Mutex<u64>,
    done: AtomicBool,
}

/// Does the work while `wrong` is asked again and again, every millisecond, and fails if that ever says something.
#[track_caller]
pub(crate) fn never<T>(
    host: &Host,
    wrong: impl Fn(&Host) -> Option<String> + Sync,
    work: impl FnOnce() -> T,
) -> T {
    let seen = Seen::default();
    let worked = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !seen.done.load(Ordering::Relaxed) {
                if let Some(what) = wrong(host) {
                    let mut list = seen.wrong.lock().expect("no panic holds it");
                    if list.len() < 5 {
                        list.push(what);
                    }
                }
                *seen.looks.lock().expect("no panic holds it") += 1;
                moment(1);
            }
        });
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        seen.done.store(true, Ordering::Relaxed);
        worked
    });
    let worked = worked.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let wrong = seen.wrong.into_inner().expect("no panic holds it");
    assert_eq!(wrong, [""; 0], "seen in between");
    assert!(seen.looks.into_inner().expect("no panic holds it") > 0);
    worked
}

/// Anything but a list with our entry once: what must not be seen in mode `owned` once it is installed.
pub(crate) fn not_ours(host: &Host) -> Option<String> {
    match host.loaded() {
        crate::runtime::Loaded::List(list) if list.ours() == 1 => None,
        other => Some(format!("{other:?}")),
    }
}
