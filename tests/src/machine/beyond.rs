//! The world beyond a machine: a network namespace with a server that notes every connection. What must not arrive there shows
//! itself by the port it arrives at.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use nix::unistd::Pid;

use crate::ask::{Dial, Greeting, Place, Serve, Try};
use crate::net::{Netns, SERVICES_V4, SERVICES_V6};
use crate::process::{self, Server};

/// An address in the world, behind the machine's default route; all of [`SERVICES_V4`] is there too.
pub const WORLD_V4: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);
/// The same for IPv6.
pub const WORLD_V6: Ipv6Addr = Ipv6Addr::new(0xfd30, 0, 0, 0, 0, 0, 0, 1);
/// Where the machine is, as the world sees it.
pub const UPLINK_V4: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 2);
/// The same for IPv6.
pub const UPLINK_V6: Ipv6Addr = Ipv6Addr::new(0xfd30, 0, 0, 0, 0, 0, 0, 2);
/// The networks pods are in.
pub const PODS_V4: &str = "10.244.0.0/16";
/// The same for IPv6.
pub const PODS_V6: &str = "fd44::/64";
/// Whoever likes may connect to this port.
pub const OPEN_PORT: u16 = 80;
/// Only apps of meshed pods dial this one, and only a proxy may arrive there: a connection that does arrive is a bare one.
pub const MESHED_PORT: u16 = 81;

/// The world.
#[derive(Debug)]
pub struct Beyond {
    server: Mutex<Server>,
    netns: Netns,
}

impl Beyond {
    pub(crate) fn new(dir: &Path) -> Self {
        let netns = Netns::new(dir, "world");
        netns.ip(&format!("route add local {SERVICES_V4} dev lo\nroute add local {SERVICES_V6} dev lo\n"));
        let place = Place { netns: Some(netns.path().to_owned()), ..Place::default() };
        let listeners: Vec<_> = [("world", OPEN_PORT), ("bare", MESHED_PORT)]
            .into_iter()
            .flat_map(|(name, port)| [(name, format!("0.0.0.0:{port}")), (name, format!("[::]:{port}"))])
            .collect();
        let serve = Serve::at(listeners.iter().map(|(name, at)| (*name, at.as_str())));
        Self { server: Mutex::new(Server::start(&place, &serve)), netns }
    }

    /// Lays the line to a machine that has just been started.
    pub(crate) fn wire(&self, machine: Pid) {
        // That of the machine there was before goes with it, but not at once.
        let old = || Command::new("ip").args(["link", "del", "machine"]).stderr(Stdio::null()).status();
        let _absent = self.netns.enter(old).expect("ip is there");
        self.netns.ip(&format!(
            "link add machine type veth peer name uplink netns {machine}\n\
             link set machine up\n\
             addr add {WORLD_V4}/24 dev machine\n\
             addr add {WORLD_V6}/64 dev machine nodad\n\
             route add {PODS_V4} via {UPLINK_V4}\n\
             route add {PODS_V6} via {UPLINK_V6}\n\
             route add 172.31.0.0/24 via {UPLINK_V4}\n\
             route add fd31::/64 via {UPLINK_V6}\n",
        ));
        let inside = Netns::of_process(machine);
        inside.ip(&format!(
            "link set uplink up\n\
             addr add {UPLINK_V4}/24 dev uplink\n\
             addr add {UPLINK_V6}/64 dev uplink nodad\n\
             route add default via {WORLD_V4}\n\
             route add default via {WORLD_V6}\n",
        ));
    }

    /// The connections that have arrived since the last time asked.
    pub fn seen(&self) -> Vec<Greeting> {
        self.server.lock().expect("no thread of ours stops with it").seen()
    }

    /// Somebody out there dials.
    pub fn dial(&self, dial: &Dial) -> Vec<Try> {
        process::dial(&self.place(), dial)
    }

    /// Somewhere in it.
    pub fn place(&self) -> Place {
        Place { netns: Some(self.netns.path().to_owned()), ..Place::default() }
    }
}
