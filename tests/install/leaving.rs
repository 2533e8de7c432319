//! `uninstall` where pods run.

use std::fs;

use serde_json::json;

use crate::host::{ENTRY, Files, Host, difference, moment, owned};
use crate::live::Live;
use crate::neighbours::{ALL, Neighbour};
use crate::pods::{Made, PRIMARY, PRIMARY_FILE, Runtime, has};
use crate::runtime::List;

const CALICO: Neighbour = ALL[0];

/// A host with the real plugin, installed, and what it was before.
fn installed() -> (Host, Runtime, Files) {
    let host = Host::new();
    let runtime = Runtime::new(&host);
    owned(&host.conf(PRIMARY_FILE), PRIMARY, 0o644, 0);
    let before = host.everything();
    host.once();
    (host, runtime, before)
}

fn nothing_left(host: &Host, before: &Files) {
    assert_eq!(difference(before, &host.everything()), [""; 0]);
}

const CAPTURED: [&str; 2] = ["outbound"; 2];
const DIRECT: [&str; 2] = ["world"; 2];

#[test]
fn pods_that_run_stay_captured_and_the_last_del_takes_the_rest() {
    let (host, mut runtime, before) = installed();
    let (pod, second) = (runtime.pod(), runtime.pod());
    let list = host.ours();
    for pod in [&pod, &second] {
        assert_eq!(runtime.add(&host, pod), Made::Captured);
    }
    let _proxy = Runtime::proxy(&pod);
    assert_eq!(runtime.answers(&pod), CAPTURED);
    let said = host.run(&["uninstall"]);
    said.ok();
    assert!(said.stdout.contains("2 pods stay intercepted"), "{said:?}");
    assert!(host.binary().exists(), "their DEL needs it");
    assert_eq!(host.loaded(), crate::runtime::Loaded::List(plain(&host)));
    assert_eq!(runtime.answers(&pod), CAPTURED, "it stays captured");
    // New pods are made without us.
    let bare = runtime.pod();
    assert_eq!(runtime.add(&host, &bare), Made::Bare);
    // The runtime ends them with the list they were made with.
    runtime.del(&host, &list, &second);
    assert!(host.binary().exists() && has(&host, &pod));
    assert_eq!(runtime.answers(&pod), CAPTURED);
    runtime.del(&host, &list, &pod);
    nothing_left(&host, &before);
    assert_eq!(runtime.answers(&pod), DIRECT);
}

fn plain(host: &Host) -> List {
    let list = crate::runtime::crio(&host.net_d()).expect("the primary's");
    assert_eq!(list.text, PRIMARY);
    list
}

#[test]
fn pods_that_run_are_freed_where_that_is_asked_for() {
    let (host, mut runtime, before) = installed();
    let pod = runtime.pod();
    assert_eq!(runtime.add(&host, &pod), Made::Captured);
    let _proxy = Runtime::proxy(&pod);
    assert_eq!(runtime.answers(&pod), CAPTURED);
    host.run(&["uninstall", "--detach"]).ok();
    assert_eq!(runtime.answers(&pod), DIRECT);
    nothing_left(&host, &before);
}

#[test]
fn one_that_stays_cleans_up_after_the_last_pod() {
    let (host, mut runtime, before) = installed();
    let pod = runtime.pod();
    assert_eq!(runtime.add(&host, &pod), Made::Captured);
    let live = Live::with(&host, &["uninstall", "--stay"]);
    live.ready();
    assert!(live.readyz().1.contains("1 pods stay intercepted"), "{}", live.readyz().1);
    let proxy = Runtime::proxy(&pod);
    assert_eq!(runtime.answers(&pod), CAPTURED);
    // containerd forgets some: no DEL ever comes.
    pod.netns.vanish();
    drop(proxy);
    live.wait("it is done", || live.readyz().1.contains("nothing of Shunt is on this node"));
    nothing_left(&host, &before);
    moment(100);
    live.stop();
    nothing_left(&host, &before);
}

/// A node that was given up and is taken up again keeps what it has: the last DEL of an old pod takes nothing along.
#[test]
fn a_node_that_is_installed_anew_while_pods_run() {
    let (host, mut runtime, before) = installed();
    let pod = runtime.pod();
    let list = host.ours();
    assert_eq!(runtime.add(&host, &pod), Made::Captured);
    host.run(&["uninstall"]).ok();
    host.once();
    runtime.del(&host, &list, &pod);
    assert_eq!(host.runs(), Ok(()), "the plugin stays");
    assert_eq!(host.status()["ready"], json!(true));
    let next = runtime.pod();
    assert_eq!(runtime.add(&host, &next), Made::Captured);
    let _proxy = Runtime::proxy(&next);
    assert_eq!(runtime.answers(&next), CAPTURED);
    runtime.del(&host, &list, &next);
    host.uninstall();
    nothing_left(&host, &before);
}

/// What somebody else has done first.
type Loss = fn(&Host);

#[test]
fn whatever_is_missing_already() {
    let gone: [(&str, Loss); 6] = [
        ("the plugin", |host| fs::remove_file(host.binary()).expect("there")),
        ("the list", |host| fs::remove_file(host.conf("00-shunt.conflist")).expect("there")),
        ("the state", |host| fs::remove_dir_all(host.path("run/shunt")).expect("there")),
        ("the entry", |host| fs::write(&host.entry, "{ nonsense").expect("own file")),
        ("a plugin that works", |host| fs::write(host.binary(), "#!/bin/sh\nexit 1\n").expect("own file")),
        ("everything", |host| {
            fs::remove_file(host.binary()).expect("there");
            fs::remove_file(host.conf("00-shunt.conflist")).expect("there");
            fs::remove_dir_all(host.path("run/shunt")).expect("there");
            fs::remove_dir_all(host.path("sys/fs/bpf/shunt")).expect("there");
            fs::remove_dir_all(host.path("var/log/shunt")).expect("there");
            fs::remove_file(&host.entry).expect("own file");
        }),
    ];
    crate::host::in_parallel(&gone, |(what, how)| {
        let host = Host::new();
        CALICO.settle(&host);
        fs::write(&host.entry, ENTRY).expect("own file");
        let before = host.everything();
        host.once();
        how(&host);
        let said = host.run(&["uninstall"]);
        assert_eq!(said.code, Some(0), "{what}: {said:?}");
        assert_eq!(difference(&before, &host.everything()), [""; 0], "{what}: {said:?}");
        host.uninstall();
        assert_eq!(difference(&before, &host.everything()), [""; 0], "{what}, twice");
    });
}
