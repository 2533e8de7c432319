//! An installer that runs, and what it answers.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::host::{Host, PATIENCE, created, ends_with_us, until};

static NEXT: AtomicU16 = AtomicU16::new(1);

/// An address that no other test has.
pub(crate) fn address() -> SocketAddr {
    let [a, b] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let process = u8::try_from(std::process::id() % 200).unwrap_or_default();
    SocketAddr::from((Ipv4Addr::new(127, 20 + process, a, b.max(1)), 9476))
}

/// `run`, or `uninstall --stay`; killed on drop.
#[derive(Debug)]
pub(crate) struct Live {
    child: Child,
    /// Where it answers.
    pub(crate) address: SocketAddr,
    log: PathBuf,
}

impl Live {
    /// `run` on this host.
    pub(crate) fn start(host: &Host) -> Self {
        Self::with(host, &["run"])
    }

    /// A command that stays.
    pub(crate) fn with(host: &Host, words: &[&str]) -> Self {
        let address = address();
        let mut command = host.command(words);
        command.arg("--listen").arg(address.to_string());
        Self::spawn(host, command, address)
    }

    /// The same with a command made by the test.
    pub(crate) fn spawn(host: &Host, mut command: Command, address: SocketAddr) -> Self {
        let log = host.aside().join(format!("log-{}", address.ip()));
        let child = ends_with_us(&mut command)
            .stdout(Stdio::null())
            .stderr(created(&log))
            .spawn()
            .expect("the installer can be run");
        Self { child, address, log }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// What it logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// How many lines of the log have this in them.
    pub(crate) fn logged(&self, words: &str) -> usize {
        self.log().lines().filter(|line| line.contains(words)).count()
    }

    /// An answer: code and body. None if it does not answer.
    pub(crate) fn get(&self, path: &str) -> Option<(u16, String)> {
        get(self.address, path)
    }

    /// Ready or not, and why.
    pub(crate) fn readyz(&self) -> (u16, String) {
        self.get("/readyz").unwrap_or((0, "no answer".to_owned()))
    }

    /// Waits until it is ready.
    #[track_caller]
    pub(crate) fn ready(&self) -> &Self {
        self.wait("ready", || self.readyz().0 == 200);
        self
    }

    /// Waits for something, and shows the log if it never comes.
    #[track_caller]
    pub(crate) fn wait(&self, what: &str, mut so: impl FnMut() -> bool) {
        let begun = std::time::Instant::now();
        while !so() {
            assert!(begun.elapsed() < PATIENCE, "never: {what}; {:?}; log:\n{}", self.readyz(), self.log());
            crate::host::moment(5);
        }
    }

    /// The metrics, by name and labels.
    #[track_caller]
    pub(crate) fn metrics(&self) -> BTreeMap<String, f64> {
        let (code, text) = self.get("/metrics").expect("it answers");
        assert_eq!(code, 200, "{text}");
        samples(&text)
    }

    /// How often it wrote something of this kind, `list` or `plugin`, for whatever cause.
    #[track_caller]
    pub(crate) fn writes(&self, what: &str) -> f64 {
        let prefix = format!("shunt_installer_writes_total{{what=\"{what}\"");
        self.metrics().iter().filter(|(name, _)| name.starts_with(&prefix)).map(|(_, value)| value).sum()
    }

    /// SIGTERM; it must end well.
    #[track_caller]
    pub(crate) fn stop(mut self) {
        kill(self.pid(), Signal::SIGTERM).expect("it runs");
        until("it ends on SIGTERM", || self.ended().is_some());
        assert_eq!(self.ended().flatten(), Some(0), "{}", self.log());
    }

    /// SIGTERM, perhaps before it can say how it ends.
    pub(crate) fn end(mut self) {
        kill(self.pid(), Signal::SIGTERM).expect("it runs");
        until("it ends on SIGTERM", || self.ended().is_some());
    }

    /// Its exit code when it has ended; none inside when a signal ended it.
    #[expect(clippy::option_option, reason = "whether it has ended, and how")]
    pub(crate) fn ended(&mut self) -> Option<Option<i32>> {
        self.child.try_wait().expect("own child").map(|status| status.code())
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("own child");
        self.child.wait().expect("own child");
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
        if std::thread::panicking() {
            show(&self.log());
        }
    }
}

#[expect(clippy::print_stderr, reason = "shown by the test runner only for a test that failed")]
fn show(log: &str) {
    let lines: Vec<&str> = log.lines().rev().take(30).collect();
    eprintln!("end of the installer's log:\n{}", lines.into_iter().rev().collect::<Vec<_>>().join("\n"));
}

/// Asks over HTTP.
pub(crate) fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// Samples of an exposition; each must belong to a family with type and help.
#[track_caller]
pub(crate) fn samples(text: &str) -> BTreeMap<String, f64> {
    let families = |word: &str| -> Vec<String> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(&format!("# {word} ")));
        lines.filter_map(|line| line.split(' ').next().map(str::to_owned)).collect()
    };
    let (typed, helped) = (families("TYPE"), families("HELP"));
    assert_eq!(typed, helped, "{text}");
    assert_eq!(text.lines().last(), Some("# EOF"), "{text}");
    let mut found = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
        let family = name.split('{').next().unwrap_or_default();
        let endings = ["", "_total", "_bucket", "_sum", "_count", "_info", "_created"];
        let known = endings.iter().any(|ending| {
            family.strip_suffix(ending).is_some_and(|family| typed.iter().any(|other| other == family))
        });
        assert!(known, "a sample of no family: {line}\n{text}");
        let value = value.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
        assert!(found.insert(name.to_owned(), value).is_none(), "twice: {line}");
    }
    found
}
