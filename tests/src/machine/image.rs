//! Images of a machine's pods: the `probe` program and nothing else, as an OCI layout. There is no registry to pull from.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::bin;
use crate::machine::Machine;

/// The sandbox's image.
pub const PAUSE: &str = "localhost/pause:1";
/// Everybody else's: an app, a proxy.
pub const APP: &str = "localhost/app:1";
/// The program in it.
pub const PROBE: &str = "/probe";

/// Writes an archive with both images to `dir`.
pub fn write(dir: &Path) -> PathBuf {
    let layout = dir.join("layout");
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("own directory");
    let tree = dir.join("tree");
    // The directories a runtime mounts on, and one for whoever needs to write.
    for name in ["dev", "etc", "proc", "sys", "tmp"] {
        fs::create_dir_all(tree.join(name)).expect("own directory");
    }
    fs::set_permissions(tree.join("tmp"), fs::Permissions::from_mode(0o1777)).expect("own directory");
    fs::copy(bin::static_probe(), tree.join("probe")).expect("own directory");
    let layer = dir.join("layer.tar");
    tar(&tree, &layer);
    let bytes = fs::read(&layer).expect("own file");
    let layer = blob(&blobs, &bytes, "application/vnd.oci.image.layer.v1.tar");
    let manifests: Vec<Value> = [(PAUSE, json!([PROBE, "pause"])), (APP, json!([PROBE]))]
        .into_iter()
        .map(|(name, entrypoint)| {
            let config = json!({
                "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
                "os": "linux",
                "config": { "Entrypoint": entrypoint, "WorkingDir": "/" },
                "rootfs": { "type": "layers", "diff_ids": [layer["digest"]] },
            });
            let config =
                blob(&blobs, config.to_string().as_bytes(), "application/vnd.oci.image.config.v1+json");
            let kind = "application/vnd.oci.image.manifest.v1+json";
            let manifest =
                json!({ "schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer] });
            let mut manifest = blob(&blobs, manifest.to_string().as_bytes(), kind);
            manifest["annotations"] =
                json!({ "io.containerd.image.name": name, "org.opencontainers.image.ref.name": name });
            manifest
        })
        .collect();
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": manifests,
    });
    fs::write(layout.join("index.json"), index.to_string()).expect("own file");
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("own file");
    let archive = dir.join("images.tar");
    tar(&layout, &archive);
    archive
}

/// Gives an archive of images to containerd's Kubernetes namespace, on a machine where it runs.
pub fn import(machine: &Machine, archive: &Path) {
    let name = archive.file_name().expect("a file");
    fs::copy(archive, machine.path("var/tmp").join(name)).expect("own disk");
    let inside = Path::new("/var/tmp").join(name);
    let inside = inside.to_str().expect("names here are text");
    // Newer ones leave unpacking to a service unless told otherwise; older ones do not know the option.
    let knows = machine.run("ctr", &["images", "import", "--help"]).contains("--local");
    let local: &[&str] = if knows { &["--local"] } else { &[] };
    machine.run("ctr", &[&["-n", "k8s.io", "images", "import"], local, &[inside]].concat());
}

fn tar(directory: &Path, to: &Path) {
    let done = Command::new("tar")
        .args([
            "--owner=0",
            "--group=0",
            "--numeric-owner",
            "--mtime=@0",
            "--sort=name",
            "--format=ustar",
            "-cf",
        ])
        .arg(to)
        .arg("-C")
        .arg(directory)
        .arg(".")
        .status()
        .expect("tar is there");
    assert!(done.success(), "tar of {}", directory.display());
}

fn blob(blobs: &Path, bytes: &[u8], kind: &str) -> Value {
    let mut digest = String::new();
    for byte in Sha256::digest(bytes) {
        write!(digest, "{byte:02x}").expect("text grows");
    }
    fs::write(blobs.join(&digest), bytes).expect("own file");
    json!({ "mediaType": kind, "digest": format!("sha256:{digest}"), "size": bytes.len() })
}
