//! The image that `make image` writes: against itself, against the programs, against the Dockerfile.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::tools::{output, read, root, text};

const NAME: &str = "registry.example/mesh/shunt:1.2.3";
/// In a registry, as it is pulled.
const MOST: u64 = 12 * 1024 * 1024;
const PT_INTERP: u32 = 3;

fn build(programs: &Path, out: &Path, name: &str) -> Command {
    let mut command = Command::new("python3");
    command.arg(root().join("conf/image.py")).args(["--version", "1.2.3", "--name", name]);
    command.arg("--programs").arg(programs).arg("--out").arg(out.join("image"));
    command
}

fn programs() -> PathBuf {
    for name in ["shunt", "shunt-installer"] {
        let path = root().join("target/release").join(name);
        assert!(path.is_file(), "{} is not there: run `make build`", path.display());
    }
    root().join("target/release")
}

struct Image {
    folder: PathBuf,
}

impl Image {
    /// One image for all tests that only look at it, where `make clean` finds it.
    fn shared() -> &'static Self {
        static IMAGE: OnceLock<Image> = OnceLock::new();
        IMAGE.get_or_init(|| {
            let folder = root().join("target/ship");
            text(&mut build(&programs(), &folder, NAME));
            Self { folder }
        })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join("image").join(name)
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.file(name)).expect("there")).expect("JSON")
    }

    /// The path of a blob, whose digest and size are as its descriptor says.
    fn blob(&self, descriptor: &Value) -> String {
        let digest = descriptor["digest"].as_str().and_then(|d| d.strip_prefix("sha256:")).expect("a digest");
        let name = format!("blobs/sha256/{digest}");
        let path = self.file(&name);
        assert_eq!(sha256(&path), digest);
        assert_eq!(fs::metadata(path).expect("there").len(), descriptor["size"].as_u64().expect("a size"));
        name
    }

    fn manifest(&self) -> Value {
        self.json(&self.blob(&self.json("index.json")["manifests"][0]))
    }

    fn config(&self) -> Value {
        self.json(&self.blob(&self.manifest()["config"]))
    }
}

fn sha256(path: &Path) -> String {
    text(Command::new("sha256sum").arg(path)).split_whitespace().next().expect("a sum").to_owned()
}

#[test]
fn the_layout_is_whole() {
    let image = Image::shared();
    assert_eq!(image.json("oci-layout"), json!({"imageLayoutVersion": "1.0.0"}));
    let index = image.json("index.json");
    assert_eq!(index["schemaVersion"], 2);
    assert_eq!(index["manifests"].as_array().map(Vec::len), Some(1));
    let descriptor = &index["manifests"][0];
    for key in ["org.opencontainers.image.ref.name", "io.containerd.image.name"] {
        assert_eq!(descriptor["annotations"][key], NAME);
    }
    assert_eq!(descriptor["platform"], json!({"architecture": architecture(), "os": "linux"}));
    let manifest = image.manifest();
    assert_eq!(manifest["layers"].as_array().map(Vec::len), Some(1));
    let blobs = [descriptor, &manifest["config"], &manifest["layers"][0]].map(|blob| image.blob(blob));
    let total: u64 = blobs.iter().map(|blob| fs::metadata(image.file(blob)).expect("there").len()).sum();
    assert!(total < MOST, "{total} bytes are pulled");

    // What the layer is without compression, the config says.
    let plain = image.folder.join("plain.tar");
    let layer = image.file(&blobs[2]);
    let script = "gzip -dc \"$0\" > \"$1\"";
    text(Command::new("sh").args(["-euc", script]).arg(&layer).arg(&plain));
    let digest = format!("sha256:{}", sha256(&plain));
    assert_eq!(image.config()["rootfs"], json!({"type": "layers", "diff_ids": [digest]}));

    // The archive holds the same files, and the list that older Dockers look for.
    let archive = image.folder.join("image.tar");
    let names = text(Command::new("tar").arg("-tf").arg(&archive));
    let mut files: Vec<_> = names.lines().filter(|name| !name.ends_with('/')).collect();
    files.sort_unstable();
    let mut expected: Vec<_> =
        blobs.iter().map(String::as_str).chain(["index.json", "manifest.json", "oci-layout"]).collect();
    expected.sort_unstable();
    assert_eq!(files, expected);
    for file in files {
        let packed = output(Command::new("tar").arg("-xOf").arg(&archive).arg(file)).stdout;
        assert!(packed == fs::read(image.file(file)).expect("there"), "{file} differs");
    }
    let listed = image.json("manifest.json");
    assert_eq!(listed, json!([{"Config": blobs[1], "RepoTags": [NAME], "Layers": [blobs[2]]}]));
}

#[test]
fn the_layer_holds_the_two_programs() {
    let image = Image::shared();
    let layer = image.file(&image.blob(&image.manifest()["layers"][0]));
    let listing = text(Command::new("tar").args(["--numeric-owner", "--utc", "-tvzf"]).arg(&layer));
    let entries: Vec<Vec<&str>> = listing.lines().map(|line| line.split_whitespace().collect()).collect();
    let names: Vec<_> = entries.iter().map(|entry| entry[5]).collect();
    assert_eq!(names, ["shunt", "shunt-installer"]);
    for entry in entries {
        assert_eq!(entry[..2], ["-rwxr-xr-x", "0/0"], "mode and owner of {}", entry[5]);
        assert_eq!(entry[3..5], ["1970-01-01", "00:00"], "time of {}", entry[5]);
        let packed = output(Command::new("tar").arg("-xOzf").arg(&layer).arg(entry[5])).stdout;
        assert!(packed == fs::read(programs().join(entry[5])).expect("there"), "{} differs", entry[5]);
        assert!(!has_loader(&packed), "{} is not static", entry[5]);
    }
}

#[test]
fn the_same_programs_give_the_same_bytes() {
    let archive = |folder: &Path| sha256(&folder.join("image.tar"));
    let first = archive(&Image::shared().folder);
    // Over what is there, in another place, and with other times on the programs.
    let folder = tempfile::tempdir().expect("a directory");
    for name in ["shunt", "shunt-installer"] {
        fs::copy(programs().join(name), folder.path().join(name)).expect("copied");
    }
    for _ in 0..2 {
        text(&mut build(folder.path(), folder.path(), NAME));
        assert_eq!(archive(folder.path()), first);
    }
}

#[test]
fn dockerfile_and_layout_are_one_image() {
    let image = Image::shared();
    let config = image.config();
    let mut labels = BTreeMap::new();
    let mut files = BTreeMap::new();
    let (mut user, mut entrypoint) = (String::new(), Value::Null);
    let dockerfile =
        read("conf/Dockerfile").replace("${VERSION}", "1.2.3").replace("${TARGETARCH}", architecture());
    for line in dockerfile.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (word, rest) = line.split_once(' ').expect("an instruction");
        match word {
            "FROM" => assert_eq!(rest, "scratch"),
            "ARG" => {}
            "LABEL" => {
                let (key, value) = rest.split_once('=').expect("a label");
                labels.insert(key.to_owned(), value.trim_matches('"').to_owned());
            }
            "COPY" => {
                let words: Vec<_> = rest.split(' ').collect();
                assert_eq!(words[0], "--chmod=0755");
                files.insert(words[2].to_owned(), words[1].to_owned());
            }
            "USER" => user = rest.to_owned(),
            "ENTRYPOINT" => entrypoint = serde_json::from_str(rest).expect("JSON"),
            other => panic!("{other} in the Dockerfile"),
        }
    }
    assert_eq!(config["config"]["Labels"], json!(labels));
    assert_eq!(labels["org.opencontainers.image.version"], "1.2.3");
    assert_eq!(config["config"]["User"], json!(user));
    assert_eq!(user, "0");
    assert_eq!(config["config"]["Entrypoint"], entrypoint);
    assert_eq!(entrypoint, json!(["/shunt-installer"]));
    assert_eq!(config["architecture"], architecture());
    let targets: Vec<_> = files.keys().map(String::as_str).collect();
    assert_eq!(targets, ["/shunt", "/shunt-installer"]);
    // Where the Dockerfile copies from, the programs were put.
    for (target, source) in files {
        let beside = image.folder.join(source.strip_prefix("target/").expect("below target"));
        let program = programs().join(target.trim_start_matches('/'));
        assert!(fs::read(beside).expect("there") == fs::read(program).expect("there"), "{target}");
    }
}

#[test]
fn what_is_no_image_is_refused() {
    let folder = tempfile::tempdir().expect("a directory");
    let refused = |programs: &Path, name: &str, reason: &str| {
        let output = output(&mut build(programs, folder.path(), name));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(reason), "{reason:?} is not in: {said}");
    };
    refused(&programs(), "shunt", "a name with a tag");
    refused(folder.path(), NAME, "run `make build`");
    for name in ["shunt", "shunt-installer"] {
        fs::copy("/bin/true", folder.path().join(name)).expect("a program that is not static");
    }
    refused(folder.path(), NAME, "is not static");
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => panic!("nothing is shipped for {other}"),
    }
}

/// Whether an ELF program asks for a loader.
fn has_loader(elf: &[u8]) -> bool {
    let number = |at: usize, size: usize| {
        elf[at..at + size].iter().rev().fold(0usize, |number, byte| number << 8 | usize::from(*byte))
    };
    let (table, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    assert_eq!(elf[..5], *b"\x7fELF\x02");
    (0..count).any(|i| number(table + i * size, 4) == PT_INTERP as usize)
}
