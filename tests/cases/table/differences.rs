//! Where the backends rightly differ, in the words of the user's documentation.

use crate::case::Difference;

pub(super) static DEVICE: Difference = Difference {
    title: "Sockets bound to an interface",
    ebpf: "A connection from a socket bound to an interface (`SO_BINDTODEVICE`) goes to the proxy like any other.",
    iptables: "The connection gets no answer and times out.",
    why: "A rule changes the destination to a loopback address after the socket has chosen its interface, and the loopback \
          address is not behind that interface. The same happens with every mesh's own rules.",
};

pub(super) static MULTIPATH: Difference = Difference {
    title: "Peer address of an MPTCP socket",
    ebpf: "`getpeername` of the app's MPTCP socket gives the pod's own address and a port of ours.",
    iptables: "It gives the destination that was dialled.",
    why: "The kernel keeps what a program noted of a connection with the subflow, and asks the MPTCP socket for the name. \
          For TCP sockets both give the destination.",
};

pub(super) static NO_ROUTE: Difference = Difference {
    title: "Destinations without a route",
    ebpf: "A connection to an address the pod has no route to goes to the proxy, which may know the way.",
    iptables: "The kernel's own error, `ENETUNREACH`.",
    why: "The kernel looks for a route before its packet meets a rule; a program at `connect` runs before that.",
};

pub(super) static SETUID: Difference = Difference {
    title: "Programs with the proxy's effective user id",
    ebpf: "A setuid program of the proxy's user that an app starts is captured: its real user counts.",
    iptables: "It is taken for the proxy and passes.",
    why: "The owner match of iptables compares the effective user id, a program under eBPF is told the real \
          one, which the app cannot change by running a setuid program.",
};

pub(super) static IN_ITS_PLACE: Difference = Difference {
    title: "Listeners of others on the proxy's ports",
    ebpf: "What arrives is refused. What leaves goes to whoever listens on the outbound port until the proxy has, and from then on \
           to the proxy alone.",
    iptables: "Whoever listens on the proxy's ports gets what is captured.",
    why: "A rule has a number; a program knows whose socket it is. Linkerd's validator is neither the proxy nor its user, \
          listens on the outbound port before the proxy does, and has to meet itself.",
};

pub(super) static LOOPBACK_LISTENER: Difference = Difference {
    title: "Inbound listeners on the loopback address only",
    ebpf: "What arrives is given to the proxy's inbound listener wherever it is bound, 127.0.0.1 and `::1` too.",
    iptables: "What arrives is refused unless the listener is bound to the pod's address or to all.",
    why: "A rule redirects what arrives to the address of the interface it came by. Outbound listeners on the loopback \
          address serve under both.",
};

pub(super) static SOCKET_TABLE: Difference = Difference {
    title: "The app's connections in `ss` and `/proc/net/tcp`",
    ebpf: "They show the pod's own address and a port of ours as the peer.",
    iptables: "They show the destination that was dialled.",
    why: "The address is changed before the connection is made, not while its packets leave. `getpeername` gives the \
          destination under both.",
};

pub(super) static LENGTH: Difference = Difference {
    title: "Length that `SO_ORIGINAL_DST` returns",
    ebpf: "16 for IPv4 and 28 for IPv6, whatever more room was given.",
    iptables: "As much as was given.",
    why: "The kernel's own answer leaves the length as it was. What is written is the same.",
};

pub(super) static ACCEPTED: Difference = Difference {
    title: "The local address of what the proxy accepts inbound",
    ebpf: "`getsockname` gives the address and port that was dialled.",
    iptables: "It gives the pod's address and the proxy's inbound port.",
    why: "Under eBPF the connection is handed to the listener as it is; a rule rewrites it. `SO_ORIGINAL_DST` gives the \
          address that was dialled under both.",
};

pub(super) static OWN_PORT: Difference = Difference {
    title: "`SO_ORIGINAL_DST` of a connection to the proxy's own port",
    ebpf: "`ENOENT` when somebody dials the proxy's outbound or inbound port itself.",
    iptables: "That address and port.",
    why: "Nothing was changed on the way, so there is nothing to tell; connection tracking answers with what it tracked. A \
          proxy that takes its own address for the destination would call itself.",
};

pub(super) static AFTER_DEL: Difference = Difference {
    title: "Connections that are open at DEL",
    ebpf: "A connection that went to the proxy goes on after DEL.",
    iptables: "It is reset.",
    why: "With the last rule of the table `nat` the kernel stops translating addresses, of open connections too. A pod's \
          DEL comes at its end.",
};

pub(super) static MARKER: Difference = Difference {
    title: "The source of DNS queries at the proxy's listener",
    ebpf: "A query from a socket that is not connected comes from an address in 127.53.0.0/24 or `::7f35:0:0:0/124`.",
    iptables: "It comes from the pod's own address.",
    why: "The address says which server was asked, so that one socket can ask several at once and each answer is its own \
          server's. The proxy answers to it as to any other.",
};

pub(super) static UDP_CONNECT: Difference = Difference {
    title: "When blocked UDP fails",
    ebpf: "`sendto` fails with `EPERM`. A socket that is connected first is refused when it has sent: `ECONNREFUSED`.",
    iptables: "`sendto`, or `send` of a socket that is connected, fails with `EPERM`.",
    why: "A program is asked when a socket is connected, and not for what is sent over it later; a failing `connect` would \
          break resolvers, which connect only to learn their own address.",
};

pub(super) static UDP_BOUND: Difference = Difference {
    title: "Blocked UDP from a port the app chose",
    ebpf: "A socket bound to a port of its choice is a server's: what it sends passes.",
    iptables: "Only replies to what was received pass.",
    why: "Connection tracking knows what is a reply; a program at `sendto` knows the socket only.",
};

pub(super) static BEFORE_PROXY: Difference = Difference {
    title: "`beforeProxy: bypass`",
    ebpf: "Connections of the app pass until the proxy has listened for the first time.",
    iptables: "ADD is refused, naming the key.",
    why: "Rules cannot tell whether the proxy has listened.",
};

pub(super) static BOUND_QUERY: Difference = Difference {
    title: "DNS over a connected socket that is bound to a port",
    ebpf: "A UDP socket that the app has bound to a port but to no address, and then connects to a DNS server, has a loopback \
           address from then on. It cannot be connected elsewhere later without being dissolved first.",
    iptables: "It has the pod's address.",
    why: "The kernel does not let a program bind what is bound already. A socket that is not bound, and one bound to an \
          address, keep the pod's address.",
};

pub(super) static LISTENER_FOR_ALL: Difference = Difference {
    title: "DNS listeners bound to all addresses",
    ebpf: "The proxy's DNS listener may be bound to the loopback address or to all.",
    iptables: "A listener bound to all must answer from the address it was asked at; the app does not recognise the \
               answers of one that lets the kernel choose.",
    why: "The kernel chooses the pod's own address as the source of an answer to the pod's own address, and connection \
          tracking knows the query by the loopback address. Proxies listen on the loopback address for this reason.",
};

pub(super) static VISITOR: Difference = Difference {
    title: "Processes in the pod's network but in no pod's cgroup",
    ebpf: "What a process of the node connects to after it entered the pod's network goes out directly. \
           What arrives at the pod is captured all the same.",
    iptables: "It is captured, unless it runs as the proxy's user.",
    why: "The programs hang on the cgroup of all pods; rules see what leaves the namespace, whoever sent it.",
};

pub(super) static ARRIVES_BY: Difference = Difference {
    title: "Excluded interfaces and what arrives by another",
    ebpf: "What is sent to an address of an excluded interface reaches the app, whichever interface it arrives by.",
    iptables: "What arrives by an excluded interface reaches the app, whichever address it is sent to.",
    why: "A rule sees the interface of a packet; a program that chooses the listener sees the address. The two differ only \
          where something routes to an interface's address by another one.",
};

pub(super) static INVALID: Difference = Difference {
    title: "Packets that connection tracking calls invalid",
    ebpf: "Annotations that ask to drop them (Istio's `INVALID_DROP`, Kuma's `drop-invalid-packets`) change nothing: the \
           kernel answers such a packet as it does without us.",
    iptables: "They are dropped when an annotation asks for it.",
    why: "The keys are there because an invalid packet passes rules that translate addresses, and goes on with the wrong \
          ones. Under eBPF nothing is translated, and connection tracking is not used.",
};

pub(super) static LATE_INTERFACE: Difference = Difference {
    title: "Excluded interfaces that come after ADD",
    ebpf: "An excluded interface that is not there at ADD is captured until an ADD that finds it, and the log of the ADD \
           says so: Shunt has to stand in the list of that network too (Multus calls it for each), or `backend` has to be \
           `iptables`.",
    iptables: "It is left alone from when it comes.",
    why: "A rule has the interface's name. A program at `connect` is not told the interface, and goes by the addresses and \
          routes that were there at ADD.",
};
