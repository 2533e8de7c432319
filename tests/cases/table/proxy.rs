//! How the proxy listens, and what happens without it.

use super::differences::{AFTER_DEL, BEFORE_PROXY, IN_ITS_PLACE, LENGTH, LOOPBACK_LISTENER};
use super::plays;
use crate::case::{Backend, Case, Family, From, To, V4, V6, WIRE, Who, case};
use crate::scene::{EVERYWHERE, Group, PLAIN, Proxy};

pub(super) const GROUPS: &[Group] = &[
    Group { id: "no proxy", cases: NO_PROXY, proxy: Proxy { ips: &[], ..EVERYWHERE }, ..PLAIN },
    Group {
        id: "proxy on loopback",
        cases: LOOPBACK,
        proxy: Proxy { ips: &["127.0.0.1", "[::1]"], ..EVERYWHERE },
        ..PLAIN
    },
    Group {
        id: "one proxy socket for both families",
        cases: BOTH,
        proxy: Proxy { ips: &["[::]"], both_families: true, ..EVERYWHERE },
        ..PLAIN
    },
    Group {
        id: "proxy on IPv4 alone",
        cases: FOR_V4,
        proxy: Proxy { ips: &["0.0.0.0"], ..EVERYWHERE },
        ..PLAIN
    },
    Group {
        id: "proxy on IPv6 alone",
        cases: FOR_V6,
        proxy: Proxy { ips: &["[::]"], ..EVERYWHERE },
        ..PLAIN
    },
    Group {
        id: "somebody else where the proxy will be",
        cases: IN_PLACE,
        proxy: Proxy { uid: 65534, ..EVERYWHERE },
        ..PLAIN
    },
    Group { id: "life", cases: LIFE, app: false, ..PLAIN },
];

const NO_PROXY: &[Case] = &[
    case("out without a proxy", "ebpf matrix: proxy not listening").gets("ECONNREFUSED"),
    case("in without a proxy", "ebpf 5: no listener")
        .who(Who::Outside)
        .to(To::Own(8080))
        .gets("ECONNREFUSED"),
    case("proxy's user to own address without a listener", "ebpf 3")
        .who(Who::Proxy)
        .to(To::Own(8080))
        .gets("ECONNREFUSED"),
    case("loopback without a proxy", "ebpf 1").to(To::Loopback(8080)).gets("app"),
    case("proxy's user out without a listener", "ebpf 4").who(Who::Proxy).gets("world"),
];

const LOOPBACK: &[Case] = &[
    case("out to a proxy on loopback", "ebpf 1; DESIGN 5: outbound TCP"),
    case("in to a proxy on loopback", "ebpf 5").who(Who::Outside).to(To::Own(8080)).gets("inbound").but_gets(
        Backend::Iptables,
        "ECONNREFUSED",
        &LOOPBACK_LISTENER,
    ),
    case("proxy to own address, listening on loopback", "istio 8")
        .who(Who::Proxy)
        .to(To::Own(8080))
        .gets("inbound"),
    case("the validation container", "istio: validation")
        .who(Who::Proxy)
        .to(To::Host("127.0.0.6", "::6", 15002))
        .from(From::Loopback)
        .over(WIRE)
        .gets("inbound"),
];

const BOTH: &[Case] = &[
    case("out to one socket for both", "ebpf 7: AF_INET6 socket with a v4 connection; 3.8 dual stack"),
    case("in to one socket for both", "ebpf 7; 3.8").who(Who::Outside).to(To::Own(8080)).gets("inbound"),
    case("levels of the original destination", "ebpf 7; corner: SO_ORIGINAL_DST")
        .over(WIRE)
        .plays(plays::levels)
        .gets("0 and 41 as is right"),
];

/// As Linkerd's validator, which is not the proxy.
const IN_PLACE: &[Case] = &[
    case("out to somebody in the proxy's place", "linkerd: validation"),
    case("in to somebody in the proxy's place", "ebpf 5; DESIGN 5: inbound TCP")
        .who(Who::Outside)
        .to(To::Own(8080))
        .gets("ECONNREFUSED")
        .but_gets(Backend::Iptables, "inbound", &IN_ITS_PLACE),
];

/// The family the proxy does not listen in is refused: it does not go past it.
const FOR_V4: &[Case] = &[
    case("v4 out to a proxy for v4", "issue 3: 0.0.0.0").over(&[Family::V4, Family::Mapped]),
    case("v6 out to a proxy for v4", "issue 3: 0.0.0.0").over(V6).gets("ECONNREFUSED"),
    case("v4 in to a proxy for v4", "issue 3: 0.0.0.0")
        .who(Who::Outside)
        .to(To::Own(8080))
        .over(V4)
        .gets("inbound"),
    case("v6 in to a proxy for v4", "issue 3: 0.0.0.0")
        .who(Who::Outside)
        .to(To::Own(8080))
        .over(V6)
        .gets("ECONNREFUSED"),
];

const FOR_V6: &[Case] = &[
    case("v6 out to a proxy for v6", "issue 3: [::]").over(V6),
    case("v4 out to a proxy for v6", "issue 3: [::]")
        .over(&[Family::V4, Family::Mapped])
        .gets("ECONNREFUSED"),
    case("v6 in to a proxy for v6", "issue 3: [::]")
        .who(Who::Outside)
        .to(To::Own(8080))
        .over(V6)
        .gets("inbound"),
    case("v4 in to a proxy for v6", "issue 3: [::]")
        .who(Who::Outside)
        .to(To::Own(8080))
        .over(V4)
        .gets("ECONNREFUSED"),
];

const LIFE: &[Case] = &[
    case("workers that share a port", "issue 3: SO_REUSEPORT")
        .over(WIRE)
        .plays(plays::workers)
        .gets("outbound by 4, inbound by 4"),
    case("a native sidecar and the init containers after it", "issue 3: native sidecars")
        .over(WIRE)
        .plays(plays::native_sidecar)
        .gets("ECONNREFUSED, outbound, ECONNREFUSED, outbound"),
    case("connections from before ADD", "ebpf 9; corner: before ADD")
        .over(WIRE)
        .plays(plays::before_add)
        .gets("same same, then outbound"),
    case("proxied connections after DEL", "ebpf 9")
        .over(WIRE)
        .plays(plays::after_del)
        .gets("same, then world")
        .but_gets(Backend::Iptables, "ECONNRESET, then world", &AFTER_DEL),
    case("a second ADD", "corner: a second ADD")
        .over(WIRE)
        .plays(plays::second_add)
        .gets("outbound inbound same"),
    case("an app without SO_REUSEADDR starts again", "ebpf 10; corner: binds without SO_REUSEADDR")
        .over(WIRE)
        .plays(plays::bind_again)
        .gets("started"),
    case("lengths of the original destination", "corner: SO_ORIGINAL_DST")
        .over(WIRE)
        .plays(plays::lengths)
        .gets("its own")
        .but_gets(Backend::Iptables, "as given", &LENGTH),
    case("a proxy that died", "ebpf matrix: proxy not listening; DESIGN 1")
        .over(WIRE)
        .plays(plays::dead_proxy)
        .gets("ECONNREFUSED ECONNREFUSED, then outbound inbound"),
    case("before the proxy has listened", "issue 3; DESIGN 4: beforeProxy bypass")
        .over(WIRE)
        .plays(plays::before_proxy)
        .gets("world, outbound, ECONNREFUSED")
        .but_gets(Backend::Iptables, "refused with 2", &BEFORE_PROXY),
];
