//! A socket load balancer and one that denies: who sees which address, wherever and whenever they are attached.

use shunt_tests::need;

use crate::mesh::outcomes;
use crate::scene::Scene;
use shunt_tests::foreign::{BACKEND, BEFORE, Does, Hook, MULTI, Program, SERVICE, linked, load_balancer};

/// Cilium and Calico as they are: at the root, by links, there before us. The app's service reaches the proxy as it is; what the
/// proxy dials itself is balanced.
#[test]
fn a_load_balancer_at_the_root() {
    let mut scene = Scene::new();
    let balancer = load_balancer();
    let _held = linked(&balancer, &scene.above(), 0);
    scene.start();
    scene.service_reaches_the_proxy();
    scene.mesh.nothing_got_out();
    let seen = scene.proxy_dials();
    assert_eq!(outcomes(&seen), ["world"; 2], "{seen:?}");
    for ((one, service), backend) in seen.iter().zip(SERVICE).zip(BACKEND) {
        assert_eq!(one.greeted().local, backend.into(), "the proxy's connection is balanced: {one:?}");
        assert_eq!(one.peer, Some(service.into()), "and it is told the service: {one:?}");
    }
    scene.check();
    assert_eq!(scene.warnings(), 0, "{}", scene.mesh.node.log());
    scene.named("note", "lb_connect", &scene.above());
}

/// The same attached old-style, several being allowed.
#[test]
fn a_load_balancer_at_the_root_without_links() {
    let mut scene = Scene::new();
    for program in load_balancer() {
        program.attach(&scene.above(), MULTI).expect("a free cgroup");
    }
    scene.start();
    scene.service_reaches_the_proxy();
    scene.mesh.nothing_got_out();
    scene.named("note", "lb_connect", &scene.above());
}

/// On the very cgroup ours go to, and there before us: ours go before it where the kernel has an order (6.17); where it has
/// none, ADD and CHECK say what that means.
#[test]
fn a_load_balancer_beside_ours_that_came_first() {
    let mut scene = Scene::new();
    let balancer = load_balancer();
    let _held = linked(&balancer, &scene.pods(), 0);
    scene.start();
    if need::running_kernel() >= (6, 17) {
        scene.service_reaches_the_proxy();
        scene.check();
        assert_eq!(scene.warnings(), 0, "{}", scene.mesh.node.log());
        scene.named("note", "lb_connect", &scene.pods());
    } else {
        scene.backend_reaches_the_proxy();
        assert_eq!(scene.warnings(), 1, "{}", scene.mesh.node.log());
        scene.check();
        assert_eq!(scene.warnings(), 2, "{}", scene.mesh.node.log());
        scene.named("warning", "lb_connect", &scene.pods());
    }
    scene.mesh.nothing_got_out();
}

/// On the same cgroup, later: it comes after ours by itself.
#[test]
fn a_load_balancer_beside_ours_that_comes_later() {
    let mut scene = Scene::new();
    scene.start();
    let balancer = load_balancer();
    let _held = linked(&balancer, &scene.pods(), 0);
    scene.service_reaches_the_proxy();
    scene.check();
    assert_eq!(scene.warnings(), 0, "{}", scene.mesh.node.log());
    scene.named("note", "lb_connect", &scene.pods());
}

/// The same, but it asks to be first, or hangs below ours: it is first. The pod stays captured, and CHECK says who it is.
#[test]
fn a_load_balancer_that_goes_before_ours() {
    for below in [true, false] {
        if !below && need::running_kernel() < (6, 17) {
            // There is no order to ask for: the link is refused.
            let scene = Scene::new();
            let refused = load_balancer()[0].link(&scene.pods(), BEFORE).expect_err("no order");
            assert_eq!(refused.raw_os_error(), Some(libc::EINVAL));
            continue;
        }
        let mut scene = Scene::new();
        scene.start();
        scene.service_reaches_the_proxy();
        scene.check();
        assert_eq!(scene.warnings(), 0);
        let balancer = load_balancer();
        let place = if below { scene.pod().to_owned() } else { scene.pods() };
        let held = linked(&balancer, &place, if below { 0 } else { BEFORE });
        scene.backend_reaches_the_proxy();
        scene.mesh.nothing_got_out();
        scene.check();
        assert_eq!(scene.warnings(), 1, "{}", scene.mesh.node.log());
        scene.named("warning", "lb_connect", &place);
        // Gone again, all is as it was.
        drop(held);
        scene.service_reaches_the_proxy();
        scene.check();
        assert_eq!(scene.warnings(), 1);
    }
}

/// Each program has a say: one that denies denies what we capture too, and the proxy gets nothing of it.
#[test]
fn one_that_denies() {
    let mut scene = Scene::new();
    scene.start();
    let deny = [Hook::Connect4, Hook::Connect6].map(|hook| Program::load("deny", hook, Does::Deny));
    for place in [scene.above(), scene.pods(), scene.pod().to_owned()] {
        let held = linked(&deny, &place, 0);
        let seen = scene.mesh.app(["10.96.0.10:80", "[fd96::10]:80"]);
        assert_eq!(outcomes(&seen), ["EPERM"; 2], "{seen:?}");
        scene.check();
        drop(held);
        scene.service_reaches_the_proxy();
    }
    scene.mesh.nothing_got_out();
}
