//! What is measured, and under which circumstances.

use shunt_tests::figures::{Figures, Group, names, turns};
use shunt_tests::load::{Did, Order};

use crate::subjects::{Means, Subject};

/// Rounds, and how long a turn is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) rounds: usize,
    pub(crate) ms: u64,
}

/// What is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Measure {
    RoundTrip(usize),
    Connect,
    Stream(usize),
    Questions { connected: bool },
}

/// The measures of the base settings.
pub(crate) const MAIN: [Measure; 6] = [
    Measure::RoundTrip(64),
    Measure::RoundTrip(4096),
    Measure::RoundTrip(65_536),
    Measure::Connect,
    Measure::Stream(16_384),
    Measure::Stream(131_072),
];
/// Those of the variations.
pub(crate) const VARIED: [Measure; 4] =
    [Measure::RoundTrip(64), Measure::RoundTrip(4096), Measure::Connect, Measure::Stream(16_384)];

impl Measure {
    fn name(self) -> String {
        let size = |bytes: usize| {
            if bytes < 1024 { format!("{bytes} B") } else { format!("{} KiB", bytes / 1024) }
        };
        match self {
            Self::RoundTrip(bytes) => format!("round trip, {}", size(bytes)),
            Self::Connect => "connect, request, close".to_owned(),
            Self::Stream(bytes) => format!("stream, {}", size(bytes)),
            Self::Questions { connected: true } => "UDP DNS, connected".to_owned(),
            Self::Questions { connected: false } => "UDP DNS, sendto".to_owned(),
        }
    }

    /// A stream shows nothing of its single writes.
    fn figures(self) -> &'static [(usize, &'static str)] {
        match self {
            Self::Stream(_) => &[],
            Self::Questions { .. } => &[(0, "p50")],
            _ => &[(0, "p50"), (1, "p99"), (2, "p99.9")],
        }
    }
}

/// Circumstances.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    pub(crate) inbound: bool,
    pub(crate) v6: bool,
    pub(crate) connections: usize,
    pub(crate) cpus: usize,
    pub(crate) mtu: u32,
}

impl Setting {
    /// The one all others differ from in one thing.
    pub(crate) const fn base(inbound: bool) -> Self {
        Self { inbound, v6: false, connections: 1, cpus: 1, mtu: 1500 }
    }

    /// Those others.
    pub(crate) fn variations(inbound: bool) -> [Self; 5] {
        let base = Self::base(inbound);
        [
            Self { v6: true, ..base },
            Self { connections: 64, ..base },
            Self { connections: 1000, ..base },
            Self { cpus: 2, ..base },
            Self { mtu: 9000, ..base },
        ]
    }

    pub(crate) fn name(self) -> String {
        let way = if self.inbound { "inbound" } else { "outbound" };
        let family = if self.v6 { "IPv6" } else { "IPv4" };
        let connections = match self.connections {
            1 => "1 connection".to_owned(),
            count if count >= 1000 => format!("{},{:03} connections", count / 1000, count % 1000),
            count => format!("{count} connections"),
        };
        let cpus = if self.cpus == 1 { "one CPU" } else { "two CPUs" };
        let mtu = if self.mtu == 1500 { String::new() } else { format!(", MTU {}", self.mtu) };
        format!("{way}, {family}, {connections}, {cpus}{mtu}")
    }

    /// Rewriting what a client dials does nothing for what arrives.
    fn has(self, means: Means) -> bool {
        !(self.inbound && means == Means::Loopback)
    }

    fn prepare(self, subject: &Subject) {
        subject.pin(self.cpus);
        subject.mtu(self.mtu);
    }
}

/// Measures these under one setting, all subjects in turns.
pub(crate) fn measure(
    figures: &mut Figures,
    subjects: &mut [Subject],
    setting: Setting,
    measures: &[Measure],
    pace: Pace,
) {
    let mut subjects: Vec<&mut Subject> =
        subjects.iter_mut().filter(|subject| setting.has(subject.means)).collect();
    for subject in &subjects {
        setting.prepare(subject);
    }
    for measure in measures {
        // A thousand streams at once are nobody's.
        if matches!(measure, Measure::Stream(_)) && setting.connections > 64 {
            continue;
        }
        let found = turns::take_many(&mut subjects, 1, pace.rounds, |subject| {
            turn(subject, setting, *measure, pace.ms)
        });
        for subject in &mut subjects {
            subject.order(setting.inbound, &Order::Close);
        }
        let names: Vec<&str> = subjects.iter().map(|subject| subject.means.name()).collect();
        note(figures, &names, &found, setting, *measure);
    }
}

fn turn(subject: &mut Subject, setting: Setting, measure: Measure, ms: u64) -> (Did, f64) {
    let Setting { inbound, v6, connections, .. } = setting;
    if matches!(measure, Measure::Connect) {
        subject.move_on();
    }
    let way = subject.way(inbound, v6);
    let order = match measure {
        Measure::RoundTrip(size) => Order::RoundTrips { way, connections, size, ms },
        Measure::Connect => Order::Connects { way, connections, ms, most: usize::MAX, may_fail: false },
        Measure::Stream(size) => Order::Stream { way, connections, size, ms },
        Measure::Questions { connected } => Order::Questions { to: subject.resolver(), connected, ms },
    };
    subject.order(inbound, &order)
}

/// A group for each figure of a measure.
fn note(
    figures: &mut Figures,
    names: &[&str],
    found: &[Vec<(Did, f64)>],
    setting: Setting,
    measure: Measure,
) {
    let what = measure.name();
    let setting = setting.name();
    let mut add = |figure: &str, unit: &str, value: &dyn Fn(&(Did, f64)) -> f64| {
        figures.groups.push(group(
            (&what, &setting, figure, unit),
            names.iter().zip(found).map(|(name, found)| (*name, found.iter().map(value).collect())),
        ));
    };
    for (index, figure) in measure.figures() {
        add(figure, "us", &|(did, _)| did.percentiles[*index]);
    }
    if matches!(measure, Measure::Stream(_)) {
        add("", "Gbit/s", &|(did, _)| count(did.bytes) * 8.0 / did.seconds / 1e9);
        add("CPU", "us/MiB", &|(did, cpu)| cpu / (count(did.bytes) / f64::from(1 << 20)));
    } else {
        add("CPU", "us", &|(did, cpu)| cpu / count(did.count));
    }
}

/// What, setting, figure and unit; names and values.
pub(crate) fn group<'a>(
    (what, setting, figure, unit): (&str, &str, &str, &str),
    rows: impl Iterator<Item = (&'a str, Vec<f64>)>,
) -> Group {
    Group::of([what, setting, figure, unit], rows).beside(names::NOTHING)
}

#[expect(clippy::cast_precision_loss, reason = "counts of a bench")]
fn count(value: u64) -> f64 {
    value.max(1) as f64
}
