//! File locks with a time limit: what must not happen twice at once, between processes that may be killed.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::bpf::programs::make_directory;
use crate::fault::{Fault, Outcome, Tried as _};

/// The locks of one state directory.
#[derive(Debug)]
pub struct Lock<'a> {
    state_dir: &'a Path,
    deadline: Instant,
}

/// A lock that is held; released when dropped, and by the kernel when the process dies.
#[derive(Debug)]
pub struct Held {
    _file: File,
    path: PathBuf,
}

impl Held {
    /// Removes the lock's file while holding it. A process that waits for it notices and takes a new one.
    pub fn discard(self) {
        // A file that stays is only an empty file.
        let _stays = fs::remove_file(&self.path);
    }
}

const PAUSE: Duration = Duration::from_millis(2);

impl<'a> Lock<'a> {
    /// Locks under `state_dir/locks`, waited for until `deadline`.
    pub fn new(state_dir: &'a Path, deadline: Instant) -> Self {
        Self { state_dir, deadline }
    }

    /// True if the lock `name` has a file: somebody holds it, or was killed holding it, or did not discard it.
    pub fn exists(&self, name: &str) -> bool {
        self.path(name).symlink_metadata().is_ok()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.state_dir.join("locks").join(name)
    }

    /// Takes the lock `name`.
    pub fn take(&self, name: &str) -> Outcome<Held> {
        let path = self.path(name);
        let make_directory = || make_directory(&self.state_dir.join("locks"));
        make_directory()?;
        loop {
            let opened = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                // A fifo in its place is an error at once, not a wait for a reader.
                .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
                .open(&path);
            let file = match opened {
                // Whoever takes us off the node has removed the directory.
                Err(error) if error.kind() == io::ErrorKind::NotFound && Instant::now() < self.deadline => {
                    make_directory()?;
                    continue;
                }
                opened => opened.tried(|| format!("open lock {}", path.display()))?,
            };
            match file.try_lock() {
                Ok(()) if is_at(&file, &path) => return Ok(Held { _file: file, path }),
                // Its holder removed it: what we locked is no longer what others see.
                Ok(()) => {}
                Err(TryLockError::WouldBlock) if Instant::now() < self.deadline => pause(),
                Err(TryLockError::WouldBlock) => {
                    return Err(Fault::new(
                        format!("wait for lock {}", path.display()),
                        "another run of the plugin held it for the whole time limit",
                    ));
                }
                Err(TryLockError::Error(error)) => {
                    return Err(error).tried(|| format!("lock {}", path.display()));
                }
            }
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a lock cannot be waited for with a time limit; bounded by the deadline above"
)]
fn pause() {
    std::thread::sleep(PAUSE);
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}
