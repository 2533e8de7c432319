//! A full disk, no memory, no permission, at every system call. ADD undoes itself or succeeds whole; DEL always succeeds.

use nix::errno::Errno;
use serde_json::json;

use crate::bed::{Answer, Bed, Call, Place, Pod, all, in_parallel};
use crate::trace::{Act, Made, changes, run};

const ERRORS: [Errno; 3] = [Errno::ENOSPC, Errno::ENOMEM, Errno::EPERM];

/// Calls that cannot fail, or whose failure the language's runtime answers by ending the program before any code of ours could:
/// ending, locks of threads, signal stacks, random numbers. What is left of such a run is what SIGKILL leaves.
const NEVER_FAIL: [i64; 11] = [
    libc::SYS_getrandom,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sigaltstack,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_set_tid_address,
];

/// Asking for memory: here the program may end with a signal, as every program does.
const MEMORY: [i64; 5] =
    [libc::SYS_mmap, libc::SYS_brk, libc::SYS_mremap, libc::SYS_mprotect, libc::SYS_munmap];

/// Calls whose failure a library answers with a panic; no kernel gives these errors there. The answer is still one document,
/// and DEL finds what is left.
const PANIC: [i64; 3] = [libc::SYS_close, libc::SYS_epoll_wait, libc::SYS_epoll_pwait];

/// Code of an internal error.
const INTERNAL: u64 = 999;

fn may_fail(made: &Made) -> bool {
    !NEVER_FAIL.contains(&made.number)
}

/// One call to spoil.
#[derive(Debug, Clone, Copy)]
struct Spot {
    at: usize,
    error: Errno,
}

/// Every call that may fail after the program's own first one, with each error.
fn spots(call: &Call, counted: fn(&Made) -> bool) -> Vec<Spot> {
    let traced = run(call, counted, 0, Act::Watch);
    traced.answer.ok();
    // The language's start-up looks at all three standard streams with one `poll`; ours waits for stdin alone.
    let ours = traced
        .made
        .iter()
        .position(|made| made.number == libc::SYS_poll && made.arguments[1] == 1)
        .unwrap_or(0);
    (ours..traced.made.len()).flat_map(|at| ERRORS.map(|error| Spot { at, error })).collect()
}

fn spoilt(call: &Call, counted: fn(&Made) -> bool, spot: Spot) -> (Option<Made>, Answer, String) {
    let Spot { at, error } = spot;
    let traced = run(call, counted, at, Act::Fail(error as i32));
    let made = traced.made.get(at).cloned();
    let what = match &made {
        Some(made) => {
            format!("{error} at call {at}, number {} {:x?} {}", made.number, made.arguments, made.path)
        }
        None => format!("no call {at}"),
    };
    (made, traced.answer, what)
}

fn is_memory(made: Option<&Made>) -> bool {
    made.is_some_and(|made| MEMORY.contains(&made.number))
}

/// Writing the answer: nobody can be told.
fn is_answer(made: Option<&Made>) -> bool {
    made.is_some_and(|made| made.number == libc::SYS_write && made.arguments[0] == 1)
}

/// Memory is asked for by the language's runtime, which ends the program when there is none: left out unless all is asked for.
fn counted() -> fn(&Made) -> bool {
    if all() { may_fail } else { |made| may_fail(made) && (changes(made) || !MEMORY.contains(&made.number)) }
}

/// What an ADD with an error in it left is nothing, or a pod that passes CHECK.
fn whole_or_nothing(place: &Place, pod: &Pod, made: Option<&Made>, answer: &Answer, what: &str) {
    match answer.code {
        Some(0) => {
            answer.document();
            let check = place.call("CHECK", pod).run();
            assert_eq!(check.code, Some(0), "{what}: ADD said it worked: {check}");
        }
        Some(_) if is_answer(made) => {}
        Some(_) => {
            let (code, _) = answer.refused();
            let panicked = code == INTERNAL
                && (is_memory(made) || made.is_some_and(|made| PANIC.contains(&made.number)));
            let mut left = place.traces(pod);
            if made.is_some_and(|made| made.number == libc::SYS_flock) {
                // A lock that was not got may be another's: its file stays, until DEL.
                left.retain(|path| !path.contains("/locks/"));
            }
            assert!(left.is_empty() || panicked, "{what}: ADD failed and left {left:?}: {answer}");
        }
        None => assert!(is_memory(made), "{what}: ended by a signal: {answer}"),
    }
    place.deletes(pod, what);
}

#[test]
fn add_meets_an_error_at_any_call() {
    let counted = counted();
    let spots = {
        let bed = Bed::new();
        let place = bed.place();
        place.ready();
        spots(&place.call("ADD", &bed.pod()), counted)
    };
    in_parallel(spots.len(), |bed, next| {
        let (place, bystander, pod) = (bed.place(), bed.pod(), bed.pod());
        place.add(&bystander);
        while let Some(spot) = next().and_then(|index| spots.get(index)) {
            let (made, answer, what) = spoilt(&place.call("ADD", &pod), counted, *spot);
            whole_or_nothing(&place, &pod, made.as_ref(), &answer, &what);
            place.check(&bystander);
        }
    });
}

#[test]
fn the_first_add_of_a_node_meets_an_error_while_it_loads() {
    // The loader asks the kernel what it can do by trying; an error there is an answer. What it does with the answer is the same
    // for all of them, so each call that changes something is spoilt, and all with `SHUNT_TESTS_ALL=1`.
    let counted = if all() { may_fail } else { changes };
    // Of the load that serves pods: what an error in the probe means is a choice of its own.
    let add = |place: &Place, pod: &Pod| place.call("ADD", pod);
    let spots = {
        let bed = Bed::new();
        spots(&add(&bed.place(), &bed.pod()), counted)
    };
    in_parallel(spots.len(), |bed, next| {
        let pod = bed.pod();
        while let Some(spot) = next().and_then(|index| spots.get(index)) {
            let place = bed.place();
            let (made, answer, what) = spoilt(&add(&place, &pod), counted, *spot);
            whole_or_nothing(&place, &pod, made.as_ref(), &answer, &what);
            place.add(&pod);
            place.check(&pod);
            let pinned: Vec<_> = std::fs::read_dir(&place.bpf).expect("loaded").collect();
            assert_eq!(pinned.len(), 1, "{what}: {pinned:?}");
        }
    });
}

/// An error in the probe is an answer or none; either way it ends, and the next one finds the node as it was.
#[test]
fn a_probe_meets_an_error_at_any_call() {
    let spots = {
        let bed = Bed::new();
        let mut spots = spots(&bed.place_on_auto().bare("STATUS"), changes);
        spots.retain(|spot| spot.error == Errno::EPERM || all());
        spots
    };
    in_parallel(spots.len(), |bed, next| {
        while let Some(spot) = next().and_then(|index| spots.get(index)) {
            let place = bed.place_on_auto();
            let (made, answer, what) = spoilt(&place.bare("STATUS"), changes, *spot);
            assert!(answer.code.is_some() || is_memory(made.as_ref()), "{what}: {answer}");
            // Whatever it was taken for is forgotten.
            let _none = std::fs::remove_file(place.state.join("backend.json"));
            place.ready();
            assert!(place.log().contains("ready: ebpf"), "{what}: {}", place.log());
            let pinned: Vec<_> = std::fs::read_dir(&place.bpf).expect("loaded").collect();
            assert_eq!(pinned.len(), 1, "{what}: {pinned:?}");
        }
    });
}

#[test]
fn a_repeated_add_meets_an_error_and_the_pod_stays_captured() {
    let counted = counted();
    let spots = {
        let bed = Bed::new();
        let (place, pod) = (bed.place(), bed.pod());
        place.add(&pod);
        let mut spots = spots(&place.call("ADD", &pod), counted);
        spots.retain(|spot| spot.error == Errno::ENOMEM || all());
        spots
    };
    in_parallel(spots.len(), |bed, next| {
        let (place, pod) = (bed.place(), bed.pod());
        place.add(&pod);
        while let Some(spot) = next().and_then(|index| spots.get(index)) {
            let (_, answer, what) = spoilt(&place.call("ADD", &pod), counted, *spot);
            let check = place.call("CHECK", &pod).run();
            assert_eq!(
                check.code,
                Some(0),
                "{what}: ADD said {answer}, then CHECK {check}; log {}",
                place.log()
            );
        }
        place.del(&pod);
    });
}

#[test]
fn del_meets_an_error_at_any_call() {
    let counted = counted();
    let spots = {
        let bed = Bed::new();
        let (place, pod) = (bed.place(), bed.pod());
        place.add(&pod);
        spots(&place.call("DEL", &pod), counted)
    };
    in_parallel(spots.len(), |bed, next| {
        let (place, bystander, pod) = (bed.place(), bed.pod(), bed.pod());
        place.add(&bystander);
        while let Some(spot) = next().and_then(|index| spots.get(index)) {
            place.add(&pod);
            let (made, answer, what) = spoilt(&place.call("DEL", &pod), counted, *spot);
            let made = made.as_ref();
            let stdin = made.is_some_and(|made| {
                made.number == libc::SYS_poll || (made.number == libc::SYS_read && made.arguments[0] == 0)
            });
            match answer.code {
                Some(0) => assert!(answer.stdout.is_empty(), "{what}: {answer}"),
                // Without its configuration DEL does not know where to look: that is an error, and loses nothing.
                Some(_) if stdin => drop(answer.refused()),
                Some(_) => panic!("{what}: DEL failed: {answer}"),
                None => assert!(is_memory(made), "{what}: ended by a signal"),
            }
            let again = place.call("DEL", &pod).run();
            assert_eq!(again.code, Some(0), "{what}: {again}");
            let left = place.traces(&pod);
            assert!(left.is_empty(), "{what}: the next DEL left {left:?}");
            place.check(&bystander);
        }
    });
}

/// `failurePolicy` decides what a pod gets that cannot be intercepted; either way nothing is left half-done.
#[test]
fn failure_policy_decides_what_an_error_means() {
    let bed = Bed::new();
    let (place, bystander, pod) = (bed.place(), bed.pod(), bed.pod());
    place.add(&bystander);
    let updates = |made: &Made| made.number == libc::SYS_bpf && changes(made);
    for (policy, code) in [("closed", Some(1)), ("open", Some(0))] {
        let call = place.call("ADD", &pod).configured(|config| config["failurePolicy"] = json!(policy));
        for at in [0, 3] {
            let traced = run(&call, updates, at, Act::Fail(Errno::EPERM as i32));
            assert!(traced.reached);
            assert_eq!(traced.answer.code, code, "{policy}: {}", traced.answer);
            if code == Some(0) {
                let sent: serde_json::Value = serde_json::from_slice(&call.stdin).expect("ours");
                assert_eq!(traced.answer.document(), Some(sent["prevResult"].clone()));
            } else {
                assert_eq!(traced.answer.refused().0, 102);
            }
            place.nothing_of(&pod);
        }
        let check =
            place.call("CHECK", &pod).configured(|config| config["failurePolicy"] = json!(policy)).run();
        assert_eq!(check.code, code, "{policy}: {check}");
    }
}
