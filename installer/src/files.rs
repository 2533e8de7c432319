//! Directories of the host, held open: every path is resolved beneath the host's root, every write is whole or not at all.
//!
//! A runtime reads these directories while we write. So a file is written under a name that no runtime loads, in the same directory
//! (containerd does not notice a rename from elsewhere), gets its mode before its content, is synced, renamed over the old one, and
//! the directory is synced. A program that runs can be replaced like this and not in place (ETXTBSY).

use std::collections::hash_map::RandomState;
use std::ffi::OsStr;
use std::fs::File;
use std::hash::{BuildHasher as _, Hasher as _};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, RenameFlags, ResolveFlag, openat, openat2, renameat, renameat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fsync, unlinkat};

/// How the names of files that are being written begin and end.
const TEMPORARY: (&str, &str) = (".shunt.", ".tmp");

/// Files that change places are looked into, as far as this.
const SWAPPED_MAX: usize = 4 * 1024 * 1024;

/// How often an owner may write between two of our system calls, one after the other.
const SWAPS: usize = 1000;

/// Whether a name is one that a write of ours, killed half-way, leaves.
pub fn is_temporary(name: &str) -> bool {
    name.starts_with(TEMPORARY.0) && name.ends_with(TEMPORARY.1)
}

/// Whether the reason is that something is not there.
pub fn is_missing(error: &anyhow::Error) -> bool {
    error.root_cause().downcast_ref() == Some(&Errno::ENOENT)
}

/// Owner and mode of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Like {
    /// Permission bits.
    pub mode: u32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Like {
    /// Root's, with this mode.
    pub const fn root(mode: u32) -> Self {
        Self { mode, uid: 0, gid: 0 }
    }
}

/// What kind of thing a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A symbolic link.
    Link,
    /// Anything else: a directory, a fifo.
    Other,
}

/// What is known of a file without reading it. Two that are equal are of one content: the change time counts every write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// What it is.
    pub kind: Kind,
    /// Owner and mode.
    pub like: Like,
    /// Bytes.
    pub size: u64,
    identity: (u64, u64),
    changed: (i64, i64),
}

impl Stamp {
    /// Of a regular file, for those who make up directories.
    #[cfg(test)]
    pub(crate) const fn for_tests(like: Like) -> Self {
        Self { kind: Kind::File, like, size: 0, identity: (0, 0), changed: (0, 0) }
    }
}

impl From<&FileStat> for Stamp {
    fn from(stat: &FileStat) -> Self {
        let kind = match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFREG => Kind::File,
            SFlag::S_IFLNK => Kind::Link,
            _ => Kind::Other,
        };
        Self {
            kind,
            like: Like { mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid },
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            identity: (stat.st_dev, stat.st_ino),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }
}

/// The root of the host, as the installer sees it.
#[derive(Debug, Clone)]
pub struct Root {
    fd: Arc<OwnedFd>,
    shown: PathBuf,
}

impl Root {
    /// Opens the directory that is the host's root.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("open the host's root {}", path.display()))?;
        Ok(Self { fd: Arc::new(file.into()), shown: path.to_owned() })
    }

    /// A host path, as it is from here: for messages, and for programs that run here.
    pub fn shown(&self, path: &Path) -> PathBuf {
        self.shown.join(relative(path))
    }

    /// Opens a path with links in it followed as the host would: an absolute one begins at the host's root.
    fn resolve(&self, path: &Path, flags: OFlag) -> Result<OwnedFd, Errno> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let path = relative(path);
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { &path };
        openat2(self.fd.as_fd(), path, how)
    }

    /// A directory; `None` if there is none.
    pub fn directory(&self, path: &Path) -> Result<Option<Directory>> {
        match self.resolve(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
            Ok(fd) => Ok(Some(Directory { root: self.clone(), fd, path: path.to_owned() })),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(error) => {
                Err(error).with_context(|| format!("open directory {}", self.shown(path).display()))
            }
        }
    }

    /// A directory that is made where it is missing. Those above it are made too, for everybody to pass through.
    pub fn made_directory(&self, path: &Path, mode: u32) -> Result<Directory> {
        if let Some(directory) = self.directory(path)? {
            return Ok(directory);
        }
        let what = || format!("create directory {}", self.shown(path).display());
        let parent = path.parent().filter(|parent| *parent != path);
        let parent = self.made_directory(parent.with_context(what)?, 0o755)?;
        let name = path.file_name().with_context(what)?;
        match mkdirat(&parent.fd, name, Mode::from_bits_truncate(mode)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error).with_context(what),
        }
        self.directory(path)?.with_context(what)
    }
}

/// Without a leading `/`, `.` and `..`.
fn relative(path: &Path) -> PathBuf {
    path.components().filter(|part| matches!(part, Component::Normal(_))).collect()
}

/// A directory of the host.
#[derive(Debug)]
pub struct Directory {
    root: Root,
    fd: OwnedFd,
    path: PathBuf,
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Directory {
    /// A name in it, for messages.
    pub fn shown(&self, name: &str) -> String {
        self.root.shown(&self.path).join(name).display().to_string()
    }

    /// Which directory it is, whatever leads to it.
    pub fn identity(&self) -> Result<(u64, u64)> {
        let stat = fstat(&self.fd).with_context(|| format!("look at {}", self.shown("")))?;
        Ok((stat.st_dev, stat.st_ino))
    }

    /// Whether it is nowhere any more, and only open, or mounted from where it was.
    pub fn is_removed(&self) -> Result<bool> {
        let stat = fstat(&self.fd).with_context(|| format!("look at {}", self.shown("")))?;
        Ok(stat.st_nlink == 0)
    }

    /// A path that leads to it for as long as it is open.
    pub fn handle(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))
    }

    /// The names in it that are text, in byte order.
    pub fn names(&self) -> Result<Vec<String>> {
        let what = || format!("list {}", self.shown(""));
        let again =
            openat(&self.fd, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
                .with_context(what)?;
        let mut names = Vec::new();
        for entry in nix::dir::Dir::from_fd(again).with_context(what)?.iter() {
            let entry = entry.with_context(what)?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            names.extend(name.to_str().filter(|name| !matches!(*name, "." | "..")).map(str::to_owned));
        }
        names.sort_unstable();
        Ok(names)
    }

    /// What a name stands for, links not followed; `None` if there is nothing.
    pub fn stamp(&self, name: &str) -> Result<Option<Stamp>> {
        match fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Stamp::from(&stat))),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("look at {}", self.shown(name))),
        }
    }

    /// Opens a file for reading, links followed beneath the root, and says what it is. A fifo is not waited for.
    pub fn open(&self, name: &str) -> Result<(File, Stamp)> {
        let what = || format!("open {}", self.shown(name));
        let fd = self
            .root
            .resolve(&self.path.join(name), OFlag::O_RDONLY | OFlag::O_NONBLOCK)
            .with_context(what)?;
        let stamp = Stamp::from(&fstat(&fd).with_context(what)?);
        anyhow::ensure!(stamp.kind == Kind::File, "{} is no regular file", self.shown(name));
        Ok((File::from(fd), stamp))
    }

    /// Reads a text of at most `most` bytes.
    pub fn read(&self, name: &str, most: usize) -> Result<String> {
        let (file, _) = self.open(name)?;
        let what = || format!("read {}", self.shown(name));
        let mut bytes = Vec::new();
        let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
        file.take(limit).read_to_end(&mut bytes).with_context(what)?;
        anyhow::ensure!(bytes.len() <= most, "{} is larger than {most} bytes", self.shown(name));
        String::from_utf8(bytes).with_context(what)
    }

    /// Puts a file in place, whole or not at all.
    pub fn write(&self, name: &str, content: &mut dyn Read, like: Like) -> Result<()> {
        let renamed = |temporary: &str| Ok(renameat(&self.fd, temporary, &self.fd, name).map(|()| true)?);
        self.put(name, content, like, renamed).map(drop)
    }

    /// Puts a file in the place of one that holds `expected`. False if its owner has written another meanwhile: then that one stays.
    /// Nothing that an owner wrote is lost, however close the two writes are.
    pub fn replace(&self, name: &str, content: &str, like: Like, expected: &str) -> Result<bool> {
        self.put(name, &mut content.as_bytes(), like, |temporary| {
            self.exchange(temporary, name, expected, content)
        })
    }

    /// The two files change places, so that what was there can be looked at; if it is not what was expected, it goes back.
    fn exchange(&self, temporary: &str, name: &str, expected: &str, content: &str) -> Result<bool> {
        let swap = || renameat2(&self.fd, temporary, &self.fd, name, RenameFlags::RENAME_EXCHANGE);
        // What cannot be read is not what was expected.
        let text = |name: &str| self.read(name, SWAPPED_MAX).ok();
        match swap() {
            Ok(()) => {}
            // This file system cannot do it.
            Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => {
                let stands = text(name).is_some_and(|text| text == expected);
                return if stands {
                    Ok(renameat(&self.fd, temporary, &self.fd, name).map(|()| true)?)
                } else {
                    Ok(false)
                };
            }
            Err(Errno::ENOENT) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        let mut found = text(temporary);
        if found.as_deref() == Some(expected) {
            unlinkat(&self.fd, temporary, UnlinkatFlags::NoRemoveDir)?;
            return Ok(true);
        }
        let mut placed = Some(content.to_owned());
        // What was found is newer than what is in place, unless a third is by now: then that one is the newest, and so on.
        for _ in 0..SWAPS {
            swap()?;
            let back = text(temporary);
            if back == placed {
                break;
            }
            (placed, found) = (found, back);
        }
        Ok(false)
    }

    fn put(
        &self,
        name: &str,
        content: &mut dyn Read,
        like: Like,
        place: impl FnOnce(&str) -> Result<bool>,
    ) -> Result<bool> {
        let what = || format!("write {}", self.shown(name));
        let temporary = temporary_name();
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let fd = openat(&self.fd, temporary.as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR)
            .with_context(|| format!("create {}", self.shown(&temporary)))
            .with_context(what)?;
        let written = filled(File::from(fd), content, like).and_then(|()| place(&temporary));
        if !matches!(written, Ok(true)) {
            // The first error is the one to tell; what stays is swept by the next pass.
            let _later = unlinkat(&self.fd, temporary.as_str(), UnlinkatFlags::NoRemoveDir);
            return written.with_context(what);
        }
        self.sync().with_context(what)?;
        Ok(true)
    }

    /// Gives a file another mode.
    pub fn set_mode(&self, name: &str, mode: u32) -> Result<()> {
        let (file, _) = self.open(name)?;
        fchmod(&file, Mode::from_bits_truncate(mode))
            .with_context(|| format!("set the mode of {} to {mode:o}", self.shown(name)))
    }

    /// Renames within the directory, over what is there.
    pub fn rename(&self, from: &str, to: &str) -> Result<()> {
        renameat(&self.fd, from, &self.fd, to)
            .with_context(|| format!("rename {} to {to}", self.shown(from)))?;
        self.sync()
    }

    /// Gives a file back a name that nothing else has. False if something has.
    pub fn rename_back(&self, from: &str, to: &str) -> Result<bool> {
        match renameat2(&self.fd, from, &self.fd, to, RenameFlags::RENAME_NOREPLACE) {
            Ok(()) => self.sync().map(|()| true),
            Err(Errno::EEXIST) => Ok(false),
            // A file system that cannot.
            Err(Errno::EINVAL) => self.rename(from, to).map(|()| true),
            Err(error) => Err(error).with_context(|| format!("rename {} to {to}", self.shown(from))),
        }
    }

    /// Removes a file; nothing there is success.
    pub fn remove(&self, name: &str) -> Result<()> {
        match unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) => self.sync(),
            Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("remove {}", self.shown(name))),
        }
    }

    /// Removes what writes that were killed have left.
    pub fn sweep(&self) -> Result<()> {
        self.names()?.iter().filter(|name| is_temporary(name)).try_for_each(|name| self.remove(name))
    }

    /// Removes an empty directory in it; nothing there is success, and so is one that is not empty.
    pub fn remove_directory(&self, name: &str) -> Result<()> {
        match unlinkat(&self.fd, name, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT | Errno::ENOTEMPTY | Errno::EBUSY) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("remove directory {}", self.shown(name))),
        }
    }

    fn sync(&self) -> Result<()> {
        fsync(&self.fd).with_context(|| format!("sync directory {}", self.shown("")))
    }
}

fn filled(mut file: File, content: &mut dyn Read, like: Like) -> Result<()> {
    let stat = fstat(&file)?;
    if (stat.st_uid, stat.st_gid) != (like.uid, like.gid) {
        fchown(&file, Some(Uid::from_raw(like.uid)), Some(Gid::from_raw(like.gid)))
            .with_context(|| format!("give it to user {} and group {}", like.uid, like.gid))?;
    }
    fchmod(&file, Mode::from_bits_truncate(like.mode)).context("set its mode")?;
    io::copy(content, &mut file)?;
    file.sync_all().context("sync it to disk")
}

fn temporary_name() -> String {
    // Seeded by the system: two installers in containers have the same process id.
    let number = RandomState::new().build_hasher().finish();
    format!("{}{number:016x}{}", TEMPORARY.0, TEMPORARY.1)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn place() -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().expect("directory");
        let root = Root::open(directory.path()).expect("root");
        (directory, root)
    }

    #[test]
    fn whole_or_not_at_all() {
        struct Breaks(bool);
        impl Read for Breaks {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                if std::mem::replace(&mut self.0, true) {
                    return Err(io::Error::other("broken"));
                }
                buffer.fill(b'x');
                Ok(buffer.len())
            }
        }
        let (host, root) = place();
        let directory = root.made_directory(Path::new("/etc/cni"), 0o755).expect("made");
        directory.write("a", &mut &b"one"[..], like_of(host.path(), 0o640)).expect("written");
        directory.write("a", &mut &b"two"[..], like_of(host.path(), 0o600)).expect("written over");
        assert_eq!(directory.read("a", 3).expect("read"), "two");
        assert!(directory.read("a", 2).is_err(), "too large");
        assert_eq!(directory.stamp("a").expect("stamp").map(|stamp| stamp.like.mode), Some(0o600));
        let error =
            directory.write("a", &mut Breaks(false), like_of(host.path(), 0o600)).expect_err("broken");
        assert!(format!("{error:#}").contains("/etc/cni/a: broken"), "{error:#}");
        assert_eq!(directory.names().expect("listed"), ["a"]);
        assert_eq!(directory.read("a", 9).expect("read"), "two");
        let like = like_of(host.path(), 0o600);
        directory.write("b", &mut &b"new"[..], like).expect("written");
        assert!(!directory.rename_back("a", "b").expect("not renamed"), "the name is taken");
        directory.remove("b").expect("removed");
        assert!(directory.rename_back("a", "b").expect("renamed"));
        directory.rename("b", "a").expect("renamed");
        directory.rename("a", "b").expect("renamed");
        directory.remove("b").expect("removed");
        directory.remove("b").expect("nothing to remove");
        assert!(directory.stamp("b").expect("stamp").is_none());
        assert!(is_temporary(&temporary_name()) && !is_temporary("a.tmp"));
    }

    fn like_of(path: &Path, mode: u32) -> Like {
        let stat = nix::sys::stat::stat(path).expect("there");
        Like { mode, uid: stat.st_uid, gid: stat.st_gid }
    }

    #[test]
    fn what_an_owner_writes_meanwhile_is_not_lost() {
        let (host, root) = place();
        let directory = root.directory(Path::new("/")).expect("opened").expect("there");
        let like = like_of(host.path(), 0o640);
        fs::write(host.path().join("a"), "one").expect("written");
        assert!(directory.replace("a", "ours", like, "one").expect("replaced"));
        assert_eq!(directory.read("a", 9).expect("read"), "ours");
        for theirs in [&b"two"[..], &[0xff, 0xfe]] {
            fs::write(host.path().join("a"), theirs).expect("written");
            assert!(!directory.replace("a", "ours again", like, "ours").expect("another stands there"));
            assert_eq!(fs::read(host.path().join("a")).expect("read"), theirs);
        }
        fs::remove_file(host.path().join("a")).expect("removed");
        assert!(!directory.replace("a", "ours", like, "two").expect("it is gone"));
        assert!(directory.names().expect("listed").is_empty());
    }

    /// As fast as both can, for as long as it takes to lose one.
    #[test]
    fn nor_however_close_the_two_are() {
        let (host, root) = place();
        let directory = root.directory(Path::new("/")).expect("opened").expect("there");
        let like = like_of(host.path(), 0o600);
        fs::write(host.path().join("a"), "0").expect("written");
        let path = host.path().to_owned();
        let done = std::sync::atomic::AtomicBool::new(false);
        let (mut replaced, mut met) = (0, 0);
        let last = std::thread::scope(|scope| {
            let owner = scope.spawn(|| {
                let mut number = 0_u32;
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    number += 1;
                    fs::write(path.join("new"), number.to_string()).expect("written");
                    fs::rename(path.join("new"), path.join("a")).expect("renamed");
                    // Now close, now apart.
                    for _ in 0..number % 64 {
                        std::thread::yield_now();
                    }
                }
                number
            });
            for _ in 0..300 {
                let found = directory.read("a", 99).expect("there is always one");
                if found.ends_with('+') {
                    std::thread::yield_now();
                } else if directory.replace("a", &format!("{found}+"), like, &found).expect("tried") {
                    replaced += 1;
                } else {
                    met += 1;
                }
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            owner.join().expect("the owner")
        });
        let found = directory.read("a", 99).expect("read");
        assert_eq!(found.trim_end_matches('+'), last.to_string(), "{replaced} replaced, {met} met");
    }

    #[test]
    fn links_lead_where_they_lead_on_the_host() {
        let (host, root) = place();
        fs::create_dir_all(host.path().join("data/net.d")).expect("made");
        fs::create_dir_all(host.path().join("etc/cni")).expect("made");
        symlink("/data/net.d", host.path().join("etc/cni/net.d")).expect("linked");
        symlink("../../../../../../../../etc/passwd", host.path().join("data/net.d/out")).expect("linked");
        symlink("/data/there", host.path().join("data/net.d/in")).expect("linked");
        fs::write(host.path().join("data/there"), "inside").expect("written");
        let directory = root.directory(Path::new("/etc/cni/net.d")).expect("opened").expect("there");
        directory.write("a", &mut &b"x"[..], like_of(host.path(), 0o600)).expect("written");
        assert!(host.path().join("data/net.d/a").is_file());
        assert_eq!(directory.read("in", 99).expect("inside"), "inside");
        assert!(directory.read("out", 99).is_err(), "no way out of the root");
        assert_eq!(directory.stamp("in").expect("stamp").map(|stamp| stamp.kind), Some(Kind::Link));
        assert!(!directory.is_removed().expect("looked"));
        let gone = root.made_directory(Path::new("/etc/gone"), 0o700).expect("made");
        fs::remove_dir(host.path().join("etc/gone")).expect("removed");
        assert!(gone.is_removed().expect("looked"));
        assert!(root.directory(Path::new("/etc/none")).expect("looked").is_none());
        assert!(root.directory(Path::new("/data/there")).expect("looked").is_none(), "a file");
    }

    #[test]
    fn what_is_no_file_is_not_read() {
        let (host, root) = place();
        nix::unistd::mkfifo(&host.path().join("fifo"), Mode::S_IRWXU).expect("fifo");
        fs::create_dir(host.path().join("directory")).expect("made");
        fs::write(host.path().join("file"), [0xff]).expect("written");
        fs::set_permissions(host.path().join("file"), fs::Permissions::from_mode(0o644)).expect("mode");
        let directory = root.directory(Path::new("/")).expect("opened").expect("there");
        for name in ["fifo", "directory", "file", "none"] {
            assert!(directory.read(name, 99).is_err(), "{name}");
        }
        directory.set_mode("file", 0o755).expect("set");
        assert_eq!(directory.stamp("file").expect("stamp").map(|stamp| stamp.like.mode), Some(0o755));
    }
}
