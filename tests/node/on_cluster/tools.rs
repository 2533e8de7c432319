//! What people do to a pod by kubectl.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;

use shunt_tests::sidecar::went_through;
use shunt_tests::web;

use crate::cluster::NAMESPACE;
use crate::objects::APP_PORT;
use crate::scenario::Bed;

/// On a meshed pod `exec` runs captured, `logs` show what was said, `port-forward` reaches the app.
pub(crate) fn tools(bed: &mut Bed) -> String {
    let (cluster, there) = (&bed.cluster, bed.world.addresses());
    let visit = cluster.ask("meshed", &there[0]);
    assert!(visit.seen_by_server.is_some_and(went_through), "what exec runs is captured: {visit:?}");
    let log = cluster.logs("meshed", "istio-proxy");
    let line = format!("to {}", there[0]);
    assert!(log.starts_with("listening") && log.contains(&line), "the proxy's log: {log}");

    let mut forward =
        cluster.start(&["-n", NAMESPACE, "port-forward", "pod/meshed", &format!(":{APP_PORT}")]);
    let mut told = String::new();
    let mut lines = BufReader::new(forward.stdout.take().expect("stdout is piped"));
    lines.read_line(&mut told).expect("text");
    let local: Option<SocketAddr> = told
        .strip_prefix("Forwarding from ")
        .and_then(|rest| rest.split(" -> ").next())
        .and_then(|address| address.parse().ok());
    let visit = local.map(|local| cluster.there(|| web::get(local, "/port-forward")));
    let ended = forward.kill().and_then(|()| forward.wait());
    assert!(ended.is_ok(), "port-forward ends: {ended:?}");
    let visit = visit.unwrap_or_else(|| panic!("port-forward says: {told}"));
    assert!(visit.seen_by_server.is_some(), "through port-forward: {visit:?}");
    assert!(cluster.logs("meshed", "app").contains(" /port-forward"), "the app was asked");
    "all three".to_owned()
}
