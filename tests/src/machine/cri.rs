//! Calls of the Container Runtime Interface, as a kubelet makes them.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::bin;
use crate::machine::{Machine, containerd};

/// A runtime's socket. Calls may be made from several threads.
#[derive(Debug, Clone)]
pub struct Cri {
    socket: PathBuf,
}

/// What a runtime answers instead of what was asked for: the status's name and the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused(pub String);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Cri {
    /// That of containerd on a machine that runs. It is another one after a reboot.
    pub fn of(machine: &Machine) -> Self {
        Self { socket: machine.inside(containerd::SOCKET) }
    }

    /// Calls a method of `runtime.v1.RuntimeService`, or of `ImageService` where that has it. Keys are the protocol's own, in
    /// `snake_case`; an enum is its number.
    pub fn call(&self, method: &str, request: &Value) -> Result<Value, Refused> {
        self.call_within(120, method, request)
    }

    /// The same, given up after so many seconds, as callers do: the runtime is told.
    pub fn call_within(&self, seconds: u32, method: &str, request: &Value) -> Result<Value, Refused> {
        let mut child = Command::new(bin::tool("cri"))
            .arg(&self.socket)
            .arg(method)
            .arg(seconds.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the client can be run");
        let mut stdin = child.stdin.take().expect("it is piped");
        stdin.write_all(request.to_string().as_bytes()).expect("the client reads");
        drop(stdin);
        let done = child.wait_with_output().expect("own child");
        if !done.status.success() {
            return Err(Refused(String::from_utf8_lossy(&done.stderr).trim().to_owned()));
        }
        Ok(serde_json::from_slice(&done.stdout).unwrap_or_else(|error| panic!("{method}: {error}: {done:?}")))
    }

    /// The same where it must work.
    #[track_caller]
    pub fn ok(&self, method: &str, request: &Value) -> Value {
        self.call(method, request).unwrap_or_else(|why| panic!("{method} {request}: {why}"))
    }
}
