//! `shuntctl explain`: what it says is so.

use std::process::{Child, Command};
use std::time::Instant;
use std::{fs, iter};

use serde_json::{Value, json};
use shunt_tests::ask::Dial;
use shunt_tests::net::Shape;
use shunt_tests::node::{APP, Node, PROXY, Pod};
use shunt_tests::process;

use crate::mesh::{Mesh, outcomes, outside};
use crate::{ctl, ctl_json};

/// A process in a pod's network.
pub(crate) struct Sleeper(Child);

impl Sleeper {
    pub(crate) fn new(pod: &Pod, uid: u32) -> Self {
        let netns = format!("--net={}", pod.netns.path().display());
        let ids = [format!("--setuid={uid}"), format!("--setgid={uid}")];
        let child = Command::new("nsenter").arg(netns).args(ids).args(["sleep", "60"]).spawn();
        Self(child.expect("nsenter can be run"))
    }

    /// Once it is there: nsenter becomes sleep when it has entered.
    pub(crate) fn pid(&self) -> String {
        let pid = self.0.id();
        let is_sleep =
            || fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "sleep");
        let deadline = Instant::now() + std::time::Duration::from_secs(10);
        while !is_sleep() {
            assert!(Instant::now() < deadline, "nsenter did not enter");
            std::thread::yield_now();
        }
        pid.to_string()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _gone = self.0.kill().and_then(|()| self.0.wait());
    }
}

pub(crate) fn field<'a>(answer: &'a Value, pointer: &str) -> &'a Value {
    answer.pointer(pointer).unwrap_or_else(|| panic!("{pointer} in {answer:#}"))
}

#[test]
fn a_captured_pod_by_all_its_names() {
    let mut mesh = Mesh::before_add(Shape::dual());
    mesh.node.redirect("excludeOutboundPorts", json!([443]));
    mesh.pod.annotations.insert("shunt-cni.io/exclude-outbound-cidrs".to_owned(), "10.96.0.0/24".to_owned());
    mesh.add();
    let name = mesh.pod.called();
    let netns = mesh.pod.netns.path().display().to_string();
    let sleeper = Sleeper::new(&mesh.pod, APP);
    let (pid, short) = (sleeper.pid(), name.trim_start_matches("default/").to_owned());
    let names =
        [&name, &short, mesh.pod.uid(), mesh.pod.container(), &mesh.pod.container()[..60], &netns, &pid];
    for name in names {
        let (code, answer) = ctl_json(&mesh.node, &["explain", name]);
        assert_eq!((code, &answer["state"]), (0, &json!("captured")), "{name}: {answer:#}");
        assert_eq!(field(&answer, "/pod/container"), mesh.pod.container());
        assert_eq!(field(&answer, "/pod/name"), &json!(short));
        assert_eq!(field(&answer, "/backend/name"), "ebpf");
        assert_eq!(field(&answer, "/because/code"), "marked");
        assert_eq!(answer["notes"], json!([]), "{answer:#}");
    }
    let (_, answer) = ctl_json(&mesh.node, &["explain", &name]);
    let from = |key: &str| {
        let values = answer["plan"].as_array().expect("a list");
        let value = values.iter().find(|value| value["key"] == key).unwrap_or_else(|| panic!("{key}"));
        (value["value"].clone(), value["from"][0].clone())
    };
    let entry = |key: &str| json!({"layer": "entry", "key": key});
    assert_eq!(from("excludeOutboundPorts"), (json!([443]), entry("redirect.excludeOutboundPorts")));
    let own = json!({"layer": "annotation", "key": "shunt-cni.io/exclude-outbound-cidrs"});
    assert_eq!(from("excludeOutboundCidrs"), (json!(["10.96.0.0/24"]), own.clone()));
    assert_eq!(from("mesh"), (json!("custom"), entry("mesh")));

    // Which rule decides, read back from the kernel.
    let (code, answer) = ctl_json(&mesh.node, &["explain", &name, "--to", "10.96.0.10:80"]);
    assert_eq!((code, field(&answer, "/connection/decidedBy")), (4, &json!("kernel")));
    assert_eq!(
        answer["connection"]["rule"],
        json!({"key": "excludeOutboundCidrs", "item": "10.96.0.0/24", "from": [own]})
    );

    // No proxy, then one.
    let to = ["explain", name.as_str(), "--to", "10.97.0.10:80"];
    let (code, answer) = ctl_json(&mesh.node, &to);
    let said =
        (code, field(&answer, "/connection/verdict").clone(), field(&answer, "/connection/reason").clone());
    assert_eq!(said, (4, json!("refused"), json!("no-listener")));
    assert_eq!(field(&answer, "/proxy/seen"), false);
    let listener =
        |open: bool, known: bool| json!({"role": "outbound", "port": 15001, "open": open, "known": known});
    assert_eq!(field(&answer, "/proxy/listeners/0"), &listener(false, false));
    mesh.start_proxy();
    let (code, answer) = ctl_json(&mesh.node, &to);
    assert_eq!((code, field(&answer, "/connection/verdict")), (0, &json!("captured")), "{answer:#}");
    assert_eq!(field(&answer, "/proxy/listeners/0"), &listener(true, true));
    assert_eq!(field(&answer, "/proxy/seen"), true);

    // What was counted.
    assert_eq!(field(&answer, "/counters").get("excluded-cidr"), None);
    mesh.app(["10.96.0.10:80"]);
    let (_, answer) = ctl_json(&mesh.node, &["explain", &name]);
    assert_eq!(field(&answer, "/counters/excluded-cidr"), 1);

    // A process is asked about as itself.
    let proxy = Sleeper::new(&mesh.pod, PROXY);
    for (pid, verdict) in [(pid, "captured"), (proxy.pid(), "passes")] {
        let (_, answer) = ctl_json(&mesh.node, &["explain", &pid, "--to", "10.97.0.10:80"]);
        assert_eq!(field(&answer, "/connection/verdict"), verdict, "{answer:#}");
    }

    // For people too.
    let said = ctl(&mesh.node, &["explain", &name]);
    for line in [
        "state      captured\n",
        "proxy      outbound 15001: listens\n",
        "counted    ",
        "excludeOutboundPorts 443",
    ] {
        assert!(said.out.contains(line), "{line:?} in\n{}", said.out);
    }

    mesh.node.del(&mesh.pod);
    let said = ctl(&mesh.node, &["explain", &name]);
    assert!(said.code == 1 && said.out.is_empty() && said.err.contains(&name), "{said:?}");
    let (code, answer) = ctl_json(&mesh.node, &["explain", &netns]);
    assert_eq!((code, &answer["state"]), (4, &json!("unknown")));
}

#[test]
fn a_skipped_pod_until_it_is_gone() {
    let mut mesh = Mesh::before_add(Shape::dual());
    mesh.pod.annotations.clear();
    mesh.add();
    let name = mesh.pod.called();
    let netns = mesh.pod.netns.path().display().to_string();
    let sleeper = Sleeper::new(&mesh.pod, APP);
    for name in [&name, mesh.pod.container(), &netns, &sleeper.pid()] {
        let (code, answer) = ctl_json(&mesh.node, &["explain", name, "--to", "10.96.0.10:80"]);
        assert_eq!((code, &answer["state"]), (4, &json!("skipped")), "{answer:#}");
        assert_eq!(field(&answer, "/because/code"), "no-marker");
        assert_eq!(field(&answer, "/because/key"), "shunt-cni.io/intercept");
        assert_eq!(field(&answer, "/connection/verdict"), "passes");
    }
    // Captured after all: the note is of the past.
    mesh.pod.annotations.insert("shunt-cni.io/intercept".to_owned(), "true".to_owned());
    mesh.add();
    assert_eq!(ctl_json(&mesh.node, &["explain", &name]).1["state"], "captured");
    assert!(!mesh.node.has_notes());
    mesh.pod.annotations.clear();
    mesh.add();
    assert_eq!(ctl_json(&mesh.node, &["explain", &name]).1["state"], "skipped");
    mesh.node.del(&mesh.pod);
    let left = mesh.node.kept();
    let of_pod = |path: &std::path::PathBuf| path.display().to_string().contains(mesh.pod.container());
    assert!(!mesh.node.has_notes() && !left.iter().any(of_pod), "{left:?}");
    assert_eq!(ctl(&mesh.node, &["explain", &name]).code, 1);
}

#[test]
fn a_pod_whose_add_fails() {
    let mut mesh = Mesh::before_add(Shape::dual());
    let name = mesh.pod.called();
    mesh.pod.annotations.insert("shunt-cni.io/outbound-port".to_owned(), "x".to_owned());
    for count in 1..=3 {
        mesh.pod.renew();
        assert_ne!(mesh.node.call("ADD", &mesh.pod, "eth0").code, 0);
        // A runtime calls DEL at once, and tries again under another id.
        mesh.node.del(&mesh.pod);
        let (code, answer) = ctl_json(&mesh.node, &["explain", &name, "--to", "10.96.0.10:80"]);
        assert_eq!((code, &answer["state"]), (4, &json!("failed")), "{answer:#}");
        assert_eq!(
            (field(&answer, "/failure/code"), field(&answer, "/failure/count")),
            (&json!(7), &json!(count))
        );
        assert!(field(&answer, "/failure/details").to_string().contains("outbound-port"), "{answer:#}");
        assert_eq!(answer["connection"], Value::Null);
    }
    mesh.pod.annotations.remove("shunt-cni.io/outbound-port");
    mesh.add();
    assert_eq!(ctl_json(&mesh.node, &["explain", &name]).1["state"], "captured");
    assert!(!mesh.node.has_notes());
}

#[test]
fn a_pod_that_runs_bare() {
    let mesh = Mesh::before_add(Shape::dual());
    let file = mesh.node.directory().join("no-directory");
    fs::write(&file, "").expect("a file");
    mesh.node.configure(|entry| {
        entry["failurePolicy"] = json!("open");
        entry["bpfDir"] = json!(file.join("pins"));
    });
    mesh.add();
    let (code, answer) = ctl_json(&mesh.node, &["explain", &mesh.pod.called()]);
    assert_eq!((code, &answer["state"]), (4, &json!("open")), "{answer:#}");
    assert!(field(&answer, "/failure/details").to_string().contains("no-directory"), "{answer:#}");
}

#[test]
fn a_pod_that_is_not_as_add_left_it() {
    let mesh = Mesh::new();
    let pin = mesh.node.kept().into_iter().find(|path| path.ends_with("lookup")).expect("the pod's link");
    fs::remove_file(pin).expect("root may");
    let (code, answer) = ctl_json(&mesh.node, &["explain", &mesh.pod.called()]);
    assert_eq!((code, &answer["state"]), (4, &json!("damaged")));
    assert!(answer["notes"].to_string().contains("sk_lookup"), "{answer:#}");
}

#[test]
fn the_host_is_the_host() {
    let node = Node::new();
    let (code, answer) = ctl_json(&node, &["explain", &std::process::id().to_string()]);
    assert_eq!((code, &answer["state"]), (4, &json!("host")));
    let said = ctl(&node, &["explain", "/etc/hostname"]);
    assert!(said.code == 1 && said.err.contains("/etc/hostname"), "{said:?}");
}

/// Ids are the pod's own.
#[test]
fn a_pod_with_a_user_namespace() {
    let node = Node::new();
    let world = node.world();
    let pod = node.pod_of_user_namespace(&world, Shape::dual(), 200_000);
    node.add(&pod);
    for (uid, reason) in [("1337", "exempt"), ("201337", "no-listener"), ("1000", "no-listener")] {
        let words = ["explain", &pod.called(), "--to", "10.96.0.10:80", "--from-uid", uid];
        if uid == "201337" {
            assert!(ctl(&node, &words).err.contains("201337"), "nobody of the pod has that id");
            continue;
        }
        let (_, answer) = ctl_json(&node, &words);
        assert_eq!(field(&answer, "/connection/reason"), reason, "{answer:#}");
    }
}

/// What is explained is what happens: the same connections, asked about and made.
#[test]
fn explained_and_dialled() {
    for backend in ["ebpf", "iptables"] {
        let mut mesh = Mesh::before_add(Shape::dual());
        mesh.node.configure(|entry| entry["backend"] = json!(backend));
        for (key, value) in [
            ("excludeOutboundCidrs", json!(["10.96.1.0/24", "fd96::1:0/112"])),
            ("includeOutboundCidrs", json!(["10.96.0.0/20", "10.96.128.10/32", "fd96::/112"])),
            ("excludeOutboundPorts", json!(["8000-8999"])),
            ("includeOutboundPorts", json!([9000])),
            ("excludeInboundPorts", json!([9000])),
            ("excludeInboundCidrs", json!(["10.77.200.0/24"])),
            ("proxyGids", json!([1400])),
        ] {
            mesh.node.redirect(key, value);
        }
        mesh.add();
        mesh.start_proxy();
        let name = mesh.pod.called();
        let own = mesh.pod.ip(false);
        let own_service = format!("{own}:8080");
        let targets = [
            "10.96.0.10:80",
            "10.96.1.10:80",
            "10.96.0.10:8080",
            "10.96.64.10:9000",
            "10.96.64.10:80",
            "10.96.128.10:443",
            "10.96.1.10:9000",
            "[fd96::10]:80",
            "[fd96::1:10]:80",
            "[fd96::2:10]:80",
            "127.0.0.1:80",
            &own_service,
        ];
        for (uid, gid) in [(APP, APP), (PROXY, PROXY), (7, 1400), (0, 0)] {
            let seen = process::dial(&mesh.pod.place(uid, gid), &Dial::to(targets));
            for (to, saw) in iter::zip(targets, outcomes(&seen)) {
                let (uid, gid) = (uid.to_string(), gid.to_string());
                let words = ["explain", &name, "--to", to, "--from-uid", &uid, "--from-gid", &gid];
                let (code, answer) = ctl_json(&mesh.node, &words);
                let connection = &answer["connection"];
                let verdict = match saw {
                    "outbound" | "inbound" => "captured",
                    _ => "passes",
                };
                assert_eq!(
                    connection["verdict"], verdict,
                    "{backend} {uid}:{gid} {to}: saw {saw}: {connection:#}"
                );
                assert_eq!(code, if verdict == "captured" { 0 } else { 4 });
                let port = match saw {
                    "outbound" => json!(15001),
                    "inbound" => json!(15006),
                    _ => Value::Null,
                };
                assert_eq!(connection["proxyPort"], port, "{backend} {uid}:{gid} {to}");
                assert_eq!(connection["decidedBy"], if backend == "ebpf" { "kernel" } else { "plan" });
            }
        }
        for port in [8080, 9000] {
            let saw = mesh.arriving(false, port);
            let at = format!("{own}:{port}");
            let (_, answer) =
                ctl_json(&mesh.node, &["explain", &name, "--inbound", &at, "--from", "10.77.0.1:4000"]);
            let verdict = if saw.outcome() == "inbound" { "captured" } else { "passes" };
            assert_eq!(field(&answer, "/connection/verdict"), verdict, "{backend} {port}: {saw:?}");
        }
        // Nobody there to take it.
        mesh.proxy = None;
        let saw = mesh.outcome("10.96.0.10:80");
        let (_, answer) = ctl_json(&mesh.node, &["explain", &name, "--to", "10.96.0.10:80"]);
        assert_eq!(
            (saw.as_str(), field(&answer, "/connection/verdict")),
            ("ECONNREFUSED", &json!("refused"))
        );
        let (_, answer) = ctl_json(&mesh.node, &["explain", &name]);
        assert_eq!(field(&answer, "/backend/name"), backend);
        assert_eq!(answer["state"], "captured", "{answer:#}");
        drop(outside(&mesh.world));
    }
}

/// The answer comes in milliseconds, however many pods the node has.
#[test]
fn among_five_hundred() {
    let mesh = Mesh::new();
    let records = mesh.node.directory().join("state/attachments");
    let own = fs::read_dir(&records).expect("records").next().expect("one").expect("readable").path();
    let text = fs::read_to_string(own).expect("a record");
    for number in 0..499 {
        let mut record: Value = serde_json::from_str(&text).expect("JSON");
        let container = format!("f{number:063}");
        record["attachment"]["container_id"] = json!(container);
        record["pod"] = json!(format!("other/pod-{number} 7c0ffee0-0000-4000-8000-{number:012}"));
        record["netnsIdentity"]["inode"] = json!(number + 1);
        fs::write(records.join(format!("{container}@eth0.json")), record.to_string()).expect("a record");
    }
    let mut took: Vec<u128> = (0..21)
        .map(|_| {
            let began = Instant::now();
            let (code, _) = ctl_json(&mesh.node, &["explain", &mesh.pod.called(), "--to", "10.96.0.10:80"]);
            assert_eq!(code, 0);
            began.elapsed().as_micros()
        })
        .collect();
    took.sort_unstable();
    let median = took[took.len() / 2];
    println!("explain among 500 records: median {median} us, {} to {}", took[0], took[20]);
    assert!(median < 500_000, "{took:?}");
}
