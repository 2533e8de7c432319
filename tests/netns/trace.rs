//! `shuntctl trace`: every decision is told once, to everybody who listens, and to nobody if nobody does.

#![expect(clippy::expect_used, reason = "a test stops where its ground gives way")]

use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::poll::poll;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use shunt::bpf::pins::Layout;
use shunt_tests::ask::{Dial, Many, Serve, address};
use shunt_tests::datagram::{Step, play};
use shunt_tests::net::Shape;
use shunt_tests::node::{APP, Node, PROXY};
use shunt_tests::process;
use shunt_tests::watching::{Watching, event, shuntctl};

use crate::dns::{DNS_PORT, OTHER4, SERVERS4, Scene, listening_at, script};
use crate::mesh::{Mesh, SERVICE_MAPPED, SERVICE4, SERVICE6, all_exact, everywhere, mapped};

const JSON: [&str; 2] = ["--output", "json"];

/// A decision, less what differs from run to run.
fn summary(event: &Value) -> String {
    let text = |key: &str| event[key].as_str().unwrap_or("-").to_owned();
    let uid = event["uid"].as_u64().map_or("-".to_owned(), |uid| uid.to_string());
    ["call", "family", "destination", "verdict", "reason"].map(text).join(" ") + " " + &uid
}

fn summaries(events: &[Value]) -> Vec<String> {
    events.iter().map(summary).collect()
}

fn reason(wanted: &'static str) -> impl Fn(&Value) -> bool {
    move |event| event["reason"] == wanted
}

/// Whether the programs of a node tell anybody anything.
fn is_on(node: &Node) -> bool {
    let layouts = Layout::all(node.bpf_dir()).expect("pins can be listed");
    layouts.iter().any(|layout| shunt::bpf::trace::is_on(layout).expect("the map is there"))
}

fn off_within(node: &Node, limit: Duration) -> Duration {
    let began = Instant::now();
    while is_on(node) {
        assert!(began.elapsed() < limit, "still on after {limit:?}");
        let _waited = poll(&mut [], 10_u8);
    }
    began.elapsed()
}

#[test]
fn every_kind_of_decision_is_told_once_with_its_fields() {
    let mut scene = Scene::before_add(Shape::dual());
    scene.mesh.node.configure(|entry| entry["udp"] = json!("block"));
    scene.mesh.node.redirect("excludeOutboundPorts", json!([443]));
    scene.mesh.node.redirect("excludeInboundPorts", json!([9000]));
    scene.mesh.add();
    scene.start(&listening_at(&["127.0.0.1", "[::1]"]));
    let mut mesh = scene.mesh;
    let pod = format!("default/{}", mesh.pod.name);
    let (trace, remarks) = Watching::trace(&mesh.node, &JSON);
    assert_eq!(remarks, [""; 0]);

    // Nobody listens on the proxy's ports yet.
    mesh.app([SERVICE4]);
    mesh.arriving(false, 8080);
    mesh.start_proxy();
    mesh.app([SERVICE4, SERVICE6, SERVICE_MAPPED, "10.96.0.10:443", "127.0.0.1:1", "10.77.0.2:1"]);
    process::dial(&mesh.pod.proxy(), &Dial::to([SERVICE4]));
    mesh.arriving(false, 8080);
    mesh.arriving(true, 8080);
    mesh.arriving(false, 9000);
    let question = |to: &str| [Step::SendTo(address(to), "q".to_owned()), Step::Connect(address(to))];
    play(&mesh.pod.app(), &script(false, [question(SERVERS4[0]), question(OTHER4)].concat()));
    // The last, to know that all are there.
    mesh.app(["10.96.0.77:443"]);
    let events = trace.until(|event| event["destination"] == "10.96.0.77:443");

    let (app, proxy) = (APP, PROXY);
    let wanted = [
        format!("connect ipv4 10.96.0.10:80 captured outbound {app}"),
        format!("handover ipv4 10.96.0.10:80 refused no-listener {app}"),
        "inbound ipv4 10.77.0.2:8080 refused no-listener -".to_owned(),
        format!("connect ipv4 10.96.0.10:80 captured outbound {app}"),
        format!("connect ipv6 [fd96::10]:80 captured outbound {app}"),
        format!("connect mapped 10.96.0.10:80 captured outbound {app}"),
        format!("connect ipv4 10.96.0.10:443 passed excluded-port {app}"),
        format!("connect ipv4 127.0.0.1:1 passed loopback {app}"),
        "inbound ipv4 127.0.0.1:1 passed local -".to_owned(),
        format!("connect ipv4 10.77.0.2:1 passed own-address {app}"),
        "inbound ipv4 10.77.0.2:1 passed local -".to_owned(),
        format!("connect ipv4 10.96.0.10:80 passed exempt {proxy}"),
        "inbound ipv4 10.77.0.2:8080 captured inbound -".to_owned(),
        "inbound ipv6 [fd77::2]:8080 captured inbound -".to_owned(),
        "inbound ipv4 10.77.0.2:9000 passed excluded-port -".to_owned(),
        format!("send-udp ipv4 10.96.0.53:53 captured dns {app}"),
        format!("connect-udp ipv4 10.96.0.53:53 captured dns {app}"),
        format!("send-udp ipv4 10.96.0.10:9999 refused udp-blocked {app}"),
        format!("connect-udp ipv4 10.96.0.10:9999 refused udp-blocked {app}"),
        format!("connect ipv4 10.96.0.77:443 passed excluded-port {app}"),
    ];
    assert_eq!(summaries(&events), wanted);
    for event in &events {
        assert_eq!(event["pod"], pod, "{event}");
        let (time, of_process) = (event["time"].as_str().unwrap(), event["call"] != "inbound");
        assert!(time.starts_with("20") && time.ends_with('Z') && time.len() == 27, "{event}");
        assert_eq!(event["command"].as_str(), of_process.then_some("probe"), "{event}");
        assert_eq!(event["pid"].as_u64().is_some_and(|pid| pid > 1), of_process, "{event}");
        let inbound = event["call"] == "inbound";
        assert_eq!(event["direction"], if inbound { "inbound" } else { "outbound" }, "{event}");
        let udp = event["call"].as_str().unwrap().ends_with("-udp");
        assert_eq!(event["protocol"], if udp { "udp" } else { "tcp" }, "{event}");
    }
    let sent = |index: usize| events[index]["sentTo"].as_str().map(address);
    for index in [0, 1, 3] {
        assert!(
            sent(index).is_some_and(|at| at.ip().to_string() == "10.77.0.2" && at.port() >= 61000),
            "{index}"
        );
    }
    assert_eq!(sent(0), sent(1), "the refusal is of that connection");
    assert_eq!(sent(15), Some(address(&format!("127.0.0.1:{DNS_PORT}"))));
    assert_eq!((sent(2), sent(6)), (None, None));
    let source = |index: usize| events[index]["source"].as_str().map(address);
    assert_eq!(source(0), None, "not chosen yet");
    assert_eq!(source(1).map(|at| at.ip()), Some(mesh.pod.ip(false)));
    assert_eq!(source(12).map(|at| at.ip().to_string()).as_deref(), Some("10.77.0.1"));

    trace.signal(Signal::SIGTERM);
    let ended = trace.ended();
    assert!(ended.status.success() && ended.said.is_empty() && ended.remarks.is_empty(), "{ended:?}");
    assert!(!is_on(&mesh.node), "the last one switches it off");
}

#[test]
fn a_pods_unusual_connections() {
    let mut mesh = Mesh::before_add(Shape::only_v4());
    mesh.node.configure(|entry| entry["beforeProxy"] = json!("bypass"));
    mesh.add();
    let (trace, _) = Watching::trace(&mesh.node, &JSON);
    mesh.app([SERVICE4]);
    mesh.start_proxy();
    mesh.app([SERVICE6, "224.0.0.1:1", "255.255.255.255:1", &mapped("127.0.0.1:1")]);
    let events = trace.until(reason("local"));
    let wanted = [
        "connect ipv4 10.96.0.10:80 passed before-proxy 1000",
        "connect ipv6 [fd96::10]:80 refused no-family 1000",
        "connect ipv4 224.0.0.1:1 passed multicast 1000",
        "connect ipv4 255.255.255.255:1 passed broadcast 1000",
        "connect mapped 127.0.0.1:1 passed loopback 1000",
        "inbound ipv4 127.0.0.1:1 passed local -",
    ];
    assert_eq!(summaries(&events), wanted);
}

#[test]
fn all_who_listen_are_told_and_nobody_else() {
    let mesh = Mesh::new();
    assert!(!is_on(&mesh.node));
    let listeners: Vec<_> = (0..8).map(|_| Watching::trace(&mesh.node, &JSON).0).collect();
    let ninth = Watching::start(&mesh.node, &["trace"]).ended();
    assert_eq!(ninth.status.code(), Some(1));
    assert!(ninth.remarks.concat().contains("8 listen already"), "{ninth:?}");
    mesh.app([SERVICE4, SERVICE6]);
    for trace in &listeners {
        let events = trace.until(|event| event["destination"] == SERVICE6);
        assert_eq!(events.len(), 2, "{events:?}");
    }
    // One that ends takes nothing from the others, and its place is free.
    for (index, trace) in listeners.into_iter().enumerate() {
        trace.signal(if index % 2 == 0 { Signal::SIGINT } else { Signal::SIGHUP });
        assert!(trace.ended().status.success());
        assert_eq!(is_on(&mesh.node), index < 7, "{index}");
    }
    mesh.app([SERVICE4]);
    let (trace, _) = Watching::trace(&mesh.node, &[&JSON[..], &["--for", "700ms"]].concat());
    let ended = trace.ended();
    assert!(ended.status.success() && ended.said.is_empty(), "what came before is not told: {ended:?}");
}

#[test]
fn one_that_is_killed_does_not_leave_it_on() {
    let mesh = Mesh::new();
    let (killed, _) = Watching::trace(&mesh.node, &JSON);
    mesh.app([SERVICE4]);
    killed.until(reason("outbound"));
    killed.signal(Signal::SIGKILL);
    killed.ended();
    // It is the programs that notice: the first connection after the lease.
    let began = Instant::now();
    while is_on(&mesh.node) {
        assert!(began.elapsed() < Duration::from_secs(4), "still on");
        mesh.app([SERVICE4]);
        let _waited = poll(&mut [], 100_u8);
    }
    let (next, _) = Watching::trace(&mesh.node, &[&JSON[..], &["--count", "1"]].concat());
    mesh.app([SERVICE4]);
    let ended = next.ended();
    assert_eq!((ended.status.success(), ended.said.len()), (true, 1), "{ended:?}");
    assert_eq!(event(&ended.said[0])["destination"], SERVICE4, "{ended:?}");
    // One that is only stopped keeps its place.
    let (stopped, _) = Watching::trace(&mesh.node, &JSON);
    stopped.signal(Signal::SIGSTOP);
    let _waited = poll(&mut [], 2500_u16);
    let (other, _) = Watching::trace(&mesh.node, &JSON);
    mesh.app([SERVICE4]);
    other.until(reason("outbound"));
    stopped.signal(Signal::SIGCONT);
    // What came after its lease it was not told; what comes now it is.
    let _waited = poll(&mut [], 1000_u16);
    mesh.app([SERVICE6]);
    let events = stopped.until(|event| event["destination"] == SERVICE6);
    assert_eq!(events.len(), 1, "{events:?}");
}

#[test]
fn what_is_asked_for_is_shown_and_nothing_else() {
    let mut mesh = Mesh::before_add(Shape::dual());
    mesh.node.redirect("excludeOutboundPorts", json!([443]));
    mesh.add();
    mesh.start_proxy();
    let other = mesh.node.pod(&mesh.world, Shape::dual().numbered(3));
    mesh.node.add(&other);
    let name = format!("default/{}", mesh.pod.name);
    let asked: [&[&str]; 8] = [
        &[&name],
        &[&mesh.pod.name],
        &["--verdict", "refused,passed"],
        &["--reason", "outbound"],
        &["--to", "10.96.0.0/24:80"],
        &["--to", "fd96::/64"],
        &["--uid", "1337"],
        &[&name, "--verdict", "captured", "--to", ":80", "--uid", "1000,1001"],
    ];
    let listeners = asked.map(|arguments| Watching::trace(&mesh.node, &[&JSON[..], arguments].concat()).0);
    mesh.app([SERVICE4, SERVICE6, "10.96.0.10:443"]);
    process::dial(&mesh.pod.proxy(), &Dial::to(["10.96.0.11:80"]));
    other.dial(&Dial::to([SERVICE4]));
    let _waited = poll(&mut [], 500_u16);
    let own = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
    let (four, six) = ("10.96.0.10:80 captured outbound", "[fd96::10]:80 captured outbound");
    let (open, exempt) = ("10.96.0.10:443 passed excluded-port", "10.96.0.11:80 passed exempt");
    let refused = "10.96.0.10:80 refused no-listener";
    let wanted = [
        own(&[four, six, open, exempt]),
        own(&[four, six, open, exempt]),
        own(&[open, exempt, refused]),
        own(&[four, six, four]),
        own(&[four, exempt, four, refused]),
        own(&[six]),
        own(&[exempt]),
        own(&[four, six]),
    ];
    for ((trace, wanted), asked) in listeners.into_iter().zip(wanted).zip(asked) {
        trace.signal(Signal::SIGTERM);
        let shown: Vec<String> = trace
            .ended()
            .said
            .iter()
            .map(|line| event(line))
            .map(|event| {
                ["destination", "verdict", "reason"]
                    .map(|key| event[key].as_str().unwrap().to_owned())
                    .join(" ")
            })
            .collect();
        assert_eq!(shown, wanted, "{asked:?}");
    }
}

#[test]
fn what_is_lost_is_counted() {
    let mesh = Mesh::new();
    let (trace, _) = Watching::trace(&mesh.node, &JSON);
    trace.signal(Signal::SIGSTOP);
    // More than the ring holds, and all within the lease: a socket that is sent over needs no answer.
    let total = 12_000;
    let began = Instant::now();
    let sum = process::dial_many(&mesh.pod.app(), &Dial::to(["127.0.0.1:1"]).many(Many::Churn(total, 4)));
    assert_eq!(sum.failed.values().sum::<usize>(), total, "nobody listens there: {sum:?}");
    let took = began.elapsed();
    trace.signal(Signal::SIGCONT);
    let _waited = poll(&mut [], 1000_u16);
    mesh.app([SERVICE4]);
    let events = trace.until(|event| event["destination"] == SERVICE4);
    let lost: u64 = events.iter().filter_map(|event| event["events"].as_u64()).sum();
    let told = events.iter().filter(|event| event["destination"] == "127.0.0.1:1").count();
    assert!(told > 5000, "{told} told, {lost} lost");
    if took < Duration::from_millis(1500) {
        // Each is told of as it leaves and as it arrives.
        assert_eq!(told as u64 + lost, 2 * total as u64, "{told} told, {lost} lost");
    }
    trace.signal(Signal::SIGTERM);
    let ended = trace.ended();
    assert_eq!(ended.remarks.concat().contains("events were lost"), lost > 0, "{ended:?}");
}

#[test]
fn a_reader_that_leaves_ends_it() {
    let mesh = Mesh::new();
    let script = |arguments: &[&str], reader: &str| {
        let command = shuntctl(&mesh.node, arguments);
        let words: Vec<String> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| format!("'{}'", word.to_string_lossy()))
            .collect();
        let mut shell = std::process::Command::new("bash");
        shell.args(["-c", &format!("set -o pipefail; {} | {reader}", words.join(" "))]);
        shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        shell.spawn().expect("bash can be run")
    };
    // Idle, and its reader goes.
    let idle = script(&["trace"], "head -n 1").wait_with_output().unwrap();
    assert!(idle.status.success(), "{idle:?}");
    assert!(String::from_utf8_lossy(&idle.stdout).starts_with("TIME (UTC) "), "{idle:?}");
    assert!(!is_on(&mesh.node));
    // In the middle of a line.
    let busy = script(&["trace", "--output", "json"], "head -c 20");
    while !is_on(&mesh.node) {
        let _waited = poll(&mut [], 10_u8);
    }
    mesh.app([SERVICE4]);
    mesh.app([SERVICE4]);
    let busy = busy.wait_with_output().unwrap();
    assert_eq!((busy.status.success(), busy.stdout.len()), (true, 20), "{busy:?}");
    off_within(&mesh.node, Duration::from_secs(1));
    // One that reads nothing does not keep a signal from ending it.
    let mut deaf = shuntctl(&mesh.node, &["trace"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("shuntctl can be run");
    while !is_on(&mesh.node) {
        let _waited = poll(&mut [], 10_u8);
    }
    process::dial_many(&mesh.pod.app(), &Dial::to(["127.0.0.1:1"]).many(Many::Churn(3000, 2)));
    let pid = nix::unistd::Pid::from_raw(deaf.id().try_into().unwrap());
    nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
    assert!(deaf.wait().unwrap().success());
}

#[test]
fn pods_that_cannot_be_traced_are_named() {
    let mesh = Mesh::new();
    mesh.node.configure(|entry| entry["backend"] = json!("iptables"));
    let rules = mesh.node.pod(&mesh.world, Shape::dual().numbered(3));
    mesh.node.add(&rules);
    let said = Watching::start(&mesh.node, &["trace", &rules.name]).ended();
    assert_eq!(said.status.code(), Some(1));
    assert!(said.remarks.concat().contains("captured by iptables rules"), "{said:?}");
    let nobody = Watching::start(&mesh.node, &["trace", "nobody"]).ended();
    assert_eq!(nobody.status.code(), Some(1));
    assert!(
        nobody.remarks.concat().contains(&format!("captured are default/{}", mesh.pod.name)),
        "{nobody:?}"
    );

    // As a record of an older version says it.
    let records = mesh.node.state_dir().join("attachments");
    for entry in std::fs::read_dir(records).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace(&format!("\"abi\":{}", shunt_abi::VERSION), "\"abi\":1")).unwrap();
    }
    let said = Watching::start(&mesh.node, &["trace", &mesh.pod.name]).ended();
    assert_eq!(said.status.code(), Some(1));
    assert!(said.remarks.concat().contains("layouts 1, not"), "{said:?}");
    let (all, remarks) = Watching::trace(&mesh.node, &[]);
    assert_eq!(remarks.len(), 2, "both are named: {remarks:?}");
    all.signal(Signal::SIGTERM);
    assert!(all.ended().status.success());
}

/// A node that carries on with no one listening, and after it.
#[test]
fn connections_go_on_whoever_listens() {
    let mesh = Mesh::before_add(Shape::dual());
    mesh.add();
    let serve = Serve { quiet: true, ..everywhere() };
    let _proxy = process::Server::start(&mesh.pod.proxy(), &serve);
    let dial = Dial::to([SERVICE4, SERVICE6, SERVICE_MAPPED]).many(Many::Churn(600, 2));
    let listeners: Vec<_> = (0..3).map(|_| Watching::trace(&mesh.node, &JSON).0).collect();
    all_exact(&process::dial_many(&mesh.pod.app(), &dial), "outbound", 600);
    for trace in &listeners {
        trace.signal(Signal::SIGKILL);
    }
    all_exact(&process::dial_many(&mesh.pod.app(), &dial), "outbound", 600);
}
