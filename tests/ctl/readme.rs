//! Every row of the README's table of questions is typed and answered.

use std::{fs, io};

use serde_json::json;
use shunt_tests::net::Shape;

use crate::explain::{Sleeper, field};
use crate::mesh::Mesh;
use crate::{ctl, ctl_json};

/// The commands in the second column of the table under `question | command`.
fn commands() -> Vec<String> {
    let path = format!("{}/../README.md", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(path).expect("there is a README");
    let rows = text.lines().skip_while(|line| !line.starts_with("| question | command |")).skip(2);
    let mut commands: Vec<String> = Vec::new();
    for row in rows.take_while(|row| row.starts_with('|')) {
        let column = row.split('|').nth(2).expect("three columns").trim();
        match column.trim_matches('`') {
            "the same" => {}
            typed => {
                let whole = typed.replace('…', "shuntctl explain shop/cart-0");
                commands.push(whole.strip_prefix("shuntctl ").expect(typed).to_owned());
            }
        }
    }
    commands
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
    let given = [
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
