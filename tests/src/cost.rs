//! What single calls on sockets take in a place, and how many connections many places make together.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::ask::Place;
use crate::process::Helper;

/// What a call takes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cost {
    /// Which call: `UDP, sendto`.
    pub call: String,
    /// Whether on IPv6 sockets.
    pub v6: bool,
    /// How long one takes, of many.
    pub nanoseconds: f64,
}

/// Connects, each from a new socket, to a port of loopback where nobody listens.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Rush {
    /// How many in each go.
    pub connections: u32,
}

/// The calls in this place, in an order that is the same each time.
pub fn cost(place: &Place) -> Vec<Cost> {
    let mut helper = Helper::start(place, "cost", &());
    let line = helper.line().unwrap_or_else(|| panic!("the client died in {place:?}"));
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"))
}

/// Processes in several places that connect at the same time.
#[derive(Debug)]
pub struct Rushing {
    helpers: Vec<Helper>,
}

impl Rushing {
    /// Starts a process in each place and waits until all of them could begin.
    pub fn start(places: &[Place], rush: Rush) -> Self {
        let mut helpers: Vec<Helper> =
            places.iter().map(|place| Helper::start(place, "rush", &rush)).collect();
        for helper in &mut helpers {
            assert_eq!(helper.line().as_deref(), Some("ready"), "a client that connects");
        }
        Self { helpers }
    }

    /// All of them once: from the first that begins to the last that is done.
    pub fn go(&mut self) -> Duration {
        let started = Instant::now();
        self.helpers.iter_mut().for_each(|helper| helper.say("go"));
        for helper in &mut self.helpers {
            assert_eq!(helper.line().as_deref(), Some("done"), "a client that connects");
        }
        started.elapsed()
    }
}
