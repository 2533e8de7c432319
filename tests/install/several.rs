//! More than one installer on a host.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;

use crate::host::{Host, difference, moment, owned};
use crate::live::Live;
use crate::neighbours::{ALL, Neighbour};

const CALICO: Neighbour = ALL[0];

fn host() -> Host {
    let host = Host::with_script();
    CALICO.settle(&host);
    host
}

/// Another version of the scripted plugin.
fn other_plugin(host: &mut Host) {
    let mut script = fs::read_to_string(&host.plugin).expect("own file");
    script.push_str("# another version\n");
    host.plugin = host.aside().join("other-plugin");
    fs::write(&host.plugin, script).expect("own file");
    fs::set_permissions(&host.plugin, fs::Permissions::from_mode(0o755)).expect("own file");
}

fn installed(host: &Host) -> String {
    fs::read_to_string(host.binary()).unwrap_or_default()
}

fn writes(live: &Live) -> f64 {
    live.writes("list") + live.writes("plugin")
}

#[test]
fn two_of_one_version() {
    let host = host();
    let old = Live::start(&host);
    old.ready();
    let new = Live::start(&host);
    new.ready();
    old.wait("it steps back", || old.readyz().1.contains("another"));
    assert_eq!(old.readyz().0, 200, "the node is as wanted all the same");
    for number in 0..5 {
        let text = CALICO.primary.text.replace("\"mtu\": 0", &format!("\"mtu\": {number}"));
        owned(&host.conf("10-calico.conflist"), &text, 0o600, 998);
        new.wait("followed", || host.follows(&text));
    }
    assert!(writes(&new) <= 6.0 && writes(&old) <= 2.0, "{} and {}", writes(&new), writes(&old));
    new.kill();
    fs::remove_file(host.binary()).expect("removed");
    old.wait("it takes over", || host.binary().exists());
    old.ready();
}

#[test]
fn of_two_versions_the_one_that_came_later_wins() {
    let mut host = host();
    let old = Live::start(&host);
    old.ready();
    let older = installed(&host);
    other_plugin(&mut host);
    let new = Live::start(&host);
    new.ready();
    let newer = installed(&host);
    assert_ne!(older, newer);
    let before = (writes(&old), writes(&new));
    for _ in 0..20 {
        // Both are woken, again and again.
        owned(&host.conf("90-other"), "x", 0o600, 0);
        moment(100);
        assert_eq!(installed(&host), newer);
    }
    assert_eq!((writes(&old), writes(&new)), before, "no loop");
    old.wait("the older one says so", || old.readyz().1.contains("a newer installer works on this node"));
}

#[test]
fn once_beside_one_that_runs() {
    let mut host = host();
    let run = Live::start(&host);
    run.ready();
    let older = installed(&host);
    other_plugin(&mut host);
    host.once();
    assert_ne!(installed(&host), older, "the one that came later");
    // It has ended: the one that runs on keeps the node, as it wants it.
    run.wait("it takes over", || installed(&host) == older);
    run.ready();
}

#[test]
fn uninstall_beside_one_that_runs() {
    let host = host();
    let before = host.everything();
    let run = Live::start(&host);
    run.ready();
    host.uninstall();
    assert_eq!(difference(&before, &host.everything()), [""; 0]);
    run.wait("it stands down", || {
        let (code, said) = run.readyz();
        code == 503 && said.contains("this node was uninstalled")
    });
    // Whatever wakes it: it does not come back.
    for number in 0..10 {
        owned(&host.conf("90-other.conflist"), &format!("{{\"{number}\":0}}"), 0o600, 0);
        moment(200);
    }
    fs::remove_file(host.conf("90-other.conflist")).expect("own file");
    assert_eq!(difference(&before, &host.everything()), [""; 0], "it does not come back");
    let new = Live::start(&host);
    new.ready();
    moment(300);
    assert_eq!(run.readyz().0, 503, "nor when another one installs");
    assert!(host.follows(CALICO.primary.text));
    new.stop();
    run.stop();
    host.uninstall();
    assert_eq!(difference(&before, &host.everything()), [""; 0]);
}

/// Who uninstalls and stays makes way for who installs later.
#[test]
fn one_that_installs_beside_an_uninstall_that_stays() {
    let host = host();
    host.once();
    let gone = Live::with(&host, &["uninstall", "--stay"]);
    gone.ready();
    let run = Live::start(&host);
    run.ready();
    let before = writes(&run);
    // Longer than it waits between two looks.
    for _ in 0..24 {
        moment(500);
        assert!(host.follows(CALICO.primary.text) && host.binary().exists(), "{}", gone.log());
    }
    assert_eq!((writes(&run), run.readyz().0), (before, 200));
    assert_eq!(json!(gone.readyz().0), json!(503), "{}", gone.readyz().1);
    gone.kill();
    assert!(host.follows(CALICO.primary.text));
}

/// Many at once, all to the same end.
#[test]
fn a_crowd() {
    let host = host();
    let before = host.everything();
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..6).map(|_| scope.spawn(|| host.run(&["once"]))).collect();
        for one in all {
            let said = one.join().expect("no panic");
            // One that waited in vain for its turn says whether the node is as wanted; it is.
            said.ok();
        }
    });
    assert!(host.follows(CALICO.primary.text));
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..4).map(|_| scope.spawn(|| host.run(&["uninstall"]))).collect();
        for one in all {
            one.join().expect("no panic").ok();
        }
    });
    assert_eq!(difference(&before, &host.everything()), [""; 0]);
}
