//! Picks up the kernel object that `make build` left, and names it by its hash.
//!
//! The object is built by the Makefile, not here: it needs another compiler. Without it a development build gets an empty
//! stub, so that `cargo build`, clippy, the unit tests and an editor work on a fresh checkout; a release build stops.
//!
//! The program that each ADD loads a copy of is taken out of the object here: reading an ELF file takes longer than loading it does.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use object::read::elf::ElfFile64;
use object::{LittleEndian, Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget};
use sha2::{Digest as _, Sha256};

type Elf<'a> = ElfFile64<'a, LittleEndian>;
type Failure = Box<dyn std::error::Error>;

/// Instructions, and which of them name a map.
type Lookup = (Vec<u8>, Vec<(usize, String)>);

/// Name of the program, `names::SK_LOOKUP`.
const LOOKUP: &str = "lookup";
const OVERRIDE: &str = "SHUNT_BPF_OBJECT";
const PLACE: &str = "../target/bpf/shunt.bpf.o";

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed={OVERRIDE}");

    let given = env::var_os(OVERRIDE);
    let source =
        given.as_ref().map_or_else(|| Path::new(&variable("CARGO_MANIFEST_DIR")).join(PLACE), PathBuf::from);
    println!("cargo:rerun-if-changed={}", source.display());

    let object = match fs::read(&source) {
        Ok(object) => object,
        // A path that somebody named must be right; the usual place may be empty for a while.
        Err(e) if given.is_none() && e.kind() == io::ErrorKind::NotFound => {
            if variable("PROFILE") == "release" {
                println!("cargo:error=kernel object missing: run `make build`");
            } else {
                println!("cargo:warning=kernel object missing: run `make build`");
            }
            Vec::new()
        }
        Err(e) => {
            println!("cargo:error=kernel object {}: {e}", source.display());
            Vec::new()
        }
    };

    fs::write(Path::new(&variable("OUT_DIR")).join("shunt.bpf.o"), &object)?;
    let (code, maps) = if object.is_empty() { Ok(Lookup::default()) } else { lookup(&object) }
        .unwrap_or_else(|error| {
            println!("cargo:error=kernel object {}: program {LOOKUP}: {error}", source.display());
            Lookup::default()
        });
    let out = PathBuf::from(variable("OUT_DIR"));
    fs::write(out.join("lookup.bin"), code)?;
    fs::write(out.join("lookup-maps.rs"), format!("&{maps:?}"))?;
    println!("cargo:rustc-env=SHUNT_OBJECT_HASH={}", hash(&object));
    Ok(())
}

/// The program's instructions and the maps they refer to.
fn lookup(object: &[u8]) -> Result<Lookup, Failure> {
    let elf = Elf::parse(object)?;
    let symbol = elf.symbols().find(|symbol| symbol.name() == Ok(LOOKUP)).ok_or("not in it")?;
    let section = elf.section_by_index(symbol.section_index().ok_or("it has no code")?)?;
    let range = symbol.address()..symbol.address() + symbol.size();
    let code = section.data_range(range.start, symbol.size())?.ok_or("it lies outside its section")?;
    if !code.len().is_multiple_of(8) {
        return Err("half an instruction".into());
    }
    let mut maps = Vec::new();
    for (at, relocation) in section.relocations().filter(|(at, _)| range.contains(at)) {
        let RelocationTarget::Symbol(target) = relocation.target() else {
            return Err("it refers to something that is no map".into());
        };
        let index = usize::try_from((at - range.start) / 8)?;
        maps.push((index, elf.symbol_by_index(target)?.name()?.to_owned()));
    }
    Ok((code.to_vec(), maps))
}

/// The first 16 hex digits of the object's SHA-256.
fn hash(object: &[u8]) -> String {
    Sha256::digest(object).iter().take(8).fold(String::new(), |mut hex, byte| {
        // Writing into a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// A variable that cargo always sets.
fn variable(name: &str) -> String {
    env::var(name).unwrap_or_default()
}
