//! SIGKILL at every system call. A runtime's time limit, the OOM killer and a power cut do the same.
//!
//! On a node in service each call of ADD and DEL is one place to die. Loading the programs makes 1,800 calls, most of which cannot be
//! told apart from outside: there the plugin is killed at each that changes something ([`changes`] says which do not), and at each of
//! all with `SHUNT_TESTS_ALL=1`.

use crate::bed::{Bed, Call, Place, Pod, all, in_parallel};
use crate::trace::{Act, Made, changes, run};

fn every(_: &Made) -> bool {
    true
}

/// How many counted calls an undisturbed run makes.
fn length(call: &Call, counted: impl Fn(&Made) -> bool) -> usize {
    let traced = run(call, counted, 0, Act::Watch);
    traced.answer.ok();
    traced.made.len()
}

fn killed(call: &Call, counted: impl Fn(&Made) -> bool, at: usize) -> String {
    let traced = run(call, counted, at, Act::Kill);
    // A run may be a call shorter than the one that was counted: then it was not killed, and must have worked.
    assert!(traced.reached == traced.answer.code.is_none(), "{at}: {}", traced.answer);
    match traced.made.get(at) {
        Some(made) => {
            format!("killed at call {at}, number {} {:x?} {}", made.number, made.arguments, made.path)
        }
        None => format!("not killed at call {at}"),
    }
}

/// A node in service: programs loaded, one pod attached that nothing may touch.
struct Service {
    place: Place,
    bystander: Pod,
    pod: Pod,
}

impl Service {
    fn new(bed: &Bed) -> Self {
        let place = bed.place();
        let bystander = bed.pod();
        place.add(&bystander);
        Self { place, bystander, pod: bed.pod() }
    }

    fn works(&self, what: &str) {
        let Self { place, bystander, pod } = self;
        let left = place.traces(pod);
        assert!(left.is_empty(), "{what}: DEL left {left:?}; log: {}", place.log());
        attaches(place, pod, what);
        place.call("DEL", pod).run().silent();
        let left = place.traces(pod);
        assert!(left.is_empty(), "{what}: the last DEL left {left:?}; log: {}", place.log());
        let bystanders = place.call("CHECK", bystander).run();
        assert_eq!(bystanders.code, Some(0), "{what}: the other pod: {bystanders}");
    }
}

/// ADD and CHECK work.
fn attaches(place: &Place, pod: &Pod, what: &str) {
    for answer in [place.added(pod), place.call("CHECK", pod).run()] {
        assert_eq!(answer.code, Some(0), "{what}: {answer}; log: {}", place.log());
    }
}

fn deleted(place: &Place, pod: &Pod, what: &str) {
    let answer = place.call("DEL", pod).run();
    assert!(answer.code == Some(0) && answer.stdout.is_empty(), "{what}: DEL: {answer}");
}

#[test]
fn add_is_killed_at_any_call() {
    let count = {
        let bed = Bed::new();
        let service = Service::new(&bed);
        length(&service.place.call("ADD", &service.pod), every)
    };
    in_parallel(count, |bed, next| {
        let service = Service::new(bed);
        let Service { place, pod, .. } = &service;
        while let Some(at) = next() {
            // The next ADD comes first, as after a restart of the runtime ...
            let what = killed(&place.call("ADD", pod), every, at);
            attaches(place, pod, &what);
            deleted(place, pod, &what);
            service.works(&what);
            // ... or DEL, as when it gives the sandbox up.
            let what = killed(&place.call("ADD", pod), every, at);
            deleted(place, pod, &what);
            service.works(&what);
        }
    });
}

#[test]
fn a_repeated_add_is_killed_at_any_call() {
    let count = {
        let bed = Bed::new();
        let service = Service::new(&bed);
        length(&service.place.call("ADD", &service.bystander), changes)
    };
    in_parallel(count, |bed, next| {
        let service = Service::new(bed);
        let Service { place, pod, .. } = &service;
        while let Some(at) = next() {
            place.add(pod);
            let what = killed(&place.call("ADD", pod), changes, at);
            let answer = place.call("CHECK", pod).run();
            assert_eq!(answer.code, Some(0), "{what}: the pod was captured and is not: {answer}");
            attaches(place, pod, &what);
            deleted(place, pod, &what);
            service.works(&what);
        }
    });
}

#[test]
fn del_is_killed_at_any_call() {
    let count = {
        let bed = Bed::new();
        let service = Service::new(&bed);
        length(&service.place.call("DEL", &service.bystander), every)
    };
    in_parallel(count, |bed, next| {
        let service = Service::new(bed);
        let Service { place, pod, .. } = &service;
        while let Some(at) = next() {
            place.add(pod);
            let what = killed(&place.call("DEL", pod), every, at);
            deleted(place, pod, &what);
            service.works(&what);
            place.add(pod);
            let what = killed(&place.call("DEL", pod), every, at);
            attaches(place, pod, &what);
            deleted(place, pod, &what);
            service.works(&what);
        }
    });
}

#[test]
fn the_first_add_of_a_node_is_killed_while_it_loads() {
    let counted = if all() { every } else { changes };
    let count = {
        let bed = Bed::new();
        length(&bed.place_on_auto().call("ADD", &bed.pod()), counted)
    };
    in_parallel(count, |bed, next| {
        let pod = bed.pod();
        while let Some(at) = next() {
            let place = bed.place_on_auto();
            let what = killed(&place.call("ADD", &pod), counted, at);
            deleted(&place, &pod, &what);
            let left = place.traces(&pod);
            assert!(left.is_empty(), "{what}: DEL left {left:?}");
            attaches(&place, &pod, &what);
            // What the load that was killed had pinned is gone too: there is one object directory and nothing beside it.
            let pinned: Vec<_> = std::fs::read_dir(&place.bpf).expect("loaded").collect();
            assert_eq!(pinned.len(), 1, "{what}: {pinned:?}; log {}", place.log());
            place.del(&pod);
        }
    });
}
