//! Picks up the kernel object that `make build` left, and names it by its hash.
//!
//! The object is built by the Makefile, not here: it needs another compiler. Without it a development build gets an empty
//! stub, so that `cargo build`, clippy, the unit tests and an editor work on a fresh checkout; a release build stops.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use sha2::{Digest as _, Sha256};

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
    println!("cargo:rustc-env=SHUNT_OBJECT_HASH={}", hash(&object));
    Ok(())
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
