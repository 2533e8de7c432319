//! `shuntctl` commands that go on until they are ended.

use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::node::Node;
use crate::{bin, schema};

/// How long anything is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// One that is running; killed on drop.
#[derive(Debug)]
pub struct Watching {
    child: Child,
    said: Receiver<String>,
    remarks: Receiver<String>,
}

/// How it ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code.
    pub status: ExitStatus,
    /// The lines nobody had taken.
    pub said: Vec<String>,
    /// What it said on standard error, likewise.
    pub remarks: Vec<String>,
}

/// A command about this node.
pub fn shuntctl(node: &Node, arguments: &[&str]) -> Command {
    let mut command = Command::new(bin::shuntctl());
    command.args(arguments).arg("--state-dir").arg(node.state_dir()).arg("--bpf-dir").arg(node.bpf_dir());
    command.stdin(Stdio::null());
    command
}

impl Watching {
    /// Starts it.
    pub fn start(node: &Node, arguments: &[&str]) -> Self {
        let mut child = shuntctl(node, arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("shuntctl can be run");
        let said = lines(child.stdout.take().expect("stdout is piped"));
        let remarks = lines(child.stderr.take().expect("stderr is piped"));
        Self { child, said, remarks }
    }

    /// Starts a `trace`, and waits until it listens. What it remarks before is returned too.
    pub fn trace(node: &Node, arguments: &[&str]) -> (Self, Vec<String>) {
        let new = Self::start(node, &[&["trace"], arguments].concat());
        let mut remarks = Vec::new();
        loop {
            let remark = new.remark();
            if remark.starts_with("shuntctl: listening to ") {
                return (new, remarks);
            }
            remarks.push(remark);
        }
    }

    /// The next line on standard error.
    pub fn remark(&self) -> String {
        self.remarks.recv_timeout(PATIENCE).expect("it says something")
    }

    /// The next line; none if none comes for so long, or it has ended.
    pub fn line(&self, patience: Duration) -> Option<String> {
        self.said.recv_timeout(patience).ok()
    }

    /// Events of a `trace` until one is there that is wanted, that one included.
    #[track_caller]
    pub fn until(&self, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut seen = Vec::new();
        let end = Instant::now() + PATIENCE;
        while let Some(line) = self.line(end.saturating_duration_since(Instant::now())) {
            let value = event(&line);
            let found = wanted(&value);
            seen.push(value);
            if found {
                return seen;
            }
        }
        panic!("what is wanted never came: {seen:#?}");
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().expect("a process id"))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("it is our child");
    }

    /// Waits for its end.
    #[track_caller]
    pub fn ended(mut self) -> Ended {
        let end = Instant::now() + PATIENCE;
        let mut said = Vec::new();
        loop {
            match self.said.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => said.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it does not end: {said:?}"),
            }
        }
        let remarks = self.remarks.iter().collect();
        let status = self.child.wait().expect("it is our child");
        Ended { status, said, remarks }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// A line of `trace --output json`, which must be as its schema says.
#[track_caller]
pub fn event(line: &str) -> Value {
    // There may be thousands of them.
    static SCHEMA: LazyLock<Value> = LazyLock::new(|| schema::of("trace"));
    let value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    schema::hold(&SCHEMA, &value);
    value
}

/// Lines as they come, read by a thread that ends with its source.
fn lines(source: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(source).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}
