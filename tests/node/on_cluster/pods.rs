//! Pods of several shapes: where the sidecar stands, what runs before it, and what the kubelet asks.

use serde_json::json;
use shunt_tests::machine::image::PROBE;
use shunt_tests::sidecar::went_through;
use shunt_tests::web::Visit;

use crate::cluster::Cluster;
use crate::objects::{APP_PORT, app, container, meshed, native_proxy, pod, proxy};
use crate::scenario::Bed;
use crate::wait::{PATIENCE, until_true};

/// What an init container that asks once has seen.
#[track_caller]
fn asked_by_init(cluster: &Cluster, pod: &str) -> Visit {
    let text = cluster.logs(pod, "init");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// An init container with `restartPolicy: Always` is the proxy; the ordinary one after it is captured already.
pub(crate) fn native_sidecar(bed: &mut Bed) -> String {
    let (cluster, world) = (&bed.cluster, &bed.world);
    let (image, there) = (&cluster.images.pod, world.addresses());
    let init = container("init", image, 1000, &["ask", "/native-init", &there[0]]);
    let containers = [app("native", image, &there)];
    cluster.run_pods(&[pod("native", true, &[native_proxy(image), init], &containers)]);
    let visit = asked_by_init(cluster, "native");
    assert!(visit.seen_by_server.is_some_and(went_through), "the init container: {visit:?}");
    for address in &there {
        let visit = cluster.ask("native", address);
        assert!(visit.seen_by_server.is_some_and(went_through), "the app: {visit:?}");
    }
    let bare: Vec<String> = world.bare("native").iter().map(|note| format!("{note:?}")).collect();
    cluster.delete(&["native"]);
    bed.judge(1, &bare, &[]);
    "the init container after it and the app are captured".to_owned()
}

/// Before the proxy an init container is refused.
pub(crate) fn init_closed(bed: &mut Bed) -> String {
    let visit = with_init(bed, "closed");
    assert_eq!(visit.error.as_deref(), Some("ECONNREFUSED"), "{visit:?}");
    let notes = bed.world.notes("closed");
    let bare: Vec<String> =
        notes.iter().filter(|note| !note.by_proxy()).map(|note| format!("{note:?}")).collect();
    bed.judge(1, &bare, &[]);
    "refused".to_owned()
}

/// With `bypass`, by an upgrade that changes nothing but the entry, it gets through; from the proxy on nothing does.
pub(crate) fn init_bypass(bed: &mut Bed) -> String {
    let image = bed.cluster.images.next.clone();
    bed.cluster.release(&image, &["entry.beforeProxy=bypass"]);
    let visit = with_init(bed, "bypass");
    assert!(visit.seen_by_server.is_some() && visit.seen_by_server == visit.local, "it passes: {visit:?}");
    bed.cluster.release(&image, &[]);
    let visit = with_init(bed, "again");
    assert_eq!(visit.error.as_deref(), Some("ECONNREFUSED"), "closed again: {visit:?}");
    "passes, and is refused again after the next upgrade".to_owned()
}

/// A pod with an ordinary init container that asks once, and an app that must be captured; what the first has seen.
fn with_init(bed: &Bed, name: &str) -> Visit {
    let (cluster, there) = (&bed.cluster, bed.world.addresses());
    let image = &cluster.images.pod;
    let init = container("init", image, 1000, &["try", &format!("/{name}-init"), &there[0]]);
    cluster.run_pods(&[pod(name, true, &[init], &[app(name, image, &[]), proxy(image)])]);
    let visit = asked_by_init(cluster, name);
    for address in &there {
        let visit = cluster.ask(name, address);
        assert!(visit.seen_by_server.is_some_and(went_through), "the app of {name}: {visit:?}");
    }
    cluster.delete(&[name]);
    visit
}

/// Each kind of probe on a meshed pod: the kubelet asks from the node, so through the proxy, or inside by exec.
pub(crate) fn probes(bed: &mut Bed) -> String {
    let cluster = &bed.cluster;
    let image = &cluster.images.pod;
    let mut probed = meshed("probed", image, &[]);
    let mut deaf = meshed("deaf", image, &[]);
    let every_second = |mut probe: serde_json::Value| {
        probe["periodSeconds"] = json!(1);
        probe["timeoutSeconds"] = json!(5);
        probe["failureThreshold"] = json!(60);
        probe
    };
    let own = format!("127.0.0.1:{APP_PORT}");
    let container = &mut probed["spec"]["containers"][0];
    container["startupProbe"] =
        every_second(json!({ "exec": { "command": [PROBE, "pod", "ask", "/startup", own] } }));
    container["readinessProbe"] =
        every_second(json!({ "httpGet": { "port": APP_PORT, "path": "/readiness" } }));
    container["livenessProbe"] = every_second(json!({ "tcpSocket": { "port": APP_PORT } }));
    // What must fail does: behind the proxy nobody serves this port.
    deaf["spec"]["containers"][0]["readinessProbe"] =
        every_second(json!({ "httpGet": { "port": APP_PORT + 1, "path": "/readiness" } }));
    cluster.apply(&[deaf]);
    cluster.run_pods(&[probed]);
    until_true("each probe has asked several times", PATIENCE, || {
        let (app, proxy) = (cluster.logs("probed", "app"), cluster.logs("probed", "istio-proxy"));
        let count = |text: &str, word: &str| text.lines().filter(|line| line.contains(word)).count();
        // The liveness probe connects and asks nothing: a line of the proxy that has none of the app's beside it.
        let (http, all) = (count(&app, " /readiness"), count(&proxy, "inbound "));
        count(&app, " /startup") >= 1 && http >= 3 && all >= http + 3
    });
    until_true("the probe that nobody answers was made", PATIENCE, || {
        cluster.logs("deaf", "istio-proxy").matches("inbound ").count() >= 3
    });
    let is_ready = |name: &str| {
        let pod = cluster.pod(name).unwrap_or_default();
        let statuses = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        let app = statuses.into_iter().find(|status| status["name"] == "app").unwrap_or_default();
        (app["ready"] == true, app["restartCount"].as_u64())
    };
    assert_eq!(is_ready("probed"), (true, Some(0)), "{}", cluster.why(&["probed"]));
    assert_eq!(is_ready("deaf"), (false, Some(0)), "{}", cluster.why(&["deaf"]));
    cluster.delete(&["probed", "deaf"]);
    "HTTP, TCP and exec succeed, and fail where nobody serves".to_owned()
}
