//! Daemons of a machine: started again when they end, until they are stopped.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::poll;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What is to run.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its name, and that of its cgroup and log.
    pub name: String,
    /// The program, as found inside.
    pub program: String,
    /// What stands behind it.
    pub arguments: Vec<String>,
    /// More variables.
    pub environment: Vec<(String, String)>,
    /// Whether it is started again when it ends.
    pub again: bool,
}

impl Service {
    /// One that is started again when it ends.
    pub fn new(name: &str, program: &str, arguments: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            program: program.to_owned(),
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            environment: Vec::new(),
            again: true,
        }
    }
}

/// One that was started.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    log: PathBuf,
    state: Arc<State>,
    keeper: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    stopping: AtomicBool,
    starts: AtomicU32,
    /// The process that went inside, and whose only child the daemon is.
    door: Mutex<Option<u32>>,
}

impl Daemon {
    pub(crate) fn start(service: &Service, mut command: Command, log: PathBuf) -> Self {
        let state = Arc::new(State::default());
        let file = File::options().create(true).append(true).open(&log).expect("own file");
        command.stdout(file.try_clone().expect("own file")).stderr(file);
        let (kept, again) = (Arc::clone(&state), service.again);
        let keeper = std::thread::spawn(move || keep(&kept, &mut command, again));
        Self { name: service.name.clone(), log, state, keeper: Some(keeper) }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its log.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How often it was started.
    pub fn starts(&self) -> u32 {
        self.state.starts.load(Ordering::SeqCst)
    }

    /// Its process, from here; none while it is not there.
    pub fn pid(&self) -> Option<Pid> {
        let door = (*self.state.door.lock().expect("no thread of ours stops with it"))?;
        let children = std::fs::read_to_string(format!("/proc/{door}/task/{door}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok().map(Pid::from_raw)
    }

    /// Sends it a signal; false when it is not there.
    pub fn signal(&self, signal: Signal) -> bool {
        let sent = self.pid().is_some_and(|pid| kill(pid, signal).is_ok());
        if let Some(door) = *self.state.door.lock().expect("no thread of ours stops with it")
            && signal == Signal::SIGKILL
        {
            // `nsenter` stands still when its child does, and would not see it end.
            let _awake = kill(Pid::from_raw(door.cast_signed()), Signal::SIGCONT);
        }
        sent
    }

    /// It is not started again.
    pub(crate) fn give_up(&self) {
        self.state.stopping.store(true, Ordering::SeqCst);
    }

    /// Ends it, by SIGTERM first.
    pub(crate) fn stop(&self) {
        self.give_up();
        let begun = Instant::now();
        while self.keeper.as_ref().is_some_and(|keeper| !keeper.is_finished()) {
            let forced = begun.elapsed() > Duration::from_secs(10);
            self.signal(if forced { Signal::SIGKILL } else { Signal::SIGTERM });
            let _waited = poll(&mut [], 50_u8);
        }
    }
}

impl Drop for Daemon {
    /// Its machine is off or going off, or it was stopped.
    fn drop(&mut self) {
        self.give_up();
        if let Some(keeper) = self.keeper.take() {
            while !keeper.is_finished() {
                self.signal(Signal::SIGKILL);
                let _waited = poll(&mut [], 10_u8);
            }
            let _ended = keeper.join();
        }
    }
}

fn keep(state: &State, command: &mut Command, again: bool) {
    while !state.stopping.load(Ordering::SeqCst) {
        let mut door = command.spawn().expect("nsenter can be run");
        *state.door.lock().expect("no thread of ours stops with it") = Some(door.id());
        state.starts.fetch_add(1, Ordering::SeqCst);
        let _status = door.wait();
        *state.door.lock().expect("no thread of ours stops with it") = None;
        if !again {
            return;
        }
        // As a service manager waits.
        let _waited = poll(&mut [], 200_u8);
    }
}
