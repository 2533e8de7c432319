//! What changes between ADD and DEL: the list, the plugin, or both, and while pods come and go.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};
use shunt_tests::bin;
use shunt_tests::machine::containerd::{self, PRIMARY};

use crate::host::{Host, OURS, PLUGIN, replace};
use crate::killed::settle;
use crate::pods::Spec;

const SCRIBE: &str = "scribe";

fn entry_of(list: &mut Value) -> &mut Value {
    let plugins = list["plugins"].as_array_mut().expect("plugins");
    plugins.iter_mut().find(|plugin| plugin["type"] == "shunt").expect("our entry is there")
}

/// containerd gives DEL today's list, not that of the pod's ADD.
pub(crate) fn list(host: &mut Host) -> String {
    let host = &*host;
    let other = if host.backend == "ebpf" { "iptables" } else { "ebpf" };
    let pods: Vec<_> = (0..4).map(|number| host.pod(&Spec::meshed(&format!("pod-{number}")), true)).collect();
    let [one, two, three, four] = <[_; 4]>::try_from(pods).expect("four");
    let captured = |when: &str| {
        for pod in [&two, &three, &four] {
            assert_eq!(pod.captured(), Ok(()), "{when}");
        }
    };
    // Another plugin before ours.
    containerd::install_scribe(&host.machine, SCRIBE);
    host.edit(|list| list["plugins"].as_array_mut().expect("plugins").insert(1, containerd::scribe(SCRIBE)));
    one.remove();
    captured("another plugin in the list");
    let recorded = host.recorded();
    assert_eq!(recorded, 3, "{:#?}", host.ours());
    // Another backend and another mesh: DEL goes by what ADD wrote down.
    host.edit(|list| {
        entry_of(list)["backend"] = json!(other);
        entry_of(list)["mesh"] = json!("linkerd");
    });
    two.remove();
    assert_eq!(host.recorded(), 2, "{:#?}", host.ours());
    for pod in [&three, &four] {
        assert_eq!(pod.captured(), Ok(()), "another backend in the list");
    }
    // An entry that the plugin refuses: ADD fails, DEL does not.
    host.edit(|list| entry_of(list)["nonsense"] = json!(true));
    let refused = host.sandbox(&Spec::meshed("refused"));
    let why = refused.map(|pod| pod.sandbox).expect_err("a key nobody knows").to_string();
    assert!(why.contains("nonsense"), "{why}");
    host.clear(&Spec::meshed("refused"));
    three.remove();
    assert_eq!(host.recorded(), 1, "{:#?}", host.ours());
    // Our entry is gone: nobody tells us, and the sweep finds what the namespace has left.
    assert_eq!(four.captured(), Ok(()), "a bad entry in the list");
    fs::remove_file(host.machine.path(OURS)).expect("it is there");
    host.machine.until("containerd has gone over to the primary's list", || {
        let said = host.cri.call("Status", &json!({ "verbose": true })).unwrap_or_default();
        let text = said["info"]["cniconfig"].as_str().unwrap_or_default();
        !text.is_empty() && !text.contains("shunt")
    });
    assert_eq!(four.captured(), Ok(()), "no entry in the list");
    four.remove();
    assert_eq!(host.recorded(), 1, "DEL was not for us: {:#?}", host.ours());
    let left = settle(host);
    assert_eq!(left, 0, "namespaces left");
    format!(
        "other plugins, mesh and backend, bad entry ({why_short}), no entry",
        why_short = "ADD refused, DEL not"
    )
}

/// A plugin that differs by a few bytes nobody reads.
fn another(host: &Host, number: usize) {
    let mut bytes = fs::read(bin::shunt()).expect("it is built");
    bytes.extend_from_slice(format!("another {number}\n").as_bytes());
    replace(&host.machine.path("opt/rig/shunt"), &bytes, 0o755);
}

/// The binary is replaced between ADD and DEL, by the installer, and by one that copies over it.
pub(crate) fn plugin(host: &mut Host) -> String {
    let host = &*host;
    let one = host.pod(&Spec::meshed("one"), true);
    let two = host.pod(&Spec::meshed("two"), true);
    let before = fs::read(host.machine.path(PLUGIN)).expect("it is installed");
    another(host, 1);
    host.install();
    assert_ne!(before, fs::read(host.machine.path(PLUGIN)).expect("it is installed"), "another plugin");
    assert_eq!(one.captured(), Ok(()));
    one.remove();
    let three = host.pod(&Spec::meshed("three"), true);
    for pod in [&two, &three] {
        assert_eq!(pod.captured(), Ok(()));
    }
    // Back to what it was.
    fs::copy(bin::shunt(), host.machine.path("opt/rig/shunt")).expect("own disk");
    host.install();
    assert_eq!(before, fs::read(host.machine.path(PLUGIN)).expect("it is installed"), "the plugin of before");
    for pod in [two, three] {
        assert_eq!(pod.captured(), Ok(()));
        pod.remove();
    }
    host.nothing_left();
    "upgraded and rolled back".to_owned()
}

/// Pods are made and removed while the plugin and the primary's list change again and again.
pub(crate) fn under_load(host: &mut Host) -> String {
    const WORKERS: usize = 3;
    const ROUNDS: usize = 6;
    let host = &*host;
    let (over, tries, upgrades) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let watched = host.pod(&Spec::meshed("watched"), true);
    let work = || {
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..WORKERS)
                .map(|worker| {
                    let tries = &tries;
                    scope.spawn(move || {
                        for round in 0..ROUNDS {
                            come_and_go(host, &Spec::meshed(&format!("load-{worker}-{round}")), tries);
                        }
                    })
                })
                .collect();
            let changing = scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    let number = upgrades.fetch_add(1, Ordering::SeqCst) + 1;
                    another(host, number);
                    let mut list = containerd::primary_list(host.version.cni());
                    if number % 2 == 1 {
                        list["plugins"].as_array_mut().expect("plugins").pop();
                    }
                    let primary = host.machine.path("etc/cni/net.d").join(PRIMARY);
                    replace(&primary, format!("{list:#}\n").as_bytes(), 0o644);
                    host.installer(&["once"]);
                }
            });
            let ended: Vec<_> = workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
            over.store(true, Ordering::SeqCst);
            let changed = changing.join();
            for one in ended.into_iter().chain([changed]) {
                one.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            }
        });
    };
    let ((), dialled) = watched.dials_while(work);
    assert_eq!(watched.captured(), Ok(()), "a pod from before");
    watched.remove();
    let (tries, upgrades) = (tries.into_inner(), upgrades.into_inner());
    assert!(upgrades > 2, "there was hardly a change: {upgrades}");
    let left = settle(host);
    format!(
        "{} pods, {upgrades} upgrades of plugin and list, a pod from before dialled {dialled} times; {} tries failed and were repeated; \
         namespaces left: {left}",
        WORKERS * ROUNDS,
        tries - WORKERS * ROUNDS
    )
}

/// A pod as the kubelet makes it: what fails is cleared away and tried again.
fn come_and_go(host: &Host, spec: &Spec, tries: &AtomicUsize) {
    for attempt in 0..10 {
        tries.fetch_add(1, Ordering::SeqCst);
        let spec = Spec { attempt, ..spec.clone() };
        match host.sandbox(&spec) {
            Ok(mut pod) => {
                pod.start_proxy();
                assert_eq!(pod.captured(), Ok(()));
                pod.remove();
                return;
            }
            Err(_) => {
                host.clear(&spec);
            }
        }
    }
    panic!("{} never came up\n{}", spec.name, host.machine.logs());
}
