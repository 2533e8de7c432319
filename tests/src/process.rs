//! Processes of a test: servers and clients, run by the `probe` program in the place they are given.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::ask::{Dial, Greeting, Place, Serve, Sum, Try};
use crate::bin;
use crate::program::Become;

/// A helper process that is spoken with in lines; killed on drop.
#[derive(Debug)]
pub struct Helper {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

/// The probe, with a job at a place.
fn command(place: &Place, job: &str, orders: &impl serde::Serialize) -> Command {
    let text = |value: serde_json::Result<String>| value.expect("orders are plain data");
    let mut command = Command::new(bin::probe());
    command.args([job, &text(serde_json::to_string(place)), &text(serde_json::to_string(orders))]);
    command
}

/// What becomes another program at a place.
pub fn becoming(place: &Place, program: &Become) -> Command {
    command(place, "become", program)
}

impl Helper {
    pub(crate) fn start(place: &Place, job: &str, orders: &impl serde::Serialize) -> Self {
        Self::of(&mut command(place, job, orders))
    }

    /// A program that says lines and hears them.
    pub fn of(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it can be run");
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        Self { child, stdin, stdout }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line it prints; none when it has ended.
    pub fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.stdout.read_line(&mut line).expect("the probe prints text");
        (read > 0).then(|| line.trim_end().to_owned())
    }

    /// Says a line to it.
    pub fn say(&mut self, word: &str) {
        let stdin = self.stdin.as_mut().expect("open until the end");
        // In one write: the probe takes each read for a word.
        stdin.write_all(format!("{word}\n").as_bytes()).expect("the probe is listening");
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    helper: Helper,
    /// It is several processes, which end together when their input does.
    family: bool,
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.family {
            // The first process waits for the others; killed, it would leave them a moment longer than itself.
            self.helper.stdin = None;
            let _gone = self.helper.child.wait();
        }
    }
}

impl Server {
    /// Starts a server and waits until it listens.
    pub fn start(place: &Place, serve: &Serve) -> Self {
        Self::try_start(place, serve).unwrap_or_else(|error| panic!("server in {place:?}: {error}"))
    }

    /// The same where it may fail; the error is `step ERRNO`.
    pub fn try_start(place: &Place, serve: &Serve) -> Result<Self, String> {
        let mut helper = Helper::start(place, "serve", serve);
        let workers = serve.workers.max(1);
        for _worker in 0..workers {
            match helper.line() {
                Some(line) if line == "ready" => {}
                other => return Err(other.unwrap_or_else(|| "it ended".to_owned())),
            }
        }
        Ok(Self { helper, family: workers > 1 || serve.hand_over })
    }

    /// The connections it has accepted since the last time asked, all those pending included.
    pub fn seen(&mut self) -> Vec<Greeting> {
        assert!(!self.family, "several processes cannot be asked in step");
        self.helper.say("seen");
        let mut seen = Vec::new();
        loop {
            match self.helper.line() {
                Some(line) if line == "." => return seen,
                Some(line) => seen.push(line.parse().expect("a server prints greetings")),
                None => panic!("the server ended"),
            }
        }
    }

    /// Closes its listeners; connections stay.
    pub fn stop_listening(&mut self) {
        self.helper.say("deafen");
        let answer = self.helper.line();
        assert_eq!(answer.as_deref(), Some("."), "the server did not close its listeners");
    }
}

/// Runs a client to its end.
pub fn dial(place: &Place, dial: &Dial) -> Vec<Try> {
    let mut helper = Helper::start(place, "dial", dial);
    tries(&mut helper, place, dial)
}

/// Runs a client that opens many connections to its end.
pub fn dial_many(place: &Place, dial: &Dial) -> Sum {
    Holding::start(place, dial).opened()
}

fn tries(helper: &mut Helper, place: &Place, dial: &Dial) -> Vec<Try> {
    let line = helper.line().unwrap_or_else(|| panic!("the client died: {dial:?} in {place:?}"));
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"))
}

/// A client that keeps its one connection to each destination, and can talk over them.
#[derive(Debug)]
pub struct Talking {
    helper: Helper,
    /// How connecting went.
    pub tries: Vec<Try>,
}

impl Talking {
    /// Connects, and stays.
    pub fn start(place: &Place, dial: &Dial) -> Self {
        let mut helper = Helper::start(place, "talk", dial);
        let tries = tries(&mut helper, place, dial);
        Self { helper, tries }
    }

    /// Sends a word over each connection and says which came back: `same`, or an error's name, for each.
    pub fn echo(&mut self) -> Vec<String> {
        self.helper.say("echo");
        let line = self.helper.line().expect("the client is there");
        line.split_whitespace().map(str::to_owned).collect()
    }
}

/// A client with many connections open.
#[derive(Debug)]
pub struct Holding {
    helper: Helper,
    sum: Option<Sum>,
}

impl Holding {
    /// Starts it, without waiting, so that several can run at once.
    pub fn start(place: &Place, dial: &Dial) -> Self {
        Self { helper: Helper::start(place, "many", dial), sum: None }
    }

    /// Waits until all are open, or refused, and says what they came to.
    pub fn opened(&mut self) -> Sum {
        if let Some(sum) = &self.sum {
            return sum.clone();
        }
        let line = self.helper.line().expect("the client ends with a sum");
        let sum: Sum = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"));
        self.sum = Some(sum.clone());
        sum
    }
}
