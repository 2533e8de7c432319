//! The kernel object this plugin was built with, and the one program of it that each pod gets a copy of.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use aya_obj::Object;
use shunt_abi::names;

use super::pins::Layout;
use super::sys;
use crate::fault::{Fault, Outcome, Tried as _};

/// The ELF file; empty where a development build had none.
pub static BYTES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/shunt.bpf.o"));

/// First 16 hex digits of its SHA-256: the name of its pin directory.
pub const HASH: &str = env!("SHUNT_OBJECT_HASH");

/// The program each pod has a copy of, as the build took it out of the object: instructions of 8 bytes.
static LOOKUP: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/lookup.bin"));

/// Which of them name a map, and which map.
static LOOKUP_MAPS: &[(usize, &str)] = include!(concat!(env!("OUT_DIR"), "/lookup-maps.rs"));

/// The instructions as the kernel reads them.
fn lookup() -> Vec<u64> {
    LOOKUP.as_chunks().0.iter().map(|bytes| u64::from_ne_bytes(*bytes)).collect()
}

/// Loads a pod's own `sk_lookup` program: that of the object, on the maps pinned under `layout`, with the pod's cookie in place
/// of the placeholder.
pub fn load_lookup(layout: &Layout, cookie: u64) -> Outcome<OwnedFd> {
    let mut code = lookup();
    // Open until the program is loaded, which then holds them.
    let mut maps = Vec::with_capacity(LOOKUP_MAPS.len());
    for &(index, name) in LOOKUP_MAPS {
        let path = layout.map(name);
        let map = sys::open(&path).tried(|| format!("open pinned map {}", path.display()))?;
        set_map(&mut code, index, map.as_fd())?;
        maps.push(map);
    }
    set_cookie(&mut code, cookie)?;
    sys::load_sk_lookup(names::SK_LOOKUP, &code).tried(|| "load the pod's sk_lookup program")
}

/// Reads the object.
pub fn parse() -> Outcome<Object> {
    if BYTES.is_empty() {
        return Err(Fault::new("read the kernel object", "this build has none: run `make build`"));
    }
    Object::parse(BYTES).tried(|| "parse the kernel object")
}

// An instruction is 8 bytes: operation, registers, offset, and a constant in the upper half of the word.

/// `ld_imm64`: two instructions that load a 64-bit constant, the low half in the first.
const LOAD_IMMEDIATE: u64 = 0x18;
/// Its source register when the constant is a map's descriptor.
const MAP_DESCRIPTOR: u64 = 1 << 12;
const OPERATION: u64 = 0xff;
const SOURCE: u64 = 0xf000;
const LOWER: u64 = 0xffff_ffff;

/// Has the instruction load a map.
fn set_map(code: &mut [u64], index: usize, map: BorrowedFd<'_>) -> Outcome<()> {
    match code.get_mut(index..index + 2) {
        Some([first, second]) if *first & OPERATION == LOAD_IMMEDIATE => {
            // A borrowed descriptor is never negative.
            let descriptor = u64::from(map.as_raw_fd().unsigned_abs());
            *first = *first & LOWER & !SOURCE | MAP_DESCRIPTOR | descriptor << 32;
            *second = 0;
            Ok(())
        }
        _ => Err(Fault::new(
            "put a map into the pod's sk_lookup program",
            format!("no place for it at {index}"),
        )),
    }
}

/// Puts the cookie where the placeholder is: exactly one place, or the object is not what this code was written for.
fn set_cookie(code: &mut [u64], cookie: u64) -> Outcome<()> {
    let mut places = 0;
    for index in 0..code.len().saturating_sub(1) {
        let Some([first, second]) = code.get_mut(index..index + 2) else {
            continue;
        };
        if *first & (OPERATION | SOURCE) == LOAD_IMMEDIATE
            && constant(*first, *second) == names::COOKIE_PLACEHOLDER
        {
            *first = *first & LOWER | cookie << 32;
            *second = *second & LOWER | cookie & !LOWER;
            places += 1;
        }
    }
    if places == 1 {
        Ok(())
    } else {
        Err(Fault::new(
            "put the pod's cookie into the sk_lookup program",
            format!("{places} places for it, not 1"),
        ))
    }
}

fn constant(first: u64, second: u64) -> u64 {
    first >> 32 | second & !LOWER
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cookie_goes_into_exactly_one_place() {
        assert!(!BYTES.is_empty(), "no kernel object: run `make build`");
        let mut code = lookup();
        set_cookie(&mut code, 0x0123_4567_89ab_cdef).unwrap();
        let found = code.windows(2).filter(|w| constant(w[0], w[1]) == 0x0123_4567_89ab_cdef).count();
        assert_eq!(found, 1);
        assert!(set_cookie(&mut code, 1).is_err(), "the placeholder is gone");
    }

    /// What the build took out is what the library that loads the other programs finds.
    #[test]
    fn the_pods_program_is_that_of_the_object() {
        let object = parse().unwrap();
        let key = object.programs[names::SK_LOOKUP].function_key();
        let words: Vec<u64> = object.functions[&key]
            .instructions
            .iter()
            .map(|one| {
                let [low, high] = one.off.to_le_bytes();
                let [a, b, c, d] = one.imm.to_le_bytes();
                let registers = one.dst_reg() | one.src_reg() << 4;
                u64::from_le_bytes([one.code, registers, low, high, a, b, c, d])
            })
            .collect();
        assert_eq!(words, lookup());
        let maps: Vec<&str> = LOOKUP_MAPS.iter().map(|(_, name)| *name).collect();
        assert_eq!(maps, [names::ARRIVALS, names::LOOKUPS]);
    }

    #[test]
    fn every_named_program_and_map_is_in_the_object() {
        let object = parse().unwrap();
        for name in names::SHARED_PROGRAMS.iter().chain(&[
            names::GETSOCKOPT,
            names::SK_LOOKUP,
            names::SELECT,
            names::TELL,
        ]) {
            assert!(object.programs.contains_key(*name), "program {name}");
        }
        for name in names::MAPS {
            assert!(object.maps.contains_key(name), "map {name}");
        }
    }
}
