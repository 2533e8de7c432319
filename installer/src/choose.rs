//! Which network configuration of a host pods get: the one the runtime would take if we were not there. Pure.
//!
//! Runtimes take the first file in byte order of names. Ours has to be what they take, so the first that is not ours is the one to
//! follow; but a file that is being written, or was moved away for a moment, is no reason to follow another one, and an agent that
//! forgets everything when it is restarted must not jump either.

use std::time::Duration;

use crate::conflist::Network;

/// How long a configuration that we follow may be gone before another network is followed. Agents move their file away and back
/// (Azure's did); a cluster that changes its network takes longer than this.
pub const SETTLE: Duration = Duration::from_secs(5);

/// How long a first file that cannot be read is waited for when nothing was ever followed. A runtime that passes over broken files
/// (CRI-O) takes the next one, and so do we then.
pub const GRACE: Duration = Duration::from_secs(30);

/// A file that runtimes load and that is not a list of ours.
#[derive(Debug, Clone)]
pub struct Candidate<'a> {
    /// Its name.
    pub file: &'a str,
    /// What is in it; `None` where a runtime would refuse it.
    pub network: Option<&'a Network<'a>>,
}

/// What was followed until now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Followed {
    /// The file's name; `None` when only the network is known, from a list of ours that an earlier run left.
    pub file: Option<String>,
    /// Name of the network in it.
    pub network: String,
}

/// Which file it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// Make ours of this one, the index of a candidate.
    Follow(usize),
    /// Leave all as it is: what we have is the last that was good.
    Hold(Why),
}

/// Why nothing can be followed now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// No file of another, or none that a runtime would take.
    #[error("there is no network configuration to follow yet: the primary CNI has not written its file")]
    Nothing,
    /// None that `--primary` names.
    #[error("there is no network configuration called {0:?} (--primary): neither a file nor a network")]
    NotNamed(String),
    /// The one to follow cannot be read.
    #[error("{0} is not a network configuration now; the last good one stays in use")]
    Unreadable(String),
    /// It is gone, and another network is there, but not for long enough.
    #[error("{0} is gone; the network {1:?} is followed if it does not come back within {SETTLE:?}")]
    Settling(String, String),
}

/// What `choose` has to know.
#[derive(Debug)]
pub struct Situation<'a> {
    /// In byte order of names.
    pub candidates: &'a [Candidate<'a>],
    /// `--primary`: a file's name, or a network's.
    pub primary: Option<&'a str>,
    /// What is followed.
    pub followed: Option<&'a Followed>,
    /// For how long what the answer depends on has been as it is.
    pub since: Duration,
}

/// Says which configuration pods get.
pub fn choose(situation: &Situation<'_>) -> Choice {
    match situation.primary {
        Some(primary) => named(situation.candidates, primary),
        None => first(situation),
    }
}

fn named(candidates: &[Candidate<'_>], primary: &str) -> Choice {
    let is_it = |candidate: &Candidate<'_>| {
        candidate.file == primary || candidate.network.is_some_and(|network| network.name == primary)
    };
    match candidates.iter().position(is_it) {
        Some(index) if candidates.get(index).is_some_and(|found| found.network.is_some()) => {
            Choice::Follow(index)
        }
        Some(_) => Choice::Hold(Why::Unreadable(primary.to_owned())),
        None => Choice::Hold(Why::NotNamed(primary.to_owned())),
    }
}

fn first(situation: &Situation<'_>) -> Choice {
    let Situation { candidates, followed, since, .. } = situation;
    let unreadable = |candidate: &&Candidate<'_>| candidate.network.is_none();
    let valid = || candidates.iter().enumerate().find_map(|(index, found)| Some((index, found.network?)));
    let Some(followed) = followed else {
        return match (candidates.first().filter(unreadable), valid()) {
            (Some(broken), _) if *since < GRACE => Choice::Hold(Why::Unreadable(broken.file.to_owned())),
            (_, Some((index, _))) => Choice::Follow(index),
            (Some(broken), None) => Choice::Hold(Why::Unreadable(broken.file.to_owned())),
            (None, None) => Choice::Hold(Why::Nothing),
        };
    };
    let own = match &followed.file {
        Some(file) => candidates.iter().find(|candidate| candidate.file == file),
        // Whose list ours was made of is not known: one that carries its network's name, or the first that cannot be read.
        None => candidates
            .iter()
            .find(|candidate| candidate.network.is_some_and(|network| network.name == followed.network))
            .or_else(|| candidates.iter().find(unreadable)),
    };
    if let Some(broken) = own.filter(unreadable) {
        return Choice::Hold(Why::Unreadable(broken.file.to_owned()));
    }
    match valid() {
        None => Choice::Hold(match (own, candidates.first()) {
            (None, Some(broken)) => Why::Unreadable(broken.file.to_owned()),
            _ => Why::Nothing,
        }),
        // Ours is still there, or has another name now: what comes first is what the runtime would take.
        Some((index, network)) if own.is_some() || network.name == followed.network => Choice::Follow(index),
        Some((index, _)) if *since >= SETTLE => Choice::Follow(index),
        Some((_, network)) => {
            let gone = followed.file.clone().unwrap_or_else(|| format!("network {:?}", followed.network));
            Choice::Hold(Why::Settling(gone, network.name.clone()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conflist::{Form, parse};

    fn text(network: &str) -> String {
        format!("{{\"name\":\"{network}\",\"plugins\":[{{\"type\":\"a\"}}]}}")
    }

    /// `files`: name and network, `""` for one that cannot be read.
    fn chosen(
        files: &[(&str, &str)],
        primary: Option<&str>,
        followed: Option<(Option<&str>, &str)>,
        since: Duration,
    ) -> Result<String, Why> {
        let texts: Vec<String> = files.iter().map(|(_, network)| text(network)).collect();
        let networks: Vec<_> = texts.iter().map(|text| parse(Form::List, text, &[]).ok()).collect();
        let candidates: Vec<_> = files
            .iter()
            .zip(&networks)
            .map(|((file, _), network)| Candidate { file, network: network.as_ref() })
            .collect();
        let followed = followed
            .map(|(file, network)| Followed { file: file.map(str::to_owned), network: network.to_owned() });
        let situation = Situation { candidates: &candidates, primary, followed: followed.as_ref(), since };
        match choose(&situation) {
            Choice::Follow(index) => Ok(files[index].0.to_owned()),
            Choice::Hold(why) => Err(why),
        }
    }

    const NOW: Duration = Duration::ZERO;

    #[test]
    fn at_first() {
        let at = |files: &[(&str, &str)], since| chosen(files, None, None, since);
        assert_eq!(at(&[], NOW), Err(Why::Nothing));
        assert_eq!(at(&[("10-c", "c"), ("87-p", "p")], NOW), Ok("10-c".to_owned()));
        assert_eq!(at(&[("10-c", ""), ("87-p", "p")], NOW), Err(Why::Unreadable("10-c".to_owned())));
        assert_eq!(at(&[("10-c", ""), ("87-p", "p")], GRACE), Ok("87-p".to_owned()));
        assert_eq!(at(&[("10-c", "")], GRACE), Err(Why::Unreadable("10-c".to_owned())));
    }

    #[test]
    fn what_is_followed_stays() {
        let at = |files: &[(&str, &str)], since| chosen(files, None, Some((Some("10-c"), "c")), since);
        assert_eq!(at(&[("10-c", "c"), ("87-p", "p")], NOW), Ok("10-c".to_owned()));
        assert_eq!(at(&[("10-c", "c2")], NOW), Ok("10-c".to_owned()), "another network in the same file");
        assert_eq!(at(&[("10-c", ""), ("87-p", "p")], GRACE), Err(Why::Unreadable("10-c".to_owned())));
        assert_eq!(at(&[("05-x", ""), ("10-c", "c")], NOW), Ok("10-c".to_owned()), "a broken one before it");
        assert_eq!(at(&[("05-x", "x"), ("10-c", "c")], NOW), Ok("05-x".to_owned()), "a good one before it");
        assert_eq!(at(&[("20-c", "c"), ("87-p", "p")], NOW), Ok("20-c".to_owned()), "it was renamed");
        let settling = Why::Settling("10-c".to_owned(), "p".to_owned());
        assert_eq!(at(&[("87-p", "p")], NOW), Err(settling));
        assert_eq!(at(&[("87-p", "p")], SETTLE), Ok("87-p".to_owned()));
        assert_eq!(at(&[], SETTLE), Err(Why::Nothing));
        assert_eq!(at(&[("87-p", "")], SETTLE), Err(Why::Unreadable("87-p".to_owned())));
    }

    #[test]
    fn after_a_restart() {
        let at = |files: &[(&str, &str)], since| chosen(files, None, Some((None, "c")), since);
        assert_eq!(at(&[("10-c", "c"), ("87-p", "p")], NOW), Ok("10-c".to_owned()));
        assert_eq!(at(&[("10-c", ""), ("87-p", "p")], GRACE), Err(Why::Unreadable("10-c".to_owned())));
        assert_eq!(at(&[("05-x", "x"), ("10-c", "c")], NOW), Ok("05-x".to_owned()));
        assert!(matches!(at(&[("87-p", "p")], NOW), Err(Why::Settling(..))));
        assert_eq!(at(&[("87-p", "p")], SETTLE), Ok("87-p".to_owned()));
    }

    #[test]
    fn by_name() {
        let files = [("10-c", "c"), ("20-d", ""), ("87-p", "p")];
        let at = |primary| chosen(&files, Some(primary), Some((Some("10-c"), "c")), NOW);
        assert_eq!(at("87-p"), Ok("87-p".to_owned()));
        assert_eq!(at("p"), Ok("87-p".to_owned()));
        assert_eq!(at("20-d"), Err(Why::Unreadable("20-d".to_owned())));
        assert_eq!(at("x"), Err(Why::NotNamed("x".to_owned())));
    }
}
