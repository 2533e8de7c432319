//! `uninstall`: our entry out of every list first, so that no runtime calls the plugin any more; then what the plugin made on the
//! node, and the plugin itself last. A runtime that finds an entry and no plugin neither makes pods nor ends them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use shunt_api::paths::TYPE;
use shunt_api::report::Swept;
use slog::{Logger, error, info, warn};
use tokio::time::sleep;

use crate::claim::{Claim, Purpose, Turn};
use crate::files::{Directory, Root};
use crate::health::Shared;
use crate::install::{Counts, carry_out};
use crate::lists::removal;
use crate::observe::{Conf, Places};
use crate::plugin::Plugin;
use crate::run::{Stop, answer};
use crate::settings::{Settings, Wanted};
use crate::state::State;

/// How long an installer that still runs has to let go.
const PATIENCE: Duration = Duration::from_secs(30);

/// How soon again, while one stays: after pods that have ended, or after a failure.
const AGAIN: Duration = Duration::from_secs(10);

/// Owners write while we take out; more rounds than this are a fight.
const ROUNDS: usize = 20;

/// What is to be taken off.
#[derive(Debug, Clone, Copy)]
pub struct How {
    /// Running pods are freed.
    pub detach: bool,
    /// It does not end by itself.
    pub stay: bool,
}

/// What was taken off.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Removed {
    /// Nothing of Shunt is on this node any more.
    pub complete: bool,
    /// Files in which our entry was, and lists of ours.
    pub lists: Vec<String>,
    /// Pods that stay intercepted, and keep what serves them.
    pub pods_left: u64,
    /// What could not be removed, and why.
    pub problems: Vec<String>,
}

/// Takes Shunt off this node.
pub async fn uninstall(
    settings: Settings,
    how: How,
    listen: Option<SocketAddr>,
    log: Logger,
) -> Result<Removed> {
    if !how.stay {
        return Uninstaller::new(settings, how, log)?.once().await;
    }
    let mut stop = Stop::new()?;
    let shared = Shared::new();
    answer(listen, &shared, &log);
    let mut uninstaller = Uninstaller::new(settings, how, log)?;
    let mut last = Removed::default();
    tokio::select! {
        () = uninstaller.stay(&shared, &mut last) => {}
        () = stop.told() => {}
    }
    Ok(last)
}

struct Uninstaller {
    settings: Settings,
    wanted: Wanted,
    how: How,
    log: Logger,
    claim: Claim,
    /// The lists are clean and the claim has done its work: those that ran have seen it.
    holds: bool,
    /// Everything was off.
    complete: bool,
    /// Somebody has installed again since.
    over: bool,
    lists: Vec<String>,
}

impl Uninstaller {
    fn new(settings: Settings, how: How, log: Logger) -> Result<Self> {
        // A node must be got rid of Shunt with whatever entry there is.
        let wanted = settings.entry.read().or_else(|error| {
            warn!(log, "{error:#}; the default directories are cleaned");
            settings.entry.without_file().read()
        })?;
        let claim = Claim::new(Purpose::Uninstall)?;
        Ok(Self {
            settings,
            wanted,
            how,
            log,
            claim,
            holds: false,
            complete: false,
            over: false,
            lists: Vec::new(),
        })
    }

    /// Again and again, until nothing is left; then waits to be told to end.
    async fn stay(&mut self, shared: &Shared, last: &mut Removed) {
        loop {
            shared.begins();
            match self.once().await {
                Ok(removed) => *last = removed,
                Err(error) => last.problems = vec![format!("{error:#}")],
            }
            for problem in &last.problems {
                error!(self.log, "{problem}");
            }
            shared.ends(&self.state(last), Counts::default(), None);
            if self.over {
                std::future::pending::<()>().await;
            }
            sleep(AGAIN).await;
        }
    }

    /// Ready: no pod that is made from here on is intercepted, and those that are to be freed are free.
    fn state(&self, last: &Removed) -> State {
        let done = self.holds && last.problems.is_empty() && (last.pods_left == 0 || !self.how.detach);
        let mut state = State {
            version: crate::state::VERSION,
            ready: done,
            turn: if self.over { "another" } else { "ours" },
            mode: self.settings.mode.as_str(),
            problems: last.problems.clone(),
            ..State::default()
        };
        if self.over {
            return state;
        }
        state.notes.push(if last.complete {
            "uninstalled: nothing of Shunt is on this node".to_owned()
        } else {
            format!("our entry is out of every list; {} pods stay intercepted until they end", last.pods_left)
        });
        state
    }

    async fn once(&mut self) -> Result<Removed> {
        let places = Places::open(&self.settings)?;
        if !self.holds {
            self.take_turn(&places.root).await?;
            self.holds = true;
        } else if self.over || self.is_followed(&places)? {
            return self.gives_way();
        }
        let mut removed = Removed::default();
        if let Some(conf) = &places.conf {
            self.clean_lists(conf)?;
            conf.sweep()?;
        }
        // Who claims the node meanwhile waits for it, and must not lose its claim.
        if Claim::is_followed(&places.root, &self.wanted)? {
            return self.gives_way();
        }
        removed.lists.clone_from(&self.lists);
        let swept = self.purge(&places).await?;
        removed.pods_left = swept.left;
        removed.problems = swept.problems;
        if swept.left == 0 {
            clean_up(&places)?;
            removed.complete = removed.problems.is_empty();
        }
        self.complete |= removed.complete;
        info!(self.log, "{}", if removed.complete { "uninstalled" } else { "uninstalled in part" };
            "podsLeft" => removed.pods_left, "lists" => removed.lists.join(" "));
        Ok(removed)
    }

    fn gives_way(&mut self) -> Result<Removed> {
        self.over = true;
        self.claim.let_go();
        bail!("Shunt was installed on this node again, after this began to uninstall; it does nothing more")
    }

    /// Whether somebody installs again. It says so in the state directory, which in a container stays the one that was removed: there,
    /// a plugin where all was off tells. Our entry alone is none of that: a neighbour may put an old copy of its list back.
    fn is_followed(&self, places: &Places) -> Result<bool> {
        let state = places.root.directory(&self.wanted.state_dir)?;
        let off = self.complete || state.map_or(Ok(true), |state| state.is_removed())?;
        let plugin = places.bin.as_ref().map_or(Ok(None), |bin| bin.stamp(TYPE))?;
        Ok(off && plugin.is_some() || Claim::is_followed(&places.root, &self.wanted)?)
    }

    /// Waits until the installer that runs, if one does, has seen that it is over.
    async fn take_turn(&mut self, root: &Root) -> Result<()> {
        let begun = Instant::now();
        loop {
            match self.claim.turn(root, &self.wanted, Instant::now())? {
                Turn::Ours => return Ok(()),
                _ if begun.elapsed() > PATIENCE => {
                    bail!("another installer holds this node and does not let go within {PATIENCE:?}")
                }
                Turn::Another | Turn::Over => sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// Takes our entry out of everything a runtime loads, until it is out.
    fn clean_lists(&mut self, directory: &Directory) -> Result<()> {
        for _ in 0..ROUNDS {
            let steps = removal(&Conf::read(directory)?);
            if steps.is_empty() {
                return Ok(());
            }
            for step in steps {
                if !carry_out(directory, &step)? {
                    break;
                }
                info!(self.log, "took our entry out of {}", step.file());
                if !self.lists.iter().any(|file| file == step.file()) {
                    self.lists.push(step.file().to_owned());
                }
            }
        }
        bail!("somebody puts our entry back as fast as it is taken out of {}", directory.shown(""))
    }

    /// The plugin takes off what it made on the node; the one to install does where there is none on the host any more.
    async fn purge(&self, places: &Places) -> Result<Swept> {
        let plugin = Plugin::new(&self.settings, &places.root);
        if places.root.directory(&self.wanted.state_dir)?.is_some() {
            // It keeps nobody from anything now, and would be in the way of removing the directory it is in.
            Claim::leave_nothing(&places.root, &self.wanted)?;
        }
        let there = match &places.bin {
            Some(bin) => bin.stamp(TYPE)?.is_some(),
            None => false,
        };
        if there && let Ok(swept) = plugin.purge(&self.wanted, self.how.detach).await {
            return Ok(swept);
        }
        plugin
            .with(&self.settings.plugin)
            .purge(&self.wanted, self.how.detach)
            .await
            .context("take the node's state off")
    }
}

/// What is the installer's own to remove.
fn clean_up(places: &Places) -> Result<()> {
    if let Some(bin) = &places.bin {
        bin.sweep()?;
        bin.remove(TYPE)?;
    }
    Ok(())
}
