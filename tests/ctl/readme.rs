//! Every row of the README's table of questions is typed and answered.

use std::os::unix::fs::symlink;
use std::process::Stdio;
use std::{fs, io};

use serde_json::json;
use shunt_tests::host::Host;
use shunt_tests::net::Shape;

use crate::explain::{Sleeper, field};
use crate::mesh::{Mesh, SERVICE4};
use crate::{command, ctl, ctl_json, said};

/// The rows of the table that begins so, column by column.
fn table(head: &str) -> Vec<Vec<String>> {
    let path = format!("{}/../README.md", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(path).expect("there is a README");
    let rows = text.lines().skip_while(|line| !line.starts_with(head)).skip(2);
    let rows = rows.take_while(|row| row.starts_with('|'));
    let column = |text: &str| text.trim().trim_matches('`').to_owned();
    rows.map(|row| row.split('|').skip(1).map(column).collect()).collect()
}

/// The commands in the second column of the table under `question | command`.
fn commands() -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    for row in table("| question | command |") {
        match row[1].as_str() {
            "the same" => {}
            typed => {
                let whole = typed.replace('…', "shuntctl explain shop/cart-0");
                commands.push(whole.strip_prefix("shuntctl ").expect(typed).to_owned());
            }
        }
    }
    commands
}

/// What is in the answer of a command that is not about one connection.
fn answered(command: &str) -> Option<&'static str> {
    Some(match command {
        "status" => "once, last",
        "pods" => " captured ",
        "check" => "nothing is wrong",
        "repair" => "1 attachments: 0 ",
        "detach" => "past the proxy",
        "dump" => "read it before you pass it on",
        _ => return None,
    })
}

#[test]
fn every_question_has_its_answer() -> io::Result<()> {
    let mut mesh = Mesh::before_add(Shape::dual());
    mesh.add();
    mesh.start_proxy();
    let sleeper = Sleeper::new(&mesh.pod, 1337);
    let entry = mesh.node.directory().join("list.json");
    fs::write(&entry, json!({"plugins": [{"type": "ptp"}, {"type": "shunt", "mesh": "istio"}]}).to_string())?;
    let manifest = mesh.node.directory().join("pod.yaml");
    fs::write(&manifest, "kind: Pod\nmetadata: {name: cart-0, namespace: shop, annotations: {a: b}}\n")?;
    let host = Host::new(&mesh.node);
    let bundle = mesh.node.directory().join("shunt.json");
    let given = [
        ("shunt.json", bundle.display().to_string()),
        ("shop/cart-0", mesh.pod.called()),
        ("$(pidof -s envoy)", sleeper.pid()),
        ("10.0.0.7", mesh.pod.ip(false).to_string()),
        ("10-calico.conflist", entry.display().to_string()),
        ("pod.yaml", manifest.display().to_string()),
    ];
    let commands = commands();
    assert!(commands.len() > 6, "{commands:?}");
    for command in commands {
        let typed =
            given.iter().fold(command.clone(), |typed, (written, meant)| typed.replace(written, meant));
        let words: Vec<&str> = typed.split(' ').collect();
        if let Some(word) = answered(words[0]) {
            let said = host.ctl(&mesh.node, &words);
            assert!(said.code == 0 && said.out.contains(word), "{command}: {said:?}");
            continue;
        }
        if words[0] == "backend" {
            assert_eq!(ctl(&mesh.node, &["backend", "--probe"]).code, 0);
            assert_eq!(ctl(&mesh.node, &words).code, 0, "{command}");
            continue;
        }
        let (code, answer) = ctl_json(&mesh.node, &words);
        assert_eq!(answer["state"], "captured", "{command}: {answer:#}");
        let verdict = answer.pointer("/connection/verdict").cloned();
        let expected = match (command.as_str(), verdict.is_some()) {
            (command, _) if command.contains("envoy") => Some(json!("passes")),
            (command, _) if command.contains("--udp") => Some(json!("passes")),
            (_, true) => Some(json!("captured")),
            (_, false) => None,
        };
        assert_eq!(verdict, expected, "{command}: {answer:#}");
        assert_eq!(
            code,
            if verdict.is_none_or(|verdict| verdict == "captured") { 0 } else { 4 },
            "{command}"
        );
        assert!(!field(&answer, "/plan").as_array().is_none_or(Vec::is_empty), "{command}");
        let said = ctl(&mesh.node, &words);
        assert!(said.out.contains("state      captured\n"), "{command}: {said:?}");
    }
    Ok(())
}

/// What is shown while it happens is shown while it happens: the app connects all the time.
#[test]
fn what_happens_now_is_shown() {
    let mut mesh = Mesh::before_add(Shape::dual());
    mesh.add();
    mesh.start_proxy();
    let rows = table("| question now | command |");
    assert!(rows.len() > 5, "{rows:?}");
    let mut shown = 0;
    for row in rows {
        let typed = row[1].strip_prefix("shuntctl ").expect("ours").replace("shop/cart", &mesh.pod.called());
        let mut words: Vec<&str> = typed.split(' ').collect();
        // They would go on until they are ended.
        match words[0] {
            "trace" if !words.contains(&"--for") => words.extend(["--for", "1s"]),
            "top" => words.extend(["--count", "1"]),
            _ => {}
        }
        let mut asked = command(&mesh.node, &words);
        let asked = asked.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("shuntctl can be run");
        // It is read from all the while: it waits for who does not read.
        let reader = std::thread::spawn(move || asked.wait_with_output().expect("own child"));
        while !reader.is_finished() {
            mesh.app([SERVICE4]);
        }
        let said = said(&reader.join().expect("read"));
        assert_eq!(said.code, 0, "{typed}: {said:?}");
        // Those without a filter show what is going on.
        if !words.iter().any(|word| matches!(*word, "--verdict" | "--reason")) && words[0] == "trace" {
            assert!(said.out.contains("captured") && said.out.contains(SERVICE4), "{typed}: {said:?}");
            shown += 1;
        }
    }
    assert!(shown > 0);
}

/// Makes what is complained about.
fn complain(mesh: &mut Mesh, host: &Host, code: &str) {
    let plugins = Host::plugins();
    let captured = !matches!(code, "not-captured" | "proxy-unused" | "add-failed");
    if captured {
        mesh.add();
    }
    let netns = || symlink(mesh.pod.netns.path(), host.namespaces.join("cni-1")).expect("a link");
    match code {
        "not-captured" => {
            netns();
            mesh.start_proxy();
        }
        "proxy-unused" => {
            netns();
            mesh.pod.annotations.clear();
            mesh.add();
            mesh.start_proxy();
        }
        "entry-missing" => host.list("10-calico.conflist", &json!([plugins[0]])),
        "list-before" => host.list("05-cilium.conflist", &json!([{"type": "cilium-cni"}])),
        "plugin-missing" => fs::remove_file(host.plugins_at.join("shunt")).expect("gone"),
        "add-failed" => {
            mesh.pod.annotations.insert("shunt-cni.io/outbound-port".to_owned(), "x".to_owned());
            assert_ne!(mesh.node.call("ADD", &mesh.pod, "eth0").code, 0);
        }
        "repaired" => {
            let pin = mesh.node.kept().into_iter().find(|path| path.ends_with("links/connect4"));
            fs::remove_file(pin.expect("a link")).expect("root may");
        }
        "foreign-rules" => _ = mesh.pod.netns.run("iptables-nft", &["-t", "nat", "-N", "ISTIO_OUTPUT"], ""),
        "MEAN MS" | "exempt" | "no-listener" => {}
        other => panic!("nobody knows how to make {other}"),
    }
}

#[test]
fn every_complaint_has_its_answer() {
    let rows = table("| complaint | command |");
    assert!(rows.len() >= 10, "{rows:?}");
    for row in rows {
        let (command, code) = (&row[1], &row[2]);
        let mut mesh = Mesh::before_add(Shape::dual());
        let host = Host::new(&mesh.node);
        complain(&mut mesh, &host, code);
        let typed =
            command.strip_prefix("shuntctl ").expect(command).replace("shop/cart-0", &mesh.pod.called());
        let words: Vec<&str> = typed.split(' ').collect();
        let said = host.ctl(&mesh.node, &words);
        assert!(said.out.contains(code.as_str()), "{row:?}: {said:?}");
    }
}
