//! The same call once more, or later than the runtime should: after the cache, the namespace or the list has changed.

use std::fs;

use serde_json::{Value, json};

use crate::network::Network;
use crate::plugins::{Main, list, portmap, recorder, tuning};
use crate::report::held;
use crate::sandbox::Sandbox;
use crate::site::{Site, until};
use crate::{BACKENDS, VERSIONS};

fn chain(site: &Site, version: &str) -> Value {
    list(
        version,
        "again",
        [Main::Bridge.entry(site), tuning(), portmap(false), site.entry(), recorder(site, "last")],
    )
}

fn captured<'a>(site: &'a Site, version: &str) -> (Network<'a>, Sandbox) {
    let network = site.network("again", &chain(site, version));
    let mut sandbox = site.meshed();
    network.add(&mut sandbox);
    sandbox.is_captured(site);
    (network, sandbox)
}

#[test]
fn del_when_the_cache_is_gone() {
    for backend in BACKENDS {
        let site = Site::new(backend);
        for version in VERSIONS {
            let (network, mut sandbox) = captured(&site, version);
            fs::remove_dir_all(&network.cache).expect("libcni's cache");
            if version != "0.3.1" {
                // What it would compare with is lost; the runtime is told so, by libcni or by the first plugin.
                network.check(&sandbox).failed();
            }
            sandbox.stop();
            for _twice in 0..2 {
                network.del(&sandbox);
                sandbox.left_nothing(&site);
            }
        }
        held("DEL twice, libcni's cache deleted; 0.3.1 to 1.1.0", backend, "ok");
    }
}

#[test]
fn del_when_the_namespace_is_gone() {
    for backend in BACKENDS {
        let site = Site::new(backend);
        for version in VERSIONS {
            // With its result and without.
            for cached in [true, false] {
                let (network, mut sandbox) = captured(&site, version);
                sandbox.vanish();
                let network = if cached { network } else { network.forgetful() };
                for _twice in 0..2 {
                    network.del(&sandbox);
                    assert_eq!(sandbox.traces(&site), [""; 0], "log: {}", site.node.log());
                }
                let rules = site.host_says("iptables-nft-save", &[]);
                assert!(!rules.contains("CNI-DN-"), "portmap too: {rules}");
            }
        }
        held("DEL when the namespace is gone, with and without a result; 0.3.1 to 1.1.0", backend, "ok");
    }
}

/// The runtime says no namespace, and it is there: somebody else made it. Its settings are given back all the same.
#[test]
fn del_when_the_runtime_has_lost_the_namespace() {
    for backend in BACKENDS {
        let site = Site::new(backend);
        let (network, mut sandbox) = captured(&site, "1.0.0");
        sandbox.lost = true;
        network.del(&sandbox);
        sandbox.lost = false;
        assert_eq!(sandbox.traces(&site), [""; 0], "log: {}", site.node.log());
        sandbox.is_direct(&site);
        sandbox.stop();
        network.del(&sandbox);
        held("DEL without a namespace that is there", backend, "ok");
    }
}

/// Between ADD and DEL the list is edited. containerd deletes by the list as it is now, CRI-O by the one of ADD.
#[test]
fn del_when_the_list_was_edited() {
    type Edit = (&'static str, fn(&mut Value));
    const EDITS: [Edit; 5] = [
        ("another mesh", |ours| {
            ours["mesh"] = json!("istio");
            ours["redirect"] = json!({});
        }),
        ("the other backend", |ours| {
            let other = if ours["backend"] == "ebpf" { "iptables" } else { "ebpf" };
            ours["backend"] = json!(other);
        }),
        ("values we refuse", |ours| {
            ours["mesh"] = json!("nonsense");
            ours["surprise"] = json!({ "key": 1 });
        }),
        ("not for this pod", |ours| ours["excludeNamespaces"] = json!(["default"])),
        ("no capabilities", |ours| ours["capabilities"] = json!({})),
    ];
    for backend in BACKENDS {
        let site = Site::new(backend);
        for (what, edit) in EDITS {
            for from_cache in [false, true] {
                let (mut network, mut sandbox) = captured(&site, "1.0.0");
                let mut edited = chain(&site, "1.0.0");
                edit(&mut edited["plugins"][3]);
                network.write(&edited);
                network.from_cache = from_cache;
                sandbox.stop();
                network.del(&sandbox);
                assert_eq!(sandbox.traces(&site), [""; 0], "{what}, {from_cache}: {}", site.node.log());
                sandbox.left_nothing(&site);
            }
        }
        held("DEL after the entry was edited, by the new list and by the cached one", backend, "ok");
    }
}

/// Our entry is taken out of the list while a pod runs.
#[test]
fn del_when_we_are_no_longer_in_the_list() {
    for backend in BACKENDS {
        let site = Site::new(backend);
        let (mut network, mut sandbox) = captured(&site, "1.0.0");
        let mut without = chain(&site, "1.0.0");
        without["plugins"].as_array_mut().expect("a list").remove(3);
        network.write(&without);
        sandbox.is_captured(&site);
        sandbox.stop();
        // CRI-O: by the list of ADD.
        network.from_cache = true;
        network.del(&sandbox);
        sandbox.left_nothing(&site);

        // containerd: nobody asks us. The pod's end takes its hooks and rules with it, the installer's sweep the rest.
        network.from_cache = false;
        network.write(&chain(&site, "1.0.0"));
        network.add(&mut sandbox);
        network.write(&without);
        network.del(&sandbox);
        assert_ne!(sandbox.traces(&site), [""; 0], "{}", site.node.log());
        sandbox.vanish();
        // The kernel takes a namespace apart a moment after its last reference has gone.
        until("the namespace has gone", || {
            site.node.ask(&["sweep"]);
            sandbox.traces(&site).is_empty()
        });
        assert_eq!(sandbox.traces(&site), [""; 0], "{}", site.node.log());
        held("DEL after we were taken out of the list: cached list, or sweep", backend, "ok");
    }
}

/// The bridge refuses a second ADD; the runtime unwinds, and nothing is left of the first one either.
#[test]
fn add_twice_by_the_runtime() {
    for backend in BACKENDS {
        let site = Site::new(backend);
        let (network, mut sandbox) = captured(&site, "1.0.0");
        let failed = network.add_as(&sandbox, "eth0").failed();
        assert!(failed.text.contains(r#"type="bridge" failed (add)"#), "{failed:?}");
        // We were not asked, and the pod stays what it is.
        network.check(&sandbox).ok();
        sandbox.is_captured(&site);
        sandbox.stop();
        network.del(&sandbox);
        sandbox.left_nothing(&site);
        held("ADD twice: refused by the bridge, the first one stays captured", backend, "ok");
    }
}

/// Our entry stands in the list twice, as when it is in Multus' list and in its delegate's.
#[test]
fn twice_in_one_list() {
    for backend in BACKENDS {
        let site = Site::new(backend);
        for version in VERSIONS {
            let network = site.network(
                "twice",
                &list(
                    version,
                    "twice",
                    [
                        Main::Ptp.entry(&site),
                        site.entry(),
                        recorder(&site, "between"),
                        portmap(false),
                        site.entry(),
                    ],
                ),
            );
            let mut sandbox = site.meshed();
            network.add(&mut sandbox);
            sandbox.is_captured(&site);
            sandbox.host_port_leads_to(&site, "inbound");
            if version != "0.3.1" {
                network.check(&sandbox).ok();
            }
            sandbox.stop();
            network.del(&sandbox);
            sandbox.left_nothing(&site);
        }
        held("our entry twice in one list; 0.3.1 to 1.1.0", backend, "ok");
    }
}
