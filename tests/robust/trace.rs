//! The plugin under the tracer.

use std::process::Command;

pub(crate) use shunt_tests::trace::{Act, Made, changes};
use shunt_tests::{bin, trace};

use crate::bed::{Answer, Call};

/// A run that was watched.
#[derive(Debug)]
pub(crate) struct Traced {
    /// Every counted call, in order.
    pub(crate) made: Vec<Made>,
    /// How it ended, and what it printed.
    pub(crate) answer: Answer,
    /// True if the chosen call was reached.
    pub(crate) reached: bool,
}

/// Runs `call`; at the call number `at` of those `counted`, acts.
pub(crate) fn run(call: &Call, counted: impl Fn(&Made) -> bool, at: usize, act: Act) -> Traced {
    let mut command = Command::new(bin::shunt());
    command
        .args(&call.arguments)
        .env_clear()
        .envs(call.environment.iter().map(|(name, value)| (name, value)))
        .stdin(trace::input(&call.stdin));
    let trace::Traced { made, code, stdout, stderr, reached } = trace::run(&mut command, counted, at, act);
    Traced { made, answer: Answer { code, stdout, stderr }, reached }
}
