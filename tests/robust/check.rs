//! CHECK sees what is not as ADD left it, and a new ADD repairs it.

use std::fs;
use std::path::PathBuf;

use crate::bed::{Bed, Place, Pod};

fn pins(place: &Place, pod: &Pod) -> PathBuf {
    place.object().join("pods").join(pod.pin_name()).join(format!("{:016x}", pod.cookie))
}

#[test]
fn what_is_missing_is_seen_and_repaired() {
    let bed = Bed::new();
    let (place, bystander, pod) = (bed.place(), bed.pod(), bed.pod());
    place.add(&bystander);
    let unlink =
        |path: PathBuf| fs::remove_file(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let damages: [(&str, &dyn Fn()); 6] = [
        ("the pod's lookup link", &|| unlink(pins(&place, &pod).join("lookup"))),
        ("the pod's getsockopt link", &|| unlink(pins(&place, &pod).join("getsockopt"))),
        ("all of the pod's pins", &|| fs::remove_dir_all(pins(&place, &pod)).expect("pins")),
        ("a shared link", &|| unlink(place.object().join("links/connect4"))),
        ("another shared link", &|| unlink(place.object().join("links/sock_ops"))),
        ("the record", &|| unlink(place.record(&pod))),
    ];
    for (what, damage) in damages {
        place.add(&pod);
        place.check(&pod);
        damage();
        let answer = place.call("CHECK", &pod).run();
        assert_eq!(answer.code, Some(1), "{what}");
        assert_eq!(answer.refused().0, 104, "{what}: {answer}");
        place.add(&pod);
        place.check(&pod);
    }
    place.check(&bystander);
    place.del(&pod);
}

#[test]
fn map_entries_that_are_gone() {
    let bed = Bed::new();
    let (place, pod) = (bed.place(), bed.pod());
    for map in ["PODS", "RULES"] {
        place.add(&pod);
        shunt_tests::kernel::forget(&place.object(), map, pod.cookie);
        assert_eq!(place.call("CHECK", &pod).run().refused().0, 104, "{map}");
        place.add(&pod);
        place.check(&pod);
    }
    place.del(&pod);
}

#[test]
fn another_namespace_under_the_same_name() {
    let bed = Bed::new();
    let (place, pod, other) = (bed.place(), bed.pod(), bed.pod());
    place.add(&pod);
    let call = place.call("CHECK", &pod).with("CNI_NETNS", Some(other.netns.path()));
    assert_eq!(call.run().refused().0, 104);
    place.check(&pod);
    // The sandbox was made anew under the same id: ADD moves over, and leaves nothing in the old namespace.
    place.call("ADD", &pod).with("CNI_NETNS", Some(other.netns.path())).run().ok();
    call.run().silent();
    assert_eq!(shunt_tests::kernel::entries(&place.bpf, pod.cookie), [""; 0]);
    place.call("DEL", &pod).run().silent();
    assert_eq!(shunt_tests::kernel::entries(&place.bpf, other.cookie), [""; 0]);
    place.nothing_of(&pod);
}

#[test]
fn a_pod_that_is_not_selected() {
    let bed = Bed::new();
    let (place, pod) = (bed.place(), bed.pod());
    let unmarked = |command: &str| {
        place.call(command, &pod).configured(|config| {
            config["runtimeConfig"]["io.kubernetes.cri.pod-annotations"] = serde_json::json!(null);
        })
    };
    unmarked("ADD").run().ok();
    assert_eq!(place.files().len(), 0, "nothing is made for a pod that is not meshed: {:?}", place.files());
    unmarked("CHECK").run().silent();
    // Selected first, then not any more; with and without the record that says so.
    for record in [true, false] {
        place.add(&pod);
        if !record {
            fs::remove_file(place.record(&pod)).expect("a record");
        }
        unmarked("ADD").run().ok();
        place.nothing_of(&pod);
        unmarked("CHECK").run().silent();
    }
}
