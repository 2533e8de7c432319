//! `/livez`, `/readyz` and `/metrics`, and those who ask badly.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::host::{Host, moment};
use crate::live::{self, Live};
use crate::neighbours::{ALL, Neighbour};

const CALICO: Neighbour = ALL[0];

#[test]
fn not_ready_with_reasons_then_ready() {
    let host = Host::with_script();
    host.script("[ -e \"$0.no\" ] && [ \"$CNI_COMMAND\" = STATUS ] && { echo '{\"cniVersion\":\"1.1.0\",\"code\":50,\"msg\":\"m\",\"details\":\"not today\"}'; exit 1; }");
    std::fs::write(host.binary().with_extension("no"), "").expect("own file");
    let live = Live::start(&host);
    live.wait("no primary", || live.readyz().1.contains("has not written its file"));
    assert_eq!(live.readyz().0, 503);
    assert_eq!(live.get("/livez").map(|(code, _)| code), Some(200), "alive, if not ready");
    CALICO.settle(&host);
    live.wait("STATUS", || live.readyz().1.contains("not today"));
    assert_eq!(live.readyz().0, 503);
    let metrics = live.metrics();
    assert_eq!((metrics["shunt_installer_ready"], metrics["shunt_installer_status_ok"]), (0.0, 0.0));
    std::fs::remove_file(host.binary().with_extension("no")).expect("own file");
    live.ready();
    let metrics = live.metrics();
    assert_eq!((metrics["shunt_installer_ready"], metrics["shunt_installer_status_ok"]), (1.0, 1.0));
    assert_eq!(live.get("/nothing").map(|(code, _)| code), Some(404));
}

#[test]
fn metrics_that_only_grow() {
    let host = Host::new();
    CALICO.settle(&host);
    let live = Live::start(&host);
    live.ready();
    let first = live.metrics();
    std::fs::remove_file(host.binary()).expect("removed");
    live.wait("put back", || host.binary().exists() && live.readyz().0 == 200);
    let second = live.metrics();
    let mut counters = 0;
    for (name, value) in &first {
        let is_counter = ["_total", "_count", "_sum", "_bucket"]
            .iter()
            .any(|ending| name.split('{').next().is_some_and(|family| family.ends_with(ending)));
        if is_counter {
            counters += 1;
            let after = second.get(name).unwrap_or_else(|| panic!("{name} is gone"));
            assert!(after >= value, "{name}: {value}, then {after}");
        }
    }
    assert!(counters > 10, "{first:?}");
    assert_eq!(second["shunt_installer_report_ok"], 1.0);
    let status = second.keys().any(|name| {
        name.starts_with("shunt_plugin_duration_seconds_count") && name.contains("command=\"STATUS\"")
    });
    assert!(status, "{second:?}");
    live.stop();
    host.uninstall();
}

#[test]
fn a_port_that_is_taken() {
    let host = Host::with_script();
    CALICO.settle(&host);
    let address = live::address();
    let taken = TcpListener::bind(address).expect("nobody else has it");
    let mut command = host.command(&["run"]);
    command.args(["--listen", &address.to_string()]);
    let live = Live::spawn(&host, command, address);
    crate::host::until("it installs all the same", || host.follows(CALICO.primary.text));
    assert_eq!(live.logged("cannot listen on"), 1, "{}", live.log());
    drop(taken);
    live.ready();
}

#[test]
fn who_asks_badly_hurts_nobody() {
    let host = Host::with_script();
    CALICO.settle(&host);
    let live = Live::start(&host);
    live.ready();
    for garbage in [
        "\r\n\r\n\r\n",
        "GET",
        "\u{0}\u{1}\u{2}",
        "POST /readyz HTTP/1.1\r\nContent-Length: 9999999999\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(live.address).expect("it listens");
        stream.write_all(garbage.as_bytes()).expect("it takes it");
        let _ended = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = String::new();
        stream.set_read_timeout(Some(Duration::from_mins(1))).expect("a socket");
        let _reset = stream.read_to_string(&mut answer);
        assert!(!answer.starts_with("HTTP/1.1 200"), "{garbage:?}: {answer}");
    }
    let mut endless = TcpStream::connect(live.address).expect("it listens");
    let mut sent = 0;
    endless.set_write_timeout(Some(Duration::from_secs(5))).expect("a socket");
    while endless.write_all(&[b'x'; 4096]).is_ok() && sent < 64 * 1024 * 1024 {
        sent += 4096;
    }
    assert!(sent < 64 * 1024 * 1024, "it reads no request of any length");
    // More than it serves at once, and none of them says anything.
    let silent: Vec<TcpStream> =
        (0..20).map(|_| TcpStream::connect(live.address).expect("the queue is longer")).collect();
    std::fs::remove_file(host.binary()).expect("removed");
    crate::host::until("it works meanwhile", || host.binary().exists());
    live.wait("they are sent away", || live.get("/livez").is_some_and(|(code, _)| code == 200));
    drop(silent);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| {
                for _ in 0..10 {
                    assert!(!live.metrics().is_empty());
                    assert_eq!(live.readyz().0, 200);
                }
            });
        }
    });
    assert!(begun.elapsed() < crate::host::PATIENCE, "many at once are answered");
    moment(1);
    live.stop();
}
