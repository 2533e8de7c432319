//! What passes over a node: reboots, which take the pins and leave the records, and upgrades, which bring another object.

use std::fs;

use serde_json::Value;
use shunt_tests::kernel;

use crate::bed::{Bed, Place, Pod};

/// As a reboot leaves it where the state directory is on a disk: every pin is gone.
fn reboot(place: &Place) {
    fs::remove_dir_all(&place.bpf).expect("own pins");
}

#[test]
fn records_without_pins() {
    let bed = Bed::new();
    let (place, old, new) = (bed.place(), bed.pod(), bed.pod());
    place.add(&old);
    reboot(&place);
    assert_eq!(place.call("CHECK", &old).run().refused().0, 104);
    place.add(&new);
    // The kernel counts cookies from the start again: the old record names the new pod's.
    let record = place.record(&old);
    let text = fs::read_to_string(&record).expect("a record");
    let mut parsed: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(parsed["receipt"]["cookie"], old.cookie);
    parsed["receipt"]["cookie"] = new.cookie.into();
    fs::write(&record, parsed.to_string()).expect("own file");
    let before = kernel::entries(&place.bpf, new.cookie);
    place.call("DEL", &old).run().silent();
    place.nothing_of(&old);
    assert_eq!(kernel::entries(&place.bpf, new.cookie), before);
    place.check(&new);
    place.add(&old);
    place.check(&old);
    place.check(&new);
}

#[test]
fn a_record_without_pins_is_replaced_by_add_and_collected_by_gc() {
    let bed = Bed::new();
    let (place, one, two) = (bed.place(), bed.pod(), bed.pod());
    place.add(&one);
    place.add(&two);
    reboot(&place);
    place.add(&one);
    place.check(&one);
    let keep = serde_json::json!([{ "containerID": one.container, "ifname": "eth0" }]);
    place.bare("GC").configured(|config| config["cni.dev/valid-attachments"] = keep).run().silent();
    place.nothing_of(&two);
    place.check(&one);
}

const OLD: &str = "0123456789abcdef";

/// Makes the programs that are pinned, and serve `pod`, those of an earlier version.
fn grow_old(place: &Place, pod: &Pod) -> String {
    let object = place.object();
    let hash = object.file_name().expect("it has one").to_string_lossy().into_owned();
    fs::rename(&object, place.bpf.join(OLD)).expect("one file system");
    let record = place.record(pod);
    let text = fs::read_to_string(&record).expect("a record").replace(&hash, OLD);
    fs::write(&record, text).expect("own file");
    hash
}

#[test]
fn an_older_object_serves_its_pods_until_they_are_gone() {
    let bed = Bed::new();
    let (place, old, new) = (bed.place(), bed.pod(), bed.pod());
    place.add(&old);
    let hash = grow_old(&place, &old);
    place.check(&old);
    place.add(&new);
    let pods = |object: &str| place.bpf.join(object).join("pods");
    assert!(pods(&hash).join(new.pin_name()).is_dir() && !pods(OLD).join(new.pin_name()).exists());
    place.check(&new);
    place.check(&old);
    // A second ADD keeps the listeners that are known, and so the object that knows them.
    place.add(&old);
    assert!(pods(OLD).join(old.pin_name()).is_dir() && !pods(&hash).join(old.pin_name()).exists());
    place.check(&old);
    place.del(&old);
    assert!(!place.bpf.join(OLD).exists(), "it serves nobody: {}", place.log());
    place.check(&new);
    place.del(&new);
    assert!(place.bpf.join(&hash).exists(), "the current one stays loaded");
}

/// The record of the old pod is lost: its pins are found by name and the pod moves to the current object.
#[test]
fn an_older_object_without_a_record() {
    let bed = Bed::new();
    let (place, old) = (bed.place(), bed.pod());
    place.add(&old);
    let hash = grow_old(&place, &old);
    fs::remove_file(place.record(&old)).expect("a record");
    place.add(&old);
    place.check(&old);
    assert!(place.bpf.join(&hash).join("pods").join(old.pin_name()).is_dir());
    assert!(!place.bpf.join(OLD).join("pods").join(old.pin_name()).exists());
    place.del(&old);
    assert!(!place.bpf.join(OLD).exists(), "{}", place.log());
}
