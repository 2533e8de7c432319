//! Each version after each main plugin, with the usual neighbours before us and after us, under both backends: an attachment
//! from ADD to DEL.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use crate::network::{Network, Valid};
use crate::plugins::{self, Main, list, recorder};
use crate::report::held;
use crate::sandbox::Sandbox;
use crate::site::Site;
use crate::{BACKENDS, VERSIONS, at_least};

/// Where the neighbours stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Before,
    After,
}

#[derive(Debug, Clone, Copy)]
struct Job {
    main: Main,
    stand: Side,
    backend: &'static str,
}

#[test]
fn each_version_after_each_main_plugin_with_neighbours_on_either_side() {
    let mut jobs = Vec::new();
    for main in Main::ALL {
        for stand in [Side::Before, Side::After] {
            jobs.extend(BACKENDS.map(|backend| Job { main, stand, backend }));
        }
    }
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        run(*job);
                    }
                })
            })
            .collect();
        for worker in running {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
}

/// A node that gets newer versions of its list.
fn run(job: Job) {
    let site = Site::new(job.backend);
    for version in VERSIONS {
        site.forget_calls();
        attachment(&site, version, job);
    }
}

fn attachment(site: &Site, version: &str, Job { main, stand, backend }: Job) {
    let neighbours = main.neighbours();
    let names: Vec<String> =
        neighbours.iter().map(|one| one["type"].as_str().unwrap_or_default().to_owned()).collect();
    let us = [recorder(site, "before"), site.entry(), recorder(site, "after")];
    let chain: Vec<Value> = match stand {
        Side::Before => [vec![main.entry(site)], neighbours, us.to_vec()].concat(),
        Side::After => [vec![main.entry(site)], us.to_vec(), neighbours].concat(),
    };
    let network = site.network("chained", &list(version, "chained", chain));
    let mut sandbox = site.meshed();
    let mut plain = site.plain();

    let result = network.add(&mut sandbox);
    assert_eq!(result["cniVersion"], version);
    network.add(&mut plain);
    passed_through(site, &sandbox, stand, &result);
    alive(site, &network, version, &mut sandbox, &mut plain);
    neighbours_work(site, &sandbox, &names);

    assert!(
        !sandbox.traces(site).is_empty() && !site.kept_by_others().is_empty(),
        "it would be seen if it stayed"
    );
    plain.stop();
    network.del(&plain);
    sandbox.stop();
    network.del(&sandbox);
    told_at_del(site, &sandbox, version, &result);
    sandbox.left_nothing(site);
    // Runtimes ask again.
    network.del(&sandbox);
    sandbox.left_nothing(site);
    sandbox.host_port_is_closed(site);

    let place = if stand == Side::Before { "before us" } else { "after us" };
    held(&format!("{version}  {:<8} {} {place}", main.name(), names.join(" ")), backend, "ok");
}

/// Traffic and the commands that are there in a version, each with the attachment as it was before.
fn alive(site: &Site, network: &Network<'_>, version: &str, sandbox: &mut Sandbox, plain: &mut Sandbox) {
    sandbox.is_captured(site);
    sandbox.host_port_leads_to(site, "inbound");
    plain.is_direct(site);
    plain.host_port_leads_to(site, "app");
    if at_least(version, "0.4.0") {
        network.check(sandbox).ok();
        network.check(plain).ok();
    } else {
        let failed = network.check(sandbox).failed();
        assert_eq!(failed.code, 0, "libcni does not ask: {failed:?}");
        assert!(failed.text.contains("does not support the CHECK command"), "{failed:?}");
    }
    network.status().ok();
    network.gc(Valid::These(&[sandbox, plain])).ok();
    let commands: Vec<String> = calls(site).into_iter().map(|call| text(&call["command"])).collect();
    for command in ["STATUS", "GC"] {
        let asked = commands.iter().any(|one| one == command);
        assert_eq!(asked, at_least(version, "1.1.0"), "{command} in {version}: {commands:?}");
    }
    sandbox.is_captured(site);
}

/// What the plugin before us said is what the one after us hears, and the runtime unless others add to it.
fn passed_through(site: &Site, sandbox: &Sandbox, stand: Side, result: &Value) {
    let calls = calls(site);
    let of = |tag: &str| {
        let call = calls.iter().rev().find(|call| {
            call["tag"] == tag
                && call["command"] == "ADD"
                && call["environment"]["CNI_CONTAINERID"] == sandbox.pod.container()
        });
        call.unwrap_or_else(|| panic!("{tag}: no ADD in {calls:?}"))["stdin"]["prevResult"].clone()
    };
    let (before, after) = (of("before"), of("after"));
    assert!(before["interfaces"].as_array().is_some_and(|all| !all.is_empty()), "{before}");
    assert_eq!(before, after, "prevResult goes through unchanged");
    if stand == Side::Before {
        assert_eq!(after, *result, "and to the runtime");
    }
}

/// The neighbours still do what they are there for.
fn neighbours_work(site: &Site, sandbox: &Sandbox, names: &[String]) {
    assert_eq!(sandbox.pod.netns.get("core/somaxconn"), "512", "{}", plugins::TUNED);
    let link = sandbox.pod.netns.run("ip", &["link", "show", "eth0"], "");
    assert!(link.contains("qlen 777"), "tuning: {link}");
    let limits = site.host_says("tc", &["qdisc"]);
    let both_ways = limits.matches("qdisc tbf").count() >= 4 && limits.contains("dev bwp");
    assert_eq!(both_ways, names.iter().any(|name| name == "bandwidth"), "{limits}");
}

/// DEL comes last to first; with the result of the whole chain from 0.4.0 on, the first time.
fn told_at_del(site: &Site, sandbox: &Sandbox, version: &str, result: &Value) {
    let calls: Vec<Value> = calls(site)
        .into_iter()
        .filter(|call| {
            call["command"] == "DEL" && call["environment"]["CNI_CONTAINERID"] == sandbox.pod.container()
        })
        .collect();
    let calls = &calls[calls.len().saturating_sub(2)..];
    let tags: Vec<String> = calls.iter().map(|call| text(&call["tag"])).collect();
    assert_eq!(tags, ["after", "before"]);
    for call in calls {
        let told = &call["stdin"]["prevResult"];
        if at_least(version, "0.4.0") {
            assert_eq!(told, result, "the result of the whole chain");
        } else {
            assert!(told.is_null(), "{version} knows no result at DEL: {told}");
        }
    }
}

/// What the recorders of a site have written down.
pub(crate) fn calls(site: &Site) -> Vec<Value> {
    let text = fs::read_to_string(site.path("calls")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
