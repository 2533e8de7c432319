//! A client that stays: no process has to start for each connection.

use std::io::{self, BufRead as _};
use std::process::ExitCode;

use shunt_tests::errand::{Came, Errand};

use crate::{dial, udp};

/// Runs each line of orders, until there are no more. Nothing stays open.
pub(crate) fn run() -> ExitCode {
    for line in io::stdin().lock().lines() {
        let orders: Vec<Errand> =
            serde_json::from_str(&line.expect("the test writes text")).expect("a client's orders");
        let came: Vec<Came> = orders.iter().map(one).collect();
        println!("{}", serde_json::json!(came));
    }
    ExitCode::SUCCESS
}

fn one(errand: &Errand) -> Came {
    match errand {
        Errand::Dial(orders) => Came::Tries(dial::each(orders).0),
        Errand::Play(script) => Came::Did(udp::follow(script)),
    }
}
