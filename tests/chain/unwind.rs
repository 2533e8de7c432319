//! ADD fails half-way, and the runtime deletes what there is: DEL for the whole chain, last to first, plugins that were never
//! called included, without a result.

use serde_json::{Value, json};

use crate::matrix::calls;
use crate::plugins::{Main, bandwidth, failing, list, portmap, recorder, tuning};
use crate::report::held;
use crate::sandbox::Sandbox;
use crate::site::Site;
use crate::versions::asked;
use crate::{BACKENDS, VERSIONS};

#[test]
fn a_plugin_after_us_fails() {
    for backend in BACKENDS {
        let site = Site::new(backend);
        for version in VERSIONS {
            site.forget_calls();
            let chain = |end: &[&str]| {
                list(
                    version,
                    "failing",
                    [
                        Main::Bridge.entry(&site),
                        tuning(),
                        portmap(false),
                        recorder(&site, "before"),
                        site.entry(),
                        failing(&site, "fails", end),
                        recorder(&site, "never"),
                    ],
                )
            };
            let network = site.network("failing", &chain(&["ADD"]));
            let mut sandbox = site.meshed();
            let failed = network.add_as(&sandbox, "eth0").failed();
            assert_eq!(
                (failed.code, failed.msg.as_str(), failed.details.as_str()),
                (123, "told to fail", "ADD")
            );
            assert!(failed.text.contains(r#"plugin type="recorder" failed (add)"#), "{failed:?}");
            assert_ne!(sandbox.traces(&site), [""; 0], "our own ADD had worked");
            assert!(network.cached(&sandbox).is_null(), "libcni caches nothing of an ADD that failed");
            network.del(&sandbox);
            unwound(&site, &sandbox);
            sandbox.left_nothing(&site);
            assert_eq!(asked(&site, "never"), ["DEL"]);

            // Its DEL fails too: libcni goes no further, and nobody before it is asked until it works.
            network.write(&chain(&["ADD", "DEL"]));
            network.add_as(&sandbox, "eth0").failed();
            let failed = network.del_as(&sandbox, "eth0").failed();
            assert_eq!(failed.details, "DEL");
            assert_ne!(sandbox.traces(&site), [""; 0]);
            network.write(&chain(&[]));
            network.del(&sandbox);
            sandbox.left_nothing(&site);
            // And the pod's next try is like any other.
            network.add(&mut sandbox);
            sandbox.is_captured(&site);
            sandbox.host_port_leads_to(&site, "inbound");
            sandbox.stop();
            network.del(&sandbox);
            sandbox.left_nothing(&site);
        }
        held("a later plugin fails, ADD or DEL too; 0.3.1 to 1.1.0", backend, "ok");
    }
}

/// The DELs after an ADD that failed.
fn unwound(site: &Site, sandbox: &Sandbox) {
    let calls: Vec<Value> = calls(site)
        .into_iter()
        .filter(|call| {
            call["command"] == "DEL" && call["environment"]["CNI_CONTAINERID"] == sandbox.pod.container()
        })
        .collect();
    let tags: Vec<&str> = calls.iter().filter_map(|call| call["tag"].as_str()).collect();
    assert_eq!(tags, ["never", "fails", "before"]);
    for call in &calls {
        assert!(call["stdin"].get("prevResult").is_none(), "{call}");
        assert_eq!(call["environment"]["CNI_NETNS"], json!(sandbox.netns()));
    }
}

/// Reference plugins that really fail where we have worked already.
#[test]
fn reference_plugins_after_us_fail() {
    for backend in BACKENDS {
        let site = Site::new(backend);
        for (main, fails, says) in [
            (
                Main::Ptp,
                json!({ "type": "tuning", "sysctl": { "net.core.no_such_setting": "1" } }),
                "no_such_setting",
            ),
            (Main::Macvlan, bandwidth(), "has no veth peer"),
            (Main::Bridge, json!({ "type": "gone" }), "failed to find plugin \"gone\""),
        ] {
            let network = site.network(
                "fails",
                &list("1.0.0", "fails", [main.entry(&site), portmap(true), site.entry(), fails.clone()]),
            );
            let sandbox = site.meshed();
            let failed = network.add_as(&sandbox, "eth0").failed();
            assert!(failed.text.contains(says), "{failed:?}");
            assert_ne!(sandbox.traces(&site), [""; 0], "our own ADD had worked");
            let del = network.del_as(&sandbox, "eth0");
            if fails["type"] == "gone" {
                // A program that is missing stops every DEL, with or without us.
                assert!(del.failed().text.contains(says));
                network.write(&list("1.0.0", "fails", [main.entry(&site), portmap(true), site.entry()]));
                network.del(&sandbox);
            } else {
                del.ok();
            }
            sandbox.left_nothing(&site);
        }
        held("tuning, bandwidth or a missing program fails after us", backend, "ok");
    }
}

/// We fail: what we did is taken back before the runtime hears of it.
#[test]
fn we_fail_ourselves() {
    for backend in BACKENDS {
        let site = Site::new(backend);
        for version in VERSIONS {
            site.forget_calls();
            let network = site.network(
                "ours",
                &list(
                    version,
                    "ours",
                    [Main::Bridge.entry(&site), portmap(false), site.entry(), recorder(&site, "after")],
                ),
            );
            let mut sandbox = site.meshed();
            sandbox.pod.annotations.insert("shunt-cni.io/outbound-port".to_owned(), "many".to_owned());
            let failed = network.add_as(&sandbox, "eth0").failed();
            assert_eq!(failed.code, 7, "{failed:?}");
            assert!(
                failed.details.contains("shunt-cni.io/outbound-port") && failed.details.contains("many"),
                "{failed:?}"
            );
            assert!(failed.text.starts_with(r#"plugin type="shunt" failed (add): "#), "{failed:?}");
            assert_eq!(sandbox.traces(&site), [""; 0]);
            network.del(&sandbox);
            sandbox.left_nothing(&site);
            assert_eq!(asked(&site, "after"), ["DEL"]);
        }
        held("we fail: nothing of ours before DEL, nothing of others after; 0.3.1 to 1.1.0", backend, "ok");
    }
}

/// A plugin before us fails: we are asked to delete what we never saw.
#[test]
fn a_plugin_before_us_fails() {
    for backend in BACKENDS {
        let site = Site::new(backend);
        let network = site.network(
            "early",
            &list(
                "1.1.0",
                "early",
                [Main::Ptp.entry(&site), failing(&site, "fails", &["ADD"]), site.entry()],
            ),
        );
        let sandbox = site.meshed();
        network.add_as(&sandbox, "eth0").failed();
        for _twice in 0..2 {
            network.del(&sandbox);
            sandbox.left_nothing(&site);
        }
        held("an earlier plugin fails: DEL of what we never saw", backend, "ok");
    }
}
