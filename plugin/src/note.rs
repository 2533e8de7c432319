//! Notes: why a pod was not captured, for whoever asks later. One file of fixed size at most, written in place.
//!
//! A pod that is not meshed must not suffer from it: a note is a read of one bucket and a write of one slot, whatever fails
//! is passed over, and nobody waits for anybody. Two runs that write into one bucket at the same moment may lose one of the two.
//!
//! A skipped pod's note is its container's and goes with DEL. A failed ADD's is the pod's, because runtimes try again under a new
//! container id; it goes when an ADD of the pod succeeds. What nobody takes away is the first to go when its bucket is full.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::fcntl::{FallocateFlags, fallocate};
use serde::{Deserialize, Serialize};

use crate::attachment::Attachment;
use crate::bpf::programs::make_directory;
use crate::cni::{AddRequest, PodRef};
use crate::error::Error;
use crate::policy::Reason;

/// Bytes of a note.
const SLOT: usize = 1024;
/// Notes that a name can be at.
const PLACES: usize = 8;
/// Bytes of what is read and looked through.
const BUCKET: usize = SLOT * PLACES;
/// How many of those there are.
const BUCKETS: u64 = 128;
/// Version of a note's form.
const VERSION: u32 = 1;

/// What ADD left of a pod that it did not capture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Note {
    version: u32,
    /// When, in seconds since 1970.
    pub at: u64,
    /// Whose.
    pub attachment: Attachment,
    /// Namespace, name and uid.
    pub pod: PodRef,
    /// Path of the network namespace.
    pub netns: PathBuf,
    /// Name of the network list.
    pub network: String,
    /// What happened.
    pub what: What,
}

/// Why a pod was not captured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum What {
    /// Policy says so.
    Skipped {
        /// See [`Reason::label`].
        code: String,
        /// See [`Reason::key`].
        key: String,
        /// In words.
        words: String,
    },
    /// It could not be, and `failurePolicy` is `open`.
    Open {
        /// Short name of the error.
        kind: String,
        /// What was tried and why it failed.
        details: String,
    },
    /// It could not be, and ADD failed.
    Failed {
        /// Short name of the error.
        kind: String,
        /// Its code in CNI.
        code: u32,
        /// What was tried and why it failed.
        details: String,
        /// How often, one after the other.
        count: u32,
        /// When for the first time, in seconds since 1970.
        since: u64,
    },
}

impl What {
    /// The word for it.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Skipped { .. } => "skipped",
            Self::Open { .. } => "open",
            Self::Failed { .. } => "failed",
        }
    }

    /// Of a pod that policy leaves alone.
    pub(crate) fn skipped(reason: &Reason) -> Self {
        Self::Skipped {
            code: reason.label().to_owned(),
            key: reason.key().to_owned(),
            words: reason.to_string(),
        }
    }

    /// Of a pod that runs bare because it could not be captured.
    pub(crate) fn open(error: &Error) -> Self {
        Self::Open { kind: error.kind().as_str().to_owned(), details: error.details() }
    }

    fn failed(error: &Error, since: u64) -> Self {
        let kind = error.kind();
        Self::Failed {
            kind: kind.as_str().to_owned(),
            code: kind.code(),
            details: error.details(),
            count: 1,
            since,
        }
    }

    fn details(&mut self) -> &mut String {
        match self {
            Self::Skipped { words: text, .. }
            | Self::Open { details: text, .. }
            | Self::Failed { details: text, .. } => text,
        }
    }
}

impl Note {
    fn is_of(&self, name: &Name<'_>) -> bool {
        match (name, &self.what) {
            (Name::Pod(pod, attachment), What::Failed { .. }) => {
                let names = |pod: &PodRef| (pod.namespace.clone(), pod.name.clone());
                match &pod.name {
                    Some(_) => names(pod) == names(&self.pod),
                    None => self.attachment == **attachment,
                }
            }
            (Name::Attachment(attachment), What::Skipped { .. } | What::Open { .. }) => {
                self.attachment == **attachment
            }
            _ => false,
        }
    }

    /// As it is written: with as much of its words as there is room for.
    fn text(mut self) -> Option<Vec<u8>> {
        loop {
            let text = serde_json::to_vec(&self).ok()?;
            let Some(over) = text.len().checked_sub(SLOT).filter(|over| *over > 0) else { return Some(text) };
            let words = self.what.details();
            let keep = words.len().checked_sub(over + '…'.len_utf8())?;
            let end = (0..=keep).rev().find(|end| words.is_char_boundary(*end))?;
            words.truncate(end);
            words.push('…');
        }
    }
}

/// What a note is found by.
enum Name<'a> {
    Attachment(&'a Attachment),
    Pod(&'a PodRef, &'a Attachment),
}

impl Name<'_> {
    /// Where its bucket begins.
    fn offset(&self) -> u64 {
        let hash = match self {
            Self::Pod(PodRef { namespace, name: Some(name), .. }, _) => {
                [namespace.as_deref().unwrap_or_default(), "/", name]
                    .iter()
                    .fold(SEED, |hash, text| hashed(hash, text))
            }
            Self::Pod(_, attachment) | Self::Attachment(attachment) => {
                hashed(hashed(SEED, attachment.container_id()), attachment.ifname())
            }
        };
        hash % BUCKETS * BUCKET as u64
    }
}

/// FNV-1a.
const SEED: u64 = 0xcbf2_9ce4_8422_2325;

fn hashed(hash: u64, text: &str) -> u64 {
    text.bytes().fold(hash, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// Notes of one state directory.
#[derive(Debug, Clone, Copy)]
pub struct Notes<'a> {
    state_dir: &'a Path,
}

impl<'a> Notes<'a> {
    /// Under `state_dir`.
    pub const fn new(state_dir: &'a Path) -> Self {
        Self { state_dir }
    }

    /// The file.
    pub fn path(&self) -> PathBuf {
        self.state_dir.join("notes")
    }

    /// All there are, oldest first.
    pub fn all(&self) -> io::Result<Vec<Note>> {
        let Some(file) = self.open(false)? else { return Ok(Vec::new()) };
        let mut bytes = vec![0; BUCKET];
        let mut notes = Vec::new();
        for bucket in 0..BUCKETS {
            let read = read_at_most(&file, &mut bytes, bucket * BUCKET as u64)?;
            if read == 0 {
                break;
            }
            notes.extend(bytes.chunks_exact(SLOT).filter_map(parsed));
        }
        notes.sort_by_key(|note| note.at);
        Ok(notes)
    }

    /// Notes why a pod is left alone; an ADD of it that failed before is of the past.
    pub(crate) fn left_alone(&self, request: &AddRequest, what: What) {
        self.put(note(request, what));
        self.forget(&Name::Pod(&request.pod, &request.attachment));
    }

    /// Notes that an ADD failed.
    pub(crate) fn failed(&self, request: &AddRequest, error: &Error) {
        self.put(note(request, What::failed(error, now())));
    }

    /// Forgets what was noted of a pod that is captured now.
    pub(crate) fn captured(&self, request: &AddRequest) {
        self.forget(&Name::Attachment(&request.attachment));
        self.forget(&Name::Pod(&request.pod, &request.attachment));
    }

    /// Forgets what was noted of an attachment that is gone.
    pub(crate) fn gone(&self, attachment: &Attachment) {
        self.forget(&Name::Attachment(attachment));
    }

    fn put(&self, note: Note) {
        // One lost is a question without an answer, not a pod without a network.
        let _lost = self.placed(note);
    }

    fn placed(&self, mut note: Note) -> io::Result<()> {
        make_directory(self.state_dir).map_err(io::Error::other)?;
        // The file goes with its last note: whoever has opened it before writes into one that nobody reads.
        for _ in 0..2 {
            let Some(file) = self.open(true)? else { return Ok(()) };
            let name = match note.what {
                What::Failed { .. } => Name::Pod(&note.pod, &note.attachment),
                _ => Name::Attachment(&note.attachment),
            };
            let offset = name.offset();
            let mut bytes = vec![0; BUCKET];
            read_at_most(&file, &mut bytes, offset)?;
            let there: Vec<Option<Note>> = bytes.chunks_exact(SLOT).map(parsed).collect();
            let same = there.iter().position(|there| there.as_ref().is_some_and(|there| there.is_of(&name)));
            let free = || there.iter().position(Option::is_none);
            let oldest =
                || (0..PLACES).min_by_key(|at| there.get(*at).and_then(Option::as_ref).map(|n| n.at));
            let at = same.or_else(free).or_else(oldest).unwrap_or_default();
            if let (
                What::Failed { count, since, .. },
                Some(Some(Note { what: What::Failed { count: before, since: first, .. }, .. })),
            ) = (&mut note.what, same.and_then(|at| there.get(at)))
            {
                (*count, *since) = (before.saturating_add(1), *first);
            }
            let mut text = note.clone().text().ok_or(io::ErrorKind::InvalidData)?;
            text.resize(SLOT, 0);
            file.write_all_at(&text, offset + (at * SLOT) as u64)?;
            if file.metadata()?.nlink() > 0 {
                break;
            }
        }
        Ok(())
    }

    fn forget(&self, name: &Name<'_>) {
        // It is overwritten some day.
        let _stays = self.cleared(name);
    }

    fn cleared(&self, name: &Name<'_>) -> io::Result<()> {
        let Some(file) = self.open(false)? else { return Ok(()) };
        let offset = name.offset();
        let mut bytes = vec![0; BUCKET];
        read_at_most(&file, &mut bytes, offset)?;
        let there: Vec<Option<Note>> = bytes.chunks_exact(SLOT).map(parsed).collect();
        let mut others = 0;
        let mut cleared = false;
        for (at, there) in there.iter().enumerate() {
            match there {
                Some(there) if there.is_of(name) => {
                    file.write_all_at(&[0; SLOT], offset + (at * SLOT) as u64)?;
                    cleared = true;
                }
                Some(_) => others += 1,
                None => {}
            }
        }
        if cleared && others == 0 {
            let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            let length = libc::off_t::try_from(BUCKET).map_err(io::Error::other)?;
            fallocate(&file, flags, libc::off_t::try_from(offset).map_err(io::Error::other)?, length)?;
            if file.metadata()?.blocks() == 0 {
                fs::remove_file(self.path())?;
            }
        }
        Ok(())
    }

    /// `None` where there is no file and none is to be made. A link is not followed and a fifo not waited for.
    fn open(&self, make: bool) -> io::Result<Option<File>> {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let opened = File::options()
            .read(true)
            .write(true)
            .create(make)
            .mode(0o600)
            .custom_flags(flags)
            .open(self.path());
        match opened {
            Ok(file) if file.metadata()?.is_file() => Ok(Some(file)),
            Ok(_) => Err(io::ErrorKind::InvalidData.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn note(request: &AddRequest, what: What) -> Note {
    Note {
        version: VERSION,
        at: now(),
        attachment: request.attachment.clone(),
        pod: PodRef { sandbox: None, ..request.pod.clone() },
        netns: request.netns.clone(),
        network: request.conf.name.clone(),
        what,
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn parsed(slot: &[u8]) -> Option<Note> {
    let end = slot.iter().position(|byte| *byte == 0).unwrap_or(slot.len());
    let note: Note = serde_json::from_slice(slot.get(..end)?).ok()?;
    (note.version == VERSION).then_some(note)
}

/// Reads to the end of the buffer or of the file; the rest of the buffer is zero.
fn read_at_most(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    bytes.fill(0);
    let mut read = 0;
    while let Some(rest) = bytes.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{BUCKETS, Name, Note, Notes, PLACES, SLOT, VERSION, What};
    use crate::attachment::Attachment;
    use crate::cni::PodRef;

    fn attachment(container: &str) -> Attachment {
        Attachment::new(container, "eth0").expect("valid")
    }

    fn skipped(container: &str, at: u64) -> Note {
        Note {
            version: VERSION,
            at,
            attachment: attachment(container),
            pod: PodRef { name: Some(format!("pod-{container}")), ..PodRef::default() },
            netns: "/run/netns/a".into(),
            network: "n".to_owned(),
            what: What::Skipped { code: "no-marker".to_owned(), key: "k".to_owned(), words: "w".to_owned() },
        }
    }

    fn failed(container: &str, pod: &str, at: u64, details: &str) -> Note {
        let details = details.to_owned();
        let what = What::Failed { kind: "load".to_owned(), code: 101, details, count: 1, since: at };
        let pod =
            PodRef { namespace: Some("shop".to_owned()), name: Some(pod.to_owned()), ..PodRef::default() };
        Note { pod, what, ..skipped(container, at) }
    }

    #[test]
    fn a_note_is_found_and_goes() {
        let directory = tempfile::tempdir().expect("a directory");
        let state = directory.path().join("state");
        let notes = Notes::new(&state);
        assert_eq!(notes.all().expect("none"), []);
        notes.placed(skipped("a", 1)).expect("written");
        notes.placed(skipped("b", 2)).expect("written");
        assert_eq!(notes.all().expect("two"), [skipped("a", 1), skipped("b", 2)]);
        notes.placed(skipped("a", 3)).expect("written");
        assert_eq!(notes.all().expect("in place"), [skipped("b", 2), skipped("a", 3)]);
        notes.cleared(&Name::Attachment(&attachment("a"))).expect("gone");
        notes.cleared(&Name::Attachment(&attachment("never"))).expect("nothing to do");
        assert_eq!(notes.all().expect("one"), [skipped("b", 2)]);
        notes.cleared(&Name::Attachment(&attachment("b"))).expect("gone");
        assert!(
            fs::read_dir(&state).expect("a directory").next().is_none(),
            "the file goes with its last note"
        );
    }

    #[test]
    fn failures_are_the_pods_and_are_counted() {
        let directory = tempfile::tempdir().expect("a directory");
        let notes = Notes::new(directory.path());
        for (at, container) in [(5, "a"), (6, "b"), (9, "c")] {
            notes.placed(failed(container, "cart", at, "no memory")).expect("written");
        }
        notes.placed(failed("d", "other", 7, "no memory")).expect("written");
        let all = notes.all().expect("two");
        assert_eq!(all.len(), 2);
        let last = all.last().expect("the newest");
        assert_eq!((last.at, last.attachment.container_id()), (9, "c"));
        assert!(matches!(last.what, What::Failed { count: 3, since: 5, .. }), "{last:?}");
        // DEL of the last sandbox comes right after its ADD: it does not take the reason away.
        notes.cleared(&Name::Attachment(&attachment("c"))).expect("nothing to do");
        assert_eq!(notes.all().expect("both").len(), 2);
        notes.cleared(&Name::Pod(&last.pod, &attachment("e"))).expect("gone");
        assert_eq!(notes.all().expect("one").len(), 1);
    }

    #[test]
    fn it_never_grows() {
        let directory = tempfile::tempdir().expect("a directory");
        let notes = Notes::new(directory.path());
        let most = u64::try_from(SLOT * PLACES).expect("small") * BUCKETS;
        for at in 0..4000 {
            notes.placed(skipped(&format!("c{at}"), at)).expect("written");
        }
        assert!(fs::metadata(notes.path()).expect("a file").len() <= most);
        let all = notes.all().expect("many");
        assert!(all.len() > 900, "{}", all.len());
        // The newest is there, and of a full bucket the oldest has gone.
        assert_eq!(all.last(), Some(&skipped("c3999", 3999)));
        assert!(all.first().expect("the oldest").at > 1000, "{:?}", all.first());
    }

    #[test]
    fn long_words_are_cut_and_what_has_no_room_at_all_is_left_out() {
        let long = "é".repeat(5000);
        let text = failed("a", "cart", 1, &long).text().expect("fits");
        assert!(text.len() <= SLOT && text.len() > SLOT - 8, "{}", text.len());
        let note = super::parsed(&text).expect("whole");
        assert!(matches!(note.what, What::Failed { details, .. } if details.ends_with("é…")));
        let quotes = "\"".repeat(5000);
        assert!(failed("a", "cart", 1, &quotes).text().is_none_or(|text| text.len() <= SLOT));
        let path = format!("/{}", "x".repeat(2000));
        assert!(Note { netns: path.into(), ..skipped("a", 1) }.text().is_none());
    }

    #[test]
    fn what_stands_in_its_place_is_left_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let notes = Notes::new(directory.path());
        fs::create_dir(notes.path()).expect("a directory");
        notes.put(skipped("a", 1));
        notes.gone(&attachment("a"));
        assert!(notes.all().is_err() && notes.path().is_dir());
        fs::remove_dir(notes.path()).expect("empty");
        nix::unistd::mkfifo(&notes.path(), nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
        notes.put(skipped("a", 1));
        assert!(notes.all().is_err());
        fs::remove_file(notes.path()).expect("a fifo");
        fs::write(notes.path(), "garbage ".repeat(10_000)).expect("garbage");
        notes.placed(skipped("a", 1)).expect("written");
        assert_eq!(notes.all().expect("one"), [skipped("a", 1)]);
    }
}
