//! Writing one namespace's rules in one flavour: whole, read back, or as it was.

use crate::error::{Error, Failed as _, Kind};
use crate::fault::Outcome;
use crate::iptables::Family;
use crate::iptables::room::{Room, Run};
use crate::iptables::rules::{Rules, transaction};
use crate::iptables::saved::{Saved, difference, state};
use crate::iptables::tools::{Job, Set};

/// Who writes where.
pub(super) struct Writer<'a> {
    pub(super) room: &'a Room,
    pub(super) set: &'a Set,
    pub(super) families: &'a [Family],
}

/// Tools before 1.8.6 cannot be told where their lock is. Theirs is then in the room's own `/run`, and the two families' wait for
/// each other.
const ARGUMENTS: [&str; 2] = ["--noflush", "--wait=3"];

/// The table that every plan has rules in.
const CAPTURES: &str = "nat";

fn unseen(family: Family, table: &str) -> Error {
    let text = format!(
        "table {table} of {} holds rules that another program wrote with nft and iptables cannot show: rules of ours could not be \
         checked there (use a table of another name for them, or backend \"ebpf\")",
        family.name()
    );
    Error::new(Kind::Rules, text)
}

/// What the families have, in their order.
pub(super) fn read(room: &Room, set: &Set, families: &[Family]) -> Outcome<Vec<Saved>> {
    let runs: Vec<Run<'_>> = families
        .iter()
        .filter_map(|family| set.tool(*family, Job::Save))
        .map(|tool| Run { tool, arguments: &[], input: "", writes: false })
        .collect();
    room.run(&runs)?.iter().map(|text| Saved::parse(text)).collect()
}

impl Writer<'_> {
    /// Makes the kernel's rules equal to `wanted`. `again`: something of ours may be there.
    pub(super) fn write(&self, wanted: &[Rules], again: bool) -> Result<(), Error> {
        let before =
            if again { self.read()? } else { self.families.iter().map(|_| Saved::default()).collect() };
        self.shown(wanted, &before)?;
        if self.wrong(wanted, &before).is_none() {
            return Ok(());
        }
        let written = self.replace(wanted, &before).and_then(|()| {
            let found = self.read()?;
            match self.wrong(wanted, &found) {
                None => Ok(()),
                // Rules nobody remembers were there: all is known now.
                Some(_) if !again => self.replace(wanted, &found).and_then(|()| self.check(wanted)),
                Some(difference) => Err(Error::new(Kind::Verify, difference)),
            }
        });
        let Err(error) = written else { return Ok(()) };
        let rules: Vec<Rules> = before.iter().map(Saved::restorable).collect();
        let undone = self.read().and_then(|found| self.replace(&rules, &found));
        Err(match undone {
            Ok(()) => error,
            Err(undo) => error.with_undo(undo),
        })
    }

    /// Takes all of ours out. `written`: they were there, and are to be seen.
    pub(super) fn remove(&self, written: bool) -> Result<(), Error> {
        let nothing: Vec<Rules> = self.families.iter().map(|_| Rules::default()).collect();
        let found = self.read()?;
        let removed = self.replace(&nothing, &found);
        let hidden = self.families.iter().zip(&found).find(|(_, found)| written && found.hides(CAPTURES));
        removed.and(hidden.map_or(Ok(()), |(family, _)| Err(unseen(*family, CAPTURES))))
    }

    /// What iptables cannot show it cannot be checked in, nor taken out of.
    fn shown(&self, wanted: &[Rules], found: &[Saved]) -> Result<(), Error> {
        let families = self.families.iter().zip(wanted).zip(found);
        let hidden = families.into_iter().find_map(|((family, wanted), found)| {
            let table = wanted.tables.iter().find(|table| found.hides(&table.name))?;
            Some(unseen(*family, &table.name))
        });
        hidden.map_or(Ok(()), Err)
    }

    fn check(&self, wanted: &[Rules]) -> Result<(), Error> {
        match self.wrong(wanted, &self.read()?) {
            None => Ok(()),
            Some(difference) => Err(Error::new(Kind::Verify, difference)),
        }
    }

    fn read(&self) -> Result<Vec<Saved>, Error> {
        read(self.room, self.set, self.families).failed(Kind::Rules, || "reading the pod's rules")
    }

    /// The first thing that is not as it is to be.
    fn wrong(&self, wanted: &[Rules], found: &[Saved]) -> Option<String> {
        self.families.iter().zip(wanted).zip(found).find_map(|((family, wanted), found)| {
            difference(&state(wanted), &found.state()).map(|what| format!("{}: {what}", family.name()))
        })
    }

    /// One transaction for each family, both at the same time.
    fn replace(&self, wanted: &[Rules], found: &[Saved]) -> Result<(), Error> {
        let texts: Vec<String> =
            wanted.iter().zip(found).map(|(wanted, found)| transaction(wanted, &found.ours())).collect();
        let runs: Vec<Run<'_>> = self
            .families
            .iter()
            .zip(&texts)
            .filter(|(_, text)| !text.is_empty())
            .filter_map(|(family, text)| Some((self.set.tool(*family, Job::Restore)?, text)))
            .map(|(tool, text)| Run { tool, arguments: &ARGUMENTS, input: text, writes: true })
            .collect();
        self.room.run(&runs).map(|_| ()).failed(Kind::Rules, || "writing the pod's rules")
    }
}
