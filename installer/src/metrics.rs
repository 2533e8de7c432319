//! What is measured, in the form Prometheus reads.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use shunt_api::report::{BUCKETS_US, Calls, Report};

use crate::install::Counts;
use crate::state::State;

/// Everything there is to say at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The node.
    pub state: State,
    /// What the installer did.
    pub counts: Counts,
    /// What the plugin said of itself; none where it could not be asked.
    pub report: Option<Report>,
}

type Labels<'a> = &'a [(&'a str, &'a str)];

/// The text, in the format called `OpenMetrics`.
pub fn text(snapshot: Snapshot) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(snapshot));
    let mut encoded = String::new();
    text::encode(&mut encoded, &registry)?;
    Ok(encoded)
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.installer(&mut encoder)?;
        match &self.report {
            Some(report) => plugin(report, &mut encoder),
            None => Ok(()),
        }
    }
}

impl Snapshot {
    fn installer(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Self { state, counts, report } = self;
        let flag = |flag: bool| f64::from(u8::from(flag));
        let mut build = gauge(encoder, "shunt_installer_build_info", "Version of the installer", None)?;
        sample_gauge(&mut build, &[("version", env!("CARGO_PKG_VERSION")), ("mode", state.mode)], 1.0)?;
        for (name, help, value) in [
            ("shunt_installer_ready", "1 if plugin, list and STATUS are as wanted", flag(state.ready)),
            (
                "shunt_installer_plugin_ok",
                "1 if the plugin on the host is the one to install",
                flag(state.plugin.found == "same"),
            ),
            (
                "shunt_installer_list_ok",
                "1 if the list that pods get is as wanted",
                flag(state.list.as_wanted),
            ),
            (
                "shunt_installer_status_ok",
                "1 if the plugin's STATUS says that this node can intercept",
                flag(state.status.ok),
            ),
            ("shunt_installer_entry_ok", "1 if the entry that is wanted can be used", flag(state.entry.ok)),
            (
                "shunt_installer_fighting",
                "Files that somebody else insists on changing",
                small(state.fights.len()),
            ),
            (
                "shunt_installer_report_ok",
                "1 if the plugin said what it knows of the node",
                flag(report.is_some()),
            ),
        ] {
            gauge(encoder, name, help, None)?.encode_gauge(&value)?;
        }
        let mut passes =
            counter(encoder, "shunt_installer_reconciles", "Passes over the host, by outcome", None)?;
        for outcome in ["unchanged", "changed", "waiting", "failed"] {
            let count = counts.passes.get(outcome).copied().unwrap_or_default();
            sample_counter(&mut passes, &[("outcome", outcome)], count)?;
        }
        let mut writes =
            counter(encoder, "shunt_installer_writes", "Changes of the host, by what and why", None)?;
        for ((what, cause), count) in &counts.writes {
            sample_counter(&mut writes, &[("what", what), ("cause", cause)], *count)?;
        }
        counter(
            encoder,
            "shunt_installer_fights",
            "Times that somebody else began to insist on changing a file",
            None,
        )?
        .encode_counter::<NoLabelSet, _, u64>(&counts.fights, None)?;
        counter(
            encoder,
            "shunt_installer_drift",
            "Time during which the node was not as wanted",
            Some(&Unit::Seconds),
        )?
        .encode_counter::<NoLabelSet, _, u64>(&counts.drift.as_secs_f64(), None)
    }
}

fn plugin(report: &Report, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let mut pods = gauge(
        encoder,
        "shunt_attachments",
        "Attachments that are intercepted, by backend; ended: not cleaned up yet",
        None,
    )?;
    for backend in ["ebpf", "iptables"] {
        for (state, alive) in [("running", true), ("ended", false)] {
            let is_it =
                |count: &&shunt_api::report::Attached| count.backend == backend && count.alive == alive;
            let count = report.attachments.iter().filter(is_it).count();
            sample_gauge(&mut pods, &[("backend", backend), ("state", state)], small(count))?;
        }
    }
    let mut others = gauge(
        encoder,
        "shunt_pods_not_captured",
        "Pods that are not captured, by why: left alone, bare because failurePolicy is open, ADD failed",
        None,
    )?;
    for state in ["skipped", "open", "failed"] {
        let count = report.uncaptured.get(state).copied().unwrap_or_default();
        sample_gauge(&mut others, &[("state", state)], small(usize::try_from(count).unwrap_or(usize::MAX)))?;
    }
    let help = "Duration of the plugin's calls since the node booted, by command, outcome and backend";
    let mut calls = encoder.encode_descriptor(
        "shunt_plugin_duration",
        help,
        Some(&Unit::Seconds),
        MetricType::Histogram,
    )?;
    for of in &report.calls {
        let labels: Labels<'_> =
            &[("command", &of.command), ("outcome", &of.outcome), ("backend", &of.backend)];
        let labels = Pairs(labels);
        let mut encoder = calls.encode_family(&labels)?;
        encoder.encode_histogram::<NoLabelSet>(seconds(of.sum_us), of.count, &buckets(of), None)?;
    }
    for (name, label, help, counts) in [
        (
            "shunt_plugin_skipped",
            "reason",
            "Pods that were left alone since the node booted, by why",
            &report.skipped,
        ),
        (
            "shunt_plugin_failed",
            "error",
            "Calls that failed since the node booted, by kind of error",
            &report.failed,
        ),
        (
            "shunt_decisions",
            "reason",
            "Connections that the kernel programs decided about since the node booted, by reason",
            &report.decisions,
        ),
    ] {
        let mut family = counter(encoder, name, help, None)?;
        for (of, count) in counts {
            sample_counter(&mut family, &[(label, of)], *count)?;
        }
    }
    Ok(())
}

/// Bounds in seconds with the count of each bucket alone; the encoder adds them up. The last one has no bound.
fn buckets(calls: &Calls) -> Vec<(f64, u64)> {
    let counts = calls.buckets.iter().copied().chain(std::iter::repeat(0));
    let mut buckets: Vec<(f64, u64)> =
        BUCKETS_US.iter().zip(counts).map(|(bound, count)| (seconds(*bound), count)).collect();
    let within: u64 = buckets.iter().map(|(_, count)| count).sum();
    buckets.push((f64::INFINITY, calls.count.saturating_sub(within)));
    buckets
}

#[expect(clippy::cast_precision_loss, reason = "microseconds since boot: precise for 285 years")]
fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

fn small(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}

/// Labels, as the encoder takes them.
struct Pairs<'a>(Labels<'a>);

impl EncodeLabelSet for Pairs<'_> {
    fn encode(&self, encoder: &mut prometheus_client::encoding::LabelSetEncoder<'_>) -> fmt::Result {
        use prometheus_client::encoding::EncodeLabel as _;
        self.0.iter().try_for_each(|pair| pair.encode(encoder.encode_label()))
    }
}

impl fmt::Debug for Pairs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0).finish()
    }
}

fn gauge<'a>(
    encoder: &'a mut DescriptorEncoder<'_>,
    name: &'a str,
    help: &'a str,
    unit: Option<&'a Unit>,
) -> Result<MetricEncoder<'a>, fmt::Error> {
    encoder.encode_descriptor(name, help, unit, MetricType::Gauge)
}

fn counter<'a>(
    encoder: &'a mut DescriptorEncoder<'_>,
    name: &'a str,
    help: &'a str,
    unit: Option<&'a Unit>,
) -> Result<MetricEncoder<'a>, fmt::Error> {
    encoder.encode_descriptor(name, help, unit, MetricType::Counter)
}

fn sample_gauge(family: &mut MetricEncoder<'_>, labels: Labels<'_>, value: f64) -> fmt::Result {
    family.encode_family(&Pairs(labels))?.encode_gauge(&value)
}

fn sample_counter(family: &mut MetricEncoder<'_>, labels: Labels<'_>, count: u64) -> fmt::Result {
    family.encode_family(&Pairs(labels))?.encode_counter::<NoLabelSet, _, u64>(&count, None)
}

#[cfg(test)]
mod shipped;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn as_prometheus_reads_it() {
        let mut counts = Counts::default();
        counts.passes.insert("changed", 3);
        counts.writes.insert(("list", "primary"), 2);
        counts.fights = 1;
        counts.drift = Duration::from_millis(1500);
        let mut buckets = vec![0; BUCKETS_US.len()];
        buckets[3] = 5;
        buckets[4] = 1;
        let report = Report {
            calls: vec![Calls {
                command: "ADD".to_owned(),
                outcome: "intercepted".to_owned(),
                backend: "ebpf".to_owned(),
                count: 7,
                sum_us: 9_500_000,
                buckets,
            }],
            skipped: [("no-marker".to_owned(), 4)].into(),
            decisions: [("outbound".to_owned(), 9)].into(),
            ..Report::default()
        };
        let state = State { mode: "owned", ready: true, ..State::default() };
        let text = text(Snapshot { state, counts, report: Some(report) }).expect("encoded");
        for line in [
            "# TYPE shunt_installer_ready gauge",
            "shunt_installer_ready 1.0",
            "shunt_installer_reconciles_total{outcome=\"changed\"} 3",
            "shunt_installer_writes_total{what=\"list\",cause=\"primary\"} 2",
            "shunt_installer_fights_total 1",
            "# UNIT shunt_installer_drift_seconds seconds",
            "shunt_installer_drift_seconds_total 1.5",
            "shunt_plugin_duration_seconds_sum{command=\"ADD\",outcome=\"intercepted\",backend=\"ebpf\"} 9.5",
            "shunt_plugin_duration_seconds_bucket{le=\"0.002\",command=\"ADD\",outcome=\"intercepted\",backend=\"ebpf\"} 0",
            "shunt_plugin_duration_seconds_bucket{le=\"0.003\",command=\"ADD\",outcome=\"intercepted\",backend=\"ebpf\"} 5",
            "shunt_plugin_duration_seconds_bucket{le=\"5.0\",command=\"ADD\",outcome=\"intercepted\",backend=\"ebpf\"} 6",
            "shunt_plugin_duration_seconds_bucket{le=\"+Inf\",command=\"ADD\",outcome=\"intercepted\",backend=\"ebpf\"} 7",
            "shunt_plugin_skipped_total{reason=\"no-marker\"} 4",
            "shunt_decisions_total{reason=\"outbound\"} 9",
            "# EOF",
        ] {
            assert!(text.lines().any(|other| other == line), "{line}\n{text}");
        }
        let helped = text.lines().filter(|line| line.starts_with("# HELP")).count();
        assert_eq!(helped, text.lines().filter(|line| line.starts_with("# TYPE")).count(), "{text}");
    }
}
