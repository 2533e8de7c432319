//! What the app connects to, in every way an app can connect.

use shunt_tests::ask::How;

use super::differences::{DEVICE, MULTIPATH, SETUID, SOCKET_TABLE, VISITOR};
use super::{nested, plays};
use crate::case::{Answer, Backend, Case, From, SILENCE, To, V4, V6, WIRE, Who, case};
use crate::scene::{Group, PLAIN};

pub(super) const GROUPS: &[Group] = &[
    Group { cases: FORMS, ..PLAIN },
    Group {
        id: "identity",
        cases: IDENTITY,
        plan: |node, _| node.redirect("proxyGids", serde_json::json!([1338])),
        ..PLAIN
    },
];

const PLAIN_ANSWER: Answer = case("", "").expected(Backend::Ebpf);

const FORMS: &[Case] = &[
    case("plain connect", "ebpf matrix: plain, AF_INET6 to ::ffff:svc, getpeername, getsockname; ebpf 1"),
    case("bound to the pod's address", "ebpf matrix: bound podIP:0").from(From::Own(0)),
    case("bound to the pod's address and a port", "ebpf matrix: bound podIP:40002; native IPv6 bound podIP")
        .from(From::Own(21002)),
    case(
        "bound to any address and a port",
        "ebpf matrix: bound 0.0.0.0:40001, [::]:40001, [::]:40003 to ::ffff:svc",
    )
    .from(From::Any(21001)),
    case("bound to an interface", "ebpf matrix: SO_BINDTODEVICE eth0, native IPv6 with SO_BINDTODEVICE")
        .from(From::Device("eth0"))
        .but_gets(Backend::Iptables, SILENCE, &DEVICE),
    case("fast open by connect", "ebpf matrix: TCP_FASTOPEN_CONNECT").how(How::FastOpenConnect, 3),
    case("fast open by send", "ebpf matrix: MSG_FASTOPEN").how(How::FastOpenSend, 3),
    case("multipath", "ebpf matrix: MPTCP socket; ebpf 10").how(How::Mptcp, 2).but(
        Backend::Ebpf,
        Answer { peer: "own", ..PLAIN_ANSWER },
        &MULTIPATH,
    ),
    case("non-blocking", "ebpf matrix: non-blocking").how(How::NonBlocking, 1),
    case("a neighbour on the pod's own network", "ebpf 1").to(To::Host("10.77.0.1", "fd77::1", 80)),
    case("port 53 without DNS capture", "ebpf 8").to(To::Service(53)),
    case("the peer in the socket table", "ebpf 10: ss")
        .over(WIRE)
        .plays(plays::peer_in_socket_table)
        .gets("own")
        .but_gets(Backend::Iptables, "dialled", &SOCKET_TABLE),
    case("any port of the service", "istio 19").to(To::Service(3306)),
    case("a proxy's port at a service", "istio 19").to(To::Service(15001)),
];

const IDENTITY: &[Case] = &[
    case("the proxy by its user", "ebpf 4; istio 10").who(Who::Proxy).gets("world"),
    case("the proxy by its group", "ebpf 4; istio 13").who(Who::Ids(2000, 1338)).gets("world"),
    case("root is not the proxy", "ebpf 4").who(Who::Ids(0, 0)),
    case("another user of another group", "ebpf 4; istio 14").who(Who::Ids(1336, 1000)),
    case("the user's number as a group", "ebpf 4").who(Who::Ids(2000, 1337)),
    case("the group's number as a user", "ebpf 4").who(Who::Ids(1338, 2000)),
    case("a setuid program of the proxy's user", "corner: real uid").who(Who::Setuid).but_gets(
        Backend::Iptables,
        "world",
        &SETUID,
    ),
    case("a pretender in a user namespace", "ebpf 4: user namespaces").who(Who::Pretender),
    case("a pod with a user namespace", "issue 2: a pod in a user namespace; ebpf 4")
        .plays(nested::user_namespace)
        .gets("app outbound dns EPERM; proxy world world world; same number outside outbound dns EPERM"),
    case("a process of the node in the pod's network", "ebpf 3.2; README: limits")
        .who(Who::Visitor)
        .but_gets(Backend::Ebpf, "world", &VISITOR),
    case("the proxy to a proxy's port elsewhere", "istio 10")
        .who(Who::Proxy)
        .to(To::Service(15001))
        .gets("world"),
    case("the proxy from a bound port, v4", "istio 10")
        .who(Who::Proxy)
        .from(From::Any(21011))
        .over(V4)
        .gets("world"),
    case("the proxy from a bound port, v6", "istio 10")
        .who(Who::Proxy)
        .from(From::Any(21012))
        .over(V6)
        .gets("world"),
];
