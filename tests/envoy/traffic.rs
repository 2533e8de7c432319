//! Every protocol, each way, over both families.

use std::net::IpAddr;

use crate::hops::{Hop, Path, Way, judge};
use crate::istio::OWN_SERVICE;
use crate::peers::{Client, Talked};
use crate::report::{self, Row};
use crate::scene::{SERVICE, Scene, ip};
use crate::witness::Witness;

/// The talks, as `peers/talk.py` names them.
pub(crate) const TALKS: [&str; 18] = [
    "tcp client-first",
    "tcp server-first",
    "tcp half-close",
    "tcp 64 MiB down",
    "tcp 64 MiB up",
    "tcp reset by server",
    "tcp reset by client",
    "tls with sni",
    "dns",
    "http/1.1 keep-alive",
    "http/1.1 connections",
    "http/1.1 chunked",
    "http/1.1 expect",
    "http/2",
    "grpc unary",
    "grpc status",
    "grpc streams",
    "websocket",
];

/// What goes each way: DNS leaves and nothing else; a service of the pod's own has two ports.
fn talks(way: Way) -> Vec<&'static str> {
    let goes = |talk: &&str| match way {
        Way::Out => true,
        Way::In | Way::Through => *talk != "dns",
        Way::Own => matches!(*talk, "tcp client-first" | "http/1.1 keep-alive" | "http/1.1 chunked"),
    };
    TALKS.into_iter().filter(goes).collect()
}

#[test]
fn every_protocol_under_ebpf() {
    every_protocol("ebpf");
}

#[test]
fn every_protocol_under_iptables() {
    every_protocol("iptables");
}

fn every_protocol(backend: &'static str) {
    let scene = Scene::on(backend);
    let [a, b] = scene.pods.each_ref().map(|pod| [pod.ip(false), pod.ip(true)]);
    let mut inside = Client::start(&scene.pods[0].app(), &scene.certificate);
    let mut outside = Client::start(&scene.world.place(), &scene.certificate);
    let mut failures = Vec::new();
    let bare = {
        let witness = Witness::new(&scene.pods[0]);
        for way in Way::ALL {
            for (family, name) in ["IPv4", "IPv6"].into_iter().enumerate() {
                let (to, client) = match way {
                    Way::Out => (ip(SERVICE[family]), &mut inside),
                    Way::In => (b[family], &mut outside),
                    Way::Through => (b[family], &mut inside),
                    Way::Own => (ip(OWN_SERVICE[family]), &mut inside),
                };
                let hops = hops(way, family, to, (a[family], b[family]));
                let path = Path { hops: &hops, envoys: &scene.envoys, keeps_ports: backend == "ebpf" };
                for seen in client.talk(to, &talks(way)) {
                    let came = match seen.talk.as_str() {
                        "dns" => answered(&seen),
                        _ => judge(&seen, &path),
                    };
                    if let Err(why) = &came {
                        failures.push(format!("{}, {}, {name}: {why}", seen.talk, way.name()));
                    }
                    let row = Row { talk: seen.talk.clone(), way, family: name, backend };
                    report::put(row, came.is_ok());
                }
            }
        }
        witness.bare()
    };
    if bare != 0 {
        failures.push(format!("{bare} connections left the pod bare"));
    }
    assert!(failures.is_empty(), "{backend}:\n{}\nEnvoy: {}", failures.join("\n"), scene.envoys[0].said());
}

/// Nobody else answers: the world has no resolver.
fn answered(seen: &Talked) -> Result<(), String> {
    seen.error.clone().map_or(Ok(()), Err)
}

/// The Envoys on a way, and what each must say.
fn hops(way: Way, family: usize, to: IpAddr, (a, b): (IpAddr, IpAddr)) -> Vec<Hop> {
    let pass_through = ip(["127.0.0.6", "::6"][family]);
    let out = |goes_to| Hop { envoy: 0, listener: "outbound", meant_for: to, goes_to, from: a };
    let arrives =
        |envoy, at| Hop { envoy, listener: "inbound", meant_for: at, goes_to: at, from: pass_through };
    match way {
        Way::Out => vec![out(to)],
        Way::In => vec![arrives(1, b)],
        Way::Through => vec![out(to), arrives(1, b)],
        Way::Own => vec![out(a), arrives(0, a)],
    }
}
