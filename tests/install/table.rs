//! Each neighbour, both modes, through every command: what pods get is the neighbour's network and our entry; afterwards everything
//! is as it was.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use serde_json::json;

use crate::host::{Host, difference, in_parallel, owned};
use crate::live::Live;
use crate::neighbours::{ALL, Neighbour};
use crate::runtime::{self, List};

const MODES: [&str; 2] = ["owned", "chained"];

fn cases() -> Vec<(Neighbour, &'static str)> {
    ALL.iter().flat_map(|neighbour| MODES.map(|mode| (*neighbour, mode))).collect()
}

/// The list that pods get is the neighbour's, and our entry behind it.
fn is_made_of(list: &List, neighbour: &Neighbour, text: &str, what: &str) {
    if !neighbour.is_single() {
        assert_eq!(list.less_ours(), text, "{what}");
        return;
    }
    assert_eq!(list.plugins.len(), 2, "{what}: {list:?}");
    assert_eq!(list.plugins.first().map(String::as_str), Some(text.trim()), "{what}");
    let plugin: serde_json::Value = serde_json::from_str(text).expect("JSON");
    assert_eq!(json!(list.name), plugin["name"], "{what}");
    assert_eq!(json!(list.version), plugin["cniVersion"], "{what}");
}

fn through_everything(host: &Host, neighbour: &Neighbour, mode: &str) {
    let what = format!("{}, {mode}", neighbour.name);
    let primary = neighbour.primary;
    neighbour.settle(host);
    let before = host.everything();
    assert_eq!(host.status()["list"]["asWanted"], json!(false), "{what}");
    assert_eq!(difference(&before, &host.everything()), [""; 0], "{what}: status changes nothing");

    host.once();
    let list = host.ours();
    is_made_of(&list, neighbour, primary.text, &what);
    let about = fs::metadata(host.conf(&list.file)).expect("it is there");
    let like = (about.mode() & 0o7777, about.uid(), about.gid());
    let now = host.everything();
    if mode == "owned" {
        assert_eq!((list.file.as_str(), like), (neighbour.own, (0o600, 0, 0)), "{what}");
        let changed = difference(&before, &now);
        let ours = ["etc/cni/net.d/".to_owned() + neighbour.own, "opt/cni/bin/shunt".to_owned()];
        let others = |line: &&String| {
            let is_ours = ours.iter().any(|ours| line.starts_with(ours.as_str()));
            (line.starts_with("etc") || line.starts_with("opt")) && !is_ours
        };
        assert_eq!(changed.iter().filter(others).count(), 0, "{what}: {changed:?}");
    } else {
        assert!(list.file.starts_with(primary.name), "{what}: {}", list.file);
        assert_eq!(like, (primary.mode, primary.owner, primary.owner), "{what}");
    }
    let status = host.status();
    assert_eq!(status["ready"], json!(true), "{what}: {status}");
    assert_eq!(status["list"]["file"], json!(list.file), "{what}");
    assert_eq!(status["list"]["network"], json!(list.name), "{what}");
    host.once();
    assert_eq!(difference(&less_claim(now), &less_claim(host.everything())), [""; 0], "{what}: once again");

    let running = Live::start(host);
    running.ready();
    owned(&host.conf(primary.name), &neighbour.changed(), primary.mode, primary.owner);
    running.wait("the change is followed", || match host.loaded() {
        runtime::Loaded::List(list) => list.ours() == 1 && list.text.contains("7.50e1"),
        _ => false,
    });
    running.ready();
    is_made_of(&host.ours(), neighbour, &neighbour.changed(), &what);
    let before_end = host.everything();
    running.stop();
    assert_eq!(difference(&before_end, &host.everything()), [""; 0], "{what}: SIGTERM changes nothing");

    owned(&host.conf(primary.name), primary.text, primary.mode, primary.owner);
    host.once();
    is_made_of(&host.ours(), neighbour, primary.text, &what);
    host.uninstall();
    assert_eq!(difference(&before, &host.everything()), [""; 0], "{what}: uninstalled");
    host.uninstall();
    assert_eq!(difference(&before, &host.everything()), [""; 0], "{what}: uninstalled twice");
}

/// Whoever runs leaves its name.
fn less_claim<T>(
    mut files: std::collections::BTreeMap<std::path::PathBuf, T>,
) -> std::collections::BTreeMap<std::path::PathBuf, T> {
    files.retain(|path, _| !path.starts_with("run/shunt"));
    files
}

#[test]
fn every_neighbour_in_both_modes() {
    in_parallel(&cases(), |(neighbour, mode)| {
        let mut host = Host::with_script();
        host.options = vec!["--mode".to_owned(), (*mode).to_owned()];
        through_everything(&host, neighbour, mode);
    });
}

#[test]
fn with_the_real_plugin() {
    for (neighbour, mode) in ALL.iter().take(1).flat_map(|neighbour| MODES.map(|mode| (neighbour, mode))) {
        let mut host = Host::new();
        host.options = vec!["--mode".to_owned(), mode.to_owned()];
        through_everything(&host, neighbour, mode);
    }
}

/// Another mode on the same host: what the first one wrote goes, and nothing is lost on the way.
#[test]
fn from_one_mode_to_the_other_and_back() {
    in_parallel(&ALL, |neighbour| {
        let mut host = Host::with_script();
        neighbour.settle(&host);
        let before = host.everything();
        for mode in ["owned", "chained", "owned", "chained"] {
            host.options = vec!["--mode".to_owned(), mode.to_owned()];
            host.once();
            is_made_of(&host.ours(), neighbour, neighbour.primary.text, neighbour.name);
            let of_ours = runtime::candidates(&host.net_d()).into_iter().filter(|file| {
                fs::read_to_string(host.conf(file)).is_ok_and(|text| text.contains("\"shunt\""))
            });
            assert_eq!(of_ours.count(), 1, "{}: our entry is in one file", neighbour.name);
        }
        host.uninstall();
        assert_eq!(difference(&before, &host.everything()), [""; 0], "{}", neighbour.name);
    });
}
