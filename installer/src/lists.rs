//! What has to be done to the network configurations of a host so that pods get our entry, once, last, in the list the runtime
//! takes. Pure: what is there goes in, steps come out; one pass of them, or a few, and there are none left.
//!
//! Mode `owned`: a list of our own that sorts first, made of the primary CNI's text and our entry. The primary's file is not touched.
//! Mode `chained`: our entry in the primary's text. A file with a single plugin cannot hold two: beside `10-x.conf` stands
//! `10-x.conf.conflist`, the list made of it, and `10-x.conf` itself is put aside, as `10-x.conf.shunt-saved`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::choose::{Candidate, Choice, Followed, Situation, Why, choose};
use crate::cli::Mode;
use crate::conflist::{Form, Network, Problem, parse};
use crate::files::{Kind, Like};
use crate::observe::{Conf, ConfFile, SAVED};
use crate::settings::OWN_LISTS;

/// How often our entry is taken out of a file of another before that is left to whoever puts it there.
const LEFTOVER_TRIES: u32 = 3;

/// How the name of a list ends that stands in for a file with a single plugin, after that file's.
const STANDS_IN: &str = ".conflist";

/// The list that stands in for a file that was put aside.
fn stands_for(saved: &ConfFile) -> Option<String> {
    saved.name.strip_suffix(SAVED).map(stand_in)
}

/// Why something is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// It was not there.
    Missing,
    /// The primary CNI changed its configuration.
    Primary,
    /// Our entry changed.
    Entry,
    /// Somebody undid what we had written.
    Undone,
    /// It has to have another name, or does not belong there.
    Moved,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Missing, Self::Primary, Self::Entry, Self::Undone, Self::Moved];

    /// For metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Primary => "primary",
            Self::Entry => "entry",
            Self::Undone => "undone",
            Self::Moved => "moved",
        }
    }
}

/// One thing to do in the directory with the network configurations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Put a file in place.
    Write {
        /// Its name.
        file: String,
        /// What it is to hold.
        text: String,
        /// Owner and mode.
        like: Like,
        /// Of a file of another: what it holds, and has to hold still.
        over: Option<String>,
        /// Why.
        cause: Cause,
    },
    /// Give a file another name.
    Rename {
        /// The name it has.
        from: String,
        /// The name it gets.
        to: String,
    },
    /// Remove a file.
    Remove {
        /// Its name.
        file: String,
    },
}

impl Step {
    /// The file it is about.
    pub fn file(&self) -> &str {
        match self {
            Self::Write { file, .. } | Self::Remove { file } => file,
            Self::Rename { from, .. } => from,
        }
    }

    /// Whether it puts a file aside for which the list in `file` stands in.
    pub fn is_put_aside_for(&self, file: &str) -> bool {
        matches!(self, Self::Rename { from, .. } if !from.ends_with(SAVED) && stand_in(from) == file)
    }

    /// Whether it removes a file that was put aside: there is nothing in that to fight about.
    pub fn ends_what_was_put_aside(&self) -> bool {
        matches!(self, Self::Remove { file } if file.ends_with(SAVED))
    }

    /// Why it is done.
    pub const fn cause(&self) -> Cause {
        match self {
            Self::Write { cause, .. } => *cause,
            Self::Rename { .. } | Self::Remove { .. } => Cause::Moved,
        }
    }
}

/// Why the host is not as wanted, although nothing can be done about it now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// There is nothing to follow.
    #[error(transparent)]
    Hold(#[from] Why),
    /// There is no entry to put into a list.
    #[error("no list is made before the plugin is in place and takes our entry")]
    NoEntry,
    /// A file of another comes before every name of ours.
    #[error(
        "{0} sorts before every name our list can have: the runtime takes it, and pods run without Shunt"
    )]
    SortsFirst(String),
    /// The runtime would stop at another file.
    #[error("{0} sorts first, and containerd does not pass over it although {1}")]
    BrokenFirst(String, String),
    /// Editing it in place is not possible.
    #[error("{0} is a symbolic link: what it points to is not edited; use mode owned")]
    Link(String),
}

/// What was done before, and is known only because it was seen.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// What is followed.
    pub followed: Option<Followed>,
    /// What was last written to which file.
    pub wrote: BTreeMap<String, String>,
    /// The primary's text, without our entry, in the last list of ours.
    pub last_good: Option<String>,
    /// How often our entry was taken out of which file of another.
    pub leftovers: BTreeMap<String, u32>,
}

/// What the lists are to be.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// Where our entry stands.
    pub mode: Mode,
    /// Our entry, one line of JSON; none: the one in the list we have stays.
    pub entry: Option<&'a str>,
    /// `--primary`
    pub primary: Option<&'a str>,
}

/// What follows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be done, in this order.
    pub steps: Vec<Step>,
    /// Why it is not as wanted even then.
    pub findings: Vec<Finding>,
    /// What is worth knowing and no fault.
    pub notes: Vec<String>,
    /// What is followed from here on.
    pub followed: Option<Followed>,
    /// The file with our entry that the runtime takes.
    pub list: Option<String>,
    /// The primary's text, without our entry, for [`Memory::last_good`].
    pub good: Option<String>,
}

/// A file with what a runtime makes of it.
struct Read<'a> {
    file: &'a ConfFile,
    network: Result<Network<'a>, String>,
}

fn read(file: &ConfFile) -> Read<'_> {
    let network = match (&file.text, Form::of(&file.name)) {
        (Ok(text), Some(form)) => {
            parse(form, text, &OWN_LISTS).map_err(|problem: Problem| problem.to_string())
        }
        (Ok(_), None) => Err("no runtime loads it".to_owned()),
        (Err(why), _) => Err(why.clone()),
    };
    Read { file, network }
}

/// All that is read of the directory.
struct Scene<'a> {
    conf: &'a Conf,
    own: Vec<Read<'a>>,
    others: Vec<Read<'a>>,
    memory: &'a Memory,
    wish: Wish<'a>,
}

/// Says what is to be done. `since`: for how long the answer's [`situation`] has been as it is.
pub fn plan(conf: &Conf, wish: Wish<'_>, memory: &Memory, since: Duration) -> Plan {
    let is_own = |file: &&ConfFile| OWN_LISTS.contains(&file.name.as_str());
    let scene = Scene {
        conf,
        own: conf.files.iter().filter(is_own).map(read).collect(),
        others: conf.files.iter().filter(|file| !is_own(file)).map(read).collect(),
        memory,
        wish,
    };
    let followed = memory.followed.clone().or_else(|| scene.followed_before());
    let candidates: Vec<Candidate<'_>> = scene
        .others
        .iter()
        .map(|read| Candidate { file: &read.file.name, network: read.network.as_ref().ok() })
        .collect();
    let choice = choose(&Situation {
        candidates: &candidates,
        primary: wish.primary,
        followed: followed.as_ref(),
        since,
    });
    let mut plan = Plan { followed, ..Plan::default() };
    let target = match choice {
        Choice::Follow(index) => scene.others.get(index),
        Choice::Hold(why) => {
            plan.findings.push(why.into());
            None
        }
    };
    if let Some((file, network)) = target.and_then(|read| Some((read.file, read.network.as_ref().ok()?))) {
        plan.followed = Some(Followed { file: Some(file.name.clone()), network: network.name.clone() });
    }
    for read in &scene.others {
        if let Err(why) = &read.network {
            plan.notes.push(format!("{}: {why}", read.file.name));
        }
    }
    match wish.mode {
        Mode::Owned => scene.owned(target, &mut plan),
        Mode::Chained => scene.chained(target, &mut plan),
    }
    plan
}

/// What [`choose`] decides by, as text: for as long as it is the same, time runs.
pub fn situation(conf: &Conf) -> String {
    let describe = |file: &ConfFile| match read(file).network {
        Ok(network) => format!("{} {}\n", file.name, network.name),
        Err(_) => format!("{} -\n", file.name),
    };
    conf.files.iter().map(describe).collect()
}

impl<'a> Scene<'a> {
    /// What an earlier run followed, from the list of ours it left.
    fn followed_before(&self) -> Option<Followed> {
        let ours = self.own.iter().find_map(|read| read.network.as_ref().ok());
        if let Some(ours) = ours {
            let bare = ours.without_entry();
            let same =
                |read: &&Read<'_>| read.network.as_ref().is_ok_and(|network| network.as_list() == bare);
            let file = self.others.iter().find(same).map(|read| read.file.name.clone());
            return Some(Followed { file, network: ours.name.clone() });
        }
        self.others.iter().find_map(|read| {
            let network = read.network.as_ref().ok().filter(|network| network.entries() > 0)?;
            Some(Followed { file: Some(read.file.name.clone()), network: network.name.clone() })
        })
    }

    /// Our entry: the one wanted, else the one that is in use.
    fn entry(&self) -> Option<String> {
        self.wish.entry.map(str::to_owned).or_else(|| {
            self.own.iter().chain(&self.others).find_map(|read| read.network.as_ref().ok()?.entry())
        })
    }

    fn owned(&self, target: Option<&Read<'a>>, plan: &mut Plan) {
        let first_other = self.others.first().map(|read| read.file.name.as_str());
        let name = OWN_LISTS.into_iter().find(|name| first_other.is_none_or(|first| *name < first));
        if let (None, Some(first)) = (name, first_other) {
            plan.findings.push(Finding::SortsFirst(first.to_owned()));
        }
        let name = name.unwrap_or(OWN_LISTS[0]);
        let current = self.own.iter().find(|read| read.file.name == name);
        // In this order: what the primary says; what our list says, under whatever name; what it last said.
        let bare = target
            .and_then(|read| read.network.as_ref().ok())
            .map(Network::as_list)
            .or_else(|| self.own.iter().find_map(|read| Some(read.network.as_ref().ok()?.without_entry())))
            .or_else(|| self.memory.last_good.clone());
        plan.good.clone_from(&bare);
        let wanted = bare.and_then(|bare| {
            let entry = self.entry()?;
            parse(Form::List, &bare, &[]).ok().map(|network| network.with_entry(&entry))
        });
        match wanted {
            Some(text) => {
                plan.list = Some(name.to_owned());
                let like = Like::root(0o600);
                if current.is_none_or(|read| {
                    read.file.text.as_ref() != Ok(&text) || read.file.stamp.like.mode & 0o077 != 0
                }) {
                    let cause = self.cause(name, current, &text);
                    plan.steps.push(Step::Write { file: name.to_owned(), text, like, over: None, cause });
                }
                for read in self.own.iter().filter(|read| read.file.name != name) {
                    plan.steps.push(Step::Remove { file: read.file.name.clone() });
                }
            }
            None if self.entry().is_none() => plan.findings.push(Finding::NoEntry),
            None => {}
        }
        if plan.list.is_some() {
            self.restore_saved(|_| false, plan);
            self.strip(None, plan);
        }
    }

    /// Why our list is written.
    fn cause(&self, name: &str, current: Option<&Read<'_>>, text: &str) -> Cause {
        if self.memory.wrote.get(name).is_some_and(|wrote| wrote == text) {
            return Cause::Undone;
        }
        match current.map(|read| read.network.as_ref()) {
            None if self.own.is_empty() => Cause::Missing,
            None => Cause::Moved,
            Some(Err(_)) => Cause::Undone,
            Some(Ok(network)) => match parse(Form::List, text, &[]) {
                Ok(wanted) if wanted.without_entry() == network.without_entry() => Cause::Entry,
                _ => Cause::Primary,
            },
        }
    }

    fn chained(&self, target: Option<&Read<'a>>, plan: &mut Plan) {
        let Some((file, network)) = target.and_then(|read| Some((read.file, read.network.as_ref().ok()?)))
        else {
            // What was put aside may be all there is.
            self.restore_saved(|_| true, plan);
            return;
        };
        if let (None, Some(Read { file: first, network: Err(why) })) =
            (self.wish.primary, self.others.first())
        {
            plan.findings.push(Finding::BrokenFirst(first.name.clone(), why.clone()));
        }
        if file.stamp.kind == Kind::Link {
            plan.findings.push(Finding::Link(file.name.clone()));
            return;
        }
        let Some(entry) = self.entry() else {
            plan.findings.push(Finding::NoEntry);
            return;
        };
        let (name, single) = match Form::of(&file.name) {
            Some(Form::Single) => (stand_in(&file.name), true),
            _ => (file.name.clone(), false),
        };
        plan.list = Some(name.clone());
        // What was put aside last may be newer than what the list that stands in for it was made of.
        let saved = self.conf.saved.iter().find(|saved| stands_for(saved).as_ref() == Some(&name));
        let newer = saved.and_then(|saved| parse(Form::Single, saved.text.as_ref().ok()?, &OWN_LISTS).ok());
        let text = newer.filter(|_| !single).as_ref().unwrap_or(network).with_entry(&entry);
        let there = self.others.iter().find(|read| read.file.name == name);
        if there.is_none_or(|read| read.file.text.as_ref() != Ok(&text)) {
            let had = there
                .and_then(|read| read.network.as_ref().ok())
                .is_some_and(|network| network.entries() > 0);
            let bare = |text: &str| parse(Form::List, text, &[]).map(|network| network.without_entry());
            let cause = match self.memory.wrote.get(&name) {
                // Its owner may change it as often as it likes; to write the same again without us is something else.
                Some(wrote) if !had && bare(wrote) != bare(&text) => Cause::Primary,
                Some(_) if !had => Cause::Undone,
                _ if had => Cause::Entry,
                _ => Cause::Missing,
            };
            // The list that stands in for a single plugin is ours, whatever is in it.
            let over = if single || saved.is_some() { None } else { file.text.clone().ok() };
            plan.steps.push(Step::Write { file: name.clone(), text, like: file.stamp.like, over, cause });
        }
        if single {
            plan.steps.push(Step::Rename { from: file.name.clone(), to: format!("{}{SAVED}", file.name) });
        }
        for read in &self.own {
            plan.steps.push(Step::Remove { file: read.file.name.clone() });
        }
        self.restore_saved(|stand_in| stand_in == name, plan);
        self.strip(Some(&name), plan);
    }

    /// Gives files that were put aside their names back, unless a list that is to `stay` stands in for them.
    fn restore_saved(&self, stay: impl Fn(&str) -> bool, plan: &mut Plan) {
        for ConfFile { name: saved, .. } in &self.conf.saved {
            let Some(name) = saved.strip_suffix(SAVED) else { continue };
            let stand_in = stand_in(name);
            let is_there = self.conf.file(&stand_in).is_some();
            if is_there && stay(&stand_in) {
                continue;
            }
            plan.steps.push(if self.conf.file(name).is_none() {
                Step::Rename { from: saved.clone(), to: name.to_owned() }
            } else {
                Step::Remove { file: saved.clone() }
            });
            if is_there {
                plan.steps.push(Step::Remove { file: stand_in });
            }
        }
    }

    /// Whether a list with our entry stands in for a file that has its name back: what had given it back was ended before it removed
    /// the list.
    fn stands_in(&self, file: &str) -> bool {
        file.strip_suffix(STANDS_IN)
            .is_some_and(|name| Form::of(name) == Some(Form::Single) && self.conf.file(name).is_some())
    }

    /// Takes our entry out of files it does not belong in: those of another mode, or of another primary.
    fn strip(&self, keep: Option<&str>, plan: &mut Plan) {
        for read in self.others.iter().filter(|read| Some(read.file.name.as_str()) != keep) {
            let Ok(network) = &read.network else { continue };
            let goes = |step: &Step| matches!(step, Step::Remove { file } | Step::Rename { from: file, .. } if *file == read.file.name);
            if network.entries() == 0 || plan.steps.iter().any(goes) {
                continue;
            }
            let file = read.file.name.clone();
            if self.stands_in(&file) {
                plan.steps.push(Step::Remove { file });
                continue;
            }
            if self.memory.leftovers.get(&file).is_some_and(|tries| *tries >= LEFTOVER_TRIES) {
                plan.notes
                    .push(format!("{file} has our entry in it, written by its owner; it is left alone"));
                continue;
            }
            let (text, like, over) =
                (network.without_entry(), read.file.stamp.like, read.file.text.clone().ok());
            plan.steps.push(Step::Write { file, text, like, over, cause: Cause::Moved });
        }
    }
}

/// Name of the list that stands in for a single plugin's file.
pub fn stand_in(name: &str) -> String {
    format!("{name}{STANDS_IN}")
}

/// What takes our entry out of everything a runtime loads. What was put aside comes back before the list that stands in for it
/// goes, and lists of our own go last: the primary's is there then.
pub fn removal(conf: &Conf) -> Vec<Step> {
    let memory = Memory::default();
    let wish = Wish { mode: Mode::Owned, entry: None, primary: None };
    let is_own = |file: &&ConfFile| OWN_LISTS.contains(&file.name.as_str());
    let scene = Scene {
        conf,
        own: conf.files.iter().filter(is_own).map(read).collect(),
        others: conf.files.iter().filter(|file| !is_own(file)).map(read).collect(),
        memory: &memory,
        wish,
    };
    let mut plan = Plan::default();
    scene.restore_saved(|_| false, &mut plan);
    scene.strip(None, &mut plan);
    plan.steps.extend(scene.own.iter().map(|read| Step::Remove { file: read.file.name.clone() }));
    plan.steps
}

#[cfg(test)]
mod tests;
