//! What we want to reach, as DESIGN.md has it, beside what was measured.

use shunt_tests::figures::names::{EBPF, IPTABLES, NOTHING, REDIRECT};
use shunt_tests::figures::sample::Spread;
use shunt_tests::figures::{Figures, Group};

use Limit::{Least, Most};
use Measure::{More, Plain, Ratio};

/// A figure and where it has to be.
pub(crate) struct Goal {
    pub(crate) words: &'static str,
    bench: &'static str,
    what: &'static str,
    setting: &'static str,
    figure: &'static str,
    who: &'static str,
    measure: Measure,
    limit: Limit,
}

/// How one subject is turned into a number.
enum Measure {
    /// By another's value of the same round.
    Ratio(&'static str),
    /// Less another's value of the same round.
    More(&'static str),
    /// As it is.
    Plain,
}

enum Limit {
    Most(f64),
    Least(f64),
}

/// How a goal came out.
pub(crate) struct Outcome {
    pub(crate) words: &'static str,
    /// `at most 1.0`.
    pub(crate) goal: String,
    /// What it is compared with.
    pub(crate) against: String,
    /// None: this run did not measure it.
    pub(crate) found: Option<Spread>,
    pub(crate) met: Option<bool>,
}

const OUT: &str = "outbound, IPv4, 1 connection, one CPU";
const IN: &str = "inbound, IPv4, 1 connection, one CPU";

const fn goal(
    words: &'static str,
    (bench, what, setting, figure): (&'static str, &'static str, &'static str, &'static str),
    who: &'static str,
    measure: Measure,
    limit: Limit,
) -> Goal {
    Goal { words, bench, what, setting, figure, who, measure, limit }
}

const GOALS: [Goal; 24] = [
    goal("ADD, eBPF", ("process", "ADD", "steady", ""), EBPF, Ratio("tuning"), Most(1.0)),
    goal(
        "ADD, eBPF",
        ("process", "ADD", "steady", ""),
        EBPF,
        Ratio("nothing (static, reads stdin)"),
        Most(3.0),
    ),
    goal("ADD, iptables", ("process", "ADD", "steady, rules", ""), IPTABLES, Ratio("portmap"), Most(0.5)),
    goal(
        "ADD, iptables",
        ("process", "ADD", "steady, rules", ""),
        IPTABLES,
        Ratio("istio-iptables"),
        Most(0.6),
    ),
    goal(
        "ADD at the 500th pod",
        ("scale", "ADD", "of a node", ""),
        "500th pod",
        Ratio("first pod"),
        Most(1.2),
    ),
    goal("app to proxy, 64 B", ("path", "round trip, 64 B", OUT, "p50"), EBPF, Ratio(REDIRECT), Most(0.8)),
    goal("app to proxy, 4 KiB", ("path", "round trip, 4 KiB", OUT, "p50"), EBPF, Ratio(REDIRECT), Most(0.6)),
    goal(
        "app to proxy, connect",
        ("path", "connect, request, close", OUT, "p50"),
        EBPF,
        Ratio(REDIRECT),
        Most(0.85),
    ),
    goal(
        "app to proxy, connect",
        ("path", "connect, request, close", OUT, "p50"),
        EBPF,
        Ratio(NOTHING),
        Most(1.1),
    ),
    goal("app to proxy, stream", ("path", "stream, 16 KiB", OUT, ""), EBPF, Ratio(REDIRECT), Least(2.4)),
    goal("inbound, 64 B", ("path", "round trip, 64 B", IN, "p50"), EBPF, Ratio(NOTHING), Most(1.03)),
    goal("inbound, 4 KiB", ("path", "round trip, 4 KiB", IN, "p50"), EBPF, Ratio(NOTHING), Most(1.03)),
    goal(
        "inbound, connect",
        ("path", "connect, request, close", IN, "p50"),
        EBPF,
        Ratio(NOTHING),
        Most(1.03),
    ),
    goal("inbound, stream", ("path", "stream, 16 KiB", IN, ""), EBPF, Ratio(NOTHING), Least(0.97)),
    goal(
        "connections in a minute",
        ("churn", "connections in a minute, one destination", "", ""),
        EBPF,
        Plain,
        Least(200_000.0),
    ),
    goal("of those, failed", ("churn", "failed in that minute", "", ""), EBPF, Plain, Most(0.0)),
    goal(
        "UDP send, not meshed",
        ("others", "UDP, sendto", "1 meshed pod", ""),
        "not meshed",
        More("no programs"),
        Most(0.3),
    ),
    goal(
        "UDP connect, not meshed",
        ("others", "UDP, connect", "1 meshed pod", ""),
        "not meshed",
        More("no programs"),
        Most(0.3),
    ),
    goal(
        "TCP connect, not meshed",
        ("others", "TCP, connect", "1 meshed pod", ""),
        "not meshed",
        More("no programs"),
        Most(0.3),
    ),
    goal("peak memory", ("process", "peak memory", "", ""), EBPF, Plain, Most(8192.0)),
    goal("peak memory, iptables", ("process", "peak memory", "", ""), IPTABLES, Plain, Most(8192.0)),
    goal("size of the plugin", ("process", "size", "", ""), "shunt", Plain, Most(4096.0)),
    goal("size of the installer", ("process", "size", "", ""), "shunt-installer", Plain, Most(4096.0)),
    goal("installer, idle", ("install", "idle memory", "", ""), "shunt-installer", Plain, Most(15_360.0)),
];

/// Each goal beside what these say of it.
pub(crate) fn judge(all: &[Figures]) -> Vec<Outcome> {
    GOALS.iter().map(|goal| goal.judge(all)).collect()
}

impl Goal {
    fn judge(&self, all: &[Figures]) -> Outcome {
        let group = all
            .iter()
            .find(|figures| figures.bench == self.bench)
            .and_then(|figures| figures.group(self.what, self.setting, self.figure));
        let found = group.and_then(|group| self.measure(group));
        let unit = group.map_or_else(String::new, |group| format!(" {}", group.unit));
        let unit = if matches!(self.measure, Ratio(_)) { String::new() } else { unit };
        let (goal, met) = match self.limit {
            Most(most) => (format!("at most {most}{unit}"), found.map(|found| found.median <= most)),
            Least(least) => (format!("at least {least}{unit}"), found.map(|found| found.median >= least)),
        };
        let against = match self.measure {
            Ratio(other) | More(other) => other.to_owned(),
            Plain => String::new(),
        };
        Outcome { words: self.words, goal, against, found, met }
    }

    fn measure(&self, group: &Group) -> Option<Spread> {
        match self.measure {
            Ratio(other) => group.ratio(self.who, other),
            Plain => Spread::of(group.values(self.who)?),
            More(other) => {
                let (one, other) = (group.values(self.who)?, group.values(other)?);
                Spread::of(&one.iter().zip(other).map(|(one, other)| one - other).collect::<Vec<_>>())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use shunt_tests::figures::Subject;

    use super::*;

    fn process(ours: f64) -> Figures {
        let subject = |name: &str, value| Subject { name: name.to_owned(), values: vec![value; 3] };
        let mut figures = Figures::new("process", "");
        figures.groups.push(Group {
            what: "ADD".into(),
            setting: "steady".into(),
            figure: String::new(),
            unit: "us".into(),
            base: "tuning".into(),
            subjects: vec![subject(EBPF, ours), subject("tuning", 2.0)],
        });
        figures
    }

    #[test]
    fn a_goal_is_met_or_not_or_was_not_measured() {
        let first = |ours| judge(&[process(ours)]).into_iter().next().and_then(|goal| goal.met);
        assert_eq!(first(1.9), Some(true));
        assert_eq!(first(2.1), Some(false));
        let unmeasured = judge(&[process(1.0)]).into_iter().filter(|goal| goal.met.is_none()).count();
        assert_eq!(unmeasured, GOALS.len() - 1);
    }
}
