//! Attachments that suffer no other beside them: pods get iptables, or an error that names the program, and nobody's program is
//! switched off by ours.

use std::io;

use serde_json::json;

use crate::mesh::{SERVICES, captured, outcomes};
use crate::scene::Scene;
use shunt_tests::foreign::{Does, Hook, MULTI, OVERRIDE, Program, detach_any};

/// Where, and how, somebody is attached who stands in our way.
fn in_the_way(scene: &Scene) -> [(std::path::PathBuf, u32, &'static str); 4] {
    [
        (scene.above(), 0, "flags 0"),
        (scene.pods(), 0, "flags 0"),
        (scene.above(), OVERRIDE, "BPF_F_ALLOW_OVERRIDE"),
        (scene.pods(), OVERRIDE, "BPF_F_ALLOW_OVERRIDE"),
    ]
}

fn errno(result: io::Result<()>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn ebpf_is_refused_by_name() {
    for number in 0..4 {
        let scene = Scene::new();
        let (place, flags, how) = in_the_way(&scene)[number].clone();
        let alone = Program::load("alone", Hook::Connect4, Does::Nothing);
        alone.attach(&place, flags).expect("a free cgroup");
        let (code, why) = scene.mesh.node.call("ADD", &scene.mesh.pod, "eth0").refused();
        assert_eq!(code, 101, "{why}");
        let names =
            ["connect4", "\"alone\"", &place.display().to_string(), how].map(|word| why.contains(word));
        assert_eq!(names, [true; 4], "{why}");
        // It still runs, and nothing of ours is in its way.
        assert_eq!(outcomes(&scene.mesh.app(SERVICES)), ["world"; 3]);
        assert_eq!(pods_pinned(&scene), 0, "the ADD that failed has taken back what it did");
        // And out of the way, ADD works.
        alone.detach(&place).expect("it is attached");
        scene.mesh.add();
        scene.mesh.node.del(&scene.mesh.pod);
    }
}

#[test]
fn auto_takes_iptables() {
    for number in 0..4 {
        let mut scene = Scene::on("auto");
        let (place, flags, how) = in_the_way(&scene)[number].clone();
        // It denies: that it runs on is seen.
        let alone = Program::load("alone", Hook::Connect6, Does::Deny);
        alone.attach(&place, flags).expect("a free cgroup");
        // The node can; it is this place that it cannot be done in.
        assert_eq!(scene.mesh.node.probed()["backend"], "ebpf");
        scene.start();
        let log = scene.mesh.node.log();
        assert!(log.contains("intercepted: iptables") && log.contains(how), "{log}");
        let seen = scene.mesh.app(SERVICES);
        captured(&seen[0]);
        assert_eq!(outcomes(&seen)[1..], ["EPERM"; 2], "its program is not switched off: {seen:?}");
        scene.mesh.nothing_got_out();
        scene.check();
        scene.mesh.node.del(&scene.mesh.pod);
    }
}

/// On the pod's own cgroup a program alone stands in the way of what goes there only.
#[test]
fn alone_on_the_pods_own_cgroup() {
    let mut scene = Scene::new();
    let alone = Program::load("alone", Hook::Connect4, Does::Nothing);
    alone.attach(scene.pod(), 0).expect("a free cgroup");
    scene.start();
    scene.service_reaches_the_proxy();
    assert_eq!(scene.warnings(), 1, "{}", scene.mesh.node.log());
    scene.named("warning", "alone", scene.pod());
    scene.mesh.nothing_got_out();
    alone.detach(scene.pod()).expect("it is attached");
}

/// Whoever wants to be alone and comes later, is not: ours are links and stay. A second pod is served as well.
#[test]
fn alone_and_later() {
    let mut scene = Scene::new();
    scene.start();
    // What is above and wants to be alone does not run for pods: that it denies is not seen.
    for (place, flags, does, refused) in [
        (scene.pods(), 0, Does::Nothing, Some(libc::EPERM)),
        (scene.pods(), OVERRIDE, Does::Nothing, Some(libc::EPERM)),
        (scene.pods(), MULTI, Does::Nothing, None),
        (scene.pod().to_owned(), 0, Does::Nothing, None),
        (scene.above(), 0, Does::Deny, None),
        (scene.above(), OVERRIDE, Does::Deny, None),
    ] {
        let late = Program::load("late", Hook::Connect4, does);
        assert_eq!(errno(late.attach(&place, flags)), refused, "{} {flags}", place.display());
        scene.service_reaches_the_proxy();
        scene.check();
        serves_another(&scene);
        if refused.is_none() {
            late.detach(&place).expect("it is attached");
        }
    }
    scene.mesh.nothing_got_out();
}

#[track_caller]
fn serves_another(scene: &Scene) {
    let twin = scene.mesh.bare_twin();
    scene.mesh.node.add(&twin);
    // No proxy listens in it.
    let seen = twin.dial(&shunt_tests::ask::Dial::to(["10.96.0.10:80"]));
    assert_eq!(outcomes(&seen), ["ECONNREFUSED"], "{seen:?}");
    scene.mesh.node.del(&twin);
}

/// An agent that thinks the cgroup its own and sweeps it does not get rid of ours.
#[test]
fn a_sweep_of_the_cgroup() {
    let mut scene = Scene::new();
    scene.start();
    for place in [scene.pods(), scene.pod().to_owned(), scene.above()] {
        let swept = errno(detach_any(&place, Hook::Connect4));
        assert!(matches!(swept, Some(libc::ENOENT | libc::EINVAL | libc::EBADF)), "{swept:?}");
    }
    scene.service_reaches_the_proxy();
    scene.check();
    scene.mesh.nothing_got_out();
}

/// `failurePolicy: open` lets the pod pass where nobody makes room, and says so.
#[test]
fn open_lets_the_pod_pass() {
    let scene = Scene::new();
    let alone = Program::load("alone", Hook::Connect4, Does::Nothing);
    alone.attach(&scene.above(), 0).expect("a free cgroup");
    scene.mesh.node.configure(|entry| entry["failurePolicy"] = json!("open"));
    scene.mesh.add();
    assert_eq!(outcomes(&scene.mesh.app(SERVICES)), ["world"; 3]);
    let log = scene.mesh.node.log();
    assert!(log.contains("alone") && log.contains("flags 0"), "{log}");
}

fn pods_pinned(scene: &Scene) -> usize {
    let layouts = shunt::bpf::pins::Layout::all(scene.mesh.node.bpf_dir()).expect("it can be listed");
    layouts.iter().map(|layout| layout.attachments().expect("it can be listed").len()).sum()
}
