//! What is on the host now. A neighbour's broken file is a fact, not an error.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};
use shunt_api::paths::TYPE;

use crate::conflist::{Form, SIZE_MAX};
use crate::files::{Directory, Kind, Root, Stamp, is_temporary};
use crate::settings::Settings;

/// How the name of a file ends that a list of ours stands in for (see [`crate::lists`]).
pub const SAVED: &str = ".shunt-saved";

/// Mode of the plugin.
pub const BINARY_MODE: u32 = 0o755;

/// A file that a runtime loads, or that we have put aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfFile {
    /// Its name.
    pub name: String,
    /// What it is.
    pub stamp: Stamp,
    /// What is in it, or why that cannot be read.
    pub text: Result<String, String>,
}

/// The directory with the network configurations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conf {
    /// Files that a runtime loads, in byte order of names: the order in which runtimes take them.
    pub files: Vec<ConfFile>,
    /// Files put aside.
    pub saved: Vec<ConfFile>,
    /// Names of what a write that was killed left.
    pub stale: Vec<String>,
    /// All other names: some neighbours show by them what they have done to ours.
    pub others: Vec<String>,
}

impl Conf {
    /// Reads the directory.
    pub fn read(directory: &Directory) -> Result<Self> {
        let mut conf = Self::default();
        for name in directory.names()? {
            if is_temporary(&name) {
                conf.stale.push(name);
                continue;
            }
            let saved = name.ends_with(SAVED);
            // It may be gone since it was listed.
            let Some(stamp) = directory.stamp(&name)? else { continue };
            if stamp.kind == Kind::Other || !saved && Form::of(&name).is_none() {
                conf.others.push(name);
                continue;
            }
            let text = directory.read(&name, SIZE_MAX).map_err(|error| format!("{error:#}"));
            let files = if saved { &mut conf.saved } else { &mut conf.files };
            files.push(ConfFile { name, stamp, text });
        }
        Ok(conf)
    }

    /// The file of this name.
    pub fn file(&self, name: &str) -> Option<&ConfFile> {
        self.files.iter().find(|file| file.name == name)
    }
}

/// The plugin on the host, beside the one to install.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Binary {
    /// It is the one to install.
    Same,
    /// There is none.
    Missing,
    /// It is another, or nothing that can be read.
    Differs,
    /// It is the one, but not everybody may run it.
    Mode(u32),
}

/// Device, inode, change time in seconds and nanoseconds, size: of a file here.
type SourceStamp = (u64, u64, i64, i64, u64);

/// SHA-256 of a file.
pub type Hash = [u8; 32];

/// A digest in hexadecimal, as much of it as people compare.
pub fn short(hash: &Hash) -> String {
    hash.iter().take(6).fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// Digests of the two plugins, remembered for as long as the files are what they were.
#[derive(Debug, Default)]
pub struct Hashes {
    source: Option<(SourceStamp, Hash)>,
    installed: Option<(Stamp, Hash)>,
}

impl Hashes {
    /// Reads everything anew next time: a file can change twice within one tick of its clock.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// Of the plugin to install.
    pub fn of_source(&mut self, path: &Path) -> Result<Hash> {
        let what = || format!("read the plugin to install, {} (--plugin)", path.display());
        let mut file = File::open(path).with_context(what)?;
        let about = file.metadata().with_context(what)?;
        anyhow::ensure!(about.is_file(), "{}: it is no regular file", what());
        let stamp = (about.dev(), about.ino(), about.ctime(), about.ctime_nsec(), about.size());
        match self.source {
            Some((known, hash)) if known == stamp => Ok(hash),
            _ => {
                let hash = hash(&mut file).with_context(what)?;
                self.source = Some((stamp, hash));
                Ok(hash)
            }
        }
    }

    /// Compares the plugin on the host with the one to install.
    pub fn compare(&mut self, directory: Option<&Directory>, wanted: &Hash) -> Result<Binary> {
        let Some(directory) = directory else { return Ok(Binary::Missing) };
        let Some(stamp) = directory.stamp(TYPE)? else { return Ok(Binary::Missing) };
        if stamp.kind != Kind::File {
            return Ok(Binary::Differs);
        }
        let found = match self.installed {
            Some((known, hash)) if known == stamp => hash,
            _ => {
                let (mut file, stamp) = directory.open(TYPE)?;
                let hash = hash(&mut file).with_context(|| format!("read {}", directory.shown(TYPE)))?;
                self.installed = Some((stamp, hash));
                hash
            }
        };
        Ok(match (found == *wanted, stamp.like.mode) {
            (false, _) => Binary::Differs,
            (true, mode) if mode & 0o111 != 0o111 => Binary::Mode(mode),
            (true, _) => Binary::Same,
        })
    }
}

fn hash(file: &mut File) -> io::Result<Hash> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().into()),
            read => hasher.update(buffer.get(..read).unwrap_or_default()),
        }
    }
}

/// The two directories of the host, open.
#[derive(Debug)]
pub struct Places {
    /// The host's root.
    pub root: Root,
    /// With the network configurations; none: the primary CNI has not made it.
    pub conf: Option<Directory>,
    /// With the plugins.
    pub bin: Option<Directory>,
}

impl Places {
    /// Opens them.
    pub fn open(settings: &Settings) -> Result<Self> {
        let root = Root::open(&settings.host_root).context("(--host-root)")?;
        let conf = root.directory(&settings.conf_dir).context("(--conf-dir)")?;
        let bin = root.directory(&settings.bin_dir).context("(--bin-dir)")?;
        Ok(Self { root, conf, bin })
    }
}
