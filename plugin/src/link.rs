//! What a network namespace looks like: interfaces, addresses and routes. The only user of the netlink crates.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt as _;
use ipnetwork::IpNetwork;
use netlink_packet_route::address::{AddressAttribute, AddressFlags};
use netlink_packet_route::link::LinkAttribute;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use shunt_abi::dns::{MARKER6_PREFIX, marker};

use crate::fault::{Fault, Outcome, Tried as _};

/// An address of the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnAddress {
    /// Name of its interface.
    pub interface: String,
    /// The address.
    pub ip: IpAddr,
    /// Broadcast address of its subnet, IPv4 only.
    pub broadcast: Option<IpAddr>,
}

/// A unicast route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub destination: IpNetwork,
    /// Name of the interface it leaves by.
    pub interface: String,
    /// Source address the route prescribes.
    pub source: Option<IpAddr>,
}

/// A namespace's interfaces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interfaces {
    /// Every interface, loopback too.
    pub names: Vec<String>,
    /// Index of the loopback interface.
    pub index_of_loopback: u32,
    /// Every address of every interface, loopback's too.
    pub addresses: Vec<OwnAddress>,
    /// Routes, the preferred one of a destination first.
    pub routes: Vec<Route>,
}

impl Interfaces {
    /// True if connections of one family can leave the pod with different source addresses, link-local ones aside.
    pub fn has_choice_of_source(&self) -> bool {
        let far = |address: &&OwnAddress| match address.ip {
            IpAddr::V4(_) => address.interface != "lo",
            IpAddr::V6(v6) => address.interface != "lo" && !v6.is_unicast_link_local(),
        };
        let count =
            |v4| self.addresses.iter().filter(far).filter(|address| address.ip.is_ipv4() == v4).count();
        count(true) > 1 || count(false) > 1
    }

    /// True if the pod has an IPv6 address that reaches further than its link.
    pub fn has_v6(&self) -> bool {
        let far = |ip: &IpAddr| matches!(ip, IpAddr::V6(v6) if !v6.is_unicast_link_local());
        self.addresses.iter().any(|address| address.interface != "lo" && far(&address.ip))
    }
}

/// What a look at a namespace is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Routes are wanted even where there is no choice of source addresses.
    pub all_routes: bool,
    /// The IPv6 markers of DNS queries must be local.
    pub dns_markers: bool,
}

/// What was given to a namespace's loopback interface and was not there before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Loopback {
    /// The address `::6`.
    pub passthrough: bool,
    /// The route to the markers.
    pub dns_route: bool,
}

/// Reads the namespace of the calling thread, and with it gives the loopback interface what has a twin in IPv4 that is there
/// without doing anything: the IPv6 address a proxy binds to hand inbound traffic on to the app (`::6`), and, where DNS is
/// captured, the markers of its queries.
///
/// Routes are read only where they can matter: when there is a choice of source addresses, or they are wished for.
pub fn prepared(wishes: Wishes) -> Outcome<(Interfaces, Loopback)> {
    talk(async |handle| {
        let mut found = read(handle, wishes.all_routes).await?;
        let mut given = Loopback::default();
        if !found.has_v6() {
            return Ok((found, given));
        }
        let is_passthrough = |address: &OwnAddress| address.ip == IpAddr::V6(PASSTHROUGH);
        if !found.addresses.iter().any(is_passthrough) {
            given.passthrough = add_passthrough(handle, &mut found).await?;
        }
        if wishes.dns_markers {
            match add_markers(handle, found.index_of_loopback).await {
                Ok(added) => given.dns_route = added,
                Err(fault) => {
                    let _first_error_counts = given.take_back(handle).await;
                    return Err(fault);
                }
            }
        }
        Ok((found, given))
    })
}

/// Reads the namespace of the calling thread and changes nothing.
pub fn seen(all_routes: bool) -> Outcome<Interfaces> {
    talk(async |handle| read(handle, all_routes).await)
}

/// True if it could be added: with IPv6 switched off on the loopback interface nothing can be handed on there, with or without
/// the address.
async fn add_passthrough(handle: &Handle, found: &mut Interfaces) -> Outcome<bool> {
    let lo = found.index_of_loopback;
    match handle.address().add(lo, PASSTHROUGH.into(), 128).execute().await {
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::EACCES => return Ok(false),
        added => added.tried(|| format!("add {PASSTHROUGH}/128 to the pod's loopback interface"))?,
    }
    found.addresses.push(OwnAddress { interface: "lo".to_owned(), ip: PASSTHROUGH.into(), broadcast: None });
    Ok(true)
}

/// True if the route to the markers was not there and could be added, as above.
async fn add_markers(handle: &Handle, lo: u32) -> Outcome<bool> {
    match handle.route().add(markers(lo)).execute().await {
        Err(rtnetlink::Error::NetlinkError(error))
            if matches!(-error.raw_code(), libc::EACCES | libc::EEXIST) =>
        {
            Ok(false)
        }
        added => added.map(|()| true).tried(|| {
            format!("add the local route {}/{MARKER6_PREFIX} to the pod's loopback interface", first_marker())
        }),
    }
}

impl Loopback {
    /// Takes it away again from the calling thread's namespace; not there is as good.
    pub fn revert(self) -> Outcome<()> {
        if self == Self::default() {
            return Ok(());
        }
        talk(async |handle| self.take_back(handle).await)
    }

    async fn take_back(self, handle: &Handle) -> Outcome<()> {
        let address = if self.passthrough { remove_passthrough(handle).await } else { Ok(()) };
        let route = if self.dns_route { remove_markers(handle).await } else { Ok(()) };
        address.and(route)
    }
}

async fn remove_passthrough(handle: &Handle) -> Outcome<()> {
    let mut messages = handle.address().get().set_address_filter(PASSTHROUGH.into()).execute();
    while let Some(message) = messages.try_next().await.tried(|| "list the pod's addresses")? {
        handle
            .address()
            .del(message)
            .execute()
            .await
            .tried(|| format!("remove {PASSTHROUGH} from the pod"))?;
    }
    Ok(())
}

async fn remove_markers(handle: &Handle) -> Outcome<()> {
    let names = names(handle).await?;
    match handle.route().del(markers(index_of_loopback(&names))).execute().await {
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ESRCH => Ok(()),
        removed => {
            removed.tried(|| format!("remove the route {}/{MARKER6_PREFIX} from the pod", first_marker()))
        }
    }
}

/// True if the calling thread's namespace has the route to the markers.
pub fn has_markers() -> Outcome<bool> {
    talk(async |handle| {
        let mut messages = handle.route().get(RouteMessageBuilder::<Ipv6Addr>::new().build()).execute();
        let mut found = false;
        while let Some(message) = messages.try_next().await.tried(|| "list the pod's routes")? {
            found |= message.header.kind == RouteType::Local
                && message.header.destination_prefix_length == MARKER6_PREFIX
                && message
                    .attributes
                    .contains(&RouteAttribute::Destination(RouteAddress::Inet6(first_marker())));
        }
        Ok(found)
    })
}

/// `local ::7f35:0:0:0/124 dev lo table local`
fn markers(lo: u32) -> RouteMessage {
    RouteMessageBuilder::<Ipv6Addr>::new()
        .destination_prefix(first_marker(), MARKER6_PREFIX)
        .output_interface(lo)
        .table_id(LOCAL_TABLE)
        .kind(RouteType::Local)
        .build()
}

/// The network the markers are in, by its first address.
fn first_marker() -> Ipv6Addr {
    let bits = u128::from_be_bytes(marker(0, false).bytes());
    Ipv6Addr::from_bits(bits >> (128 - MARKER6_PREFIX) << (128 - MARKER6_PREFIX))
}

/// Makes the calling thread's namespace, a fresh one, usable for itself: its loopback interface up, with these addresses. Returns
/// those it has; IPv6 ones are left out where the kernel has no IPv6, or has it switched off.
pub fn loopback_with(addresses: &[IpAddr]) -> Outcome<Vec<IpAddr>> {
    const LOOPBACK: u32 = 1;
    const ABSENT: [i32; 3] = [-libc::EACCES, -libc::EAFNOSUPPORT, -libc::EOPNOTSUPP];
    talk(async |handle| {
        let up = LinkUnspec::new_with_index(LOOPBACK).up().build();
        handle.link().change(up).execute().await.tried(|| "set the loopback interface up")?;
        let mut taken = Vec::new();
        for ip in addresses {
            let length = if ip.is_ipv4() { 32 } else { 128 };
            let mut request = handle.address().add(LOOPBACK, *ip, length);
            // Without this an address is of no use for a moment, on the loopback interface too.
            request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            match request.execute().await {
                Err(rtnetlink::Error::NetlinkError(error))
                    if ip.is_ipv6() && ABSENT.contains(&error.raw_code()) => {}
                added => {
                    added.tried(|| format!("add {ip} to the loopback interface"))?;
                    taken.push(*ip);
                }
            }
        }
        Ok(taken)
    })
}

/// Where a proxy hands inbound connections on from, in a pod with IPv6.
pub const PASSTHROUGH: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);
const LOCAL_TABLE: u32 = 255;

/// Has a conversation with the kernel in the calling thread's namespace: a netlink socket belongs to the one it was opened in.
fn talk<T>(conversation: impl AsyncFnOnce(&Handle) -> Outcome<T>) -> Outcome<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .tried(|| "prepare to talk to the kernel about interfaces")?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().tried(|| "open a netlink socket")?;
        let serving = tokio::spawn(connection);
        let said = conversation(&handle).await;
        serving.abort();
        said
    })
}

async fn read(handle: &Handle, all_routes: bool) -> Outcome<Interfaces> {
    let names = names(handle).await?;
    let addresses = addresses(handle, &names).await?;
    let index_of_loopback = index_of_loopback(&names);
    let mut found = Interfaces { index_of_loopback, addresses, ..Interfaces::default() };
    if all_routes || found.has_choice_of_source() {
        found.routes = routes(handle, RouteMessageBuilder::<Ipv4Addr>::new().build(), &names).await?;
        found.routes.extend(routes_of_v6(handle, &names).await?);
    }
    found.names = names.into_values().collect();
    found.names.sort();
    Ok(found)
}

fn index_of_loopback(names: &HashMap<u32, String>) -> u32 {
    names.iter().find(|(_, name)| *name == "lo").map_or(1, |(index, _)| *index)
}

async fn names(handle: &Handle) -> Outcome<HashMap<u32, String>> {
    let mut names = HashMap::new();
    let mut links = handle.link().get().execute();
    while let Some(link) = links.try_next().await.tried(|| "list the pod's interfaces")? {
        for attribute in link.attributes {
            if let LinkAttribute::IfName(name) = attribute {
                names.insert(link.header.index, name);
            }
        }
    }
    Ok(names)
}

async fn addresses(handle: &Handle, names: &HashMap<u32, String>) -> Outcome<Vec<OwnAddress>> {
    let mut found = Vec::new();
    let mut messages = handle.address().get().execute();
    while let Some(message) = messages.try_next().await.tried(|| "list the pod's addresses")? {
        let interface = names.get(&message.header.index).cloned().unwrap_or_default();
        let mut own = None;
        let mut broadcast = None;
        for attribute in message.attributes {
            match attribute {
                // On a point-to-point interface ADDRESS is the other end; LOCAL, where there is one, is ours.
                AddressAttribute::Local(ip) => own = Some(ip),
                AddressAttribute::Address(ip) => own = own.or(Some(ip)),
                AddressAttribute::Broadcast(ip) => broadcast = Some(IpAddr::V4(ip)),
                _ => {}
            }
        }
        if let Some(ip) = own {
            let broadcast = broadcast.or_else(|| subnet_broadcast(ip, message.header.prefix_len));
            found.push(OwnAddress { interface, ip, broadcast });
        }
    }
    Ok(found)
}

/// The kernel makes the last address of a subnet a broadcast one even when the interface was not told so.
fn subnet_broadcast(ip: IpAddr, prefix: u8) -> Option<IpAddr> {
    match (ip, prefix) {
        (IpAddr::V4(v4), 0..=30) if !v4.is_loopback() => {
            Some(IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() | (u32::MAX >> prefix))))
        }
        _ => None,
    }
}

async fn routes_of_v6(handle: &Handle, names: &HashMap<u32, String>) -> Outcome<Vec<Route>> {
    match routes(handle, RouteMessageBuilder::<Ipv6Addr>::new().build(), names).await {
        // A kernel without IPv6 has no routes of it.
        Err(fault) if matches!(fault.errno(), Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT)) => Ok(Vec::new()),
        other => other,
    }
}

const MAIN_TABLE: u32 = 254;

async fn routes(handle: &Handle, query: RouteMessage, names: &HashMap<u32, String>) -> Outcome<Vec<Route>> {
    let mut found = Vec::new();
    let mut messages = handle.route().get(query).execute();
    while let Some(message) = messages.try_next().await.tried(|| "list the pod's routes")? {
        if let Some((metric, route)) = route(&message, names)? {
            found.push((metric, route));
        }
    }
    found.sort_by_key(|(metric, _)| *metric);
    Ok(found.into_iter().map(|(_, route)| route).collect())
}

/// A message as a route with its metric; `None` for local, broadcast and other tables' ones.
fn route(message: &RouteMessage, names: &HashMap<u32, String>) -> Outcome<Option<(u32, Route)>> {
    let v4 = message.header.address_family == netlink_packet_route::AddressFamily::Inet;
    let mut table = u32::from(message.header.table);
    let (mut metric, mut interface, mut source) = (0, None, None);
    let mut destination: IpAddr =
        if v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Priority(number) => metric = *number,
            RouteAttribute::Oif(index) => interface = names.get(index).cloned(),
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Destination(address) => destination = ip(address).unwrap_or(destination),
            _ => {}
        }
    }
    let Some(interface) =
        interface.filter(|_| table == MAIN_TABLE && message.header.kind == RouteType::Unicast)
    else {
        return Ok(None);
    };
    let destination = IpNetwork::new(destination, message.header.destination_prefix_length)
        .map_err(|error| Fault::new("read a route of the pod", error))?;
    Ok(Some((metric, Route { destination, interface, source })))
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}
