//! The installer's log: one JSON object a line, on standard error.

use std::io::{LineWriter, stderr};
use std::sync::Mutex;

use slog::{Drain as _, LevelFilter, Logger, o};
use slog_json::Json;

use crate::cli::Level;

/// The root logger. A line is one write.
pub fn root(level: Level) -> Logger {
    let json = Json::new(LineWriter::new(stderr())).add_default_keys().build();
    let level = match level {
        Level::Trace => slog::Level::Trace,
        Level::Debug => slog::Level::Debug,
        Level::Info => slog::Level::Info,
        Level::Warn => slog::Level::Warning,
        Level::Error => slog::Level::Error,
    };
    Logger::root(LevelFilter::new(Mutex::new(json), level).ignore_res(), o!())
}

/// A logger for those who want none.
pub fn none() -> Logger {
    Logger::root(slog::Discard, o!())
}
