//! Rows that are more than one connection. Each says how it went, in a few words.

use std::collections::BTreeSet;

use shunt_tests::ask::{Dial, Place, Serve, Try, at, plain};
use shunt_tests::datagram::{Script, Step};
use shunt_tests::node::Pod;
use shunt_tests::process::{self, Server, Talking};

use crate::case::{Family, To, Who};
use crate::scene::{Group, Scene, both};

const SERVICE: To = To::Service(80);
const OWN: To = To::Own(8080);

fn text(to: To, pod: &Pod, family: Family) -> String {
    to.address(pod, family).to_string()
}

fn talk(scene: &Scene, who: Who, to: To, family: Family) -> Talking {
    Talking::start(&scene.place(who), &Dial::to([text(to, &scene.pod, family)]))
}

fn who_answered(tries: &[Try]) -> String {
    tries.iter().map(Try::outcome).collect::<Vec<_>>().join(" ")
}

/// What the kernel lists as the peer of the app's captured connection.
pub(super) fn peer_in_socket_table(scene: &mut Scene, family: Family) -> String {
    let talking = talk(scene, Who::App, SERVICE, family);
    let Some(local) = talking.tries.first().and_then(|seen| seen.local) else {
        return who_answered(&talking.tries);
    };
    let table = if family.is_v6() { "tcp6" } else { "tcp" };
    let lines = scene.pod.netns.read(&format!("/proc/thread-self/net/{table}"));
    let mine = format!(":{:04X}", local.port());
    let established = "01";
    let mut peers = lines.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (local, peer, state) = (words.nth(1)?, words.next()?, words.next()?);
        (local.ends_with(&mine) && state == established).then(|| peer.to_owned())
    });
    // Addresses stand there in the order of the CPU; the port tells enough.
    match peers.next() {
        Some(peer) if peer.ends_with(":0050") => "dialled".to_owned(),
        Some(_) => "own".to_owned(),
        None => format!("not in {table}: {lines}"),
    }
}

/// An address added to the pod after ADD is dialled from outside.
pub(super) fn late_address(scene: &mut Scene, family: Family) -> String {
    let (add, to) = if family.is_v6() {
        ("addr add fd77::77/64 dev eth0 nodad\n", To::Host("10.77.0.77", "fd77::77", 8080))
    } else {
        ("addr add 10.77.0.77/16 dev eth0\n", To::Host("10.77.0.77", "fd77::77", 8080))
    };
    scene.pod.netns.ip(add);
    scene.outcome(Who::Outside, to, family)
}

/// The second interface's address, dialled from outside over the first.
pub(super) fn in_by_another_interface(scene: &mut Scene, family: Family) -> String {
    let route = if family.is_v6() { "fd78::2/128 via fd77::2" } else { "10.78.0.2/32 via 10.77.0.2" };
    let there =
        |scene: &Scene, verb: &str| scene.world.netns().ip(&format!("route {verb} {route} dev br0\n"));
    there(scene, "add");
    let outcome = scene.outcome(Who::Outside, To::OwnSecond(8080), family);
    there(scene, "del");
    outcome
}

/// The proxy's own address on what it accepts inbound.
pub(super) fn accepted_address(scene: &mut Scene, family: Family) -> String {
    let to = OWN.address(&scene.pod, family);
    let tries = scene.run(Who::Outside, &Dial::to([to.to_string()]));
    let Some(greeting) = tries.first().and_then(|seen| seen.greeting.clone()) else {
        return who_answered(&tries);
    };
    match greeting.local() {
        local if local == to => "dialled".to_owned(),
        local if local.ip() == to.ip() && local.port() == scene.group.proxy.inbound => {
            "own address, inbound port".to_owned()
        }
        local => local.to_string(),
    }
}

/// Level 0 answers for IPv4, level 41 for IPv6, on sockets of one family and of both.
pub(super) fn levels(scene: &mut Scene, family: Family) -> String {
    let out = SERVICE.address(&scene.pod, family);
    let into = OWN.address(&scene.pod, family);
    let mut tries = scene.run(Who::App, &Dial::to([out.to_string()]));
    tries.extend(scene.run(Who::Outside, &Dial::to([into.to_string()])));
    for seen in tries {
        let Some(greeting) = &seen.greeting else { return seen.outcome().to_owned() };
        let (answers, other) = if family.is_v6() {
            (&greeting.original6, &greeting.original4)
        } else {
            (&greeting.original4, &greeting.original6)
        };
        if answers.parse().ok().map(plain) != Some(plain(seen.to)) || !other.starts_with('!') {
            return greeting.to_string();
        }
    }
    "0 and 41 as is right".to_owned()
}

/// Connections of both directions made before ADD, then ADD, then a new one.
pub(super) fn before_add(scene: &mut Scene, family: Family) -> String {
    let mut scene = Scene::before_add(&Group { app: true, ..scene.group }, scene.backend);
    scene.start_app();
    let mut out = talk(&scene, Who::App, SERVICE, family);
    let mut into = talk(&scene, Who::Outside, OWN, family);
    scene.node.add(&scene.pod);
    scene.start_proxy();
    let still = [out.echo(), into.echo()].concat().join(" ");
    format!("{still}, then {}", scene.outcome(Who::App, SERVICE, family))
}

/// A proxied connection, then DEL.
pub(super) fn after_del(scene: &mut Scene, family: Family) -> String {
    let mut scene = Scene::new(&scene.group, scene.backend);
    let mut out = talk(&scene, Who::App, SERVICE, family);
    scene.node.del(&scene.pod);
    let still = out.echo().join(" ");
    format!("{still}, then {}", scene.outcome(Who::App, SERVICE, family))
}

/// ADD again while the proxy runs and a connection is open.
pub(super) fn second_add(scene: &mut Scene, family: Family) -> String {
    let mut open = talk(scene, Who::App, SERVICE, family);
    scene.node.add(&scene.pod);
    let out = scene.outcome(Who::App, SERVICE, family);
    let into = scene.outcome(Who::Outside, OWN, family);
    format!("{out} {into} {}", open.echo().join(" "))
}

/// While a proxied connection holds its port, an app binds it.
pub(super) fn bind_again(scene: &mut Scene, family: Family) -> String {
    let held = talk(scene, Who::Outside, OWN, family);
    let own = at(scene.pod.ip(family.is_v6()), 8080);
    let serve = Serve { reuse_address: false, ..Serve::at([("app", own.as_str())]) };
    match Server::try_start(&scene.pod.app(), &serve) {
        Ok(_started) if who_answered(&held.tries) == "inbound" => "started".to_owned(),
        Ok(_started) => who_answered(&held.tries),
        Err(error) => error,
    }
}

/// The length that comes back for each that is given.
pub(super) fn lengths(scene: &mut Scene, family: Family) -> String {
    let (level, own) = if family.is_v6() { (41, 28) } else { (0, 16) };
    scene.proxy = None;
    let serve = Serve { lengths: true, ..both(&[("outbound", &[15001]), ("inbound", &[15006])]) };
    scene.proxy = Some(Server::start(&scene.place(Who::Proxy), &serve));
    let to = text(SERVICE, &scene.pod, family);
    let tries = process::dial(&scene.place(Who::App), &Dial::to([to]));
    let Some(greeting) = tries.first().and_then(|seen| seen.greeting.clone()) else {
        return who_answered(&tries);
    };
    let all = |wanted: &dyn Fn(u32) -> u32| {
        [28, 32, 128, 4096].iter().all(|room| {
            greeting.lengths.split(',').any(|part| part == format!("{level}/{room}={}", wanted(*room)))
        })
    };
    if all(&|_| own) {
        "its own".to_owned()
    } else if all(&|room| room) {
        "as given".to_owned()
    } else {
        greeting.lengths
    }
}

/// The proxy dies, and comes back.
pub(super) fn dead_proxy(scene: &mut Scene, family: Family) -> String {
    let both_ways = |scene: &mut Scene| {
        let out = scene.outcome(Who::App, SERVICE, family);
        format!("{out} {}", scene.outcome(Who::Outside, OWN, family))
    };
    scene.proxy = None;
    let without = both_ways(scene);
    scene.start_proxy();
    format!("{without}, then {}", both_ways(scene))
}

/// One socket of UDP: a query, then something else elsewhere.
pub(super) fn connected_elsewhere(scene: &mut Scene, family: Family) -> String {
    let (server, other) = (To::Service(53), To::Service(9999));
    let (server, other) = (server.address(&scene.pod, family), other.address(&scene.pod, family));
    let visit = |to| [Step::Connect(to), Step::Send("q".to_owned()), Step::Receive];
    let script = Script { v6: server.is_ipv6(), ..Script::v4([visit(server), visit(other)].concat()) };
    let did = scene.play(Who::App, &script);
    scene.nothing_new_beyond();
    if let Some(failed) = did.iter().find(|did| did.error.is_some()) {
        return failed.outcome().to_owned();
    }
    let (Some(first), Some(second)) = (did.get(2), did.get(5)) else { return format!("{did:?}") };
    let source = scene.whose(plain(second.got().answer.peer).ip());
    format!("{}, then {} from {source}", first.outcome(), second.outcome())
}

/// One socket of UDP asks three servers before it hears of any; each answer must be from the server that was asked.
pub(super) fn several_servers(scene: &mut Scene, family: Family) -> String {
    let hosts = [("10.96.0.53", "fd96::53"), ("10.96.0.54", "fd96::54"), ("10.96.0.55", "fd96::55")];
    let servers = hosts.map(|(v4, v6)| To::Host(v4, v6, 53).address(&scene.pod, family));
    let questions = servers.map(|server| (server, server.to_string()));
    let steps = vec![Step::SendMany(questions.to_vec()), Step::ReceiveMany(servers.len())];
    let script = Script { v6: family != Family::V4, ..Script::v4(steps) };
    let did = scene.play(Who::App, &script);
    let Some(received) = did.last() else { return "no step".to_owned() };
    if let Some(error) = &received.error {
        return error.clone();
    }
    let wrong = received.got.iter().find(|got| {
        let asked: Option<std::net::SocketAddr> = got.answer.question.parse().ok();
        got.answer.by != "dns" || got.from != asked.map(plain)
    });
    wrong.map_or_else(|| "each for itself".to_owned(), |got| format!("{got:?}"))
}

/// What the app gets before the proxy has listened, and after; or why ADD was refused.
pub(super) fn before_proxy(scene: &mut Scene, family: Family) -> String {
    let mut scene = Scene::before_add(&Group { app: true, ..scene.group }, scene.backend);
    scene.node.configure(|entry| entry["beforeProxy"] = serde_json::json!("bypass"));
    let answer = scene.node.call("ADD", &scene.pod, "eth0");
    if answer.code != 0 {
        let (code, why) = answer.refused();
        return if why.contains("beforeProxy") { format!("refused with {code}") } else { why };
    }
    let before = scene.outcome(Who::App, SERVICE, family);
    scene.start_proxy();
    let after = scene.outcome(Who::App, SERVICE, family);
    scene.proxy = None;
    format!("{before}, {after}, {}", scene.outcome(Who::App, SERVICE, family))
}

/// Four workers with `SO_REUSEPORT` on every port of the proxy: how many of them answer.
pub(super) fn workers(scene: &mut Scene, family: Family) -> String {
    scene.proxy = None;
    let serve = Serve { workers: 4, quiet: true, ..both(&[("outbound", &[15001]), ("inbound", &[15006])]) };
    let serving = Server::start(&scene.place(Who::Proxy), &serve);
    let mut said = Vec::new();
    for (who, to, by) in [(Who::App, SERVICE, "outbound"), (Who::Outside, OWN, "inbound")] {
        let to = text(to, &scene.pod, family);
        let tries = scene.run(who, &Dial::to([to.as_str(); 100]));
        if let Some(wrong) = tries.iter().find(|seen| seen.outcome() != by) {
            return wrong.outcome().to_owned();
        }
        let pids: BTreeSet<u32> = tries.iter().map(|seen| seen.greeted().pid).collect();
        said.push(format!("{by} by {}", pids.len()));
    }
    drop(serving);
    scene.start_proxy();
    said.join(", ")
}

/// A sidecar that is an init container, in a cgroup of its own, started again in another; root in a later init container dials.
pub(super) fn native_sidecar(scene: &mut Scene, family: Family) -> String {
    let mut scene = Scene::before_add(&scene.group, scene.backend);
    scene.node.add(&scene.pod);
    let mut said = Vec::new();
    for round in 0..2 {
        said.push(scene.outcome(Who::Ids(0, 0), SERVICE, family));
        let cgroup = scene.pod.cgroup.join(format!("sidecar{round}"));
        if let Err(error) = std::fs::create_dir_all(&cgroup) {
            return error.to_string();
        }
        let place = Place { cgroup: Some(cgroup), ..scene.place(Who::Proxy) };
        scene.proxy = Some(Server::start(&place, &both(&[("outbound", &[15001]), ("inbound", &[15006])])));
        said.push(scene.outcome(Who::Ids(0, 0), SERVICE, family));
        scene.proxy = None;
    }
    said.join(", ")
}

/// The pod gets the excluded interface after ADD, as Multus gives it, and then that interface's own ADD. Nobody is behind it.
pub(super) fn late_interface(scene: &mut Scene, family: Family) -> String {
    let mut scene = Scene::new(&scene.group, scene.backend);
    let warned = if scene.node.log().contains("\"interfaces\":\"net1\"") { " and a warning" } else { "" };
    scene.pod.netns.ip("link add net1 type veth peer name far\nlink set far up\nlink set net1 up\naddr add 10.79.0.2/16 dev net1\n\
                        addr add fd79::2/64 dev net1 nodad\n");
    let to = text(To::Host("10.79.0.1", "fd79::1", 80), &scene.pod, family);
    let dial = Dial { patience: 1, ..Dial::to([to]) };
    let outcome = |scene: &mut Scene| match who_answered(&scene.run(Who::App, &dial)) {
        captured if captured == "outbound" => captured,
        _ => "left alone".to_owned(),
    };
    let before = outcome(&mut scene);
    scene.node.call("ADD", &scene.pod, "net1").ok();
    format!("{before}{warned}, {} after its ADD", outcome(&mut scene))
}
