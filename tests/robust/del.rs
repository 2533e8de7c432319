//! DEL always succeeds, whatever of its surroundings is there: namespace, earlier result, configuration, record.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::bed::Bed;

type Change = (&'static str, fn(&mut Value));

fn remove(config: &mut Value, key: &str) {
    config.as_object_mut().expect("an object").remove(key);
}

const CONFIGS: [Change; 7] = [
    ("as at ADD", |_| {}),
    ("an unknown version", |config| config["cniVersion"] = json!("9.9.9")),
    ("no version and no name", |config| {
        remove(config, "cniVersion");
        remove(config, "name");
    }),
    ("unknown keys", |config| config["surprise"] = json!({ "a": [1] })),
    ("bad values", |config| {
        config["mesh"] = json!(7);
        config["redirect"] = json!("no");
        config["runtimeConfig"] = json!([]);
        config["capabilities"] = json!(null);
    }),
    ("another mesh", |config| config["mesh"] = json!("linkerd")),
    ("not selected any more", |config| {
        config["runtimeConfig"]["io.kubernetes.cri.pod-annotations"] = json!(null);
    }),
];

type Damage = (&'static str, fn(&Path));

const RECORDS: [Damage; 6] = [
    ("there", |_| {}),
    ("absent", |path| fs::remove_file(path).expect("a record")),
    ("garbage", |path| fs::write(path, b"{\xff garbage").expect("a record")),
    ("empty", |path| fs::write(path, b"").expect("a record")),
    ("of a version to come", |path| {
        let text = fs::read_to_string(path).expect("a record");
        fs::write(path, text.replacen("\"version\":1", "\"version\":99", 1)).expect("a record");
    }),
    ("a link to elsewhere", |path| {
        fs::remove_file(path).expect("a record");
        std::os::unix::fs::symlink("/etc/passwd", path).expect("own directory");
    }),
];

#[test]
fn whatever_is_missing() {
    let bed = Bed::new();
    let (place, bystander, pod) = (bed.place(), bed.pod(), bed.pod());
    place.add(&bystander);
    let gone = bed.dir().join("gone");
    let sandbox = pod.netns.path().to_owned();
    for (netns_is, netns) in [("there", Some(&sandbox)), ("empty", None), ("gone", Some(&gone))] {
        for result in [true, false] {
            for (config_is, change) in CONFIGS {
                for (record_is, damage) in RECORDS {
                    let what = format!(
                        "namespace {netns_is}, result {result}, config {config_is}, record {record_is}"
                    );
                    place.add(&pod);
                    damage(&place.record(&pod));
                    let call = place.call("DEL", &pod).with("CNI_NETNS", netns).configured(|config| {
                        change(config);
                        if !result {
                            remove(config, "prevResult");
                        }
                    });
                    for round in ["first", "second"] {
                        let answer = call.run();
                        assert!(
                            answer.code == Some(0) && answer.stdout.is_empty(),
                            "{what}, {round}: {answer}"
                        );
                        let left = place.traces(&pod);
                        assert!(left.is_empty(), "{what}, {round}: left {left:?}; log: {}", place.log());
                    }
                }
            }
        }
    }
    place.check(&bystander);
    assert!(Path::new("/etc/passwd").is_file());
}

#[test]
fn a_pod_never_seen_on_a_node_never_used() {
    let bed = Bed::new();
    let (place, pod) = (bed.place(), bed.pod());
    place.call("DEL", &pod).run().silent();
    assert_eq!(place.files().len(), 0, "DEL of nothing makes nothing: {:?}", place.files());
}

/// Two interfaces of one container are two attachments in one namespace: the last to go takes the map entries along, also when
/// both go at once.
#[test]
fn two_interfaces_of_one_container() {
    let bed = Bed::new();
    let (place, pod) = (bed.place(), bed.pod());
    pod.netns.ip("link set out0 name net1\nlink set net1 up\naddr add 10.78.0.2/16 dev net1\n");
    let second = |command: &str| place.call(command, &pod).with("CNI_IFNAME", Some("net1"));
    for round in 0..20 {
        place.add(&pod);
        second("ADD").run().ok();
        place.check(&pod);
        if round == 0 {
            place.call("DEL", &pod).run().silent();
            second("CHECK").run().silent();
            second("DEL").run().silent();
        } else {
            std::thread::scope(|scope| {
                scope.spawn(|| place.call("DEL", &pod).run().silent());
                second("DEL").run().silent();
            });
        }
        place.nothing_of(&pod);
    }
}

/// Whoever goes leaves the other as it is: also one whose DEL was killed after it had taken its link off, one whose link somebody has
/// removed, and one of another container.
#[test]
fn the_other_of_two_in_one_namespace_stays_whole() {
    let bed = Bed::new();
    let (place, pod) = (bed.place(), bed.pod());
    pod.netns.ip("link set out0 name net1\nlink set net1 up\naddr add 10.78.0.2/16 dev net1\n");
    let link = |attachment: &str| {
        let pins = place.object().join("pods").join(attachment).join(format!("{:016x}", pod.cookie));
        pins.join(shunt_abi::names::SK_LOOKUP)
    };
    let stranger = "5".repeat(64);
    for (interface, container) in [("net1", &pod.container), ("eth0", &stranger)] {
        let other = |command: &str| {
            place
                .call(command, &pod)
                .with("CNI_IFNAME", Some(interface))
                .with("CNI_CONTAINERID", Some(container))
        };
        let damages: [&dyn Fn(&Path); 3] =
            [&|_| {}, &shunt_tests::kernel::detach, &|pin| fs::remove_file(pin).expect("own pin")];
        for damage in damages {
            place.add(&pod);
            other("ADD").run().ok();
            damage(&link(&pod.pin_name()));
            place.call("DEL", &pod).run().silent();
            other("CHECK").run().silent();
            other("DEL").run().silent();
            place.nothing_of(&pod);
        }
    }
}
