//! The log: one JSON object a line, appended to a file as it happens. Never fails and never stands in the way: where the
//! file cannot be written, lines go to standard error, and where that is closed, nowhere.

use std::fs::{DirBuilder, File, OpenOptions, rename};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use nix::fcntl::OFlag;
use shunt_api::{Level, Log};
use slog::{Drain as _, LevelFilter, Logger, o};
use slog_json::Json;

/// A file that has reached this size becomes `<file>.1`, in place of the one before.
const SIZE_MAX: u64 = 10 * 1024 * 1024;

/// The root logger as configured.
pub fn root(log: &Log) -> Logger {
    let sink: Box<dyn Write + Send> = match open(&log.file, SIZE_MAX) {
        Ok(file) => Box::new(file),
        Err(_) => Box::new(io::stderr()),
    };
    to(sink, log.level)
}

/// A logger that writes to `sink`.
fn to(sink: Box<dyn Write + Send>, level: Level) -> Logger {
    let json = Json::new(Lines { line: Vec::new(), sink }).add_default_keys().build();
    Logger::root(LevelFilter::new(Mutex::new(json), slog_level(level)).ignore_res(), o!())
}

/// A logger for those who want none.
pub fn none() -> Logger {
    Logger::root(slog::Discard, o!())
}

const fn slog_level(level: Level) -> slog::Level {
    match level {
        Level::Trace => slog::Level::Trace,
        Level::Debug => slog::Level::Debug,
        Level::Info => slog::Level::Info,
        Level::Warn => slog::Level::Warning,
        Level::Error => slog::Level::Error,
    }
}

/// Opens the file for appending, for root only. A fifo without a reader and a symbolic link are refused: they could hold
/// us up or lead elsewhere.
fn open(file: &Path, size_max: u64) -> io::Result<File> {
    let appending = || {
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(flags.bits()).open(file)
    };
    let opened = appending().or_else(|error| match file.parent() {
        Some(directory) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
            appending()
        }
        _ => Err(error),
    })?;
    let metadata = opened.metadata()?;
    if !metadata.is_file() || metadata.len() < size_max {
        return Ok(opened);
    }
    let mut old = PathBuf::from(file).into_os_string();
    old.push(".1");
    rename(file, old)?;
    appending()
}

/// Hands whole lines on, each in one write, so that lines of plugins that run at the same time do not mix.
struct Lines {
    line: Vec<u8>,
    sink: Box<dyn Write + Send>,
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        if bytes.last() == Some(&b'\n') {
            let written = self.sink.write_all(&self.line);
            self.line.clear();
            written?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use serde_json::Value;
    use shunt_api::{Level, Log};
    use slog::{debug, info, o};

    use super::{open, root};

    #[test]
    fn lines_are_json_in_a_private_file() {
        let directory = tempfile::tempdir().expect("directory");
        let file = directory.path().join("deep/er/shunt.log");
        let log = root(&Log { level: Level::Info, file: file.clone() }).new(o!("cmd" => "ADD"));
        info!(log, "said {}", "so\n\"quoted\""; "took_us" => 7_u64);
        debug!(log, "not this");
        drop(log);
        let text = fs::read_to_string(&file).expect("written");
        assert_eq!(text.lines().count(), 1);
        let line: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(line["msg"], "said so\n\"quoted\"");
        assert_eq!((&line["cmd"], &line["level"]), (&Value::from("ADD"), &Value::from("INFO")));
        assert_eq!(line["took_us"], 7);
        assert!(line["ts"].as_str().is_some_and(|ts| ts.contains('T')));
        let mode = |path: &std::path::Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&file), mode(file.parent().expect("parent"))), (0o600, 0o700));
    }

    #[test]
    fn a_full_file_is_put_aside() {
        let directory = tempfile::tempdir().expect("directory");
        let file = directory.path().join("shunt.log");
        fs::write(&file, "0123456789").expect("written");
        open(&file, 11).expect("open");
        assert!(!directory.path().join("shunt.log.1").exists());
        open(&file, 10).expect("open");
        assert_eq!(fs::read(directory.path().join("shunt.log.1")).expect("aside"), b"0123456789");
        assert_eq!(fs::metadata(&file).expect("there").len(), 0);
    }

    #[test]
    fn what_cannot_be_a_log_is_no_reason_to_fail() {
        let directory = tempfile::tempdir().expect("directory");
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("fifo");
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("/dev/null", &link).expect("link");
        for file in [directory.path().to_owned(), fifo, link, "/proc/no/such".into(), "/dev/null/x".into()] {
            assert!(open(&file, 1).is_err(), "{}", file.display());
            info!(root(&Log { level: Level::Error, file }), "never shown");
        }
    }
}
