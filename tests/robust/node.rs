//! What the installer asks of the node: report, sweep, purge.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use serde_json::json;
use shunt_api::report::{Report, Swept};

use crate::bed::{Answer, Bed, Place, Pod};
use crate::races::together;

const PATH: Option<&str> = Some("/usr/sbin:/usr/bin:/sbin:/bin");

fn swept(removed: u64, left: u64) -> Swept {
    Swept { removed, left, problems: Vec::new() }
}

/// A file where the plugin would be.
pub(crate) fn binary(place: &Place) -> PathBuf {
    let path = place.log.with_file_name("bin-shunt");
    fs::write(&path, "the plugin").expect("own directory");
    path
}

/// All of ours is gone from the node.
#[track_caller]
pub(crate) fn nothing_left(place: &Place, binary: Option<&Path>, what: &str) {
    let paths = [place.state.as_path(), &place.bpf, &place.log].into_iter().chain(binary);
    let left: Vec<_> = paths.filter(|path| path.symlink_metadata().is_ok()).collect();
    assert!(left.is_empty(), "{what}: {left:?} of {:?}", place.files());
}

#[test]
fn a_node_that_has_never_seen_us() {
    let bed = Bed::new();
    let place = bed.place();
    let empty = Report { plugin: env!("CARGO_PKG_VERSION").to_owned(), ..Report::default() };
    assert_eq!(place.report(), empty);
    assert!(!place.state.exists() && !place.log.exists());
    assert_eq!(place.swept(&["sweep"]), swept(0, 0));
    assert_eq!(place.swept(&["purge", "--detach", "--binary", "/no/such/file"]), swept(0, 0));
    nothing_left(&place, None, "purge");
    let wrong = place.node(&["prune"]).run();
    assert!(wrong.code == Some(2) && wrong.stdout.is_empty() && !wrong.stderr.is_empty(), "{wrong}");
    assert_eq!(place.node(&["report"]).saying("[]").run().refused().0, 6);
}

#[test]
fn a_report_names_what_is_there() {
    let bed = Bed::new();
    for place in [bed.place(), bed.place_on_iptables()] {
        let (one, two) = (bed.pod(), bed.pod());
        for pod in [&one, &two] {
            place.call("ADD", pod).with("PATH", PATH).run().ok();
        }
        let backend = place.config("1.0.0")["backend"].as_str().expect("text").to_owned();
        let report = place.report();
        assert_eq!(report.attachments.len(), 2, "{report:?}");
        for (found, pod) in report.attachments.iter().zip([&one, &two]) {
            assert_eq!((&found.container_id, found.ifname.as_str()), (&pod.container, "eth0"));
            assert_eq!((found.network.as_str(), &found.backend, found.alive), ("robust", &backend, true));
            assert_eq!(found.netns, pod.netns.path());
            assert!(found.pod.starts_with("default/p "), "{found:?}");
        }
        // A record that is lost: what the kernel and the names say.
        fs::write(place.record(&one), "{").expect("own file");
        let found = place.report().attachments.swap_remove(0);
        assert_eq!((&found.container_id, &found.backend, found.alive), (&one.container, &backend, true));
        assert_eq!((found.network.as_str(), found.pod.as_str()), ("", ""));
        place.vanishes(&two);
        let alive: Vec<bool> = place.report().attachments.iter().map(|found| found.alive).collect();
        assert_eq!(alive, [true, false]);
        for pod in [&one, &two] {
            place.call("DEL", pod).with("PATH", PATH).run().silent();
        }
        assert_eq!(place.report().attachments, []);
    }
}

/// The links' word, not that of a path: the installer may see other mounts than the runtime does.
#[test]
fn a_namespace_lives_that_has_lost_its_path() {
    let bed = Bed::new();
    let (place, pod) = (bed.place(), bed.pod());
    place.add(&pod);
    let held = fs::File::open(pod.netns.path()).expect("mounted");
    pod.netns.vanish();
    assert!(place.report().attachments[0].alive);
    assert_eq!(place.swept(&["sweep"]), swept(0, 1));
    drop(held);
}

#[test]
fn garbage_in_the_state_directory_is_no_reason_to_fail() {
    type Garbage = (&'static str, fn(&Path));
    let garbage: [Garbage; 4] = [
        ("garbage", |path| fs::write(path, [0xff; 100]).expect("own directory")),
        ("a fifo", |path| nix::unistd::mkfifo(path, Mode::S_IRWXU).expect("own directory")),
        ("a link", |path| std::os::unix::fs::symlink("/no/such", path).expect("own directory")),
        ("a directory", |path| fs::create_dir_all(path.join("x")).expect("own directory")),
    ];
    let bed = Bed::new();
    for (what, put) in garbage {
        let (place, pod) = (bed.place(), bed.pod());
        place.add(&pod);
        for name in [
            "attachments/x@eth0.json",
            "attachments/odd.json",
            "iptables/y@eth0.json",
            "backend.json",
            "retired",
        ] {
            let path = place.state.join(name);
            fs::create_dir_all(path.parent().expect("it has one")).expect("own directory");
            put(&path);
        }
        let report = place.report();
        assert_eq!(report.attachments.len(), 4, "{what}: {report:?}");
        // What cannot be told lives.
        assert!(report.attachments.iter().all(|found| found.alive), "{what}: {report:?}");
        let sweep = place.swept(&["sweep"]);
        assert_eq!((sweep.removed, sweep.left), (0, 4), "{what}: {sweep:?}");
        place.check(&pod);
        assert_eq!(place.swept(&["purge"]).left, 4, "{what}");
        assert_eq!(place.swept(&["purge", "--detach"]), swept(4, 0), "{what}");
        nothing_left(&place, None, what);
    }
    // A state directory that cannot be read is said to be so.
    let place = bed.place();
    fs::write(&place.state, "").expect("own directory");
    assert_eq!(place.node(&["report"]).run().refused().0, 5);
}

#[test]
fn a_sweep_removes_what_namespaces_that_are_gone_have_left() {
    let bed = Bed::new();
    for place in [bed.place(), bed.place_on_iptables()] {
        let (lives, gone) = (bed.pod(), bed.pod());
        for pod in [&lives, &gone] {
            place.call("ADD", pod).with("PATH", PATH).run().ok();
        }
        assert_eq!(place.swept(&["sweep"]), swept(0, 2));
        place.vanishes(&gone);
        assert_eq!(place.swept(&["sweep"]), swept(1, 1));
        let left: Vec<String> = place.files().iter().map(|path| path.display().to_string()).collect();
        assert!(!left.iter().any(|path| path.contains(&gone.container)), "{left:?}");
        assert_eq!(shunt_tests::kernel::entries(&place.bpf, gone.cookie), [""; 0]);
        place.call("CHECK", &lives).with("PATH", PATH).run().silent();
        assert_eq!(place.swept(&["sweep"]), swept(0, 1));
        place.call("DEL", &gone).with("PATH", PATH).run().silent();
        place.call("DEL", &lives).with("PATH", PATH).run().silent();
    }
}

#[test]
fn a_purge_leaves_pods_that_run_and_the_last_del_the_node() {
    let bed = Bed::new();
    for place in [bed.place(), bed.place_on_iptables()] {
        let (one, two, late, gone) = (bed.pod(), bed.pod(), bed.pod(), bed.pod());
        let call = |command: &str, pod: &Pod| place.call(command, pod).with("PATH", PATH).run();
        for pod in [&one, &two, &gone] {
            call("ADD", pod).ok();
        }
        place.vanishes(&gone);
        let binary = binary(&place);
        let purge = ["purge", "--binary", binary.to_str().expect("text")];
        assert_eq!(place.swept(&purge), swept(1, 2));
        let retired: serde_json::Value =
            serde_json::from_slice(&fs::read(place.state.join("retired")).expect("left")).expect("JSON");
        assert_eq!(retired, json!({ "binary": binary, "log": place.log }));
        for pod in [&one, &two] {
            call("CHECK", pod).silent();
        }
        // Of a list that was read before.
        call("ADD", &late).ok();
        call("CHECK", &late).silent();
        place.bare("STATUS").with("PATH", PATH).run().silent();
        for pod in [&one, &two] {
            call("DEL", pod).silent();
            assert!(binary.exists() && place.state.join("retired").exists());
        }
        call("CHECK", &late).silent();
        call("DEL", &late).silent();
        nothing_left(&place, Some(&binary), "the last DEL");
        // A DEL after that makes nothing anew, but says in a log that there was nothing.
        call("DEL", &late).silent();
        fs::remove_file(&place.log).expect("written");
        nothing_left(&place, Some(&binary), "a DEL after the last");
    }
}

#[test]
fn a_sweep_removes_the_rest_where_that_was_asked_for() {
    let bed = Bed::new();
    let (place, pod) = (bed.place(), bed.pod());
    place.add(&pod);
    let binary = binary(&place);
    assert_eq!(place.swept(&["purge", "--binary", binary.to_str().expect("text")]), swept(0, 1));
    place.vanishes(&pod);
    assert_eq!(place.swept(&["sweep"]), swept(1, 0));
    nothing_left(&place, Some(&binary), "sweep");
}

#[test]
fn a_node_that_is_installed_anew_keeps_its_plugin() {
    let bed = Bed::new();
    let (place, pod) = (bed.place(), bed.pod());
    place.add(&pod);
    let binary = binary(&place);
    assert_eq!(place.swept(&["purge", "--binary", binary.to_str().expect("text")]), swept(0, 1));
    fs::remove_file(place.state.join("retired")).expect("as the installer does");
    place.del(&pod);
    assert!(binary.exists() && place.object().is_dir());
}

#[test]
fn purges_at_once() {
    let bed = Bed::new();
    for detach in [false, true] {
        let (place, pod) = (bed.place(), bed.pod());
        place.add(&pod);
        let binary = binary(&place);
        let mut words = vec!["purge", "--binary", binary.to_str().expect("text")];
        if detach {
            words.push("--detach");
        } else {
            place.vanishes(&pod);
        }
        let answers = together(&vec![place.node(&words); 4]);
        let removed: u64 = answers.iter().map(|answer| parsed(answer).removed).sum();
        assert_eq!(removed, 1, "{answers:?}");
        assert_eq!(place.swept(&words), swept(0, 0));
        nothing_left(&place, Some(&binary), "four purges");
    }
}

fn parsed(answer: &Answer) -> Swept {
    serde_json::from_str(&answer.ok()).expect("what was removed")
}

/// An ADD beside a purge is wholly there, plugin and all, or has failed.
#[test]
fn a_purge_beside_adds() {
    let bed = Bed::new();
    let pods: Vec<Pod> = (0..3).map(|_| bed.pod()).collect();
    for round in 0..12 {
        let place = bed.place();
        if round % 2 == 0 {
            place.ready();
        }
        let binary = binary(&place);
        let words = ["purge", "--binary", binary.to_str().expect("text")];
        let mut calls = vec![place.node(&words)];
        calls.extend(pods.iter().map(|pod| place.call("ADD", pod)));
        let answers = together(&calls);
        let swept = parsed(&answers[0]);
        let mut left = 0;
        for (answer, pod) in answers[1..].iter().zip(&pods) {
            if answer.code == Some(0) {
                left += 1;
                place.check(pod);
            } else {
                answer.refused();
            }
        }
        for pod in &pods {
            place.call("DEL", pod).run().silent();
            place.nothing_of(pod);
        }
        // A purge that was through before the ADDs began has left nothing that could end with the last of them.
        if left > 0 && place.state.exists() {
            assert!(swept.left <= left || !swept.problems.is_empty(), "{swept:?}");
        }
        place.swept(&words);
        nothing_left(&place, Some(&binary), "the purge after them");
    }
}
