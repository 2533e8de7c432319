//! Why a connection went where it did.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal, $label:literal;)+) => {
        /// Reason code of a decision. Codes are counters' indices and stay as they are: a new reason gets a new code.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[doc = $doc])+ $name = $code,)+ }

        impl Reason {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// Name for people and for metrics.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }
        }
    };
}

reasons! {
    /// Outbound, captured: included and not excluded.
    Outbound = 0, "outbound";
    /// Outbound, captured: its port is included whatever the address.
    OutboundPort = 1, "outbound-port";
    /// Inbound, captured.
    Inbound = 2, "inbound";
    /// The proxy connected to something delivered inside the pod: goes to its inbound listener.
    SelfCall = 3, "self-call";
    /// Passed: made by the proxy.
    Exempt = 4, "exempt";
    /// Passed: loopback or unspecified destination.
    Loopback = 5, "loopback";
    /// Passed: the pod's own address.
    OwnAddress = 6, "own-address";
    /// Passed: multicast destination.
    Multicast = 7, "multicast";
    /// Passed: broadcast destination.
    Broadcast = 8, "broadcast";
    /// Out of reach: at ADD the pod had no address of that family. UDP is left to the kernel.
    NoFamily = 9, "no-family";
    /// Passed: over an excluded interface.
    ExcludedInterface = 10, "excluded-interface";
    /// Passed: excluded port.
    ExcludedPort = 11, "excluded-port";
    /// Passed: excluded CIDR.
    ExcludedCidr = 12, "excluded-cidr";
    /// Passed: there is an include list and it is not on it.
    NotIncluded = 13, "not-included";
    /// Passed: the mesh's tunnel port.
    Tunnel = 14, "tunnel";
    /// Passed: inbound from inside the pod.
    Local = 15, "local";
    /// Refused: captured, and the proxy does not listen.
    NoListener = 16, "no-listener";
    /// Refused: the kernel could not store what capture needs.
    NoState = 17, "no-state";
    /// A connection met itself because its source port is its virtual port (see `virtual_port`).
    SelfConnect = 18, "self-connect";
    /// Captured, handed to the proxy with its original destination.
    Accepted = 19, "accepted";
    /// Passed: a second program of ours saw a connection that was already captured.
    AlreadyCaptured = 20, "already-captured";
    /// A listener of the proxy was registered.
    ListenerAdded = 21, "listener-added";
    /// Passed: the proxy, from its inbound pass-through address to the app.
    Passthrough = 22, "passthrough";
    /// Captured: DNS, to the proxy's DNS listener.
    Dns = 23, "dns";
    /// Passed: DNS over TCP, which this mesh leaves alone.
    DnsTcp = 24, "dns-tcp";
    /// Passed: UDP that is not captured and may pass.
    Datagram = 25, "datagram";
    /// Refused: UDP other than DNS that would leave the pod.
    UdpBlocked = 26, "udp-blocked";
    /// Passed: UDP from a socket bound to a port it chose, which answers.
    Served = 27, "served";
    /// Passed: the proxy has not listened yet.
    BeforeProxy = 28, "before-proxy";
    /// Passed: made by an excluded uid.
    ExcludedUid = 29, "excluded-uid";
}

impl Reason {
    /// Room for reasons in [`crate::Counters`]; more than there are, so that adding one does not change the layout.
    pub const SLOTS: usize = 32;

    /// The code.
    #[inline(always)]
    pub const fn code(self) -> u32 {
        self as u32
    }
}

const _: () = assert!(Reason::ALL.len() <= Reason::SLOTS);

#[cfg(test)]
mod tests {
    use super::Reason;

    #[test]
    fn codes_are_indices_and_labels_differ() {
        let mut labels: std::vec::Vec<_> = Reason::ALL.iter().map(|reason| reason.label()).collect();
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(reason.code() as usize, index);
        }
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), Reason::ALL.len());
    }
}
