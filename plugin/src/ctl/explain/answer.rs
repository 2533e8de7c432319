//! What is said, in the form it has as JSON; `conf/schemas/explain.json` describes it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;
use shunt_api::Mesh;

use super::super::JSON_VERSION;
use crate::policy::source::{Because, Source, Sourced};

/// The answer.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    pub(super) version: u32,
    pub(super) state: State,
    /// Why the pod is in this state.
    pub(super) because: Option<Because>,
    pub(super) pod: Pod,
    pub(super) mesh: Option<Mesh>,
    pub(super) backend: Option<Chosen>,
    /// Every value of the plan; empty where there is none.
    pub(super) plan: Vec<Sourced>,
    pub(super) proxy: Option<Proxy>,
    /// How often the kernel gave each reason; none: nobody counts.
    pub(super) counters: Option<BTreeMap<String, u64>>,
    pub(super) failure: Option<Failure>,
    pub(super) connection: Option<Connection>,
    /// What is special, in words.
    pub(super) notes: Vec<String>,
}

impl Answer {
    pub(super) fn new(state: State, pod: Pod) -> Self {
        Self {
            version: JSON_VERSION,
            state,
            because: None,
            pod,
            mesh: None,
            backend: None,
            plan: Vec::new(),
            proxy: None,
            counters: None,
            failure: None,
            connection: None,
            notes: Vec::new(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum State {
    Captured,
    Damaged,
    Skipped,
    Open,
    Failed,
    Host,
    Unknown,
}

/// Who it is, as far as is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Pod {
    pub(super) namespace: Option<String>,
    pub(super) name: Option<String>,
    pub(super) uid: Option<String>,
    pub(super) container: Option<String>,
    pub(super) interface: Option<String>,
    pub(super) netns: Option<PathBuf>,
    pub(super) network: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Chosen {
    pub(super) name: String,
    pub(super) because: String,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Proxy {
    /// Whether it has ever listened for outbound connections; none: nobody knows.
    pub(super) seen: Option<bool>,
    pub(super) listeners: Vec<Listener>,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Listener {
    /// `outbound`, `inbound` or `dns`.
    pub(super) role: &'static str,
    pub(super) port: u16,
    /// Whether anybody listens on the port, in the pod.
    pub(super) open: Option<bool>,
    /// Whether the kernel's programs know it as the proxy's; none: there are none, or nothing to know.
    pub(super) known: Option<bool>,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Failure {
    /// Short name of the error.
    pub(super) kind: String,
    /// Its code in CNI.
    pub(super) code: Option<u32>,
    pub(super) details: String,
    /// How often, one after the other.
    pub(super) count: Option<u32>,
    /// When for the first time, in seconds since 1970.
    pub(super) since: Option<u64>,
    /// When last.
    pub(super) at: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Verdict {
    Captured,
    Passes,
    Refused,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Connection {
    /// `outbound` or `inbound`.
    pub(super) direction: &'static str,
    /// `tcp` or `udp`.
    pub(super) protocol: &'static str,
    pub(super) destination: SocketAddr,
    pub(super) source: Option<IpAddr>,
    /// As the kernel sees it.
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) verdict: Verdict,
    /// See `shunt_abi::Reason`; none: the pod is not captured.
    pub(super) reason: Option<&'static str>,
    /// Its code, which is its place in the kernel's counters.
    pub(super) code: Option<u32>,
    pub(super) because: String,
    /// The port of the proxy it goes to.
    pub(super) proxy_port: Option<u16>,
    /// What in the plan decides.
    pub(super) rule: Option<Decisive>,
    /// `kernel`: by the rules read back from it; `plan`: by the plan.
    pub(super) decided_by: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Decisive {
    /// Key of the plan.
    pub(super) key: &'static str,
    /// The item of its list; none: the whole of it.
    pub(super) item: Option<Value>,
    /// Who said so.
    pub(super) from: Vec<Source>,
}
