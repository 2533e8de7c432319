//! A meshed pod's traffic goes through its proxy, a plain one's does not, and an app whose proxy is not there yet gets nowhere.

use shunt_tests::ask::Dial;

use crate::host::Host;
use crate::pods::{MESHED_SERVICES, Spec, answers};

pub(crate) fn run(host: &mut Host) -> String {
    let host = &*host;
    let plain = host.pod(&Spec::plain("plain"), false);
    assert_eq!(plain.direct(), Ok(()));
    let mut meshed = host.pod(&Spec::meshed("meshed"), false);
    let refused = vec!["ECONNREFUSED".to_owned(); 2];
    assert_eq!(answers(&meshed.dial(&Dial::to(MESHED_SERVICES))), refused, "before the proxy listens");
    meshed.start_proxy();
    assert_eq!(meshed.captured(), Ok(()));
    // One beside the other.
    assert_eq!(plain.direct(), Ok(()));
    meshed.remove();
    assert_eq!(plain.direct(), Ok(()));
    plain.remove();
    host.nothing_left();
    "out, in and the proxy's own, v4 and v6".to_owned()
}
