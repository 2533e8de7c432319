//! fortio: started, asked and understood.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde::Deserialize;
use shunt_tests::ask::Place;
use shunt_tests::bin;
use shunt_tests::process::becoming;
use shunt_tests::program::Become;

/// How requests and connections go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    KeepAlive,
    NewConnection,
}

impl Kind {
    pub(crate) const ALL: [Self; 2] = [Self::KeepAlive, Self::NewConnection];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::KeepAlive => "HTTP/1.1, keep-alive",
            Self::NewConnection => "HTTP/1.1, a connection each",
        }
    }
}

/// What a run found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    /// Microseconds: the 50th, 99th and 99.9th percentile.
    pub(crate) percentiles: [f64; 3],
    /// Requests a second.
    pub(crate) rate: f64,
    /// How many that were.
    pub(crate) requests: u64,
    /// Microseconds of the Envoys' CPU for each.
    pub(crate) cpu: f64,
}

/// How long a run goes on, or how many requests it makes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Length {
    For(Duration),
    Requests(u64),
}

/// Its report, as far as we read it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Report {
    #[serde(rename = "ActualQPS")]
    actual_qps: f64,
    duration_histogram: Histogram,
    ret_codes: std::collections::BTreeMap<String, u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Histogram {
    count: u64,
    percentiles: Vec<Percentile>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Percentile {
    value: f64,
}

/// fortio at a place.
pub(crate) fn fortio(place: &Place, arguments: &[&str]) -> Command {
    let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
    becoming(place, &Become { program: bin::tool("fortio"), arguments, shared_memory: None })
}

/// One client, one request at a time; each has to be answered with 200.
pub(crate) fn run(place: &Place, url: &str, kind: Kind, length: Length) -> Found {
    let (option, value) = match length {
        Length::For(time) => ("-t", format!("{}ms", time.as_millis())),
        Length::Requests(count) => ("-n", count.to_string()),
    };
    let keep = format!("-keepalive={}", kind == Kind::KeepAlive);
    // Buckets of a microsecond: the default is a thousand times that.
    let resolution = ["-r", "0.000001", "-p", "50,99,99.9"];
    let mut arguments = vec!["load", "-quiet", "-c", "1", "-qps", "0", option, &value, &keep, "-json", "-"];
    arguments.extend(resolution);
    arguments.push(url);
    let done = fortio(place, &arguments).stdin(Stdio::null()).output().expect("the probe can be run");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "fortio {arguments:?}: {said}");
    let report: Report = serde_json::from_slice(&done.stdout)
        .unwrap_or_else(|error| panic!("fortio {arguments:?}: {error}: {said}"));
    let requests = report.duration_histogram.count;
    assert_eq!(report.ret_codes.get("200"), Some(&requests), "fortio {arguments:?}: {:?}", report.ret_codes);
    let mut percentiles = [0.0; 3];
    assert_eq!(report.duration_histogram.percentiles.len(), 3, "those that were asked for");
    for (to, from) in percentiles.iter_mut().zip(&report.duration_histogram.percentiles) {
        *to = from.value * 1e6;
    }
    Found { percentiles, rate: report.actual_qps, requests, cpu: 0.0 }
}
