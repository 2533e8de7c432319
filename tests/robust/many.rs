//! 100,000 rules for one pod.

use serde_json::json;
use shunt_tests::kernel;

use crate::bed::Bed;

#[test]
fn a_hundred_thousand_networks() {
    const COUNT: usize = 100_000;
    let bed = Bed::new();
    let (place, bystander, pod) = (bed.place(), bed.pod(), bed.pod());
    place.add(&bystander);
    let networks: Vec<String> = (0..COUNT)
        .map(|n| format!("{}.{}.{}.{}/31", 20 + (n >> 16), (n >> 8) & 255, n & 255, (n % 100) * 2))
        .collect();
    let call = |command: &str| {
        place
            .call(command, &pod)
            .configured(|config| config["redirect"]["excludeOutboundCidrs"] = json!(networks))
    };
    call("ADD").run().ok();
    call("CHECK").run().silent();
    let entries = kernel::entries(&place.bpf, pod.cookie);
    assert!(entries.len() > COUNT, "{}", entries.len());
    // Again, and again with a list that has shrunk.
    call("ADD").run().ok();
    place.add(&pod);
    assert!(kernel::entries(&place.bpf, pod.cookie).len() < 100);
    call("ADD").run().ok();
    call("DEL").run().silent();
    place.nothing_of(&pod);
    place.check(&bystander);
}
