//! The shape of Multus: its delegates' lists are called with `CNI_ARGS` and the seven capabilities it knows, so that our entry
//! in one of them gets neither annotations nor cgroup; and a second interface comes after the first. Multus itself is not to
//! be had from a package registry; what it hands to libcni is.

use serde_json::{Value, json};

use crate::BACKENDS;
use crate::neighbours::both_captured;
use crate::plugins::{Main, list, portmap, recorder};
use crate::report::held;
use crate::site::Site;

fn delegate(site: &Site, version: &str, select: &str) -> Value {
    let mut ours = site.entry();
    ours["select"] = json!(select);
    list(version, "delegate", [Main::Bridge.entry(site), portmap(false), recorder(site, "us"), ours])
}

/// Without annotations no pod looks meshed; `select: all` needs none, and the hooks go to the root of the cgroups.
#[test]
fn a_delegate_that_gets_no_annotations() {
    for backend in BACKENDS {
        let site = Site::new(backend);
        for version in ["0.3.1", "1.0.0", "1.1.0"] {
            for (select, meshed) in [("annotated", false), ("all", true)] {
                let mut network = site.network("delegate", &delegate(&site, version, select));
                network.capabilities = false;
                let mut sandbox = site.meshed();
                network.add(&mut sandbox);
                let told = crate::matrix::calls(&site).pop().expect("a call");
                assert!(told["stdin"].get("runtimeConfig").is_none(), "{told}");
                let arguments = told["environment"]["CNI_ARGS"].as_str().unwrap_or_default();
                assert!(
                    arguments.contains("IgnoreUnknown=true") && arguments.contains("K8S_POD_NAME="),
                    "{arguments}"
                );
                if meshed {
                    sandbox.is_captured(&site);
                } else {
                    sandbox.is_direct(&site);
                    assert_eq!(sandbox.traces(&site), [""; 0]);
                    assert!(site.node.has_notes(), "it is noted why: {}", site.node.log());
                }
                if version != "0.3.1" {
                    network.check(&sandbox).ok();
                }
                sandbox.stop();
                network.del(&sandbox);
                sandbox.left_nothing(&site);
                assert!(!site.node.has_notes(), "the note goes with the pod");
            }
        }
        held("Multus: no capabilities; annotated: left alone, all: captured; 0.3.1 to 1.1.0", backend, "ok");
    }
}

/// `net1` after `eth0`, our entry in both lists or in the first alone. Either way all of the pod is captured until the last
/// attachment has gone.
#[test]
fn a_second_interface_after_the_first() {
    for backend in BACKENDS {
        for both in [true, false] {
            let site = Site::new(backend);
            let first = site.network(
                "first",
                &list("1.0.0", "first", [Main::Bridge.entry(&site), portmap(false), site.entry()]),
            );
            let second_list = if both {
                list("1.0.0", "second", [Main::Macvlan.entry(&site), site.entry()])
            } else {
                list("1.0.0", "second", [Main::Macvlan.entry(&site)])
            };
            let second = site.network("second", &second_list);
            let mut sandbox = site.meshed();
            first.add(&mut sandbox);
            let eth0 = sandbox.ips.clone();
            sandbox.is_captured(&site);
            let mut later = second.add_as(&sandbox, "net1").ok();
            // Its default route is the second one.
            sandbox.learn(&later, "net1");
            let net1 = sandbox.ips.clone();
            both_captured(&site, &mut sandbox, &eth0, &net1);
            first.check(&sandbox).ok();
            second.check_as(&sandbox, "net1").ok();

            // One interface is taken away and comes back; the other is untouched.
            second.del_as(&sandbox, "net1").ok();
            sandbox.ips.clone_from(&eth0);
            sandbox.is_captured(&site);
            first.check(&sandbox).ok();
            later = second.add_as(&sandbox, "net1").ok();
            sandbox.learn(&later, "net1");
            let net1 = sandbox.ips.clone();
            both_captured(&site, &mut sandbox, &eth0, &net1);

            // eth0 goes first: with our entry in both lists, what is left of the pod stays captured.
            sandbox.stop();
            first.del(&sandbox);
            if both {
                second.check_as(&sandbox, "net1").ok();
                assert_ne!(sandbox.traces(&site), [""; 0]);
            } else {
                assert_eq!(sandbox.traces(&site), [""; 0]);
            }
            second.del_as(&sandbox, "net1").ok();
            sandbox.left_nothing(&site);
        }
        held("net1 (macvlan) after eth0 (bridge): our entry in both lists, or in the first", backend, "ok");
    }
}
