//! Runs at the same time: of one attachment, of several pods, of a node's first; and GC.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::bed::{Answer, Bed, Call, Place, Pod};

const AT_ONCE: usize = 8;

/// Runs all at once and waits for all answers.
pub(crate) fn together(calls: &[Call]) -> Vec<Answer> {
    let gate = std::sync::Barrier::new(calls.len());
    std::thread::scope(|scope| {
        let running: Vec<_> = calls
            .iter()
            .map(|call| {
                let gate = &gate;
                scope.spawn(move || {
                    gate.wait();
                    call.run()
                })
            })
            .collect();
        running
            .into_iter()
            .map(|run| run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// Each worked, or says that it is worth trying again.
fn all_answered(answers: &[Answer]) {
    for answer in answers.iter().filter(|answer| answer.code != Some(0)) {
        assert_eq!(answer.refused().0, 11, "{answer}");
    }
    assert!(answers.iter().any(|answer| answer.code == Some(0)), "{answers:?}");
}

#[test]
fn one_attachment_added_many_times_at_once() {
    let bed = Bed::new();
    for fresh in [true, false] {
        let (place, pod) = (bed.place(), bed.pod());
        if !fresh {
            place.ready();
        }
        for _round in 0..3 {
            all_answered(&together(&vec![place.call("ADD", &pod); AT_ONCE]));
            place.check(&pod);
            place.del(&pod);
        }
    }
}

#[test]
fn the_first_pods_of_a_node_at_once() {
    let bed = Bed::new();
    let pods: Vec<Pod> = (0..AT_ONCE).map(|_| bed.pod()).collect();
    for _round in 0..3 {
        let place = bed.place();
        let answers = together(&pods.iter().map(|pod| place.call("ADD", pod)).collect::<Vec<_>>());
        for (answer, pod) in answers.iter().zip(&pods) {
            answer.ok();
            place.check(pod);
        }
        // One of them loaded; nothing of the others' attempts is left.
        place.object();
        let links = place.object().join("links");
        let names: BTreeSet<_> = std::fs::read_dir(links)
            .expect("loaded")
            .filter_map(Result::ok)
            .map(|entry| entry.file_name())
            .collect();
        assert!(names.iter().all(|name| !name.to_string_lossy().ends_with("-new")), "{names:?}");
        for answer in together(&pods.iter().map(|pod| place.call("DEL", pod)).collect::<Vec<_>>()) {
            answer.silent();
        }
        for pod in &pods {
            place.nothing_of(pod);
        }
    }
}

#[test]
fn add_races_del() {
    let bed = Bed::new();
    let (place, bystander, pod) = (bed.place(), bed.pod(), bed.pod());
    place.add(&bystander);
    for _round in 0..30 {
        let calls = ["ADD", "DEL", "ADD", "DEL"].map(|command| place.call(command, &pod));
        let answers = together(&calls);
        all_answered(&answers);
        // Whoever was last: a whole pod, or nothing.
        if !place.traces(&pod).is_empty() {
            place.check(&pod);
        }
        place.del(&pod);
    }
    place.check(&bystander);
}

/// GC of a network with the attachments given; none gives no list.
fn gc(place: &Place, network: &str, key: &str, keep: Option<&[&Pod]>) -> Answer {
    let call = place.bare("GC").configured(|config| {
        config["name"] = json!(network);
        if let Some(keep) = keep {
            let list: Vec<Value> =
                keep.iter().map(|pod| json!({ "containerID": pod.container, "ifname": "eth0" })).collect();
            config[key] = json!(list);
        }
    });
    call.run()
}

#[test]
fn gc_removes_what_is_not_on_the_list() {
    let bed = Bed::new();
    let (place, one, two, other) = (bed.place(), bed.pod(), bed.pod(), bed.pod());
    let key = "cni.dev/valid-attachments";
    place.add(&one);
    place.add(&two);
    place.call("ADD", &other).configured(|config| config["name"] = json!("another")).run().ok();
    let all_there = || [&one, &two, &other].into_iter().for_each(|pod| place.check(pod));
    // No list: nothing. A list that cannot be read: an error, and nothing.
    gc(&place, "robust", key, None).silent();
    all_there();
    let null = place.bare("GC").configured(|config| config[key] = json!(null));
    null.run().silent();
    all_there();
    for bad in [json!("x"), json!([1]), json!([{ "containerID": 5, "ifname": "eth0" }]), json!({})] {
        let call = place.bare("GC").configured(|config| config[key] = bad);
        assert_eq!(call.run().refused().0, 7);
        all_there();
    }
    gc(&place, "robust", key, Some(&[&one, &two])).silent();
    all_there();
    // Another network's attachments are on another list.
    gc(&place, "robust", key, Some(&[&one])).silent();
    place.nothing_of(&two);
    place.check(&one);
    place.check(&other);
    // The name of an early draft.
    gc(&place, "robust", "cni.dev/attachments", Some(&[])).silent();
    place.nothing_of(&one);
    place.check(&other);
    gc(&place, "another", key, Some(&[])).silent();
    place.nothing_of(&other);
}

#[test]
fn gc_races_add() {
    let bed = Bed::new();
    let (place, bystander, pod) = (bed.place(), bed.pod(), bed.pod());
    place.add(&bystander);
    for _round in 0..10 {
        let list = json!([{ "containerID": bystander.container, "ifname": "eth0" }]);
        let collect = place.bare("GC").configured(|config| config["cni.dev/valid-attachments"] = list);
        all_answered(&together(&[place.call("ADD", &pod), collect, place.call("ADD", &pod)]));
        if !place.traces(&pod).is_empty() {
            place.check(&pod);
        }
        place.check(&bystander);
        place.del(&pod);
    }
}
