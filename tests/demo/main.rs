//! `make demo`: one pod, meshed by a real ADD through libcni, with a real Envoy; then without it again.
//!
//! A scratch node is made of network namespaces: a *world* with a web server, a *node* with the bridge, a *pod* wired by
//! the reference plugins and Shunt, called by cnitool. Every step says on one screen what the app, Envoy and the server
//! each saw, and is checked; the exit status tells whether all of it was seen.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for people: its output is the point"
)]
#![expect(clippy::unused_self, reason = "the steps of the story and the lines of the screen read alike")]

mod cni;
mod envoy;
mod kernel;
mod mesh;
mod outcome;
mod place;
mod screen;
mod site;
mod story;
mod web;

use std::process::ExitCode;

use nix::sys::signal::{SigSet, Signal};

use crate::mesh::Mesh;
use crate::outcome::Outcome;
use crate::site::Site;
use crate::story::{APP_PORT, Told};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["--remove", name] => Site::named(name).and_then(|site| site.remove()).map(|()| true),
        // What the demo starts inside its namespaces is itself, under these names.
        ["enter", place, job @ ..] => place::enter(place, job),
        options => told(options).and_then(|what| tell(&what)),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What the options ask for.
fn told(options: &[&str]) -> Outcome<Told> {
    let mut what = Told { mesh: Mesh::named("istio", APP_PORT)?, backend: "ebpf".to_owned(), keep: false };
    let mut rest = options;
    loop {
        rest = match rest {
            [] => return Ok(what),
            ["--keep", rest @ ..] => {
                what.keep = true;
                rest
            }
            ["--mesh", name, rest @ ..] => {
                what.mesh = Mesh::named(name, APP_PORT)?;
                rest
            }
            ["--backend", name @ ("auto" | "ebpf" | "iptables"), rest @ ..] => {
                (*name).clone_into(&mut what.backend);
                rest
            }
            _ => {
                return Err(format!(
                    "usage: demo [--mesh {}] [--backend auto|ebpf|iptables] [--keep] | demo --remove NAME",
                    mesh::NAMES.join("|")
                ));
            }
        };
    }
}

/// Runs the story on a site of its own and removes the site, whatever happens.
fn tell(what: &Told) -> Outcome<bool> {
    if !nix::unistd::geteuid().is_root() {
        return Err("needs root: it makes network namespaces, cgroups and loads programs".into());
    }
    let site = Site::named(&format!("{}{}", site::PREFIX, std::process::id()))?;
    site::remove_left_behind();
    remove_on_signal(site.clone())?;

    let all_seen = std::panic::catch_unwind(|| story::tell(&site, what))
        .unwrap_or_else(|_| Err("stopped at a bug of the demo's own".into()));
    if what.keep && all_seen.is_ok() {
        return all_seen;
    }
    if all_seen.is_err() {
        site.print_logs();
    }
    let removed = site.remove();
    let all_seen = all_seen?;
    removed?;
    Ok(all_seen)
}

/// Ctrl-C leaves nothing behind either.
fn remove_on_signal(site: Site) -> Outcome<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    // Threads inherit this; `place::enter` undoes it for the processes we start.
    signals.thread_block().map_err(|error| format!("block signals: {error}"))?;
    std::thread::spawn(move || {
        let signal = signals.wait();
        site.stop();
        if let Err(error) = site.remove() {
            eprintln!("demo: {error}");
        }
        #[expect(
            clippy::exit,
            clippy::disallowed_methods,
            reason = "the story is over; its thread may be waiting"
        )]
        std::process::exit(signal.map_or(1, |signal| 128 + signal as i32));
    });
    Ok(())
}
