//! `shuntctl flows` and `top`: captured connections with the kernel's own accounts, by the destination they asked for.

#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a test stops where its ground gives way")]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use shunt_tests::ask::{Dial, Serve, Try};
use shunt_tests::net::Shape;
use shunt_tests::process::{Server, Talking};
use shunt_tests::schema;
use shunt_tests::watching::{Watching, shuntctl};

use crate::mesh::{Mesh, SERVICE_MAPPED, SERVICE4, SERVICE6, outside};

/// What `flows` says, which must be as its schema says.
#[track_caller]
fn answer(mesh: &Mesh, arguments: &[&str]) -> Value {
    let arguments = [&["flows", "--output", "json"], arguments].concat();
    let done = shuntctl(&mesh.node, &arguments).output().expect("shuntctl can be run");
    assert!(done.status.success(), "{done:?}");
    let answer = serde_json::from_slice(&done.stdout).expect("JSON");
    schema::hold(&schema::of("flows"), &answer);
    answer
}

/// The flows alone, where every pod could be asked.
#[track_caller]
fn flows(mesh: &Mesh, arguments: &[&str]) -> Vec<Value> {
    let answer = answer(mesh, arguments);
    assert_eq!(answer["missing"], Value::Null, "{answer:#}");
    answer["flows"].as_array().expect("a list").clone()
}

fn find<'a>(flows: &'a [Value], direction: &str, destination: &str) -> &'a Value {
    let found: Vec<_> = flows
        .iter()
        .filter(|flow| flow["direction"] == direction && flow["destination"] == destination)
        .collect();
    assert_eq!(found.len(), 1, "{direction} {destination}: {flows:#?}");
    found[0]
}

/// What a server said of itself, in bytes.
fn greeted(tries: &[Try]) -> u64 {
    tries.iter().map(|seen| seen.greeted().to_string().len() as u64 + 1).sum()
}

fn accounts(flow: &Value) -> (u64, u64, u64) {
    let number = |key: &str| flow[key].as_u64().unwrap_or_else(|| panic!("{key}: {flow}"));
    (number("connections"), number("sentBytes"), number("receivedBytes"))
}

#[test]
fn bytes_are_those_that_were_sent_and_destinations_those_that_were_asked_for() {
    let mesh = Mesh::new();
    assert_eq!(flows(&mesh, &[]), [Value::Null; 0]);
    let mut four = Talking::start(&mesh.pod.app(), &Dial::to([SERVICE4, SERVICE_MAPPED]));
    let mut six = Talking::start(&mesh.pod.app(), &Dial::to([SERVICE6, "[fd96::11]:443"]));
    let mut arriving = Talking::start(&outside(&mesh.world), &Dial::to(["10.77.0.2:8080", "[fd77::2]:8080"]));
    // Connections of the proxy's own, on ports of the kernel's choice.
    let _upstream = Talking::start(&mesh.pod.proxy(), &Dial::to([SERVICE4, SERVICE6]));
    // And what is not captured.
    let _local = Server::start(&mesh.pod.app(), &Serve::at([("app", "127.0.0.1:9999")]));
    let _inside = Talking::start(&mesh.pod.app(), &Dial::to(["127.0.0.1:9999"]));
    for _word in 0..3 {
        assert_eq!(four.echo(), ["same", "same"]);
        assert_eq!(arriving.echo(), ["same", "same"]);
    }
    assert_eq!(six.echo(), ["same", "same"]);

    let seen = flows(&mesh, &[&mesh.pod.name]);
    assert_eq!(seen.len(), 5, "{seen:#?}");
    let both = find(&seen, "outbound", SERVICE4);
    assert_eq!(accounts(both), (2, 2 * 12, 2 * 12 + greeted(&four.tries)), "{both}");
    for (index, destination) in [SERVICE6, "[fd96::11]:443"].into_iter().enumerate() {
        let flow = find(&seen, "outbound", destination);
        assert_eq!(accounts(flow), (1, 4, 4 + greeted(&six.tries[index..=index])), "{flow}");
    }
    for (index, destination) in ["10.77.0.2:8080", "[fd77::2]:8080"].into_iter().enumerate() {
        let flow = find(&seen, "inbound", destination);
        assert_eq!(accounts(flow), (1, 12 + greeted(&arriving.tries[index..=index]), 12), "{flow}");
        assert_eq!(flow["ageMs"], Value::Null, "{flow}");
    }
    assert_eq!(both["pod"], format!("default/{}", mesh.pod.name));
    assert_eq!(both["states"], json!({"established": 2}));
    assert!(both["ageMs"].as_u64().is_some_and(|age| age < 20_000), "{both}");
    assert!(both["rttUs"].as_u64().is_some_and(|rtt| rtt > 0 && rtt < 1_000_000), "{both}");
    assert_eq!(both["retransmits"], 0);

    let each = flows(&mesh, &["--by", "connection", "--sort", "dest"]);
    assert_eq!(each.len(), 6, "{each:#?}");
    let mut sources: Vec<String> = Vec::new();
    for flow in each.iter().filter(|flow| flow["destination"] == SERVICE4) {
        assert_eq!(accounts(flow).0, 1);
        sources.push(flow["source"].as_str().unwrap().to_owned());
    }
    let mut wanted: Vec<String> = four
        .tries
        .iter()
        .map(|seen| shunt_tests::ask::plain(seen.local.expect("it was connected")).to_string())
        .collect();
    sources.sort();
    wanted.sort();
    assert_eq!(sources, wanted);

    let order = |sort: &str| -> Vec<String> {
        flows(&mesh, &["--sort", sort])
            .iter()
            .map(|flow| flow["destination"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(order("dest"), ["10.77.0.2:8080", SERVICE4, "[fd77::2]:8080", SERVICE6, "[fd96::11]:443"]);
    assert_eq!(order("bytes").first().map(String::as_str), Some(SERVICE4));
    assert_eq!(order("age").first().map(String::as_str), Some(SERVICE4));

    // What is closed is gone; what only the proxy has closed is not.
    drop(arriving);
    drop(four);
    let left = flows(&mesh, &[]);
    assert!(left.iter().all(|flow| flow["destination"] != SERVICE4), "{left:#?}");
    let text = shuntctl(&mesh.node, &["flows"]).output().unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    let head = "DESTINATION DIR CONNS SENT RECEIVED RTT RETRANS AGE STATE POD";
    assert_eq!(text.lines().next().unwrap().split_whitespace().collect::<Vec<_>>().join(" "), head);
    assert!(text.contains(SERVICE6) && text.contains("established"), "{text}");
}

#[test]
fn pods_that_cannot_be_asked_are_named() {
    let mesh = Mesh::new();
    mesh.node.configure(|entry| entry["backend"] = json!("iptables"));
    let rules = mesh.node.pod(&mesh.world, Shape::dual().numbered(3));
    mesh.node.add(&rules);
    for (arguments, code, word) in [
        (&["flows", &rules.name][..], 1, "captured by iptables rules"),
        (&["flows", "nobody"], 1, "no pod on this node is called"),
        (&["flows"], 0, "captured by iptables rules"),
        (&["top", "nobody"], 1, "no pod on this node is called"),
        (&["flows", "--sort", "luck"], 2, "luck"),
    ] {
        let done = shuntctl(&mesh.node, arguments).output().unwrap();
        assert_eq!(done.status.code(), Some(code), "{arguments:?}: {done:?}");
        assert!(String::from_utf8_lossy(&done.stderr).contains(word), "{arguments:?}: {done:?}");
    }
    let missing = |mesh: &Mesh| -> Vec<String> {
        let answer = answer(mesh, &[]);
        assert_eq!(answer["flows"], json!([]), "{answer:#}");
        serde_json::from_value(answer["missing"].clone()).expect("a list")
    };
    let named = missing(&mesh);
    assert!(named.len() == 1 && named[0].contains("captured by iptables rules"), "{named:?}");
    mesh.pod.netns.vanish();
    let named = missing(&mesh).concat();
    assert!(named.contains(&mesh.pod.name) && named.contains(&rules.name), "{named}");
    let done = shuntctl(&mesh.node, &["flows"]).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    assert!(String::from_utf8_lossy(&done.stderr).contains(&mesh.pod.name), "{done:?}");
}

#[test]
fn top_in_a_pipe_is_text() {
    let mesh = Mesh::new();
    let _talking = Talking::start(&mesh.pod.app(), &Dial::to([SERVICE4]));
    let top = Watching::start(&mesh.node, &["top", "--interval", "200ms", "--count", "3"]).ended();
    assert!(top.status.success(), "{top:?}");
    let heads = top.said.iter().filter(|line| line.contains(" UTC  1 rows by bytes")).count();
    assert_eq!((heads, top.said.len()), (3, 3 * 4), "{top:?}");
    assert!(top.said.iter().all(|line| !line.contains('\x1b')), "{top:?}");
    let ended = Watching::start(&mesh.node, &["top", "--interval", "100ms"]);
    assert!(ended.line(Duration::from_secs(10)).is_some());
    ended.signal(Signal::SIGTERM);
    assert!(ended.ended().status.success());
}

/// What a terminal would show of what was written: of the last screen, each line.
fn last_screen(written: &str) -> Vec<String> {
    let screen = written.rsplit("\x1b[H").next().unwrap_or_default();
    let screen = screen.split("\x1b[J").next().unwrap_or_default();
    screen.split("\x1b[K").map(|line| line.trim_start_matches(['\r', '\n']).to_owned()).collect()
}

#[test]
fn top_fits_into_a_narrow_window_and_takes_keys() {
    let mesh = Mesh::new();
    let _talking = Talking::start(
        &mesh.pod.app(),
        &Dial::to(
            (1..20)
                .map(|number| format!("[fd96::1234:5678:9abc:{number:x}]:8080"))
                .chain([SERVICE4.to_owned()]),
        ),
    );
    let window = Winsize { ws_row: 12, ws_col: 40, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = openpty(&window, None).expect("a terminal can be had");
    let end = || Stdio::from(pty.slave.try_clone().expect("a descriptor"));
    let mut top = shuntctl(&mesh.node, &["top", "--interval", "300ms"])
        .stdin(end())
        .stdout(end())
        .stderr(end())
        .spawn()
        .expect("shuntctl can be run");
    let mut terminal = File::from(pty.master);
    let mut keyboard = terminal.try_clone().expect("a descriptor");
    let mut written = String::new();
    let mut until = |wanted: &dyn Fn(&str) -> bool| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !wanted(&written) {
            assert!(Instant::now() < deadline, "{written:?}");
            let mut ready = [PollFd::new(std::os::fd::AsFd::as_fd(&terminal), PollFlags::POLLIN)];
            if poll(&mut ready, PollTimeout::from(100_u8)).expect("it can be waited for") > 0 {
                let mut some = [0; 4096];
                let count = terminal.read(&mut some).expect("the terminal is there");
                written += &String::from_utf8_lossy(&some[..count]);
            }
        }
        written.clone()
    };
    let drawn = until(&|written| written.matches("\x1b[J").count() >= 2);
    let screen = last_screen(&drawn);
    assert!(screen.len() <= 13, "{screen:?}");
    for line in &screen {
        assert!(line.chars().count() <= 40, "{line:?}");
    }
    assert!(drawn.starts_with("\x1b[?1049h\x1b[?25l"), "{drawn:?}");
    assert!(screen[1].starts_with("DESTINATION") && screen[1].contains("SENT"), "{screen:?}");
    assert!(screen[2].contains('…') || screen[2].starts_with('['), "{screen:?}");
    keyboard.write_all(b"d").expect("the terminal is there");
    until(&|written| written.contains("rows by dest"));
    keyboard.write_all(b"q").expect("the terminal is there");
    let drawn = until(&|written| written.contains("\x1b[?1049l"));
    assert!(drawn.ends_with("\x1b[?25h\x1b[?1049l"), "{drawn:?}");
    assert!(top.wait().expect("it ends").success());
}
