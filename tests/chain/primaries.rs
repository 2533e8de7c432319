//! Flannel's and Calico's lists as they ship them, with our entry put in by the real installer, through libcni.
//!
//! `testdata/flannel.conflist` is `cni-conf.json` of Flannel's `Documentation/kube-flannel.yml` (v0.13.0, commit d01746e; the
//! list is still that one). `testdata/calico.conflist` is `cni_network_config` of Calico's `manifests/calico.yaml` (commit
//! 0039c9c), whose places its `install-cni` fills in. Their plugins are not to be had: Flannel's is in no package registry, and
//! Calico's wants an API server. In place of each stands `bridge`, which is what Flannel's calls too; the rest of the list
//! is as the installer wrote it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};
use shunt_tests::bin;

use crate::BACKENDS;
use crate::plugins::Main;
use crate::report::held;
use crate::site::{Site, USUAL_PATH, addresses};

/// A primary CNI.
struct Primary {
    name: &'static str,
    version: &'static str,
    file: &'static str,
    list: fn() -> String,
    /// The bridge in place of its plugin, given that plugin's entry.
    bridge: fn(&Site, &Value) -> Value,
}

const PRIMARIES: [Primary; 3] = [
    Primary {
        name: "Flannel",
        version: "0.3.1",
        file: "10-flannel.conflist",
        list: || include_str!("testdata/flannel.conflist").to_owned(),
        bridge: |site, entry| {
            // Its plugin hands the delegate's keys on and adds what `/run/flannel/subnet.env` says.
            let mut bridge = entry["delegate"].clone();
            bridge["type"] = json!("bridge");
            bridge["bridge"] = json!("cni0");
            bridge["ipMasq"] = json!(false);
            bridge["mtu"] = json!(1450);
            bridge["ipam"] = json!({
                "type": "host-local",
                "dataDir": addresses(site),
                "subnet": "10.244.0.0/24",
                "routes": [{ "dst": "10.244.0.0/16" }],
            });
            bridge
        },
    },
    Primary {
        name: "Calico",
        version: "0.3.1",
        file: "10-calico.conflist",
        list: calico,
        bridge: |site, _| Main::Bridge.entry(site),
    },
    Primary {
        name: "Calico",
        version: "1.0.0",
        file: "10-calico.conflist",
        // Its operator writes the newer version.
        list: || calico().replace("0.3.1", "1.0.0"),
        bridge: |site, _| Main::Bridge.entry(site),
    },
];

fn calico() -> String {
    include_str!("testdata/calico.conflist")
        .replace("__KUBERNETES_NODE_NAME__", "node-1")
        .replace("__CNI_MTU__", "0")
        .replace("__KUBECONFIG_FILEPATH__", "/etc/cni/net.d/calico-kubeconfig")
}

/// The file with our entry that the installer leaves on a host with this primary, and the directory it put the plugin in.
fn installed(site: &Site, primary: &Primary, mode: &str, backend: &str) -> (String, PathBuf) {
    let root = site.path("host");
    for dir in ["etc/cni/net.d", "opt/cni/bin", "run", "sys/fs/bpf", "var/log"] {
        fs::create_dir_all(root.join(dir)).expect("own directory");
    }
    mount(Some("bpf"), &root.join("sys/fs/bpf"), Some("bpf"), MsFlags::empty(), None::<&str>)
        .expect("root may mount bpffs");
    let net_d = root.join("etc/cni/net.d");
    let theirs = (primary.list)();
    fs::write(net_d.join(primary.file), &theirs).expect("own file");
    // What is shipped, but for the mesh: the proxy of these pods is one of the harness.
    let shipped = include_str!("../../conf/entry.json");
    let mut entry: Value = serde_json::from_str(shipped).expect("JSON");
    let usual = site.entry();
    for key in ["mesh", "redirect"] {
        entry[key] = usual[key].clone();
    }
    entry["backend"] = json!(backend);
    let file = site.path("entry.json");
    fs::write(&file, entry.to_string()).expect("own file");
    let installer = |verb: &str| {
        let mut command = Command::new(bin::installer());
        command.env_clear().env("PATH", USUAL_PATH).arg(verb).args(["--mode", mode]);
        for (option, path) in
            [("--host-root", root.as_path()), ("--plugin", &bin::shunt()), ("--entry", &file)]
        {
            command.arg(option).arg(path);
        }
        let done = command.output().expect("the installer can be run");
        assert!(done.status.success(), "{verb}: {}", String::from_utf8_lossy(&done.stderr));
    };
    installer("once");
    let ours = if mode == "owned" { "00-shunt.conflist" } else { primary.file };
    let text = fs::read_to_string(net_d.join(ours)).expect("the list with our entry");
    if mode == "owned" {
        let kept = fs::read_to_string(net_d.join(primary.file)).expect("theirs");
        assert_eq!(kept, theirs, "the primary's file is not touched");
    }
    (text, root.join("opt/cni/bin"))
}

#[test]
fn flannel_and_calico_as_the_installer_leaves_them_with_bridge_for_their_plugin() {
    for backend in BACKENDS {
        for primary in &PRIMARIES {
            for mode in ["owned", "chained"] {
                run(primary, mode, backend);
            }
            let row = format!(
                "{} {}, its list as shipped, bridge for its plugin; owned and chained",
                primary.name, primary.version
            );
            held(&row, backend, "ok");
        }
    }
}

fn run(primary: &Primary, mode: &str, backend: &str) {
    let site = Site::new(backend);
    let (text, programs) = installed(&site, primary, mode, backend);
    let mut list: Value = serde_json::from_str(&text).expect("a list");
    let theirs: Value = serde_json::from_str(&(primary.list)()).expect("a list");

    let mut network = site.network("installed", &list);
    let as_read = network.listed().ok();
    let kind = theirs["plugins"][0]["type"].clone();
    assert_eq!(as_read["plugins"], json!([kind, "portmap", "shunt"]), "{mode}: {text}");
    assert_eq!((&as_read["name"], &as_read["cniVersion"]), (&theirs["name"], &theirs["cniVersion"]));
    assert_eq!(list["plugins"][0], theirs["plugins"][0]);
    assert_eq!(list["plugins"][1], theirs["plugins"][1]);

    list["plugins"][0] = (primary.bridge)(&site, &theirs["plugins"][0]);
    // The host's root is a directory here; the plugin's own places are led to the test's.
    let usual = site.entry();
    for key in ["stateDir", "bpfDir", "log"] {
        list["plugins"][2][key] = usual[key].clone();
    }
    network.write(&list);
    assert!(programs.join("shunt").is_file(), "the installer's copy is the one that is run");
    fs::remove_file(site.plugins().join("shunt")).expect("own directory");
    network.plugins.insert(0, programs);
    network.validate().ok();

    let (mut sandbox, mut plain) = (site.meshed(), site.plain());
    let result = network.add(&mut sandbox);
    assert_eq!(result["cniVersion"], primary.version);
    network.add(&mut plain);
    sandbox.is_captured(&site);
    sandbox.host_port_leads_to(&site, "inbound");
    plain.is_direct(&site);
    plain.host_port_leads_to(&site, "app");
    if primary.version == "1.0.0" {
        network.check(&sandbox).ok();
    }
    for one in [&mut sandbox, &mut plain] {
        one.stop();
        network.del(one);
    }
    sandbox.left_nothing(&site);
}
