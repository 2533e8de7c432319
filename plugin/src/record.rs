//! What is known of an attachment after ADD: one file each, written whole or not at all.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::attachment::Attachment;
use crate::backend::Receipt;
use crate::bpf::pins::children;
use crate::bpf::programs::make_directory;
use crate::fault::{Fault, Outcome, Tried as _};
use crate::grounds::Grounds;
use crate::netns::Identity;
use crate::plan::Plan;

/// Version of the file's form.
pub const VERSION: u32 = 1;

/// An attachment as ADD left it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// [`VERSION`]
    pub version: u32,
    /// Container id and interface.
    pub attachment: Attachment,
    /// Name of the network list it was added for: GC of another list leaves it alone.
    pub network: String,
    /// Namespace, name and uid of the pod, for people.
    pub pod: String,
    /// Path of the network namespace at ADD.
    pub netns: PathBuf,
    /// Which namespace that was.
    pub netns_identity: Identity,
    /// What the pod gets.
    pub plan: Plan,
    /// What the backend did.
    pub receipt: Receipt,
    /// What the plan was made from; none: an older plugin did not say.
    #[serde(default)]
    pub grounds: Option<Grounds>,
}

/// Files larger than this are not ours.
const LIMIT: u64 = 64 * 1024 * 1024;
const SUFFIX: &str = ".json";

/// Records of one state directory.
#[derive(Debug, Clone, Copy)]
pub struct Records<'a> {
    state_dir: &'a Path,
}

impl<'a> Records<'a> {
    /// Under `state_dir/attachments`.
    pub fn new(state_dir: &'a Path) -> Self {
        Self { state_dir }
    }

    fn directory(&self) -> PathBuf {
        self.state_dir.join("attachments")
    }

    /// The file of the attachment called `name`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory().join(format!("{name}{SUFFIX}"))
    }

    /// Names of all attachments with a record.
    pub fn names(&self) -> Outcome<Vec<String>> {
        let files = children(&self.directory())?;
        Ok(files.iter().filter_map(|file| file.strip_suffix(SUFFIX)).map(str::to_owned).collect())
    }

    /// True if there is a file, readable or not.
    pub fn exists(&self, name: &str) -> bool {
        self.path(name).symlink_metadata().is_ok()
    }

    /// Reads a record; `None` if there is none.
    pub fn read(&self, name: &str) -> Outcome<Option<Record>> {
        let path = self.path(name);
        let what = || format!("read record {}", path.display());
        let Some(text) = read_whole(&path, LIMIT).tried(what)? else {
            return Ok(None);
        };
        let record: Record = serde_json::from_str(&text).tried(what)?;
        if record.version == VERSION {
            Ok(Some(record))
        } else {
            Err(Fault::new(
                what(),
                format!("it is of version {}, this plugin writes {VERSION}", record.version),
            ))
        }
    }

    /// Writes a record: into a file beside it, renamed. Not synced to disk: a power cut takes the pins the record is about, and
    /// what it may leave of the file is treated as no record.
    pub fn write(&self, record: &Record) -> Outcome<()> {
        make_directory(&self.directory())?;
        let path = self.path(&record.attachment.pin_name());
        let what = || format!("write record {}", path.display());
        let text = serde_json::to_vec(record).tried(what)?;
        write_whole(&path, &text).tried(what)
    }

    /// Removes a record and what a killed write left; nothing there is success.
    pub fn remove(&self, name: &str) -> Outcome<()> {
        let path = self.path(name);
        remove_whole(&path).tried(|| format!("remove record {}", path.display()))
    }
}

/// Writes a file for root only: into a file beside it, renamed. Whoever opens `path` sees all of it or what was there before.
pub(crate) fn write_whole(path: &Path, text: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    // What a killed write left, or whatever else stands there: opening a fifo would wait for a reader.
    discard(&temporary)?;
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let written = file.write_all(text).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The first error is the one to tell.
        let _later = fs::remove_file(&temporary);
    }
    written
}

/// Reads a file of ours of at most `most` bytes; `None` if there is none. A link is not followed and a fifo not waited for.
pub(crate) fn read_whole(path: &Path, most: u64) -> io::Result<Option<String>> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = match File::options().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    file.take(most).read_to_string(&mut text)?;
    Ok(Some(text))
}

/// Removes a file that [`write_whole`] wrote, and what a killed write left beside it; nothing there is success.
pub(crate) fn remove_whole(path: &Path) -> io::Result<()> {
    discard(&path.with_extension("new"))?;
    discard(path)
}

/// Removes what is called so, a directory too: the name is ours and nothing else may have it. Nothing there is success.
pub(crate) fn discard(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        _ => fs::remove_file(path),
    };
    match removed {
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Err(error)
        }
        _ => Ok(()),
    }
}
