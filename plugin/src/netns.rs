//! Network namespaces: opening one safely, telling them apart, and running code inside one.
//!
//! `setns` is per thread, and everything a thread opened before the switch stays outside. So code that must run inside gets a
//! thread of its own that enters and ends: an early return cannot leave the process in the wrong namespace.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};

use crate::fault::{Fault, Outcome, Tried as _};

/// Which namespace: the device and inode of its file, the same for every path to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Device of nsfs.
    pub device: u64,
    /// Inode.
    pub inode: u64,
}

/// An open network namespace.
#[derive(Debug)]
pub struct Netns {
    file: File,
    path: PathBuf,
    identity: Identity,
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Netns {
    /// Opens `path`, which must be a namespace file: a fifo, a directory or a plain file is refused without waiting on it.
    pub fn open(path: &Path) -> Outcome<Self> {
        let file = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(path)
            .tried(|| format!("open network namespace {}", path.display()))?;
        let kind = nix::sys::statfs::fstatfs(&file).tried(|| format!("ask what {} is", path.display()))?;
        if kind.filesystem_type() != nix::sys::statfs::NSFS_MAGIC {
            return Err(Fault::new(
                format!("use {} as network namespace", path.display()),
                "it is not a namespace file",
            ));
        }
        let identity = identity(&file, path)?;
        Ok(Self { file, path: path.to_owned(), identity })
    }

    /// The namespace this process is in.
    pub fn own() -> Outcome<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// A new one that is gone when this is.
    pub fn scratch() -> Outcome<Self> {
        let what = || "make a network namespace";
        std::thread::scope(|scope| {
            let maker = || -> Outcome<Self> {
                nix::sched::unshare(CloneFlags::CLONE_NEWNET).tried(what)?;
                Self::own()
            };
            let made = std::thread::Builder::new()
                .name("scratch".to_owned())
                .spawn_scoped(scope, maker)
                .tried(what)?;
            made.join().unwrap_or_else(|_| Err(Fault::new(what(), "the thread panicked")))
        })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which one it is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Runs `work` on a thread inside the namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Outcome<T> + Send) -> Outcome<T> {
        std::thread::scope(|scope| {
            let inside = std::thread::Builder::new()
                .name("netns".to_owned())
                .spawn_scoped(scope, || {
                    setns(self, CloneFlags::CLONE_NEWNET)
                        .tried(|| format!("enter network namespace {}", self.path.display()))?;
                    work()
                })
                .tried(|| "start a thread for the pod's network namespace")?;
            inside.join().unwrap_or_else(|_| {
                Err(Fault::new("work inside the pod's network namespace", "the thread panicked"))
            })
        })
    }

    /// The cookie by which the kernel's programs know the namespace: asked of a socket inside it.
    pub fn cookie(&self) -> Outcome<u64> {
        self.run(cookie_of_thread)
    }
}

fn identity(file: &File, path: &Path) -> Outcome<Identity> {
    let metadata = file.metadata().tried(|| format!("look at {}", path.display()))?;
    Ok(Identity { device: metadata.dev(), inode: metadata.ino() })
}

/// `SO_NETNS_COOKIE`, since Linux 5.14.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// The cookie of the calling thread's namespace.
#[expect(unsafe_code, reason = "nix has no wrapper for SO_NETNS_COOKIE")]
pub fn cookie_of_thread() -> Outcome<u64> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .tried(|| "open a socket in the pod's network namespace")?;
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::from(8_u8);
    // SAFETY: an open socket, and a buffer of the length given.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error()).tried(|| "ask for the network namespace's cookie")
    }
}
