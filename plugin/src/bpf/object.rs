//! The kernel object this plugin was built with, and the one program of it that each pod gets a copy of.

use std::collections::HashSet;
use std::os::fd::{AsRawFd as _, OwnedFd};

use aya_obj::Object;
use aya_obj::generated::bpf_insn;
use shunt_abi::names;

use super::pins::Layout;
use super::sys;
use crate::fault::{Fault, Outcome, Tried as _};

/// The ELF file; empty where a development build had none.
pub static BYTES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/shunt.bpf.o"));

/// First 16 hex digits of its SHA-256: the name of its pin directory.
pub const HASH: &str = env!("SHUNT_OBJECT_HASH");

/// The maps that a pod's own program uses.
const LOOKUP_MAPS: [&str; 9] = [
    names::PODS,
    names::RULES,
    names::COUNTERS,
    names::LISTENERS,
    names::PAIRS,
    names::SEEN,
    names::TRACE,
    names::NOTES,
    names::TELLERS,
];

/// Loads a pod's own `sk_lookup` program: that of the object, on the maps pinned under `layout`, with the pod's cookie in place
/// of the placeholder.
pub fn load_lookup(layout: &Layout, cookie: u64) -> Outcome<OwnedFd> {
    let mut object = parse()?;
    let wanted = object
        .programs
        .get(names::SK_LOOKUP)
        .map(aya_obj::Program::function_key)
        .ok_or_else(|| Fault::new("find the sk_lookup program in the kernel object", "it is missing"))?;
    let mut maps = Vec::new();
    for name in LOOKUP_MAPS {
        let path = layout.map(name);
        maps.push((name, sys::open(&path).tried(|| format!("open pinned map {}", path.display()))?));
    }
    let text: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    let known = object.maps.clone();
    object
        .relocate_maps(
            known.iter().map(|(name, map)| {
                // A map this program does not use is never looked at: any number will do.
                let fd = maps.iter().find(|(other, _)| other == name).map_or(0, |(_, fd)| fd.as_raw_fd());
                (name.as_str(), fd, map)
            }),
            &text,
        )
        .tried(|| "resolve the maps of the sk_lookup program")?;
    object.relocate_calls(&text).tried(|| "resolve the calls of the sk_lookup program")?;
    let function = object
        .functions
        .get_mut(&wanted)
        .ok_or_else(|| Fault::new("find the code of the sk_lookup program", "it is missing"))?;
    set_cookie(&mut function.instructions, cookie)?;
    sys::load_sk_lookup(names::SK_LOOKUP, &function.instructions).tried(|| "load the pod's sk_lookup program")
}

/// Reads the object.
pub fn parse() -> Outcome<Object> {
    if BYTES.is_empty() {
        return Err(Fault::new("read the kernel object", "this build has none: run `make build`"));
    }
    Object::parse(BYTES).tried(|| "parse the kernel object")
}

/// `ld_imm64`: two instructions that load a 64-bit constant, the low half in the first.
const LOAD_IMMEDIATE: u8 = 0x18;

/// Puts the cookie where the placeholder is: exactly one place, or the object is not what this code was written for.
fn set_cookie(code: &mut [bpf_insn], cookie: u64) -> Outcome<()> {
    let mut places = 0;
    for index in 0..code.len().saturating_sub(1) {
        let Some([low, high]) = code.get_mut(index..index + 2) else {
            continue;
        };
        if low.code == LOAD_IMMEDIATE
            && low.src_reg() == 0
            && joined(low.imm, high.imm) == names::COOKIE_PLACEHOLDER
        {
            (low.imm, high.imm) = halves(cookie);
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

fn joined(low: i32, high: i32) -> u64 {
    u64::from(low.cast_unsigned()) | u64::from(high.cast_unsigned()) << 32
}

fn halves(value: u64) -> (i32, i32) {
    #[expect(clippy::cast_possible_truncation, reason = "the low half, and what is left of the high half")]
    let (low, high) = (value as u32, (value >> 32) as u32);
    (low.cast_signed(), high.cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cookie_goes_into_exactly_one_place() {
        assert!(!BYTES.is_empty(), "no kernel object: run `make build`");
        let object = parse().unwrap();
        let key = object.programs[names::SK_LOOKUP].function_key();
        let mut code = object.functions[&key].instructions.clone();
        set_cookie(&mut code, 0x0123_4567_89ab_cdef).unwrap();
        let found = code.windows(2).filter(|w| joined(w[0].imm, w[1].imm) == 0x0123_4567_89ab_cdef).count();
        assert_eq!(found, 1);
        assert!(set_cookie(&mut code, 1).is_err(), "the placeholder is gone");
    }

    #[test]
    fn every_named_program_and_map_is_in_the_object() {
        let object = parse().unwrap();
        for name in names::SHARED_PROGRAMS.iter().chain(&[names::GETSOCKOPT, names::SK_LOOKUP, names::TELL]) {
            assert!(object.programs.contains_key(*name), "program {name}");
        }
        for name in names::MAPS {
            assert!(object.maps.contains_key(name), "map {name}");
        }
    }
}
