//! Programs of others: a few instructions, loaded and attached by bpf(2) itself as other agents do it.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use crate::kernel::{address, bpf, next_key, owned};

const MAP_CREATE: libc::c_int = 0;
const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const LINK_CREATE: libc::c_int = 28;
const CGROUP_SOCK_ADDR: u32 = 18;

/// `BPF_F_ALLOW_OVERRIDE`
pub const OVERRIDE: u32 = 1;
/// `BPF_F_ALLOW_MULTI`
pub const MULTI: u32 = 2;
/// `BPF_F_BEFORE`
pub const BEFORE: u32 = 8;

/// Where a program is called: `enum bpf_attach_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Hook {
    /// `connect`, IPv4.
    Connect4 = 10,
    /// `connect`, IPv6.
    Connect6 = 11,
    /// `getpeername`, IPv4.
    Peer4 = 29,
    /// `getpeername`, IPv6.
    Peer6 = 30,
}

/// `struct bpf_insn`
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    value: i32,
}

const fn instruction(code: u8, to: u8, from: u8, offset: i16, value: i32) -> Instruction {
    Instruction { code, registers: to | from << 4, offset, value }
}

/// `to = value`, 64 bits.
const fn set(to: u8, value: i32) -> Instruction {
    instruction(0xb7, to, 0, 0, value)
}
/// `to = *(u32 *)(context + offset)`; the context stays in register 1.
const fn read(to: u8, offset: i16) -> Instruction {
    instruction(0x61, to, 1, offset, 0)
}
/// `*(u32 *)(context + offset) = from`
const fn write(from: u8, offset: i16) -> Instruction {
    instruction(0x63, 1, from, offset, 0)
}
/// `to = value`, 32 bits.
const fn set_word(to: u8, value: i32) -> Instruction {
    instruction(0xb4, to, 0, 0, value)
}
/// Unless the lower half of the register is that value, go on so many instructions further.
const fn unless(register: u8, value: i32, further: i16) -> Instruction {
    instruction(0x56, register, 0, further, value)
}
const EXIT: Instruction = instruction(0x95, 0, 0, 0, 0);

/// `user_ip4`, `user_ip6`, `user_port` of `struct bpf_sock_addr`.
const IP4: i16 = 4;
const IP6: [i16; 4] = [8, 12, 16, 20];
const PORT: i16 = 24;

/// An address and a port as the kernel has them in a context, by where they stand.
fn words(ip: std::net::IpAddr, port: u16) -> Vec<(i16, i32)> {
    let word = |bytes: [u8; 4]| i32::from_ne_bytes(bytes);
    let mut found = match ip {
        std::net::IpAddr::V4(v4) => vec![(IP4, word(v4.octets()))],
        std::net::IpAddr::V6(v6) => {
            let bytes = v6.octets();
            let parts = bytes.chunks_exact(4).map(|part| word([part[0], part[1], part[2], part[3]]));
            IP6.into_iter().zip(parts).collect()
        }
    };
    found.push((PORT, i32::from(port.to_be())));
    found
}

/// What a program does.
#[derive(Debug, Clone, Copy)]
pub enum Does {
    /// Lets everything pass.
    Nothing,
    /// Lets nothing pass.
    Deny,
    /// One address and port become another: what a socket load balancer does with a service's, and back.
    Translate((std::net::IpAddr, u16), (std::net::IpAddr, u16)),
    /// Everything but what this user connects goes to a port of loopback, and a map keeps where it was meant to go: what the
    /// meshes' eBPF of the first kind does.
    Loopback {
        /// The proxy's user.
        but: u32,
        /// The proxy's port.
        port: u16,
    },
}

/// `to = from`, 64 bits.
const fn copy(to: u8, from: u8) -> Instruction {
    instruction(0xbf, to, from, 0, 0)
}
/// `to += value`, 64 bits.
const fn add(to: u8, value: i32) -> Instruction {
    instruction(0x07, to, 0, 0, value)
}
/// A helper of the kernel, by its number.
const fn call(helper: i32) -> Instruction {
    instruction(0x85, 0, 0, 0, helper)
}
/// `*(u64 *)(to + offset) = from`
const fn store(to: u8, from: u8, offset: i16) -> Instruction {
    instruction(0x7b, to, from, offset, 0)
}
/// `*(u32 *)(to + offset) = from`
const fn store_word(to: u8, from: u8, offset: i16) -> Instruction {
    instruction(0x63, to, from, offset, 0)
}

/// Bytes of what the map of [`Does::Loopback`] keeps: four words of an address, a port, and room up to eight bytes.
const ORIGINAL: i16 = 24;

/// The program of [`Does::Loopback`]; `map` is the descriptor of where it keeps the destinations.
fn to_loopback(hook: Hook, but: u32, port: u16, map: &OwnedFd) -> Vec<Instruction> {
    const GET_UID_GID: i32 = 15;
    const GET_COOKIE: i32 = 46;
    const MAP_UPDATE: i32 = 2;
    let (own, loopback): (&[i16], std::net::IpAddr) = match hook {
        Hook::Connect4 => (&[IP4], Ipv4Addr::LOCALHOST.into()),
        _ => (&IP6, Ipv6Addr::LOCALHOST.into()),
    };
    // The map's key is at -8 of the stack, the value below it.
    let value = -8 - ORIGINAL;
    let mut body = vec![copy(1, 6), call(GET_COOKIE), store(10, 0, -8), set(2, 0)];
    body.extend([0, 8, 16].map(|at| store(10, 2, value + at)));
    body.push(copy(1, 6));
    for (index, offset) in (0..).zip(own.iter().chain([&PORT])) {
        let at = if *offset == PORT { 16 } else { index * 4 };
        body.extend([read(2, *offset), store_word(10, 2, value + at)]);
    }
    // The kernel puts the map itself in place of its descriptor.
    body.extend([instruction(0x18, 1, 1, 0, map.as_raw_fd()), instruction(0, 0, 0, 0, 0)]);
    body.extend([
        copy(2, 10),
        add(2, -8),
        copy(3, 10),
        add(3, i32::from(value)),
        set(4, 0),
        call(MAP_UPDATE),
    ]);
    body.push(copy(1, 6));
    for (offset, word) in words(loopback, port) {
        body.extend([set_word(2, word), write(2, offset)]);
    }
    let mut code = vec![copy(6, 1), call(GET_UID_GID)];
    // If it is the proxy, all of the body is left out: `if w0 == but`.
    let over = i16::try_from(body.len()).expect("a short program");
    code.push(instruction(0x16, 0, 0, over, but.cast_signed()));
    code.extend(body);
    code.extend([set(0, 1), EXIT]);
    code
}

/// A map from a socket's cookie to where it was meant to go; the oldest give way.
fn originals() -> OwnedFd {
    #[repr(C)]
    struct Attr {
        kind: u32,
        key: u32,
        value: u32,
        entries: u32,
        flags: u32,
    }
    const LRU_HASH: u32 = 9;
    let value = u32::from(ORIGINAL.unsigned_abs());
    let mut attr = Attr { kind: LRU_HASH, key: 8, value, entries: 65_536, flags: 0 };
    owned(bpf(MAP_CREATE, &mut attr).expect("root may make maps"))
}

fn code(does: Does, hook: Hook, map: Option<&OwnedFd>) -> Vec<Instruction> {
    let mut code = Vec::new();
    if let (Does::Loopback { but, port }, Some(map)) = (does, map) {
        return to_loopback(hook, but, port, map);
    }
    if let Does::Translate(from, to) = does {
        let from = words(from.0, from.1);
        let to = words(to.0, to.1);
        let writing: Vec<Instruction> =
            to.iter().flat_map(|(offset, value)| [set_word(2, *value), write(2, *offset)]).collect();
        for (index, (offset, value)) in from.iter().enumerate() {
            let left = (from.len() - index - 1) * 2 + writing.len();
            code.push(read(2, *offset));
            code.push(unless(2, *value, i16::try_from(left).expect("a short program")));
        }
        code.extend(writing);
    }
    code.extend([set(0, i32::from(!matches!(does, Does::Deny))), EXIT]);
    code
}

/// A loaded program.
#[derive(Debug)]
pub struct Program {
    fd: OwnedFd,
    hook: Hook,
    map: Option<OwnedFd>,
}

impl Program {
    /// Loads it; the test's mistake if the kernel refuses.
    pub fn load(name: &str, hook: Hook, does: Does) -> Self {
        #[repr(C)]
        struct Attr {
            kind: u32,
            count: u32,
            code: u64,
            licence: u64,
            log_level: u32,
            log_size: u32,
            log: u64,
            kernel_version: u32,
            flags: u32,
            name: [u8; 16],
            ifindex: u32,
            attach_type: u32,
        }
        let map = matches!(does, Does::Loopback { .. }).then(originals);
        let code = code(does, hook, map.as_ref());
        let mut attr = Attr {
            kind: CGROUP_SOCK_ADDR,
            count: u32::try_from(code.len()).expect("a short program"),
            code: address(code.as_ptr()),
            licence: address(c"GPL".as_ptr()),
            log_level: 0,
            log_size: 0,
            log: 0,
            kernel_version: 0,
            flags: 0,
            name: [0; 16],
            ifindex: 0,
            attach_type: hook as u32,
        };
        for (to, from) in attr.name.iter_mut().take(15).zip(name.bytes()) {
            *to = from;
        }
        let fd = bpf(PROG_LOAD, &mut attr).unwrap_or_else(|error| panic!("load {name}: {error}"));
        Self { fd: owned(fd), hook, map }
    }

    /// Whether its map has kept anything.
    pub fn has_kept(&self) -> bool {
        self.map.as_ref().is_some_and(|map| next_key(map, None, 8).is_ok_and(|key| key.is_some()))
    }

    /// Attaches it by a link, as agents of today do; it is attached for as long as the link is held.
    pub fn link(&self, cgroup: &Path, flags: u32) -> io::Result<OwnedFd> {
        #[repr(C)]
        struct Attr {
            program: i32,
            target: i32,
            kind: u32,
            flags: u32,
        }
        let target = File::open(cgroup)?;
        let mut attr =
            Attr { program: self.fd.as_raw_fd(), target: target.as_raw_fd(), kind: self.hook as u32, flags };
        bpf(LINK_CREATE, &mut attr).map(owned)
    }

    /// Attaches it as agents did before there were links; it stays until it is detached or the cgroup goes.
    pub fn attach(&self, cgroup: &Path, flags: u32) -> io::Result<()> {
        self.call(PROG_ATTACH, cgroup, flags)
    }

    /// Undoes [`Self::attach`].
    pub fn detach(&self, cgroup: &Path) -> io::Result<()> {
        self.call(PROG_DETACH, cgroup, 0)
    }

    fn call(&self, command: libc::c_int, cgroup: &Path, flags: u32) -> io::Result<()> {
        on_cgroup(command, cgroup, self.fd.as_raw_fd(), self.hook, flags)
    }
}

/// Attaches or detaches as was done before there were links; program 0 is none.
fn on_cgroup(command: libc::c_int, cgroup: &Path, program: i32, hook: Hook, flags: u32) -> io::Result<()> {
    #[repr(C)]
    struct Attr {
        target: i32,
        program: i32,
        kind: u32,
        flags: u32,
    }
    let target = File::open(cgroup)?;
    let mut attr = Attr { target: target.as_raw_fd(), program, kind: hook as u32, flags };
    bpf(command, &mut attr).map(drop)
}

/// Takes whatever is attached to a cgroup itself for a hook away, by naming no program: what an agent does that thinks it owns
/// the cgroup.
pub fn detach_any(cgroup: &Path, hook: Hook) -> io::Result<()> {
    on_cgroup(PROG_DETACH, cgroup, 0, hook, 0)
}

/// The service's addresses and the backend a load balancer has chosen for it.
pub const SERVICE: [(std::net::IpAddr, u16); 2] = [
    (std::net::IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)), 80),
    (std::net::IpAddr::V6(Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 0x10)), 80),
];
/// See [`SERVICE`].
pub const BACKEND: [(std::net::IpAddr, u16); 2] = [
    (std::net::IpAddr::V4(Ipv4Addr::new(10, 96, 7, 7)), 8080),
    (std::net::IpAddr::V6(Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 7, 7)), 8080),
];

/// The four programs of a socket load balancer: on the way out the service becomes the backend, in the peer's name the backend
/// becomes the service.
pub fn load_balancer() -> Vec<Program> {
    let hooks = [(Hook::Connect4, Hook::Peer4), (Hook::Connect6, Hook::Peer6)];
    let pairs = hooks.into_iter().zip(SERVICE.into_iter().zip(BACKEND));
    pairs
        .flat_map(|((connect, peer), (service, backend))| {
            [
                Program::load("lb_connect", connect, Does::Translate(service, backend)),
                Program::load("lb_peer", peer, Does::Translate(backend, service)),
            ]
        })
        .collect()
}

/// All of them by links on one cgroup.
pub fn linked(programs: &[Program], cgroup: &Path, flags: u32) -> Vec<OwnedFd> {
    programs
        .iter()
        .map(|program| program.link(cgroup, flags).unwrap_or_else(|error| panic!("{program:?}: {error}")))
        .collect()
}
