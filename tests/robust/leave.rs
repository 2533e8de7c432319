//! A purge, and the DEL that ends one, killed or met by an error at any system call: pods that run stay captured, and the next one
//! finishes.

use std::path::PathBuf;

use nix::errno::Errno;

use crate::bed::{Answer, Bed, Call, Place, Pod, all, in_parallel};
use crate::node::{binary, nothing_left};
use crate::trace::{Act, Made, changes, run};

/// A node in service, about to be left.
struct Scene {
    place: Place,
    lives: Pod,
    binary: PathBuf,
}

impl Scene {
    /// With a pod that runs and one whose namespace is gone.
    fn new(bed: &Bed) -> Self {
        let (place, lives, gone) = (bed.place(), bed.pod(), bed.pod());
        place.add(&lives);
        place.add(&gone);
        place.vanishes(&gone);
        let binary = binary(&place);
        Self { place, lives, binary }
    }

    fn purge(&self, detach: bool) -> Call {
        let mut words = vec!["purge", "--binary", self.binary.to_str().expect("text")];
        words.extend(detach.then_some("--detach"));
        self.place.node(&words)
    }

    /// With the mark of a purge: the DEL that ends it.
    fn last(&self) -> Call {
        self.purge(false).run().ok();
        self.place.call("DEL", &self.lives)
    }

    /// The plugin's file is there as long as anything that needs it.
    fn in_order(&self, what: &str) {
        if !self.binary.exists() {
            assert!(
                !self.place.bpf.exists() && !self.place.log.exists(),
                "{what}: the plugin went too early"
            );
            assert!(!self.place.state.join("locks").exists(), "{what}: the plugin went too early");
        }
    }

    fn captured(&self, what: &str) {
        let check = self.place.call("CHECK", &self.lives).run();
        assert_eq!(check.code, Some(0), "{what}: {check}; log {}", self.place.log());
    }

    /// The next purge, and the DEL of the pod that runs where there is one, finish what was begun.
    fn finishes(&self, detach: bool, what: &str) {
        let next = self.purge(detach).run();
        assert_eq!(next.code, Some(0), "{what}: {next}");
        if !detach {
            let last = self.place.call("DEL", &self.lives).run();
            assert_eq!(last.code, Some(0), "{what}: {last}");
        }
        nothing_left(&self.place, Some(&self.binary), what);
        let left = self.place.traces(&self.lives);
        assert!(left.is_empty(), "{what}: {left:?}");
    }
}

fn described(made: Option<&Made>, how: &str) -> String {
    made.map_or_else(
        || format!("{how}: no such call"),
        |made| format!("{how} at number {} {:x?} {}", made.number, made.arguments, made.path),
    )
}

/// How many calls that count an undisturbed run makes.
fn length(call: impl Fn(&Scene) -> Call, counted: fn(&Made) -> bool) -> usize {
    let bed = Bed::new();
    let traced = run(&call(&Scene::new(&bed)), counted, 0, Act::Watch);
    traced.answer.ok();
    assert!(traced.made.len() > 20, "{:?}", traced.made);
    traced.made.len()
}

type Asked = (&'static str, fn(&Scene) -> Call, bool);

const ALL: [Asked; 3] = [
    ("purge", |scene| scene.purge(false), false),
    ("purge --detach", |scene| scene.purge(true), true),
    ("the last DEL", Scene::last, true),
];

#[test]
fn killed_at_any_call() {
    let counted: fn(&Made) -> bool = if all() { |_| true } else { changes };
    for (asked, call, detach) in ALL {
        let count = length(call, counted);
        in_parallel(count, |bed, next| {
            while let Some(at) = next() {
                let scene = Scene::new(bed);
                let traced = run(&call(&scene), counted, at, Act::Kill);
                let what = described(traced.made.get(at), &format!("{asked}, killed"));
                scene.in_order(&what);
                if !detach {
                    scene.captured(&what);
                }
                scene.finishes(detach, &what);
            }
        });
    }
}

const NEVER_FAIL: [i64; 4] =
    [libc::SYS_exit_group, libc::SYS_futex, libc::SYS_rt_sigprocmask, libc::SYS_sigaltstack];

fn may_fail(made: &Made) -> bool {
    changes(made) && !NEVER_FAIL.contains(&made.number)
}

/// Writing the answer: nobody can be told.
fn is_answer(made: Option<&Made>) -> bool {
    made.is_some_and(|made| made.number == libc::SYS_write && made.arguments[0] == 1)
}

#[test]
fn an_error_at_any_call_that_changes_something() {
    for (asked, call, detach) in ALL {
        let count = length(call, may_fail);
        in_parallel(count, |bed, next| {
            while let Some(at) = next() {
                let scene = Scene::new(bed);
                let call = call(&scene);
                let error = [Errno::ENOSPC, Errno::EPERM, Errno::ENOMEM][at % 3];
                let traced = run(&call, may_fail, at, Act::Fail(error as i32));
                let made = traced.made.get(at);
                let what = described(made, &format!("{asked}, {error}"));
                told(&traced.answer, made, &what);
                scene.in_order(&what);
                if !detach {
                    scene.captured(&what);
                }
                scene.finishes(detach, &what);
            }
        });
    }
}

/// One document, or for DEL nothing.
fn told(answer: &Answer, made: Option<&Made>, what: &str) {
    match answer.code {
        Some(0) => drop(answer.document()),
        Some(_) if is_answer(made) => {}
        Some(1) => drop(answer.refused()),
        _ => panic!("{what}: {answer}"),
    }
}
