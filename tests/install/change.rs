//! `run` while everything around it changes.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use shunt_tests::bin;

use crate::host::{ENTRY, Host, in_parallel, moment, owned, relink, replace, until};
use crate::live::Live;
use crate::neighbours::{ALL, Neighbour};
use crate::runtime::Loaded;
use crate::watcher::{never, not_ours};

const CALICO: Neighbour = ALL[0];
const FLANNEL: Neighbour = ALL[1];

/// A host with the scripted plugin in this mode.
fn host(mode: &str) -> Host {
    let mut host = Host::with_script();
    host.options = vec!["--mode".to_owned(), mode.to_owned()];
    host
}

/// A directory goes as a whole, whoever writes into it at that moment.
fn gone(host: &Host, directory: &str) {
    let aside = host.path("gone");
    fs::rename(host.path(directory), &aside).expect("own directory");
    until("nobody writes there", || fs::remove_dir_all(&aside).is_ok());
}

/// Several settings of one network.
fn variant(number: usize) -> String {
    CALICO.primary.text.replace("\"mtu\": 0", &format!("\"mtu\": {number}"))
}

#[test]
fn a_primary_that_comes_late_is_renamed_moved_and_replaced() {
    let host = host("owned");
    let live = Live::start(&host);
    live.wait("it says why not", || live.readyz().1.contains("has not written its file"));
    assert_eq!((live.readyz().0, host.loaded()), (503, Loaded::Nothing));
    CALICO.settle(&host);
    live.ready();
    never(&host, not_ours, || {
        fs::rename(host.conf("10-calico.conflist"), host.conf("20-calico.conflist")).expect("renamed");
        live.wait("renamed", || live.readyz().1.contains("20-calico.conflist"));
        // Away and back, as agents do it: nothing happens.
        let writes = live.writes("list");
        fs::rename(host.conf("20-calico.conflist"), host.conf("20-calico.conflist.off")).expect("renamed");
        live.wait("gone", || live.readyz().1.contains("no file now"));
        fs::rename(host.conf("20-calico.conflist.off"), host.conf("20-calico.conflist")).expect("renamed");
        live.wait("back", || live.readyz().1.contains("20-calico.conflist, network"));
        assert_eq!(live.writes("list"), writes, "what it had written is still right");
        // Another CNI takes its place.
        fs::remove_file(host.conf("20-calico.conflist")).expect("removed");
        FLANNEL.settle(&host);
        live.wait("replaced", || host.follows(FLANNEL.primary.text));
    });
    // One that sorts before ours is followed as well, and our list moves before it. Until then pods get that one.
    replace(&host.conf("00-a.conflist"), CALICO.primary.text.as_bytes(), 0o644);
    live.wait("moved", || host.follows(CALICO.primary.text));
    fs::remove_file(host.conf("00-a.conflist")).expect("removed");
    live.wait("moved back", || host.follows(FLANNEL.primary.text));
    live.ready();
    assert_eq!(host.ours().file, "00-shunt.conflist");
    assert!(!host.conf("00-0-shunt.conflist").exists());
}

/// In place and slowly, as most owners write, with all that can be seen half-way.
#[test]
fn a_primary_that_is_written_in_pieces() {
    let host = host("owned");
    CALICO.settle(&host);
    let live = Live::start(&host);
    live.ready();
    never(&host, not_ours, || {
        for number in 1..4 {
            let text = variant(number);
            let mut file = fs::File::create(host.conf("10-calico.conflist")).expect("own file");
            for piece in text.as_bytes().chunks(text.len() / 7) {
                file.write_all(piece).expect("written");
                moment(30);
            }
            drop(file);
            live.wait("followed", || host.follows(&text));
        }
        // For good: the last good one stays, and the reason is said.
        fs::write(host.conf("10-calico.conflist"), "{ \"name\": ").expect("written");
        live.wait("said", || live.readyz().1.contains("the last good one stays in use"));
    });
    assert!(host.follows(&variant(3)));
}

/// Somebody writes every 50 ms. `changes`: each time something else.
fn rewritten(mode: &str, changes: bool) {
    let host = host(mode);
    CALICO.settle(&host);
    let live = Live::start(&host);
    live.ready();
    let before = live.writes("list");
    let wrong = |host: &Host| if mode == "owned" { not_ours(host) } else { None };
    never(&host, wrong, || {
        for round in 0..60 {
            let number = if changes { round } else { 0 };
            replace(&host.conf("10-calico.conflist"), variant(number).as_bytes(), 0o600);
            moment(50);
        }
        replace(&host.conf("10-calico.conflist"), variant(7).as_bytes(), 0o600);
    });
    live.wait("converged", || host.follows(&variant(7)));
    live.ready();
    let writes = live.writes("list") - before;
    // What is the same is not written again; what changes is, but not as often.
    let most = if mode == "owned" && !changes { 1.0 } else { 45.0 };
    assert!((1.0..=most).contains(&writes), "{mode}, {changes}: {writes} writes");
}

#[test]
fn a_primary_that_is_rewritten_all_the_time() {
    in_parallel(
        &[("owned", false), ("owned", true), ("chained", false), ("chained", true)],
        |(mode, changes)| {
            rewritten(mode, *changes);
        },
    );
}

#[test]
fn the_plugin_is_put_back_whatever_is_done_to_it() {
    let host = host("owned");
    CALICO.settle(&host);
    let live = Live::start(&host);
    live.ready();
    let right = fs::read(&host.plugin).expect("own file");
    let is_right = || {
        fs::read(host.binary()).is_ok_and(|bytes| bytes == right)
            && host.binary().metadata().is_ok_and(|about| about.permissions().mode() & 0o7777 == 0o755)
    };
    let done: [(&str, &dyn Fn()); 5] = [
        ("removed", &|| fs::remove_file(host.binary()).expect("removed")),
        ("overwritten", &|| fs::write(host.binary(), "#!/bin/sh\nexit 1\n").expect("written")),
        ("emptied", &|| fs::write(host.binary(), "").expect("written")),
        ("not to be run", &|| {
            fs::set_permissions(host.binary(), fs::Permissions::from_mode(0o600)).expect("own file");
        }),
        ("a link", &|| {
            fs::remove_file(host.binary()).expect("removed");
            symlink("/nowhere", host.binary()).expect("linked");
        }),
    ];
    for (what, how) in done {
        assert!(is_right(), "before it is {what}");
        how();
        live.wait(&format!("{what}: put back"), is_right);
        live.ready();
    }
    // With the directory it is in.
    gone(&host, "opt/cni");
    live.wait("made again", is_right);
    live.ready();
    assert!(host.follows(CALICO.primary.text));
}

/// A runtime that starts the plugin all the time never finds none, half of one, or one that is being written.
#[test]
fn a_plugin_that_is_replaced_can_always_be_run() {
    let mut host = Host::new();
    CALICO.settle(&host);
    host.once();
    let other = host.aside().join("other");
    let mut bytes = fs::read(bin::shunt()).expect("built");
    bytes.push(0);
    fs::write(&other, bytes).expect("own file");
    fs::set_permissions(&other, fs::Permissions::from_mode(0o755)).expect("own file");
    let (binary, done) = (host.binary(), AtomicBool::new(false));
    let runs = std::thread::scope(|scope| {
        let runner = scope.spawn(|| {
            let mut runs = 0_u32;
            while !done.load(Ordering::Relaxed) {
                let ran = Command::new(&binary)
                    .env_clear()
                    .env("CNI_COMMAND", "VERSION")
                    .stdin(Stdio::null())
                    .output();
                match ran {
                    Ok(ran) if ran.status.success() => runs += 1,
                    other => return Err(format!("after {runs}: {other:?}")),
                }
            }
            Ok(runs)
        });
        for round in 0..50 {
            host.plugin = if round % 2 == 0 { other.clone() } else { bin::shunt() };
            if host.run(&["once"]).code != Some(0) {
                break;
            }
        }
        done.store(true, Ordering::Relaxed);
        runner.join().expect("it does not panic")
    });
    let runs = runs.expect("each start works");
    assert!(runs > 50, "{runs}");
    assert_eq!(
        fs::read(&binary).expect("there"),
        fs::read(bin::shunt()).expect("built"),
        "the last one stays"
    );
    host.uninstall();
}

/// As kubelet mounts a `ConfigMap`: a link to a link that is replaced.
#[test]
fn an_entry_that_changes() {
    let mut host = Host::new();
    CALICO.settle(&host);
    let mounted = host.aside().join("mounted");
    let put = |number: u32, text: &str| {
        fs::create_dir_all(mounted.join(format!("..{number}"))).expect("own directory");
        fs::write(mounted.join(format!("..{number}/entry.json")), text).expect("own file");
        relink(&format!("..{number}"), &mounted.join("..data"));
    };
    put(1, ENTRY);
    symlink("..data/entry.json", mounted.join("entry.json")).expect("linked");
    host.entry = mounted.join("entry.json");
    let live = Live::start(&host);
    live.ready();
    let log_level =
        |level: &str| ENTRY.replace("\"mesh\"", &format!("\"log\":{{\"level\":\"{level}\"}},\"mesh\""));
    never(&host, not_ours, || {
        put(2, &log_level("debug"));
        live.wait("the new entry", || host.ours().text.contains("debug"));
        live.ready();
        let good = host.ours().text;
        for (number, (text, words)) in [
            ("{", "read our conflist entry"),
            (r#"{"type":"shunt","mish":"istio"}"#, "mish"),
            (r#"{"type":"shunt","excludeNamespaces":[""]}"#, "the plugin refuses it"),
            (r#"{"type":"other"}"#, "\"type\""),
        ]
        .into_iter()
        .enumerate()
        {
            put(3 + u32::try_from(number).expect("small"), text);
            live.wait(words, || live.readyz().0 == 503 && live.readyz().1.contains(words));
            assert_eq!(host.ours().text, good, "{text}");
        }
        // The primary is followed with the entry that works.
        owned(&host.conf("10-calico.conflist"), &variant(5), 0o600, 998);
        live.wait("followed", || host.follows(&variant(5)));
        assert!(host.ours().text.contains("debug"));
        put(9, &log_level("warn"));
        live.wait("right again", || host.ours().text.contains("warn"));
    });
    live.ready();
    live.stop();
    // One that starts with an entry that does not do leaves what is there, and says so.
    fs::write(mounted.join("..9/entry.json"), "{").expect("own file");
    let live = Live::start(&host);
    live.wait("said", || live.readyz().1.contains("read our conflist entry"));
    assert!(host.ours().text.contains("warn"));
    live.stop();
    host.uninstall();
}

#[test]
fn directories_that_come_and_go() {
    let host = host("owned");
    fs::remove_dir_all(host.path("etc")).expect("removed");
    fs::remove_dir_all(host.path("opt")).expect("removed");
    let live = Live::start(&host);
    live.wait("it says why not", || live.readyz().1.contains("has not written its file"));
    assert!(!host.net_d().exists(), "that is the primary's to make");
    assert!(host.binary().exists());
    for round in 0..3 {
        fs::create_dir_all(host.net_d()).expect("made");
        CALICO.settle(&host);
        live.wait(&format!("round {round}"), || host.follows(CALICO.primary.text));
        live.ready();
        gone(&host, "etc/cni");
        live.wait("gone", || live.readyz().0 == 503);
    }
    // A runtime makes it anew and empty: what was last known is there before the primary is.
    fs::create_dir_all(host.net_d()).expect("made");
    live.wait("from memory", || host.follows(CALICO.primary.text));
}

/// Absolute links mean the host's root, not ours.
#[test]
fn linked_directories_and_files() {
    let host = host("owned");
    for (real, link) in [("data/net.d", "etc/cni/net.d"), ("data/bin", "opt/cni/bin"), ("data/run", "run")] {
        fs::create_dir_all(host.path(real)).expect("made");
        fs::remove_dir(host.path(link)).expect("empty");
        symlink(format!("/{real}"), host.path(link)).expect("linked");
    }
    // The test's own paths go where the links lead on the host.
    let real = |name: &str| host.path("data/net.d").join(name);
    owned(&host.path("data/calico"), CALICO.primary.text, 0o600, 0);
    symlink("/data/calico", real("10-calico.conflist")).expect("linked");
    let live = Live::start(&host);
    live.ready();
    let list = fs::read_to_string(real("00-shunt.conflist")).expect("written");
    assert!(list.contains("calico") && list.contains("\"type\":\"shunt\""), "{list}");
    assert!(host.path("data/bin/shunt").exists() && host.path("data/run/shunt").exists());
    fs::write(host.path("data/calico"), variant(3)).expect("written");
    relink("/data/calico", &real("10-calico.conflist"));
    live.wait("followed", || {
        fs::read_to_string(real("00-shunt.conflist")).is_ok_and(|text| text.contains("\"mtu\": 3"))
    });
    live.stop();
    host.run(&["uninstall"]).ok();
    let left: Vec<_> = fs::read_dir(host.path("data/net.d")).expect("there").collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(host.path("run").symlink_metadata().is_ok_and(|about| about.is_symlink()));
}

/// What a rival does, again and again.
type Blow = fn(&Host);

/// One that cannot stand our list: `how` as fast as it can for ten seconds.
fn fight(mode: &str, how: Blow) {
    let host = host(mode);
    CALICO.settle(&host);
    let live = Live::start(&host);
    live.ready();
    let before = live.writes("list");
    let (begun, mut blows) = (Instant::now(), 0_u64);
    while begun.elapsed() < Duration::from_secs(10) {
        how(&host);
        blows += 1;
        moment(2);
    }
    let writes = live.writes("list") - before;
    assert!(blows > 100, "{blows}");
    // Five until it is a fight, then after 1, 2, 4 s and so on.
    assert!((3.0..=12.0).contains(&writes), "{mode}: {writes} writes against {blows} blows");
    let metrics = live.metrics();
    assert_eq!(metrics["shunt_installer_fights_total"], 1.0, "{mode}");
    assert_eq!(metrics["shunt_installer_fighting"], 1.0, "{mode}");
    let (_, said) = live.readyz();
    assert!(said.contains("fight    somebody else insists on changing"), "{mode}: {said}");
    live.wait("peace", || host.follows(CALICO.primary.text));
    live.wait("ready in peace", || live.readyz().0 == 200);
    assert_eq!(live.logged("somebody else insists on changing"), 1, "{mode}: {}", live.log());
    live.stop();
    host.uninstall();
}

#[test]
fn a_fight_is_no_write_loop() {
    let fights: [(&str, Blow); 4] = [
        ("owned", |host| drop(fs::remove_file(host.conf("00-shunt.conflist")))),
        ("owned", |host| {
            if fs::read_to_string(host.conf("00-shunt.conflist")).is_ok_and(|text| text.contains("calico")) {
                fs::write(host.conf("00-shunt.conflist"), "{}").expect("written");
            }
        }),
        ("chained", |host| {
            let path = host.conf("10-calico.conflist");
            if fs::read_to_string(&path).is_ok_and(|text| text != CALICO.primary.text) {
                replace(&path, CALICO.primary.text.as_bytes(), 0o600);
            }
        }),
        ("owned", |host| {
            let ours = host.conf("00-shunt.conflist");
            drop(fs::rename(&ours, host.conf("00-shunt.conflist.cilium_bak")));
        }),
    ];
    in_parallel(&fights, |(mode, how)| fight(mode, *how));
}

/// Cilium's way is named.
#[test]
fn a_rival_that_can_be_told_apart_is_named() {
    let host = host("owned");
    CALICO.settle(&host);
    let live = Live::start(&host);
    live.ready();
    until("it is a fight", || {
        drop(fs::rename(host.conf("00-shunt.conflist"), host.conf("00-shunt.conflist.cilium_bak")));
        moment(20);
        live.readyz().1.contains("cni.exclusive")
    });
    assert_eq!(json!(live.metrics()["shunt_installer_fights_total"]), json!(1.0));
}
