//! Says when something changed in the directories that matter. Which it was does not matter: everything is looked at anew.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, AsRawFd, RawFd};
use std::path::Path;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::claim::Claim;
use crate::files::{Directory, Root};
use crate::settings::{Settings, Wanted};

/// inotify as tokio waits for it.
struct Events(Inotify);

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// The directories that are watched, by which they are: device and inode.
pub struct Watch {
    events: AsyncFd<Events>,
    watched: BTreeMap<(u64, u64), WatchDescriptor>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("watched", &self.watched).finish_non_exhaustive()
    }
}

impl Watch {
    /// Watches nothing yet.
    pub fn new() -> Result<Self> {
        let what = "watch directories (inotify)";
        let events = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).context(what)?;
        #[expect(unsafe_code, reason = "tokio has no safe way to wait for a file descriptor of ours")]
        // SAFETY: the descriptor is open, and stays the same one, for as long as what owns it: it is never taken out.
        let events = unsafe { AsyncFd::register_with_interest(Events(events), Interest::READABLE) };
        let events = events.map_err(|error| error.into_parts().1).context(what)?;
        Ok(Self { events, watched: BTreeMap::new() })
    }

    /// Watches what matters as it lies now. What cannot be watched is found by looking from time to time.
    pub fn follow(&mut self, settings: &Settings, wanted: Option<&Wanted>) {
        let mut directories: Vec<Directory> = Vec::new();
        if let Ok(root) = Root::open(&settings.host_root) {
            directories.extend(nearest(&root, &settings.conf_dir));
            directories.extend(nearest(&root, &settings.bin_dir));
            directories.extend(wanted.and_then(|wanted| Claim::directory(&root, wanted).ok()?));
        }
        // A mounted ConfigMap changes by a rename in the directory of the file.
        let entry = settings.entry.file.as_deref().and_then(Path::parent);
        directories.extend(entry.and_then(|parent| Root::open(parent).ok()?.directory(Path::new("/")).ok()?));
        self.watch(&directories);
    }

    fn watch(&mut self, directories: &[Directory]) {
        let mut before = std::mem::take(&mut self.watched);
        for directory in directories {
            let Ok(identity) = directory.identity() else { continue };
            let added = before.remove(&identity).map_or_else(|| self.add(directory), Ok);
            if let Ok(descriptor) = added {
                self.watched.insert(identity, descriptor);
            }
        }
        for descriptor in before.into_values() {
            // It is gone already when the directory is.
            let _gone = self.events.get_ref().0.rm_watch(descriptor);
        }
    }

    fn add(&self, directory: &Directory) -> nix::Result<WatchDescriptor> {
        let flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        self.events.get_ref().0.add_watch(&directory.handle(), flags)
    }

    /// Waits until something changed. Events that were lost are events.
    pub async fn changed(&mut self) -> Result<()> {
        let what = "wait for changes (inotify)";
        let mut ready = self.events.readable().await.context(what)?;
        loop {
            match ready.get_inner().0.read_events() {
                Ok(events) if !events.is_empty() => {}
                Ok(_) | Err(Errno::EAGAIN) => break,
                Err(error) => return Err(error).context(what),
            }
        }
        ready.clear_ready();
        Ok(())
    }
}

/// A directory or, while it is missing, the nearest above it that is there.
fn nearest(root: &Root, path: &Path) -> Option<Directory> {
    path.ancestors().find_map(|path| root.directory(path).ok().flatten())
}
