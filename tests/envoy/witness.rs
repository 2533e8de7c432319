//! Who saw it if something of the app's went out bare: a counter in the pod's namespace, of packets that begin a connection, leave
//! by the pod's interface and are the app's own. It stands beside whatever the plugin does and shares nothing with it.

use shunt_tests::ask::{Dial, at};
use shunt_tests::need;
use shunt_tests::node::{APP, Pod};

use crate::scene::{SERVICE, ip, istio_node, istio_pod};

/// The counter.
pub(crate) struct Witness<'a> {
    pod: &'a Pod,
}

impl<'a> Witness<'a> {
    /// Puts it there.
    pub(crate) fn new(pod: &'a Pod) -> Self {
        need::tool("nft");
        let rules = format!(
            "table inet witness {{\n\
             counter bare {{ }}\n\
             chain leaving {{\n\
             type filter hook postrouting priority 300; policy accept;\n\
             oifname \"eth0\" meta skuid {APP} tcp flags & (syn | ack) == syn counter name bare\n\
             }}\n}}\n"
        );
        pod.netns.run("nft", &["-f", "-"], &rules);
        Self { pod }
    }

    /// How many it has counted.
    pub(crate) fn bare(&self) -> u64 {
        let said = self.pod.netns.run("nft", &["list", "counter", "inet", "witness", "bare"], "");
        let mut words = said.split_whitespace();
        words.find(|&word| word == "packets");
        words.next().and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("no counter: {said}"))
    }
}

#[test]
fn it_sees_what_is_bare() {
    let node = istio_node("ebpf");
    let world = node.world();
    let pod = istio_pod(&node, &world, 2);
    let witness = Witness::new(&pod);
    assert_eq!(witness.bare(), 0);
    // Before ADD: nobody has to be there for it to leave.
    pod.dial(&Dial::to(SERVICE.map(|host| at(ip(host), 80))));
    assert_eq!(witness.bare(), 2, "one over each family");
}
