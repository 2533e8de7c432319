//! GC through libcni: attachments that are not on the runtime's list go, those that are stay and work.

use serde_json::Value;

use crate::BACKENDS;
use crate::matrix::calls;
use crate::network::Valid;
use crate::plugins::{Main, list, portmap, recorder};
use crate::report::held;
use crate::site::Site;

fn chain(site: &Site, main: Main, name: &str) -> Value {
    list("1.1.0", name, [main.entry(site), portmap(true), recorder(site, name), site.entry()])
}

#[test]
fn what_is_not_on_the_list_goes_and_what_is_stays() {
    for backend in BACKENDS {
        let site = Site::new(backend);
        let network = site.network("collected", &chain(&site, Main::Bridge, "collected"));
        let other = site.network("other", &chain(&site, Main::Macvlan, "other"));
        let (mut valid, mut stale, mut others) = (site.meshed(), site.meshed(), site.meshed());
        network.add(&mut valid);
        network.add(&mut stale);
        other.add(&mut others);
        stale.is_captured(&site);
        stale.stop();

        // libcni knows the stale one from its cache, and deletes it by the whole chain.
        network.gc(Valid::These(&[&valid])).ok();
        assert_eq!(stale.traces(&site), [""; 0]);
        assert!(network.cached(&stale).is_null());
        let links = stale.pod.netns.run("ip", &["-o", "link"], "");
        assert_eq!(links.lines().count(), 1, "the bridge's part is gone too: {links}");
        let gc = calls(&site).pop().expect("a call");
        assert_eq!(gc["command"], "GC");
        let listed = &gc["stdin"]["cni.dev/valid-attachments"];
        assert_eq!(listed[0]["containerID"], valid.pod.container());
        for kept in [&mut valid, &mut others] {
            kept.is_captured(&site);
            kept.host_port_leads_to(&site, "inbound");
        }
        network.check(&valid).ok();
        other.check(&others).ok();

        for one in [&mut valid, &mut others] {
            one.stop();
        }
        network.del(&valid);
        other.del(&others);
        valid.left_nothing(&site);
        held("GC: what is not on the list goes, valid ones and another network's stay", backend, "ok");
    }
}

/// The cache is lost, so libcni sends no DEL: what is left is for each plugin's own GC.
#[test]
fn what_a_lost_cache_has_forgotten() {
    for backend in BACKENDS {
        let site = Site::new(backend);
        let network = site.network("collected", &chain(&site, Main::Bridge, "collected"));
        let (mut valid, mut stale, mut gone) = (site.meshed(), site.meshed(), site.meshed());
        for sandbox in [&mut valid, &mut stale, &mut gone] {
            network.add(sandbox);
        }
        let forgetful = network.forgetful();
        // No key, as containerd's library would call it, and null: nothing is said, so nothing is removed.
        for unsaid in [Valid::Missing, Valid::Null] {
            forgetful.gc(unsaid).ok();
            valid.is_captured(&site);
            stale.is_captured(&site);
        }
        gone.vanish();
        stale.stop();
        forgetful.gc(Valid::These(&[&valid])).ok();
        assert_eq!(stale.traces(&site), [""; 0], "log: {}", site.node.log());
        assert_eq!(gone.traces(&site), [""; 0], "log: {}", site.node.log());
        valid.is_captured(&site);
        valid.host_port_leads_to(&site, "inbound");
        network.check(&valid).ok();
        // The interface of the other is the bridge's, and still there: its traffic is its own again.
        stale.is_direct(&site);

        valid.stop();
        stale.stop();
        for sandbox in [&valid, &stale, &gone] {
            network.del(sandbox);
        }
        stale.left_nothing(&site);
        held("GC without libcni's cache; without the key or with null nothing is removed", backend, "ok");
    }
}

/// An empty list is a list: nothing lives.
#[test]
fn nothing_is_valid() {
    for backend in BACKENDS {
        let site = Site::new(backend);
        let network = site.network("collected", &chain(&site, Main::Bridge, "collected"));
        let sandboxes: Vec<_> = (0..3)
            .map(|_| {
                let mut sandbox = site.meshed();
                network.add(&mut sandbox);
                sandbox
            })
            .collect();
        network.forgetful().gc(Valid::These(&[])).ok();
        for sandbox in &sandboxes {
            assert_eq!(sandbox.traces(&site), [""; 0]);
        }
        network.gc(Valid::These(&[])).ok();
        for sandbox in &sandboxes {
            sandbox.left_nothing(&site);
        }
        held("GC with an empty list", backend, "ok");
    }
}
