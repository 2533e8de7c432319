//! Somebody removes a pin of the object that pods are served by.

use std::fs;
use std::path::PathBuf;

use crate::bed::{Bed, Place};

/// All pins of the object but those of pods.
fn shared(place: &Place) -> Vec<PathBuf> {
    let mut pins: Vec<PathBuf> = ["maps", "programs", "links"]
        .iter()
        .flat_map(|kind| fs::read_dir(place.object().join(kind)).expect("the object is loaded"))
        .map(|entry| entry.expect("bpffs can be listed").path())
        .collect();
    pins.sort();
    pins
}

/// CHECK names it. The next pod gets everything or nothing; each DEL works, and after the last one the next ADD finds a whole object.
#[test]
fn any_of_them_is_removed() {
    let bed = Bed::new();
    let place = bed.place();
    let first = bed.pod();
    place.add(&first);
    let pins = shared(&place);
    place.del(&first);
    assert!(pins.len() > 30, "{pins:?}");
    for pin in pins {
        let (attached, next) = (bed.pod(), bed.pod());
        place.add(&attached);
        fs::remove_file(&pin).unwrap_or_else(|error| panic!("{}: {error}", pin.display()));
        let name = pin.file_name().and_then(|name| name.to_str()).expect("a name of ours");
        let (code, said) = place.call("CHECK", &attached).run().refused();
        assert!(code == 104 && said.contains(name), "{name}: {code} {said}");
        let answer = place.added(&next);
        if answer.code == Some(0) {
            place.call("DEL", &next).run().silent();
        } else {
            let (_, said) = answer.refused();
            assert!(said.contains(name), "{name}: {said}");
        }
        place.nothing_of(&next);
        place.del(&attached);
        place.add(&next);
        place.check(&next);
        assert!(shared(&place).contains(&pin), "{}", pin.display());
        place.del(&next);
    }
}

/// The pin of a map of programs is there, and the programs are not.
#[test]
fn a_map_of_programs_is_empty() {
    let bed = Bed::new();
    let (place, pod) = (bed.place(), bed.pod());
    place.add(&pod);
    shunt_tests::kernel::empty(&place.object().join("maps").join(shunt_abi::names::LOOKUPS));
    let (code, said) = place.call("CHECK", &pod).run().refused();
    assert!(code == 104 && said.contains("select"), "{code} {said}");
    place.del(&pod);
    place.add(&pod);
    place.check(&pod);
    place.del(&pod);
}
