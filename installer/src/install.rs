//! One pass: observe, see what differs, do it, observe again. Everything that is decided is decided elsewhere; this carries it out.

use std::collections::BTreeMap;
use std::fs::File;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use shunt_api::paths::{RETIRED, TYPE};
use slog::{Logger, debug, error, info, warn};

use crate::choose::GRACE;
use crate::claim::{Claim, Purpose, Turn};
use crate::files::{Directory, Like, Root, is_missing};
use crate::lists::{self, Cause, Finding, Memory, Step, Wish, stand_in};
use crate::observe::{BINARY_MODE, Binary, Conf, Hash, Hashes, Places, SAVED, short};
use crate::pace::Pace;
use crate::plugin::{Plugin, Status};
use crate::settings::{OWN_LISTS, Settings, Wanted};
use crate::state::{Checked, ListState, PluginState, State, VERSION};

/// How often everything is looked at although nothing was heard of.
pub const RESYNC: Duration = Duration::from_secs(30);

/// How soon again where something is not as wanted, or another installer works.
const SOON: Duration = Duration::from_secs(1);

/// How soon STATUS is asked again when it said no.
const STATUS_AGAIN: Duration = Duration::from_secs(5);

/// Steps lead to others, when a file of another changes meanwhile or comes back under its name; more rounds than this are left to
/// the next pass.
const ROUNDS: usize = 4;

/// What was done so far, for metrics.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Passes by outcome: `unchanged`, `changed`, `waiting` or `failed`.
    pub passes: BTreeMap<&'static str, u64>,
    /// Writes by what was written (`plugin` or `list`) and why.
    pub writes: BTreeMap<(&'static str, &'static str), u64>,
    /// Fights that began.
    pub fights: u64,
    /// Time during which the node was not as wanted.
    pub drift: Duration,
}

/// How a pass ended.
#[derive(Debug)]
pub struct Passed {
    /// The node now.
    pub state: State,
    /// When to look again at the latest.
    pub again: Duration,
}

/// What an installer knows from one pass to the next.
#[derive(Debug)]
pub struct Installer {
    settings: Settings,
    log: Logger,
    claim: Option<Claim>,
    hashes: Hashes,
    tried: Option<Hash>,
    memory: Memory,
    pace: Pace,
    situation: (String, Instant),
    wanted: Option<Wanted>,
    status: Option<(Hash, String, Instant, Status)>,
    drifting: Option<Instant>,
    counts: Counts,
    said: Vec<String>,
}

/// What one pass finds and does.
#[derive(Debug, Default)]
struct Pass {
    state: State,
    changed: bool,
    failed: bool,
    wait: Option<Duration>,
}

impl Pass {
    fn problem(&mut self, text: impl Into<String>) {
        self.state.problems.push(text.into());
    }

    fn failed(&mut self, error: &anyhow::Error) {
        self.failed = true;
        self.problem(format!("{error:#}"));
    }

    fn wait(&mut self, time: Duration) {
        self.wait = Some(self.wait.map_or(time, |wait| wait.min(time)));
    }
}

impl Installer {
    /// One that may change the host.
    pub fn new(settings: Settings, log: Logger) -> Result<Self> {
        Ok(Self { claim: Some(Claim::new(Purpose::Install)?), ..Self::looking(settings, log) })
    }

    /// One that only looks.
    pub fn looking(settings: Settings, log: Logger) -> Self {
        Self {
            settings,
            log,
            claim: None,
            hashes: Hashes::default(),
            tried: None,
            memory: Memory::default(),
            pace: Pace::default(),
            situation: (String::new(), Instant::now()),
            wanted: None,
            status: None,
            drifting: None,
            counts: Counts::default(),
            said: Vec::new(),
        }
    }

    /// What was done so far; the drift that goes on counts.
    pub fn counts(&self) -> Counts {
        let mut counts = self.counts.clone();
        counts.fights = self.pace.fights_so_far();
        counts.drift += self.drifting.map_or(Duration::ZERO, |since| since.elapsed());
        counts
    }

    /// The entry in use, and so where the plugin keeps its things.
    pub const fn wanted(&self) -> Option<&Wanted> {
        self.wanted.as_ref()
    }

    /// Observes, acts, and says how it is. `thorough`: nothing is taken for known.
    pub async fn pass(&mut self, thorough: bool) -> Passed {
        let mut pass = Pass::default();
        pass.state.version = VERSION;
        pass.state.mode = self.settings.mode.as_str();
        if thorough {
            self.hashes.forget();
            self.status = None;
        }
        if let Err(error) = self.observe_and_act(&mut pass).await {
            pass.failed(&error);
        }
        self.finish(pass)
    }

    async fn observe_and_act(&mut self, pass: &mut Pass) -> Result<()> {
        match self.settings.entry.read() {
            Ok(wanted) => {
                pass.state.entry = Checked { ok: true, words: "as wanted".to_owned() };
                self.wanted = Some(wanted);
            }
            Err(error) => {
                pass.state.entry = Checked { ok: false, words: format!("{error:#}") };
                pass.failed(&error);
            }
        }
        let places = Places::open(&self.settings)?;
        let acts = self.take_turn(&places.root, pass)?;
        if pass.state.turn == "over" {
            return Ok(());
        }
        let places = if acts { self.make_directories(places, pass) } else { places };
        let hash = self.plugin(&places, acts, pass).await;
        let usable = self.ask_status(&places, hash, pass).await;
        self.lists(&places, acts, usable, pass)
    }

    /// Whether this pass may change anything.
    fn take_turn(&mut self, root: &Root, pass: &mut Pass) -> Result<bool> {
        let (Some(claim), Some(wanted)) = (&mut self.claim, &self.wanted) else { return Ok(false) };
        let turn = claim.turn(root, wanted, Instant::now())?;
        pass.state.turn = match turn {
            Turn::Ours => "ours",
            Turn::Another => "another",
            Turn::Over => "over",
        };
        match turn {
            // Else the last DEL of a pod from before an uninstall would take the plugin away.
            Turn::Ours => root.directory(&wanted.state_dir)?.map_or(Ok(()), |state| state.remove(RETIRED))?,
            Turn::Another => {
                pass.state.notes.push("a newer installer works on this node".to_owned());
                pass.wait(SOON);
            }
            Turn::Over => {
                pass.problem("this node was uninstalled; an installer that starts anew installs again");
            }
        }
        Ok(turn == Turn::Ours)
    }

    /// The plugin's directory; the other is the primary CNI's to make, but a runtime that finds none makes it too.
    fn make_directories(&self, places: Places, pass: &mut Pass) -> Places {
        if places.bin.is_some() {
            return places;
        }
        match places.root.made_directory(&self.settings.bin_dir, 0o755) {
            Ok(bin) => Places { bin: Some(bin), ..places },
            Err(error) => {
                pass.failed(&error);
                places
            }
        }
    }

    /// Puts the plugin in place. The digest of what is there if it is the one to install.
    async fn plugin(&mut self, places: &Places, acts: bool, pass: &mut Pass) -> Option<Hash> {
        pass.state.plugin.file = places.root.shown(&self.settings.bin_dir.join(TYPE)).display().to_string();
        match self.install_plugin(places, acts, pass).await {
            Ok((hash, binary)) => {
                pass.state.plugin = PluginState {
                    wanted: short(&hash),
                    found: match binary {
                        Binary::Same => "same",
                        Binary::Missing => "missing",
                        Binary::Differs => "differs",
                        Binary::Mode(_) => "mode",
                    },
                    ..std::mem::take(&mut pass.state.plugin)
                };
                if binary != Binary::Same {
                    pass.problem(match self.pace.failure(TYPE) {
                        Some(why) => format!("the plugin on the host is not the one to install: {why}"),
                        None => "the plugin on the host is not the one to install".to_owned(),
                    });
                }
                (binary == Binary::Same).then_some(hash)
            }
            Err(error) => {
                pass.failed(&error);
                None
            }
        }
    }

    async fn install_plugin(
        &mut self,
        places: &Places,
        acts: bool,
        pass: &mut Pass,
    ) -> Result<(Hash, Binary)> {
        let hash = self.hashes.of_source(&self.settings.plugin)?;
        let binary = self.hashes.compare(places.bin.as_ref(), &hash)?;
        let Some(bin) = places.bin.as_ref().filter(|_| acts) else { return Ok((hash, binary)) };
        bin.sweep()?;
        let cause = match binary {
            Binary::Same => return Ok((hash, binary)),
            Binary::Mode(_) => "mode",
            Binary::Missing => "missing",
            Binary::Differs => "differs",
        };
        if !self.may_write(TYPE, pass) {
            return Ok((hash, binary));
        }
        if let Err(error) = self.replace_plugin(bin, &binary, &hash).await {
            self.failed(TYPE, &error, pass);
            return Ok((hash, binary));
        }
        let undone = self.memory.wrote.get(TYPE).is_some_and(|wrote| *wrote == short(&hash));
        self.wrote("plugin", TYPE, cause, undone, pass);
        self.memory.wrote.insert(TYPE.to_owned(), short(&hash));
        Ok((hash, self.hashes.compare(places.bin.as_ref(), &hash)?))
    }

    async fn replace_plugin(&mut self, bin: &Directory, binary: &Binary, hash: &Hash) -> Result<()> {
        if let Binary::Mode(_) = binary {
            return bin.set_mode(TYPE, BINARY_MODE);
        }
        if self.tried != Some(*hash) {
            Plugin::try_out(&self.settings.plugin).await?;
            self.tried = Some(*hash);
        }
        let mut source =
            File::open(&self.settings.plugin).context("open the plugin to install (--plugin)")?;
        bin.write(TYPE, &mut source, Like::root(BINARY_MODE))
    }

    /// Asks the plugin on the host, whichever it is. True if our entry is one it takes.
    async fn ask_status(&mut self, places: &Places, hash: Option<Hash>, pass: &mut Pass) -> bool {
        let (Some(wanted), true) = (&self.wanted, pass.state.plugin.found != "missing") else {
            "the plugin is not there to be asked".clone_into(&mut pass.state.status.words);
            return false;
        };
        let hash = hash.unwrap_or_default();
        let known = self.status.as_ref().filter(|(of, entry, at, status)| {
            let fresh = if *status == Status::Ready { RESYNC } else { STATUS_AGAIN };
            *of == hash && *entry == wanted.text && at.elapsed() < fresh
        });
        let status = match known {
            Some((_, _, _, status)) => status.clone(),
            None => Plugin::new(&self.settings, &places.root).status(wanted).await,
        };
        if known.is_none() {
            debug!(self.log, "asked for STATUS"; "said" => status.words());
            self.status = Some((hash, wanted.text.clone(), Instant::now(), status.clone()));
        }
        pass.state.status = Checked { ok: status == Status::Ready, words: status.words() };
        if status != Status::Ready {
            pass.problem(format!("STATUS: {}", status.words()));
            pass.wait(STATUS_AGAIN);
        }
        if status.is_about_configuration() {
            pass.state.entry =
                Checked { ok: false, words: format!("the plugin refuses it: {}", status.words()) };
        }
        // One that cannot be run cannot be asked: then what is in use stays in use.
        pass.state.entry.ok && matches!(status, Status::Ready | Status::Refused(..))
    }

    fn lists(&mut self, places: &Places, acts: bool, usable: bool, pass: &mut Pass) -> Result<()> {
        pass.state.list.directory = places.root.shown(&self.settings.conf_dir).display().to_string();
        let Some(directory) = &places.conf else {
            pass.problem(format!(
                "{} is not there: the primary CNI has not written its file",
                pass.state.list.directory
            ));
            pass.wait(SOON);
            return Ok(());
        };
        let entry = self.wanted.as_ref().filter(|_| usable).map(|wanted| wanted.text.clone());
        let (mode, primary) = (self.settings.mode, self.settings.primary.clone());
        let wish = Wish { mode, entry: entry.as_deref(), primary: primary.as_deref() };
        for round in 0..=ROUNDS {
            let conf = Conf::read(directory)?;
            if acts && round == 0 {
                conf.stale.iter().try_for_each(|name| directory.remove(name))?;
            }
            let since = self.since(&conf);
            let plan = lists::plan(&conf, wish, &self.memory, since);
            if acts && round < ROUNDS && self.carry_out(directory, &plan, pass) {
                continue;
            }
            self.describe(&conf, &plan, since, pass);
            break;
        }
        Ok(())
    }

    /// For how long what is followed is decided by has been as it is.
    fn since(&mut self, conf: &Conf) -> Duration {
        let situation = lists::situation(conf);
        if self.situation.0 != situation {
            self.situation = (situation, Instant::now());
        }
        self.situation.1.elapsed()
    }

    /// Does the steps, as far as their pace allows. True if anything was done.
    fn carry_out(&mut self, directory: &Directory, plan: &lists::Plan, pass: &mut Pass) -> bool {
        self.memory.followed.clone_from(&plan.followed);
        if plan.good.is_some() {
            self.memory.last_good.clone_from(&plan.good);
        }
        for (index, step) in plan.steps.iter().enumerate() {
            // What follows may rely on it. And where a list takes the place of a file, the file follows at once: what its owner does
            // to it in between would be done to a file that is ours to put aside.
            let next = plan.steps.get(index + 1).filter(|next| next.is_put_aside_for(step.file()));
            let may = |step: &Step| step.ends_what_was_put_aside() || self.may_write(step.file(), pass);
            if ![Some(step), next].into_iter().flatten().all(may) {
                return index > 0;
            }
            match carry_out(directory, step) {
                Ok(true) => {}
                // Its owner was faster: everything has to be looked at anew.
                Ok(false) => return true,
                Err(error) => {
                    self.failed(step.file(), &error, pass);
                    return false;
                }
            }
            self.remember(step);
            self.wrote("list", step.file(), step.cause().as_str(), step.cause() == Cause::Undone, pass);
        }
        !plan.steps.is_empty()
    }

    fn remember(&mut self, step: &Step) {
        if let Step::Write { file, text, cause, .. } = step {
            self.memory.wrote.insert(file.clone(), text.clone());
            if *cause == Cause::Moved && !OWN_LISTS.contains(&file.as_str()) {
                *self.memory.leftovers.entry(file.clone()).or_default() += 1;
            }
        }
    }

    /// Something could not be written: it is tried again, but not at once; our own attempts are changes we would hear of.
    fn failed(&mut self, file: &str, error: &anyhow::Error, pass: &mut Pass) {
        pass.failed = true;
        self.pace.failed(file, format!("{error:#}"), Instant::now());
    }

    fn may_write(&mut self, file: &str, pass: &mut Pass) -> bool {
        let wait = self.pace.wait(file, Instant::now());
        if !wait.is_zero() {
            pass.wait(wait);
        }
        wait.is_zero()
    }

    fn wrote(&mut self, what: &'static str, file: &str, cause: &'static str, undone: bool, pass: &mut Pass) {
        pass.changed = true;
        *self.counts.writes.entry((what, cause)).or_default() += 1;
        info!(self.log, "wrote {file}"; "what" => what, "cause" => cause);
        if self.pace.wrote(file, undone, Instant::now()) {
            warn!(self.log, "somebody else insists on changing {file}; it is put back more and more seldom"; "file" => file);
        }
    }

    /// What is left to do and what cannot be done.
    fn describe(&mut self, conf: &Conf, plan: &lists::Plan, since: Duration, pass: &mut Pass) {
        let left: Vec<String> = plan
            .steps
            .iter()
            .map(|step| match self.pace.failure(step.file()) {
                Some(why) => format!("{} ({why})", step.file()),
                None => step.file().to_owned(),
            })
            .collect();
        let followed = plan.followed.as_ref();
        let file = plan.list.clone().unwrap_or_default();
        pass.state.list = ListState {
            as_wanted: !file.is_empty() && left.is_empty(),
            follows: followed
                .and_then(|followed| followed.file.clone())
                .filter(|file| conf.file(file).is_some())
                .unwrap_or_default(),
            network: followed.map(|followed| followed.network.clone()).unwrap_or_default(),
            file,
            ..std::mem::take(&mut pass.state.list)
        };
        let now = Instant::now();
        if !left.is_empty() {
            let words = format!("not as wanted yet: {}", left.join(", "));
            // Its owner writes his file twice in a moment: that is no fault of anybody's, and over before somebody reads of it.
            if plan.steps.iter().all(|step| self.pace.has_just_written(step.file(), now)) {
                pass.state.notes.push(words);
            } else {
                pass.problem(words);
            }
        }
        for finding in &plan.findings {
            // While the primary CNI writes its file, or moves it away and back, pods get what they got before.
            if matches!(finding, Finding::Hold(_)) && pass.state.list.as_wanted && since < GRACE {
                pass.state.notes.push(finding.to_string());
            } else {
                pass.problem(finding.to_string());
            }
            pass.wait(SOON);
        }
        pass.state.notes.extend(plan.notes.iter().cloned());
        pass.state.fights = self.pace.fights(now);
        if !pass.state.fights.is_empty() {
            pass.state.notes.extend(culprit(conf));
        }
    }

    fn finish(&mut self, pass: Pass) -> Passed {
        let Pass { mut state, changed, failed, wait } = pass;
        let outcome = match (failed, changed, state.problems.is_empty() && state.list.as_wanted) {
            (true, _, _) => "failed",
            (false, true, _) => "changed",
            (false, false, false) => "waiting",
            (false, false, true) => "unchanged",
        };
        *self.counts.passes.entry(outcome).or_default() += 1;
        state.ready = state.problems.is_empty()
            && state.status.ok
            && state.list.as_wanted
            && state.plugin.found == "same";
        if state.ready {
            self.counts.drift += self.drifting.take().map_or(Duration::ZERO, |since| since.elapsed());
        } else {
            self.drifting.get_or_insert_with(Instant::now);
        }
        self.tell(&state);
        let soon = if state.ready { RESYNC } else { STATUS_AGAIN };
        Passed { state, again: wait.unwrap_or(soon).min(soon) }
    }

    /// Logs what is new.
    fn tell(&mut self, state: &State) {
        for problem in state.problems.iter().filter(|problem| !self.said.contains(problem)) {
            error!(self.log, "{problem}");
        }
        let first = self.counts.passes.values().sum::<u64>() == 1;
        if state.ready && (first || !self.said.is_empty()) {
            info!(self.log, "as wanted"; "list" => &state.list.file, "follows" => &state.list.follows);
        }
        self.said.clone_from(&state.problems);
    }
}

/// Carries a step out. False if its ground has changed meanwhile: then the directory has to be looked at anew.
pub fn carry_out(directory: &Directory, step: &Step) -> Result<bool> {
    match step {
        Step::Write { file, text, like, over: Some(over), .. } => directory.replace(file, text, *like, over),
        Step::Write { file, text, like, over: None, .. } => {
            directory.write(file, &mut text.as_bytes(), *like).map(|()| true)
        }
        Step::Rename { from, to } if from.ends_with(SAVED) => directory.rename_back(from, to),
        Step::Rename { from, to } => match directory.rename(from, to) {
            // Its owner has removed it: the list that was to stand in for it has nothing to stand in for.
            Err(error) if is_missing(&error) => {
                directory.remove(&stand_in(from))?;
                Ok(false)
            }
            renamed => renamed.map(|()| true),
        },
        Step::Remove { file } => directory.remove(file).map(|()| true),
    }
}

/// Who it may be that changes our file, by the traces some leave.
fn culprit(conf: &Conf) -> Option<String> {
    let renamed = conf.others.iter().find(|name| name.ends_with(".cilium_bak") && !name.ends_with(SAVED))?;
    Some(format!("{renamed}: Cilium renames the lists of others; set its value cni.exclusive to false"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_step_whose_ground_has_changed_does_nothing() {
        let host = tempfile::tempdir().expect("directory");
        let root = Root::open(host.path()).expect("root");
        let directory = root.directory(Path::new("/")).expect("opened").expect("there");
        let put = |name: &str, text: &str| std::fs::write(host.path().join(name), text).expect("own file");
        let is_done = |step: &Step| carry_out(&directory, step).expect("carried out");
        // Put aside what is gone: the list in its place goes, too.
        put("a.conf.conflist", "ours");
        let aside = Step::Rename { from: "a.conf".to_owned(), to: format!("a.conf{SAVED}") };
        assert!(!is_done(&aside));
        assert_eq!(directory.names().expect("listed"), [""; 0]);
        put("a.conf", "theirs");
        assert!(is_done(&aside));
        // Give the name back, which has been given to something else.
        let back = Step::Rename { from: format!("a.conf{SAVED}"), to: "a.conf".to_owned() };
        put("a.conf", "newer");
        assert!(!is_done(&back));
        assert_eq!(directory.read("a.conf", 9).expect("read"), "newer");
        std::fs::remove_file(host.path().join("a.conf")).expect("own file");
        assert!(is_done(&back));
        assert_eq!(directory.read("a.conf", 9).expect("read"), "theirs");
    }
}
