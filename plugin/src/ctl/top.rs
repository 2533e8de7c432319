//! `shuntctl top`: what `flows` shows, again and again. On a terminal the screen is drawn anew; in a pipe each time is a block of text.

use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::{Duration, Instant};

use nix::sys::termios::{LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr};
use nix::unistd::{geteuid, read};

use super::captured::chain;
use super::clock::{now, time};
use super::flows::{Asked, Gathered, Sort, columns, gathered, row, sort};
use super::stream::{Stream, Woken};
use super::table::{self, cut};
use super::trace::lasting;
use super::{EXIT_CODES, FAILED, Said, TOLD};
use crate::fault::Outcome;

/// Shows captured connections again and again
///
/// On a terminal, a screen; keys: q ends; b, r, t, a and d sort by bytes, round trip, retransmits, age and destination. In a pipe,
/// blocks of plain text.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Args {
    #[command(flatten)]
    asked: Asked,
    /// How long between two looks: 1s, 500ms; 100ms at least.
    #[arg(long, value_name = "LENGTH", default_value = "1s", value_parser = pause)]
    interval: Duration,
    /// End after so many.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

fn pause(text: &str) -> Result<Duration, String> {
    const LEAST: Duration = Duration::from_millis(100);
    let length = lasting(text)?;
    if length < LEAST { Err("must be 100ms at least".to_owned()) } else { Ok(length) }
}

/// Shows them until it is ended.
pub(super) fn run(args: &Args) -> Said {
    if !geteuid().is_root() {
        return Said::failed(FAILED, "only root may look into pods");
    }
    match watched(args) {
        Ok(()) => Said::told(TOLD, ""),
        Err(fault) => Said::failed(FAILED, &chain(&fault)),
    }
}

fn watched(args: &Args) -> Outcome<()> {
    let asked = &args.asked;
    // What cannot be found the first time is an error; later it is only not there.
    let mut found = gathered(asked)?;
    let mut stream = Stream::new()?;
    let screen = Screen::of_stdout();
    let mut by = asked.sort;
    let (mut rounds, mut ended) = (0, false);
    let has_keys = screen.as_ref().is_some_and(|screen| screen.before.is_some());
    if screen.is_some() {
        stream.push(ENTER);
    }
    loop {
        sort(&mut found.groups, by);
        stream.push(&match &screen {
            Some(_) => drawn(asked, &found, by),
            None => block(asked, &found, by),
        });
        rounds += 1;
        if args.count.is_some_and(|count| rounds >= count) {
            break;
        }
        let next = Instant::now() + args.interval;
        let mut pressed = None;
        while Instant::now() < next && pressed.is_none() && !ended {
            ended = stream.wait_or(has_keys, next)? == Woken::Ended;
            if has_keys {
                pressed = key();
            }
        }
        match pressed {
            Some(Key::Sort(wanted)) => by = wanted,
            Some(Key::End) => break,
            None if ended => break,
            None => {}
        }
        // A pod that goes meanwhile takes its flows along.
        if let Ok(new) = gathered(asked) {
            found = new;
        }
    }
    if screen.is_some() {
        stream.push(LEAVE);
    }
    stream.finish(ended)
}

/// Another screen, so that the one from before is there afterwards; no cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// To the first place; the rest of a line, and of the screen, is cleared as it is written.
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K\r\n";
const CLEAR_REST: &str = "\x1b[J";

fn title(found: &Gathered, by: Sort) -> String {
    format!("{} UTC  {} rows by {}", time(now()), found.groups.len(), by.name())
}

/// What people see who have no terminal: no escapes, whole lines, an empty one at the end.
fn block(asked: &Asked, found: &Gathered, by: Sort) -> String {
    let rows: Vec<Vec<String>> = found.groups.iter().map(|group| row(group, None)).collect();
    let mut text = title(found, by) + "\n";
    for line in table::lines(&columns(asked.by), &rows, None).iter().chain(&found.missing) {
        text += line;
        text += "\n";
    }
    text + "\n"
}

/// A screen: no line wraps, and none is too many.
fn drawn(asked: &Asked, found: &Gathered, by: Sort) -> String {
    let (width, height) = size().unwrap_or((80, 24));
    let rows: Vec<Vec<String>> = found.groups.iter().map(|group| row(group, None)).collect();
    let help = "q ends; sort: b bytes, r rtt, t retrans, a age, d dest";
    let mut lines = vec![cut(&format!("{}  {help}", title(found, by)), width)];
    lines.extend(table::lines(&columns(asked.by), &rows, Some(width)));
    lines.extend(found.missing.iter().map(|why| cut(why, width)));
    lines.truncate(height);
    HOME.to_owned() + &lines.join(CLEAR_LINE) + "\x1b[K" + CLEAR_REST
}

/// Columns and rows of the window.
#[expect(unsafe_code, reason = "nix has no wrapper for TIOCGWINSZ")]
fn size() -> Option<(usize, usize)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: an open descriptor, and a struct of the kind the request fills.
    let result = unsafe { libc::ioctl(io::stdout().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (result == 0 && size.ws_col > 0 && size.ws_row > 0)
        .then(|| (usize::from(size.ws_col), usize::from(size.ws_row)))
}

/// A terminal that hands on keys as they are pressed, and is again as it was afterwards.
struct Screen {
    before: Option<Termios>,
}

impl Screen {
    /// If standard output is one. Keys come from standard input, if that is one too.
    fn of_stdout() -> Option<Self> {
        if !io::stdout().is_terminal() {
            return None;
        }
        let stdin = io::stdin();
        let before = tcgetattr(stdin.as_fd()).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
            // Reading does not wait.
            for index in [SpecialCharacterIndices::VMIN, SpecialCharacterIndices::VTIME] {
                if let Some(value) = raw.control_chars.get_mut(index as usize) {
                    *value = 0;
                }
            }
            // Without it keys need a return after them.
            let _plain = tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &raw);
        }
        Some(Self { before })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // Nothing more can be done.
            let _left = tcsetattr(io::stdin().as_fd(), SetArg::TCSANOW, before);
        }
    }
}

/// What a key means.
#[derive(Clone, Copy)]
enum Key {
    End,
    Sort(Sort),
}

/// The last that was pressed, if any was.
fn key() -> Option<Key> {
    let mut keys = [0; 16];
    let count = read(io::stdin().as_fd(), &mut keys).ok()?;
    let meant = |key: &u8| match key {
        b'q' => Some(Key::End),
        b'b' => Some(Key::Sort(Sort::Bytes)),
        b'r' => Some(Key::Sort(Sort::Rtt)),
        b't' => Some(Key::Sort(Sort::Retransmits)),
        b'a' => Some(Key::Sort(Sort::Age)),
        b'd' => Some(Key::Sort(Sort::Destination)),
        _ => None,
    };
    keys.iter().take(count).rev().find_map(meant)
}
