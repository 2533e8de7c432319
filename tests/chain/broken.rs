//! CHECK and STATUS when something is not as it should be, as a runtime hears of it.

use std::fs;

use serde_json::json;
use shunt_abi::names;
use shunt_tests::kernel;

use crate::BACKENDS;
use crate::network::Network;
use crate::plugins::{Main, list, portmap, recorder};
use crate::report::held;
use crate::sandbox::Sandbox;
use crate::site::Site;
use crate::versions::asked;

/// Somebody takes something of ours away: what it is, and what CHECK says of it.
type Damage = (&'static str, fn(&Site, &Sandbox), &'static str);

const DAMAGES: [(&str, &[Damage]); 2] = [
    (
        "ebpf",
        &[
            ("its inbound link", |site, sandbox| unpin(site, sandbox, "lookup"), "lookup"),
            ("its entry in the map of pods", forget_pod, "no configuration of the pod"),
        ],
    ),
    (
        "iptables",
        &[
            ("all rules", |_, sandbox| flush(sandbox, "iptables-nft"), "rule"),
            ("all rules of IPv6", |_, sandbox| flush(sandbox, "ip6tables-nft"), "rule"),
            (
                "the first place",
                |_, sandbox| {
                    let rule = ["-t", "nat", "-I", "OUTPUT", "-p", "tcp", "-j", "ACCEPT"];
                    sandbox.pod.netns.run("iptables-nft", &rule, "");
                },
                "rule",
            ),
        ],
    ),
];

fn unpin(site: &Site, sandbox: &Sandbox, word: &str) {
    let kept = site.node.kept();
    let of_it = |path: &&std::path::PathBuf| {
        path.starts_with(site.node.bpf_dir())
            && path.to_string_lossy().contains(sandbox.pod.container())
            && path.file_name().is_some_and(|name| name.to_string_lossy().contains(word))
    };
    let found: Vec<_> = kept.iter().filter(of_it).collect();
    assert_eq!(found.len(), 1, "{word}: {kept:?}");
    fs::remove_file(found[0]).expect("a pin");
}

fn forget_pod(site: &Site, sandbox: &Sandbox) {
    let objects: Vec<_> = fs::read_dir(site.node.bpf_dir()).expect("pins").filter_map(Result::ok).collect();
    assert_eq!(objects.len(), 1, "one object");
    kernel::forget(&objects[0].path(), names::PODS, sandbox.cookie());
}

fn flush(sandbox: &Sandbox, tool: &str) {
    sandbox.pod.netns.run(tool, &["-t", "nat", "-F", "OUTPUT"], "");
}

#[test]
fn check_finds_what_is_missing() {
    for (backend, damages) in DAMAGES {
        let site = Site::new(backend);
        for version in ["0.4.0", "1.0.0", "1.1.0"] {
            for (what, damage, says) in damages {
                site.forget_calls();
                let network = site.network(
                    "broken",
                    &list(
                        version,
                        "broken",
                        [Main::Bridge.entry(&site), site.entry(), recorder(&site, "after")],
                    ),
                );
                let mut sandbox = site.meshed();
                network.add(&mut sandbox);
                network.check(&sandbox).ok();
                damage(&site, &sandbox);
                let failed = network.check(&sandbox).failed();
                assert_eq!(failed.code, 104, "{what}: {failed:?}");
                assert!(failed.details.contains(says), "{what}: {failed:?}");
                assert_eq!(asked(&site, "after"), ["ADD", "CHECK"], "libcni stops at the first that fails");
                network.del(&sandbox);
                sandbox.left_nothing(&site);
            }
        }
        let what: Vec<_> = damages.iter().map(|(what, ..)| *what).collect();
        held(&format!("CHECK fails, code 104, without {}", what.join("; ")), backend, "ok");
    }
}

#[test]
fn status_says_no_with_code_50() {
    for backend in BACKENDS {
        let site = Site::new(backend);
        let mut ours = site.entry();
        let usual = ours.clone();
        let with = |version: &str, ours: &serde_json::Value| {
            list(version, "status", [recorder(&site, "before"), ours.clone(), recorder(&site, "after")])
        };
        let mut network = site.network("status", &with("1.1.0", &usual));
        network.status().ok();
        if backend == "ebpf" {
            // No BPF file system, and none can be mounted there.
            fs::write(site.path("file"), "").expect("own file");
            ours["bpfDir"] = json!(site.path("file/bpf"));
        } else {
            network.without = &["/usr/sbin/xtables-nft-multi", "/usr/sbin/xtables-legacy-multi"];
        }
        network.write(&with("1.1.0", &ours));
        let failed = network.status().failed();
        assert_eq!(failed.code, 50, "{failed:?}");
        assert!(!failed.msg.is_empty() && !failed.details.is_empty(), "{failed:?}");
        let told = (asked(&site, "before"), asked(&site, "after"));
        assert_eq!(told, (vec!["STATUS".to_owned(); 2], vec!["STATUS".to_owned()]), "libcni stops there");
        // Before 1.1.0 there is no STATUS: the runtime hears nothing, and the node says Ready.
        network.write(&with("1.0.0", &ours));
        network.status().ok();
        // It is well again.
        network.without = &[];
        network.write(&with("1.1.0", &usual));
        network.status().ok();

        // Our program is missing: libcni's own error, before anything is run.
        fs::remove_file(site.plugins().join("shunt")).expect("own directory");
        let failed = network.status().failed();
        assert_eq!(failed.code, 0);
        assert!(failed.text.contains("failed to find plugin \"shunt\""), "{failed:?}");
        held("STATUS says no: code 50 through libcni, from 1.1.0", backend, "ok");
    }
}

/// Everything a runtime may meet when our program is gone and comes back.
#[test]
fn our_program_is_missing() {
    for backend in BACKENDS {
        let site = Site::new(backend);
        let network: Network<'_> = site.network(
            "missing",
            &list("1.1.0", "missing", [Main::Bridge.entry(&site), portmap(false), site.entry()]),
        );
        let mut sandbox = site.meshed();
        network.add(&mut sandbox);
        sandbox.is_captured(&site);
        let (program, aside) = (site.plugins().join("shunt"), site.path("aside"));
        fs::rename(&program, &aside).expect("own directory");
        let next = site.meshed();
        for failed in
            [network.add_as(&next, "eth0"), network.check(&sandbox), network.del_as(&sandbox, "eth0")]
        {
            let failed = failed.failed();
            assert!(
                failed.code == 0 && failed.text.contains("failed to find plugin \"shunt\""),
                "{failed:?}"
            );
        }
        // What runs stays captured meanwhile.
        sandbox.is_captured(&site);
        sandbox.stop();
        fs::rename(&aside, &program).expect("own directory");
        network.del(&next);
        network.del(&sandbox);
        sandbox.left_nothing(&site);
        held("our program is missing: captured pods stay so, DEL works when it is back", backend, "ok");
    }
}
