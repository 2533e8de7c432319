//! A machine with containerd on it, the images imported and Shunt installed.

use std::fs;

use serde_json::{Value, json};
use shunt_tests::bin;
use shunt_tests::machine::containerd::{self, Version};
use shunt_tests::machine::cri::Cri;
use shunt_tests::machine::{Machine, image};

/// The host.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) machine: Machine,
    pub(crate) cri: Cri,
    pub(crate) version: Version,
}

impl Host {
    /// One that runs, without Shunt.
    pub(crate) fn bare(name: &str, version: Version) -> Self {
        let mut machine = Machine::new(name);
        containerd::install(&mut machine, version);
        fs::copy(bin::installer(), machine.path("opt/rig/bin/shunt-installer")).expect("own disk");
        fs::copy(bin::shunt(), machine.path("opt/rig/shunt")).expect("own disk");
        let archive = image::write(machine.aside());
        machine.boot();
        let cri = containerd::start(&mut machine);
        image::import(&machine, &archive);
        Self { machine, cri, version }
    }

    /// The same with Shunt, under this backend.
    pub(crate) fn new(name: &str, version: Version, backend: &str) -> Self {
        let host = Self::bare(name, version);
        host.configure(&json!({
            "type": "shunt",
            "mesh": "istio",
            "backend": backend,
            "log": { "level": "debug" },
        }));
        host.install();
        host
    }

    /// Writes the entry that the next install takes.
    pub(crate) fn configure(&self, entry: &Value) {
        let path = self.machine.path("etc/shunt/entry.json");
        fs::create_dir_all(path.parent().expect("a file lies in a directory")).expect("own disk");
        fs::write(path, entry.to_string()).expect("own disk");
    }

    /// `shunt-installer once`.
    #[track_caller]
    pub(crate) fn install(&self) {
        self.machine.run(
            "shunt-installer",
            &["once", "--host-root", "/", "--plugin", "/opt/rig/shunt", "--entry", "/etc/shunt/entry.json"],
        );
    }
}
