//! The images that pods run, as archives: a node of ours imports them, for another cluster somebody pushes them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use shunt_tests::bin;
use shunt_tests::machine::image;

use crate::cluster::{Images, root};

/// Writes what pods run and another build of the installer to a directory; the installer's own is where `make image` leaves it.
/// Returns the names and all archives.
pub(crate) fn write(dir: &Path) -> (Images, [PathBuf; 3]) {
    let archive = root().join("target/image.tar");
    assert!(archive.is_file(), "{} is not there: run `make image`", archive.display());
    let installer = name_of(&root().join("target/image"));
    let next = format!("{installer}-next");
    let archives = [archive, other_build(dir, &next), image::write(dir)];
    (Images { installer, next, pod: image::APP.to_owned() }, archives)
}

/// The name of the image in an OCI layout.
fn name_of(layout: &Path) -> String {
    let path = layout.join("index.json");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let index: Value = serde_json::from_str(&text).expect("an index is JSON");
    let name = &index["manifests"][0]["annotations"]["io.containerd.image.name"];
    name.as_str().unwrap_or_else(|| panic!("{} names no image", path.display())).to_owned()
}

/// The installer's image with another plugin: what stands behind an ELF file's last section is not loaded, and yet it is
/// another file, which an upgrade has to put in the place of the old one.
fn other_build(aside: &Path, name: &str) -> PathBuf {
    let programs = aside.join("programs");
    fs::create_dir_all(&programs).expect("own directory");
    for program in [bin::shunt(), bin::installer()] {
        let mut bytes = fs::read(&program).expect("it was built");
        bytes.extend(b"another build\n");
        fs::write(programs.join(program.file_name().expect("a file")), bytes).expect("own directory");
    }
    let out = aside.join("next");
    let done = Command::new(root().join("conf/image.py"))
        .args(["--name", name, "--version", "0.0.0-next", "--programs"])
        .arg(&programs)
        .arg("--out")
        .arg(&out)
        .stdout(Stdio::null())
        .status()
        .expect("python3 is there");
    assert!(done.success(), "image.py: {done}");
    out.with_extension("tar")
}
