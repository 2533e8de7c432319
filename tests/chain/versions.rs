//! What a list says of versions and of what is to be asked, and what a runtime makes of it.

use std::fs;

use serde_json::{Value, json};

use crate::matrix::calls;
use crate::network::Valid;
use crate::plugins::{Main, list, portmap, recorder};
use crate::report::held;
use crate::site::Site;
use crate::{BACKENDS, VERSIONS};

/// Names of commands the recorder of a tag was asked, in their order.
pub(crate) fn asked(site: &Site, tag: &str) -> Vec<String> {
    let of = |call: &Value| call["command"].as_str().unwrap_or_default().to_owned();
    calls(site).iter().filter(|call| call["tag"] == tag).map(of).collect()
}

#[test]
fn cnitool_adds_checks_and_deletes() {
    for backend in BACKENDS {
        let site = Site::new(backend);
        for version in VERSIONS {
            let entries = [Main::Bridge.entry(&site), portmap(false), site.entry()];
            let network = site.network("byhand", &list(version, "byhand", entries));
            let mut sandbox = site.meshed();
            let cnitool = |verb: &str| network.cnitool(verb, "byhand", &sandbox);
            let (ok, said) = cnitool("add");
            assert!(ok, "{said}");
            let result: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
            assert_eq!(result["cniVersion"], version);
            let (ok, said) = cnitool("check");
            assert_eq!(ok, version != "0.3.1", "{said}");
            assert_eq!(said.is_empty(), ok, "{said}");
            assert_eq!(cnitool("status"), (true, String::new()));
            sandbox.learn(&result, "eth0");
            sandbox.is_captured(&site);
            sandbox.host_port_leads_to(&site, "inbound");
            sandbox.stop();
            for _twice in 0..2 {
                assert_eq!(network.cnitool("del", "byhand", &sandbox), (true, String::new()));
                let kept = site.node.kept();
                let of_it = kept.iter().filter(|path| path.to_string_lossy().contains("cnitool-")).count();
                assert_eq!(of_it, 0, "{kept:?}");
                sandbox.left_nothing(&site);
            }
            // Its GC gives no list, and libcni takes that for an empty one: what is in the cache goes by DEL.
            assert!(network.cnitool("add", "byhand", &sandbox).0);
            assert_eq!(network.cnitool("gc", "byhand", &sandbox), (true, String::new()));
            sandbox.left_nothing(&site);
        }
        held("cnitool: add, check, status, del twice, gc; 0.3.1 to 1.1.0", backend, "ok");
    }
}

#[test]
fn the_oldest_version_we_speak_and_those_we_do_not() {
    for backend in BACKENDS {
        let site = Site::new(backend);
        let with = |version: &str| {
            list(version, "old", [Main::Bridge.entry(&site), recorder(&site, version), site.entry()])
        };
        let network = site.network("old", &with("0.3.0"));
        let mut sandbox = site.meshed();
        assert_eq!(network.add(&mut sandbox)["cniVersion"], "0.3.0");
        sandbox.is_captured(&site);
        sandbox.stop();
        network.del(&sandbox);
        sandbox.left_nothing(&site);

        for version in ["0.1.0", "0.2.0"] {
            // Results of these have one address of each family and no interfaces.
            network.write(&with(version));
            let sandbox = site.meshed();
            let failed = network.add_as(&sandbox, "eth0").failed();
            assert_eq!((failed.code, failed.msg.as_str()), (1, "CNI version not supported"), "{failed:?}");
            let versions = "is not one of 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0";
            assert!(failed.details.contains(version) && failed.details.contains(versions), "{failed:?}");
            assert_eq!(sandbox.traces(&site), [""; 0]);
            let failed = network.validate().failed();
            assert!(
                failed.text.contains(&format!("plugin shunt does not support config version \"{version}\"")),
                "{failed:?}"
            );
            // The pod must be deleted all the same.
            network.del(&sandbox);
            sandbox.left_nothing(&site);
        }
        held("0.3.0: works; 0.1.0, 0.2.0: ADD refused (code 1), DEL works", backend, "ok");
    }
}

#[test]
fn a_list_with_several_versions() {
    let site = Site::new("ebpf");
    let mut several = list("0.3.1", "several", [Main::Ptp.entry(&site), recorder(&site, "us"), site.entry()]);
    let network = site.network("several", &several);
    for (versions, picked) in [
        (json!(["0.4.0", "1.0.0", "1.1.0"]), "1.1.0"),
        (json!(["1.0.0", "0.4.0"]), "1.0.0"),
        (json!(["0.4.0", "9.9.9"]), "0.4.0"),
        (json!(["0.3.0"]), "0.3.1"),
    ] {
        several["cniVersions"] = versions.clone();
        network.write(&several);
        assert_eq!(network.listed().ok()["cniVersion"], picked, "{versions}");
        let wanted = network.validate().ok();
        for capability in ["cgroupPath", "io.kubernetes.cri.pod-annotations"] {
            assert!(wanted.as_array().is_some_and(|all| all.contains(&json!(capability))), "{wanted}");
        }
        let mut sandbox = site.meshed();
        assert_eq!(network.add(&mut sandbox)["cniVersion"], picked);
        let told = calls(&site).pop().expect("a call");
        assert_eq!(told["stdin"]["cniVersion"], picked, "{told}");
        sandbox.is_captured(&site);
        sandbox.stop();
        network.del(&sandbox);
        sandbox.left_nothing(&site);
    }
    held("cniVersions: libcni picks the highest it knows", "ebpf", "ok");
}

#[test]
fn a_list_that_wants_no_check_and_no_gc() {
    let site = Site::new("ebpf");
    let mut quiet = list("1.1.0", "quiet", [Main::Ptp.entry(&site), recorder(&site, "us"), site.entry()]);
    quiet["disableCheck"] = json!(true);
    // As some write it.
    quiet["disableGC"] = json!("true");
    let network = site.network("quiet", &quiet);
    let listed = network.listed().ok();
    assert_eq!((&listed["disableCheck"], &listed["disableGC"]), (&json!(true), &json!(true)));
    let mut sandbox = site.meshed();
    network.add(&mut sandbox);
    network.check(&sandbox).ok();
    for valid in [Valid::These(&[]), Valid::Null, Valid::Missing] {
        network.gc(valid).ok();
    }
    network.status().ok();
    assert_eq!(
        asked(&site, "us"),
        ["ADD", "STATUS"],
        "no CHECK, no GC, and no DEL for what GC would collect"
    );
    sandbox.is_captured(&site);
    sandbox.stop();
    network.del(&sandbox);
    sandbox.left_nothing(&site);
    held("disableCheck, disableGC: not asked; STATUS and DEL are", "ebpf", "ok");
}

/// Our entry in a file of its own, in the directory named after the network.
#[test]
fn an_entry_in_the_drop_in_directory() {
    for backend in BACKENDS {
        let site = Site::new(backend);
        let mut primary = list("1.1.0", "primary", [Main::Bridge.entry(&site), portmap(false)]);
        let network = site.network("primary", &primary);
        let dir = site.path("net.d/primary");
        fs::create_dir(&dir).expect("own directory");
        fs::write(dir.join("90-shunt.conf"), site.entry().to_string()).expect("own file");
        assert_eq!(network.listed().ok()["plugins"], json!(["bridge", "portmap", "shunt"]));
        let mut sandbox = site.meshed();
        network.add(&mut sandbox);
        network.check(&sandbox).ok();
        sandbox.is_captured(&site);
        sandbox.stop();
        network.del(&sandbox);
        sandbox.left_nothing(&site);

        // CRI-O deletes by what is in the cache, and what was dropped in is not: its DEL leaves us. GC finds what it left.
        network.add(&mut sandbox);
        let mut crio = network.clone();
        crio.from_cache = true;
        crio.del(&sandbox);
        assert_ne!(
            sandbox.traces(&site),
            [""; 0],
            "libcni caches drop-ins now: the operators' page says otherwise"
        );
        network.gc(Valid::These(&[])).ok();
        sandbox.left_nothing(&site);

        primary["loadOnlyInlinedPlugins"] = json!(true);
        network.write(&primary);
        assert_eq!(network.listed().ok()["plugins"], json!(["bridge", "portmap"]));
        let mut sandbox = site.meshed();
        network.add(&mut sandbox);
        sandbox.is_direct(&site);
        sandbox.stop();
        network.del(&sandbox);
        sandbox.left_nothing(&site);
        held(
            "drop-in directory; DEL out of the cache leaves it to GC; loadOnlyInlinedPlugins: without us",
            backend,
            "ok",
        );
    }
}

/// Each key of our entry passes through libcni: none has a name that CNI has given to something else.
#[test]
fn every_key_of_our_entry_is_one_libcni_takes() {
    let site = Site::new("ebpf");
    let mut ours = serde_json::to_value(shunt_api::Entry::default()).expect("plain");
    for key in ["type", "backend", "stateDir", "bpfDir", "log"] {
        ours[key] = site.entry()[key].clone();
    }
    ours["captureDns"] = json!(true);
    ours["redirect"] = json!({
        "outboundPort": 1, "inboundPort": 2, "dnsPort": 3, "proxyUids": [1], "proxyGids": [1],
        "includeOutboundCidrs": ["10.0.0.0/8"], "excludeOutboundCidrs": ["fd00::/8"], "includeOutboundPorts": [80],
        "excludeOutboundPorts": ["8000-8999"], "includeInboundPorts": "*", "excludeInboundPorts": [],
        "excludeInboundCidrs": ["::1"], "excludeInterfaces": ["net1"],
    });
    let network = site.network("keys", &list("1.1.0", "keys", [recorder(&site, "us"), ours.clone()]));
    assert_eq!(network.listed().ok()["plugins"], json!(["recorder", "shunt"]));
    network.status().ok();
    // What CNI means by this key is for others; something else there and no runtime loads the list.
    ours["dns"] = json!({ "nameservers": ["10.96.0.10"], "search": ["svc"] });
    network.write(&list("1.1.0", "keys", [ours.clone()]));
    network.status().ok();
    ours["dns"] = json!(true);
    network.write(&list("1.1.0", "keys", [ours]));
    let failed = network.listed().failed();
    assert!(failed.text.contains("cannot unmarshal bool into Go struct field PluginConf.dns"), "{failed:?}");
    held("every key of our entry, as libcni reads it", "ebpf", "ok");
}
