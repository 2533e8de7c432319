//! A client that stays where it is and does one thing after the other: no process has to start for each connection.

use serde::{Deserialize, Serialize};

use crate::ask::{Dial, Place, Try};
use crate::datagram::{Did, Script};
use crate::process::Helper;

/// What it is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Errand {
    /// TCP.
    Dial(Dial),
    /// UDP.
    Play(Script),
}

/// What came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Came {
    /// Of TCP, for each destination.
    Tries(Vec<Try>),
    /// Of UDP, for each step.
    Did(Vec<Did>),
}

/// The client.
#[derive(Debug)]
pub struct Errands {
    helper: Helper,
}

impl Errands {
    /// Starts it.
    pub fn start(place: &Place) -> Self {
        Self { helper: Helper::start(place, "errands", &()) }
    }

    /// Runs these one after the other; an answer for each, in their order.
    pub fn run(&mut self, orders: &[Errand]) -> Vec<Came> {
        self.helper.say(&serde_json::to_string(orders).expect("orders are plain data"));
        let line = self.helper.line().unwrap_or_else(|| panic!("the client died: {orders:?}"));
        let came: Vec<Came> = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert_eq!(came.len(), orders.len(), "an answer for each order");
        came
    }

    /// Dials once for each destination.
    pub fn dial(&mut self, dial: &Dial) -> Vec<Try> {
        let came = self.run(&[Errand::Dial(dial.clone())]);
        came.into_iter().flat_map(|came| if let Came::Tries(tries) = came { tries } else { Vec::new() }).collect()
    }

    /// Follows the steps of one socket.
    pub fn play(&mut self, script: &Script) -> Vec<Did> {
        let came = self.run(&[Errand::Play(script.clone())]);
        came.into_iter().flat_map(|came| if let Came::Did(did) = came { did } else { Vec::new() }).collect()
    }
}
