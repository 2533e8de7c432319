//! One installer at a time. The newest one works; an older one that still runs steps back, and takes over again if it is left alone.
//!
//! Whoever begins writes a claim; whoever works holds a lock, which the kernel gives back when a process dies. One that finds the
//! claim of another lets the lock go. One that finds that the node is being, or was, uninstalled stands down for good: the process
//! that runs on until its pod is removed must not put everything back.

use std::fs::{File, TryLockError};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use crate::files::{Directory, Like, Root, is_missing};
use crate::settings::Wanted;

/// Directory of the claim and the lock, in the plugin's state directory.
const DIRECTORY: &str = "installer";
const CLAIM: &str = "claim";
const LOCK: &str = "lock";
const CLAIM_MAX: usize = 256;

/// For how long a claim that came later is left the lock to take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a process is here for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To install.
    Install,
    /// To take everything off.
    Uninstall,
}

impl Purpose {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Install => "install",
            Self::Uninstall => "uninstall",
        }
    }
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Ours.
    Ours,
    /// That of one that came later, or of one that has not let go yet.
    Another,
    /// Nobody's who installs: the node was uninstalled by one that came later.
    Over,
}

/// This process's claim.
#[derive(Debug)]
pub struct Claim {
    id: String,
    purpose: Purpose,
    lock: Option<File>,
    claimed: bool,
    over: bool,
    /// The claim that came later, when it was seen first, and in which directory.
    later: Option<(String, Instant, (u64, u64))>,
}

impl Claim {
    /// A claim that nobody knows of yet.
    pub fn new(purpose: Purpose) -> Result<Self> {
        let id =
            std::fs::read_to_string("/proc/sys/kernel/random/uuid").context("ask the kernel for a name")?;
        Ok(Self { id: id.trim().to_owned(), purpose, lock: None, claimed: false, over: false, later: None })
    }

    /// The directory of claim and lock, if it is there.
    pub fn directory(root: &Root, wanted: &Wanted) -> Result<Option<Directory>> {
        root.directory(&wanted.state_dir.join(DIRECTORY))
    }

    /// Looks whose turn it is, and takes it if it is ours to take.
    pub fn turn(&mut self, root: &Root, wanted: &Wanted, now: Instant) -> Result<Turn> {
        if self.over {
            return Ok(Turn::Over);
        }
        let directory = match Self::directory(root, wanted)? {
            Some(directory) => directory,
            // Removed while another worked in it, or before the lock was ours: that one has taken everything off.
            None if self.later.is_some() || (self.claimed && self.lock.is_none()) => {
                return Ok(match self.purpose {
                    Purpose::Install => self.stand_down(),
                    // To do that again hurts nobody, and needs no claim.
                    Purpose::Uninstall => Turn::Ours,
                });
            }
            None => {
                root.made_directory(&wanted.state_dir, 0o700)?;
                root.made_directory(&wanted.state_dir.join(DIRECTORY), 0o700)?
            }
        };
        let fresh = !self.claimed;
        match self.turn_in(&directory, now) {
            // Removed meanwhile, by one that has taken everything off; or what was being written was swept away, by one that took it
            // for what a killed one had left. The next look tells.
            Err(error) if is_missing(&error) || directory.is_removed()? => {
                self.claimed &= !fresh;
                Ok(Turn::Another)
            }
            turn => turn,
        }
    }

    fn turn_in(&mut self, directory: &Directory, now: Instant) -> Result<Turn> {
        let fresh = !self.claimed;
        if fresh {
            self.write(directory)?;
        }
        let found = match directory.stamp(CLAIM)? {
            Some(_) => directory.read(CLAIM, CLAIM_MAX).unwrap_or_default(),
            None => String::new(),
        };
        let (id, purpose) = found.trim().split_once(' ').unwrap_or_default();
        if id == self.id {
            self.later = None;
        } else if fresh && id.is_empty() {
            // Gone with what was removed before it came: it is made anew.
            self.claimed = false;
            return Ok(Turn::Another);
        } else if self.purpose == Purpose::Install && purpose == Purpose::Uninstall.as_str() {
            return Ok(self.stand_down());
        } else if let Some(turn) = self.step_back(id, directory.identity()?, now) {
            return Ok(turn);
        }
        if self.lock.is_none() {
            self.lock = take(directory)?;
            if self.lock.is_none() {
                return Ok(Turn::Another);
            }
            directory.sweep()?;
        }
        if id != self.id {
            self.write(directory)?;
        }
        Ok(Turn::Ours)
    }

    /// Lets go for a claim that came later, which has [`PATIENCE`] to take the lock; it holds that until it ends.
    fn step_back(&mut self, id: &str, directory: (u64, u64), now: Instant) -> Option<Turn> {
        let held = self.lock.take().is_some();
        let installs = self.purpose == Purpose::Install;
        match &self.later {
            // Another one than before: removed and made anew.
            Some((_, _, known)) if *known != directory && !held && installs => Some(self.stand_down()),
            Some((known, since, _)) if known == id => {
                (now.saturating_duration_since(*since) < PATIENCE).then_some(Turn::Another)
            }
            // A claim that is nonsense or gone is nobody's. Who does not hold the lock waits: it may be that all is being taken off, and
            // the directory is the next to go.
            _ if id.is_empty() && held => None,
            _ => {
                self.later = Some((id.to_owned(), now, directory));
                Some(Turn::Another)
            }
        }
    }

    fn stand_down(&mut self) -> Turn {
        (self.over, self.lock) = (true, None);
        Turn::Over
    }

    /// Leaves the node to whoever waits for it.
    pub fn let_go(&mut self) {
        self.lock = None;
    }

    fn write(&mut self, directory: &Directory) -> Result<()> {
        let text = format!("{} {}\n", self.id, self.purpose.as_str());
        let write = || directory.write(CLAIM, &mut text.as_bytes(), Like::root(0o600));
        // One that took the lock just now may have taken what we were writing for what a killed one left.
        let written = write().or_else(|error| if is_missing(&error) { write() } else { Err(error) });
        written.context("claim this node")?;
        self.claimed = true;
        Ok(())
    }

    /// Whether somebody installs who came after one that uninstalls had removed all claims.
    pub fn is_followed(root: &Root, wanted: &Wanted) -> Result<bool> {
        let Some(directory) = Self::directory(root, wanted)? else { return Ok(false) };
        if directory.stamp(CLAIM)?.is_none() {
            return Ok(false);
        }
        let found = directory.read(CLAIM, CLAIM_MAX).unwrap_or_default();
        Ok(found.trim().split_once(' ').is_some_and(|(_, purpose)| purpose == Purpose::Install.as_str()))
    }

    /// Removes claim and lock, for one that has taken everything else off. What is held stays held, for as long as it is held.
    pub fn leave_nothing(root: &Root, wanted: &Wanted) -> Result<()> {
        let Some(state) = root.directory(&wanted.state_dir)? else { return Ok(()) };
        if let Some(directory) = Self::directory(root, wanted)? {
            for name in directory.names()? {
                directory.remove(&name)?;
            }
        }
        state.remove_directory(DIRECTORY)
    }
}

/// The lock; `None` while another holds it.
fn take(directory: &Directory) -> Result<Option<File>> {
    let what = || format!("lock {}", directory.shown(LOCK));
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let fd: OwnedFd = openat(directory, LOCK, flags, Mode::S_IRUSR | Mode::S_IWUSR).with_context(what)?;
    let file = File::from(fd);
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error).with_context(what),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place {
        _host: tempfile::TempDir,
        root: Root,
        directory: Directory,
    }

    fn wanted() -> Wanted {
        Wanted {
            text: String::new(),
            object: serde_json::Map::new(),
            state_dir: "/run/shunt".into(),
            bpf_dir: "/sys/fs/bpf/shunt".into(),
            log_file: "/var/log/shunt/shunt.log".into(),
        }
    }

    fn place() -> Place {
        let host = tempfile::tempdir().expect("directory");
        let root = Root::open(host.path()).expect("root");
        let directory = root.made_directory(&wanted().state_dir.join(DIRECTORY), 0o700).expect("made");
        Place { _host: host, root, directory }
    }

    /// One that has let go of the node, and the newer one that works on it.
    fn stepped_back(root: &Root, now: Instant) -> (Claim, Claim) {
        let mut old = Claim::new(Purpose::Install).expect("claim");
        assert_eq!(old.turn(root, &wanted(), now).expect("turn"), Turn::Ours);
        let mut new = Claim::new(Purpose::Install).expect("claim");
        assert_eq!(
            new.turn(root, &wanted(), now).expect("turn"),
            Turn::Another,
            "the old one has not let go"
        );
        assert_eq!(old.turn(root, &wanted(), now).expect("turn"), Turn::Another, "it lets go");
        assert_eq!(new.turn(root, &wanted(), now).expect("turn"), Turn::Ours);
        (old, new)
    }

    #[test]
    fn the_newest_works_and_the_older_comes_back_when_it_has_ended() {
        let (place, now) = (place(), Instant::now());
        let mut old = Claim::new(Purpose::Install).expect("claim");
        assert_eq!(old.turn(&place.root, &wanted(), now).expect("turn"), Turn::Ours);
        assert_eq!(old.turn(&place.root, &wanted(), now).expect("turn"), Turn::Ours);
        let mut new = Claim::new(Purpose::Install).expect("claim");
        assert_eq!(
            new.turn(&place.root, &wanted(), now).expect("turn"),
            Turn::Another,
            "the old one has not let go"
        );
        for _ in 0..3 {
            assert_eq!(
                old.turn(&place.root, &wanted(), now).expect("turn"),
                Turn::Another,
                "left for the new one to take"
            );
        }
        assert_eq!(new.turn(&place.root, &wanted(), now).expect("turn"), Turn::Ours);
        assert_eq!(old.turn(&place.root, &wanted(), now + PATIENCE).expect("turn"), Turn::Another);
        drop(new);
        assert_eq!(old.turn(&place.root, &wanted(), now + PATIENCE).expect("turn"), Turn::Ours);
        assert_eq!(
            old.turn(&place.root, &wanted(), now).expect("turn"),
            Turn::Ours,
            "its claim is written again"
        );
    }

    #[test]
    fn an_uninstall_is_not_undone_by_one_that_came_before_it() {
        let (place, now) = (place(), Instant::now());
        let mut run = Claim::new(Purpose::Install).expect("claim");
        assert_eq!(run.turn(&place.root, &wanted(), now).expect("turn"), Turn::Ours);
        let mut uninstall = Claim::new(Purpose::Uninstall).expect("claim");
        assert_eq!(uninstall.turn(&place.root, &wanted(), now).expect("turn"), Turn::Another);
        assert_eq!(run.turn(&place.root, &wanted(), now).expect("turn"), Turn::Over);
        assert_eq!(uninstall.turn(&place.root, &wanted(), now).expect("turn"), Turn::Ours);
        drop(uninstall);
        assert_eq!(run.turn(&place.root, &wanted(), now + PATIENCE).expect("turn"), Turn::Over, "for good");
        let mut later = Claim::new(Purpose::Install).expect("claim");
        assert_eq!(
            later.turn(&place.root, &wanted(), now).expect("turn"),
            Turn::Ours,
            "a new one is a new wish"
        );
    }

    #[test]
    fn nor_by_one_that_had_stepped_back() {
        let (place, now) = (place(), Instant::now());
        let (mut old, _new) = stepped_back(&place.root, now);
        // An uninstall comes and goes, and takes the directory with it, before the old one looks again.
        let (root, wanted) = (&place.root, wanted());
        Claim::leave_nothing(root, &wanted).expect("removed");
        assert_eq!(old.turn(root, &wanted, now + PATIENCE).expect("turn"), Turn::Over);
        assert!(Claim::directory(root, &wanted).expect("looked").is_none(), "and it is not made again");
    }

    #[test]
    fn many_who_uninstall_come_to_an_end() {
        let (place, now) = (place(), Instant::now());
        let (root, wanted) = (&place.root, wanted());
        let mut all: Vec<Claim> = (0..3).map(|_| Claim::new(Purpose::Uninstall).expect("claim")).collect();
        let turns = |all: &mut Vec<Claim>| -> Vec<Turn> {
            all.iter_mut().map(|claim| claim.turn(root, &wanted, now).expect("turn")).collect()
        };
        turns(&mut all);
        assert_eq!(turns(&mut all), [Turn::Another, Turn::Another, Turn::Ours]);
        Claim::leave_nothing(root, &wanted).expect("removed");
        drop(all.pop());
        assert_eq!(turns(&mut all), [Turn::Ours; 2], "there is nothing left that anybody could hold");
        assert!(Claim::directory(root, &wanted).expect("looked").is_none(), "and it is not made again");
    }

    #[test]
    fn one_who_uninstalled_sees_who_installs_after_that() {
        let (place, now) = (place(), Instant::now());
        let (root, wanted) = (&place.root, wanted());
        let mut uninstall = Claim::new(Purpose::Uninstall).expect("claim");
        assert_eq!(uninstall.turn(root, &wanted, now).expect("turn"), Turn::Ours);
        assert!(!Claim::is_followed(root, &wanted).expect("looked"), "its own claim");
        Claim::leave_nothing(root, &wanted).expect("removed");
        assert!(!Claim::is_followed(root, &wanted).expect("looked"));
        let mut run = Claim::new(Purpose::Install).expect("claim");
        assert_eq!(run.turn(root, &wanted, now).expect("turn"), Turn::Ours);
        assert!(Claim::is_followed(root, &wanted).expect("looked"));
    }

    #[test]
    fn what_a_killed_claim_left_goes() {
        let (place, now) = (place(), Instant::now());
        place.directory.write(".shunt.0.tmp", &mut &b"x"[..], Like::root(0o600)).expect("written");
        let mut run = Claim::new(Purpose::Install).expect("claim");
        assert_eq!(run.turn(&place.root, &wanted(), now).expect("turn"), Turn::Ours);
        assert_eq!(place.directory.names().expect("listed"), [CLAIM, LOCK]);
    }

    /// Claim and lock go one after the other, and the directory last.
    #[test]
    fn nor_in_the_midst_of_it() {
        let (place, now) = (place(), Instant::now());
        let (mut old, _new) = stepped_back(&place.root, now);
        let later = now + PATIENCE * 9;
        for name in [CLAIM, LOCK] {
            place.directory.remove(name).expect("removed");
            assert_eq!(
                old.turn(&place.root, &wanted(), later).expect("turn"),
                Turn::Another,
                "{name} is gone"
            );
        }
        assert_eq!(place.directory.names().expect("listed"), [""; 0], "it makes nothing there");
        Claim::leave_nothing(&place.root, &wanted()).expect("removed");
        assert_eq!(old.turn(&place.root, &wanted(), later).expect("turn"), Turn::Over);
    }

    #[test]
    fn nor_by_one_that_came_before_it_and_never_held_the_node() {
        let (place, now) = (place(), Instant::now());
        let (root, wanted) = (&place.root, wanted());
        let mut old = Claim::new(Purpose::Install).expect("claim");
        assert_eq!(old.turn(root, &wanted, now).expect("turn"), Turn::Ours);
        let mut new = Claim::new(Purpose::Install).expect("claim");
        assert_eq!(new.turn(root, &wanted, now).expect("turn"), Turn::Another);
        assert_eq!(old.turn(root, &wanted, now).expect("turn"), Turn::Another, "it lets go");
        let mut uninstall = Claim::new(Purpose::Uninstall).expect("claim");
        assert_eq!(uninstall.turn(root, &wanted, now).expect("turn"), Turn::Ours, "before the new one looks");
        Claim::leave_nothing(root, &wanted).expect("removed");
        assert_eq!(new.turn(root, &wanted, now).expect("turn"), Turn::Over);
        assert!(Claim::directory(root, &wanted).expect("looked").is_none());
    }

    #[test]
    fn who_stepped_back_takes_over_where_only_the_claim_was_lost() {
        let (place, now) = (place(), Instant::now());
        let mut old = Claim::new(Purpose::Install).expect("claim");
        old.turn(&place.root, &wanted(), now).expect("turn");
        let mut new = Claim::new(Purpose::Install).expect("claim");
        new.turn(&place.root, &wanted(), now).expect("turn");
        assert_eq!(old.turn(&place.root, &wanted(), now).expect("turn"), Turn::Another);
        drop(new);
        place.directory.remove(CLAIM).expect("removed");
        assert_eq!(old.turn(&place.root, &wanted(), now).expect("turn"), Turn::Another);
        assert_eq!(old.turn(&place.root, &wanted(), now + PATIENCE).expect("turn"), Turn::Ours);
    }

    #[test]
    fn the_claim_may_be_gone_or_nonsense() {
        let (place, now) = (place(), Instant::now());
        let mut run = Claim::new(Purpose::Install).expect("claim");
        assert_eq!(run.turn(&place.root, &wanted(), now).expect("turn"), Turn::Ours);
        for text in ["", "x", "uninstall"] {
            place.directory.write(CLAIM, &mut text.as_bytes(), Like::root(0o600)).expect("written");
            assert_eq!(run.turn(&place.root, &wanted(), now).expect("turn"), Turn::Ours, "{text:?}");
        }
        place.directory.remove(CLAIM).expect("removed");
        assert_eq!(run.turn(&place.root, &wanted(), now).expect("turn"), Turn::Ours);
        place.directory.write(CLAIM, &mut &b"a b c d\n"[..], Like::root(0o600)).expect("written");
        assert_eq!(run.turn(&place.root, &wanted(), now).expect("turn"), Turn::Another);
        assert_eq!(run.turn(&place.root, &wanted(), now + PATIENCE).expect("turn"), Turn::Ours);
    }
}
