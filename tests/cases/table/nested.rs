//! A pod with a user namespace of its own: the proxy's id is another one outside.

use shunt_tests::ask::{Dial, Place, Serve};
use shunt_tests::datagram::{Answering, Oracle, Script, Step, play};
use shunt_tests::net::Shape;
use shunt_tests::node::{APP, Node, PROXY};
use shunt_tests::process::{self, Server};

use crate::case::{Family, To};
use crate::scene::{Scene, both};

/// The first id of the pod, outside.
const FIRST: u32 = 1_234_000;
const DNS_PORT: u16 = 15053;

/// The app and the proxy by the ids they have in the pod, and somebody with the proxy's number outside: TCP, DNS and other UDP.
pub(super) fn user_namespace(scene: &mut Scene, family: Family) -> String {
    let node = Node::on(scene.backend.name());
    node.configure(|entry| {
        entry["captureDns"] = serde_json::json!(true);
        entry["udp"] = serde_json::json!("block");
    });
    node.redirect("dnsPort", serde_json::json!(DNS_PORT));
    let world = node.world();
    let pod = node.pod_of_user_namespace(&world, Shape::dual(), FIRST);
    node.add(&pod);
    node.call("CHECK", &pod, "eth0").ok();
    let place = |id: u32| pod.place(id, id);
    let datagrams = |serve: Serve| Answering { listeners: serve.listeners, exact: true, only_v6: true };
    let dns = [format!("127.0.0.1:{DNS_PORT}"), format!("[::1]:{DNS_PORT}")];
    let _beyond = Server::start(&world.place(), &both(&[("world", &[80])]));
    let _beyond_datagrams = Oracle::start(&world.place(), &datagrams(both(&[("world", &[53, 443])])));
    let _proxy =
        Server::start(&place(FIRST + PROXY), &both(&[("outbound", &[15001]), ("inbound", &[15006])]));
    let _resolver =
        Oracle::start(&place(FIRST + PROXY), &Answering::at(dns.iter().map(|at| ("dns", at.as_str()))));
    let what = |place: &Place| {
        let to = |port: u16| To::Service(port).address(&pod, family);
        let dialled = process::dial(place, &Dial::to([to(80).to_string()]));
        let mut said = vec![dialled.first().map_or("nothing", |seen| seen.outcome()).to_owned()];
        for port in [53, 443] {
            let steps = [Step::SendTo(to(port), "q".to_owned()), Step::Receive];
            let script = Script { v6: family != Family::V4, ..Script::v4(steps) };
            let did = play(place, &script.impatient());
            let told = did.iter().find(|did| did.error.is_some()).or(did.last());
            said.push(told.map_or("nothing", |did| did.outcome()).to_owned());
        }
        said.join(" ")
    };
    format!(
        "app {}; proxy {}; same number outside {}",
        what(&place(FIRST + APP)),
        what(&place(FIRST + PROXY)),
        what(&place(PROXY))
    )
}
