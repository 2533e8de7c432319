//! `run`: passes, each time something changes and from time to time. Ends when it is told to, and changes nothing then.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use slog::{Logger, info, warn};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{sleep, timeout};

use crate::files::Root;
use crate::health::{Shared, serve};
use crate::install::{Installer, RESYNC};
use crate::plugin::Plugin;
use crate::settings::{Settings, Wanted};
use crate::state::State;
use crate::watch::Watch;

/// How often the plugin is told to look for pods that ended without a DEL: containerd forgets some.
const SWEEP: Duration = Duration::from_mins(5);

/// `once` waits for so long for what is on its way: a runtime that starts, a STATUS that says no at first.
const ONCE: Duration = Duration::from_secs(20);

/// Told to end.
#[derive(Debug)]
pub struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    /// From here on the process ends when it is ready to.
    pub fn new() -> Result<Self> {
        let what = "listen for signals";
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context(what)?,
            interrupt: signal(SignalKind::interrupt()).context(what)?,
        })
    }

    /// Waits until told.
    pub async fn told(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Answers health checks if there is somewhere to.
pub fn answer(listen: Option<SocketAddr>, shared: &Arc<Shared>, log: &Logger) {
    if let Some(listen) = listen {
        tokio::spawn(serve(listen, Arc::clone(shared), log.clone()));
    }
}

/// Installs, and keeps it so.
pub async fn run(settings: Settings, listen: Option<SocketAddr>, log: Logger) -> Result<()> {
    let mut stop = Stop::new()?;
    let shared = Shared::new();
    answer(listen, &shared, &log);
    tokio::select! {
        ended = keep(&settings, &shared, &log) => ended,
        () = stop.told() => {
            info!(log, "told to end; everything stays as it is");
            Ok(())
        }
    }
}

async fn keep(settings: &Settings, shared: &Shared, log: &Logger) -> Result<()> {
    let mut installer = Installer::new(settings.clone(), log.clone())?;
    let mut watch = Watch::new()?;
    let (mut thorough, mut swept) = (Instant::now(), Instant::now());
    watch.follow(settings, None);
    loop {
        shared.begins();
        let due = thorough.elapsed() >= RESYNC;
        let passed = installer.pass(due).await;
        if due {
            thorough = Instant::now();
        }
        let plugin = plugin(settings, installer.wanted());
        if let (true, Some((plugin, wanted))) = (swept.elapsed() >= SWEEP && passed.state.ready, &plugin) {
            sweep(plugin, wanted, log).await;
            swept = Instant::now();
        }
        shared.ends(&passed.state, installer.counts(), plugin);
        watch.follow(settings, installer.wanted());
        // Whatever changed is one change.
        if let Ok(changed) = timeout(passed.again, watch.changed()).await {
            changed?;
        }
    }
}

/// The plugin on the host, for those who ask it.
pub fn plugin(settings: &Settings, wanted: Option<&Wanted>) -> Option<(Plugin, Wanted)> {
    let root = Root::open(&settings.host_root).ok()?;
    Some((Plugin::new(settings, &root), wanted?.clone()))
}

async fn sweep(plugin: &Plugin, wanted: &Wanted, log: &Logger) {
    match plugin.sweep(wanted).await {
        Ok(swept) => {
            if swept.removed > 0 {
                info!(log, "removed what was left of pods that are gone"; "attachments" => swept.removed);
            }
            for problem in swept.problems {
                warn!(log, "{problem}");
            }
        }
        Err(error) => warn!(log, "{error:#}"),
    }
}

/// Installs, and ends when it is as wanted or will not be soon.
pub async fn once(settings: Settings, log: Logger) -> Result<State> {
    let mut installer = Installer::new(settings, log)?;
    let begun = Instant::now();
    loop {
        let passed = installer.pass(true).await;
        if passed.state.ready || begun.elapsed() >= ONCE {
            return Ok(passed.state);
        }
        sleep(passed.again.min(Duration::from_millis(500))).await;
    }
}

/// Looks, and says how it is.
pub async fn look(settings: Settings, log: Logger) -> State {
    Installer::looking(settings, log).pass(true).await.state
}

/// Looks until it is as wanted, or time is up.
pub async fn wait(settings: Settings, time: Duration, log: Logger) -> State {
    let mut installer = Installer::looking(settings, log);
    let begun = Instant::now();
    loop {
        let state = installer.pass(true).await.state;
        let left = time.saturating_sub(begun.elapsed());
        if state.ready || left.is_zero() {
            return state;
        }
        sleep(left.min(Duration::from_secs(1))).await;
    }
}
