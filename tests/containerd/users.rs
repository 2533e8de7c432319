//! Pods with `hostUsers: false`: the proxy's user is another one outside, and is found all the same.

use crate::host::Host;
use crate::pods::Spec;

pub(crate) fn run(host: &mut Host) -> String {
    let host = &*host;
    let own = |name: &str, first: u32, spec: Spec| Spec { name: name.to_owned(), users: Some(first), ..spec };
    let plain = host.pod(&own("plain", 524_288, Spec::plain("")), false);
    let one = host.pod(&own("one", 655_360, Spec::meshed("")), true);
    // The same ids inside, others outside.
    let other = host.pod(&own("other", 2_292_908_032, Spec::meshed("")), true);
    let neighbour = host.pod(&Spec::meshed("neighbour"), true);
    for pod in [&one, &other, &neighbour] {
        assert_eq!(pod.captured(), Ok(()));
    }
    assert_eq!(plain.direct(), Ok(()));
    for pod in [plain, one, other, neighbour] {
        pod.remove();
    }
    host.nothing_left();
    "two user namespaces beside the host's".to_owned()
}
