//! Where the built programs are.

use std::path::PathBuf;

/// The plugin: `SHUNT_BIN`, else what `make build` leaves in the workspace.
pub fn shunt() -> PathBuf {
    program("SHUNT_BIN", "shunt")
}

/// The node tool: `SHUNTCTL_BIN`, else what `make build` leaves in the workspace.
pub fn shuntctl() -> PathBuf {
    program("SHUNTCTL_BIN", "shuntctl")
}

/// The installer: `SHUNT_INSTALLER_BIN`, else what `make build` leaves in the workspace.
pub fn installer() -> PathBuf {
    program("SHUNT_INSTALLER_BIN", "shunt-installer")
}

/// What `make deps` puts into `target/tools`, or the directory that `SHUNT_TOOLS` names.
pub fn tool(name: &str) -> PathBuf {
    let dir = std::env::var_os("SHUNT_TOOLS").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/tools")),
        PathBuf::from,
    );
    let path = dir.join(name);
    assert!(
        path.exists(),
        "{} is not there: run the suite by its make target, or name the directory in SHUNT_TOOLS",
        path.display()
    );
    path
}

fn program(variable: &str, name: &str) -> PathBuf {
    let path = std::env::var_os(variable).map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/release")).join(name),
        PathBuf::from,
    );
    assert!(
        path.is_file(),
        "{} is not there: run `make build`, or name the program in {variable}",
        path.display()
    );
    path
}

/// The helper that plays servers, proxy and clients: `PROBE_BIN`, else beside the test binary, where cargo puts it.
pub fn probe() -> PathBuf {
    if let Some(path) = std::env::var_os("PROBE_BIN").map(PathBuf::from) {
        assert!(path.is_file(), "{} is not there, and PROBE_BIN names it", path.display());
        return path;
    }
    let own = std::env::current_exe().expect("a test knows its own path");
    let dir = own.parent().expect("a program lies in a directory");
    [dir.join("probe"), dir.join("../probe")]
        .into_iter()
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("no `probe` beside {}: run `cargo build -p shunt-tests`", own.display()))
}

/// The same as one static program, which runs in an image that holds nothing else.
pub fn static_probe() -> PathBuf {
    tool("probe")
}
