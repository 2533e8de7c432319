//! What a mesh's validating init container does: it listens where the proxy will, dials somewhere, and expects to meet itself.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::ask::Place;
use crate::process::Helper;

/// How a validator knows that it has met itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sign {
    /// The client closes at once, and the server is told the original destination of what it accepted.
    Destination,
    /// The client reads a word that only this server knows.
    Token,
    /// The client is connected.
    Connection,
}

/// A validator's orders.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Validation {
    /// Where it listens.
    pub listen: Vec<SocketAddr>,
    /// What the client binds to.
    pub from: Option<SocketAddr>,
    /// What it dials.
    pub to: SocketAddr,
    /// What it takes for success.
    pub sign: Sign,
}

/// What came of one try of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validated {
    /// Why it could not listen, dial or read: the step and the kernel's name for why.
    pub error: Option<(String, String)>,
    /// Which of its listeners took the connection.
    pub met: Option<SocketAddr>,
    /// What that one was told of the original destination.
    pub original: Option<SocketAddr>,
    /// Whether the validator would have been content.
    pub passed: bool,
}

/// Runs one to its end.
pub fn validate(place: &Place, validation: &Validation) -> Validated {
    let line = Helper::start(place, "validate", validation).line().expect("the validator says what it saw");
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"))
}
