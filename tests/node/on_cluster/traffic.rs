//! Who is captured, in both directions.

use std::net::SocketAddr;

use shunt_tests::sidecar::went_through;

use crate::objects::{APP_PORT, app, meshed, plain, pod};
use crate::scenario::Bed;
use crate::wait::{PATIENCE, until_true};

/// An annotated pod's traffic goes through its proxy both ways, a plain one's does not; each family the pods have.
pub(crate) fn captured_and_direct(bed: &mut Bed) -> String {
    let (cluster, world) = (&bed.cluster, &bed.world);
    let (image, there) = (&cluster.images.pod, world.addresses());
    cluster.run_pods(&[
        meshed("meshed", image, &there),
        plain("plain", image, &there),
        plain("client", image, &[]),
    ]);
    let families = there.len();
    for address in &there {
        let to: SocketAddr = address.parse().expect("an address");
        let visit = cluster.ask("meshed", address);
        let from = visit.seen_by_server.unwrap_or_else(|| panic!("{visit:?}"));
        assert!(went_through(from), "it goes through the proxy: {visit:?}");
        assert!(cluster.addresses("meshed").contains(&from.ip()), "from the pod: {visit:?}");
        assert_eq!(visit.peer, Some(to), "the app sees whom it asked");
        assert!(visit.local.is_some_and(|local| local.ip() == from.ip()), "and itself: {visit:?}");

        let visit = cluster.ask("plain", address);
        assert!(visit.seen_by_server.is_some() && visit.seen_by_server == visit.local, "direct: {visit:?}");
    }
    let own = |pod: &str| cluster.addresses(pod).into_iter().map(|ip| SocketAddr::new(ip, APP_PORT));
    for to in own("meshed") {
        let visit = cluster.ask("client", &to.to_string());
        let seen = visit.seen_by_server.unwrap_or_else(|| panic!("{visit:?}"));
        assert!(
            ["127.0.0.6", "::6"].contains(&seen.ip().to_string().as_str()),
            "handed on by the proxy: {visit:?}"
        );
        let client = visit.local.expect("it was connected");
        let line = format!("inbound {client} to {to}");
        until_true(&format!("the proxy says `{line}`"), PATIENCE, || {
            cluster.logs("meshed", "istio-proxy").contains(&line)
        });
    }
    for to in own("plain") {
        let visit = cluster.ask("client", &to.to_string());
        assert!(visit.seen_by_server.is_some() && visit.seen_by_server == visit.local, "direct: {visit:?}");
    }
    // The app has been asking since its first moment, also before there was a proxy.
    until_true("the app's own requests arrive", PATIENCE, || world.notes("meshed").len() >= 10 * families);
    let bare: Vec<String> = world.bare("meshed").iter().map(|note| format!("{note:?}")).collect();
    bed.judge(1, &bare, &[]);
    let notes = bed.world.notes("plain");
    assert!(!notes.is_empty() && notes.iter().all(|note| !note.by_proxy()), "a plain pod has no proxy");
    format!("both ways, {families} families")
}

/// Marked, but nobody listens: refused at once, in both directions.
pub(crate) fn without_proxy(bed: &mut Bed) -> String {
    let (cluster, world) = (&bed.cluster, &bed.world);
    let mut alone = app("alone", &cluster.images.pod, &world.addresses());
    // It would wait for the proxy.
    alone.as_object_mut().expect("a container").remove("readinessProbe");
    cluster.run_pods(&[pod("alone", true, &[], &[alone])]);
    for address in world.addresses() {
        let visit = cluster.ask("alone", &address);
        assert_eq!(visit.error.as_deref(), Some("ECONNREFUSED"), "{visit:?}");
    }
    for ip in cluster.addresses("alone") {
        let visit = cluster.ask("client", &SocketAddr::new(ip, APP_PORT).to_string());
        assert_eq!(visit.error.as_deref(), Some("ECONNREFUSED"), "{visit:?}");
    }
    let bare: Vec<String> = world.notes("alone").iter().map(|note| format!("{note:?}")).collect();
    cluster.delete(&["alone", "client", "plain"]);
    bed.judge(1, &bare, &[]);
    "refused both ways".to_owned()
}
