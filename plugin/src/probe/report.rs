//! What a probe found, step by step, and what follows from it. Pure.

use serde::{Deserialize, Serialize};

use crate::error::{chain, presentable};
use crate::fault::Fault;

/// What a probe tries, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Wait for other loads and probes of this state directory.
    Lock,
    /// Find the cgroup2 hierarchy, or mount one.
    Cgroup2,
    /// Make a cgroup and a network namespace to try in.
    Scratch,
    /// Load every program and map of the kernel object, and pin them.
    Load,
    /// Attach every shared program to the scratch cgroup.
    AttachShared,
    /// Write the map entries of the scratch namespace.
    Entries,
    /// Attach `sk_lookup` to the scratch namespace and `getsockopt` to the scratch cgroup.
    AttachPod,
    /// An app's connection reaches the proxy, and the proxy learns where it was going.
    OutboundIpv4,
    /// The same over IPv6.
    OutboundIpv6,
    /// A connection from elsewhere to the app reaches the proxy.
    InboundIpv4,
    /// The same over IPv6.
    InboundIpv6,
    /// Remove all of the above.
    Tidy,
}

impl Step {
    /// All steps, in order.
    pub const ALL: [Self; 12] = [
        Self::Lock,
        Self::Cgroup2,
        Self::Scratch,
        Self::Load,
        Self::AttachShared,
        Self::Entries,
        Self::AttachPod,
        Self::OutboundIpv4,
        Self::OutboundIpv6,
        Self::InboundIpv4,
        Self::InboundIpv6,
        Self::Tidy,
    ];

    /// Its name in the file and in what people read.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::Cgroup2 => "cgroup2",
            Self::Scratch => "scratch",
            Self::Load => "load",
            Self::AttachShared => "attach-shared",
            Self::Entries => "entries",
            Self::AttachPod => "attach-pod",
            Self::OutboundIpv4 => "outbound-ipv4",
            Self::OutboundIpv6 => "outbound-ipv6",
            Self::InboundIpv4 => "inbound-ipv4",
            Self::InboundIpv6 => "inbound-ipv6",
            Self::Tidy => "tidy",
        }
    }

    /// True if the backend does its work only where this step worked.
    const fn is_needed(self) -> bool {
        !matches!(self, Self::Tidy)
    }

    /// True for steps that a kernel without IPv6 leaves out.
    const fn is_v6(self) -> bool {
        matches!(self, Self::OutboundIpv6 | Self::InboundIpv6)
    }
}

/// How a step went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", content = "why", rename_all = "camelCase")]
pub enum Found {
    /// As it should.
    Works,
    /// Not tried, and why that is no fault.
    LeftOut(String),
    /// It failed: what was tried, on what, what the kernel said.
    Fails(String),
}

/// One step and how it went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Which.
    pub step: Step,
    /// How it went.
    #[serde(flatten)]
    pub found: Found,
}

/// A step that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What was tried, on what, what the kernel said; one line.
    pub why: String,
    /// True if it may go otherwise the next time: no memory, no time.
    pub transient: bool,
}

impl Failure {
    /// Time was up.
    pub fn late(what: &str) -> Self {
        Self { why: format!("{what}: not finished in time"), transient: true }
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        let transient = fault.errno().is_some_and(is_transient);
        Self { why: line(&fault), transient }
    }
}

/// Errors that say something of the moment and nothing of the kernel.
fn is_transient(errno: i32) -> bool {
    const MOMENTARY: [i32; 12] = [
        libc::ENOMEM,
        libc::EAGAIN,
        libc::EINTR,
        libc::EMFILE,
        libc::ENFILE,
        libc::ENOSPC,
        libc::EDQUOT,
        libc::EBUSY,
        libc::ETIMEDOUT,
        libc::ECHILD,
        // In a namespace that nobody else is in.
        libc::EADDRNOTAVAIL,
        libc::EADDRINUSE,
    ];
    MOMENTARY.contains(&errno)
}

/// A fault with its causes, on one line of at most [`MOST`] characters.
fn line(fault: &Fault) -> String {
    const MOST: usize = 600;
    // The verifier's log comes in many lines.
    let mut text = presentable(&chain(fault)).split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = text.char_indices().nth(MOST) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// All a probe found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Each step that was tried, in order.
    pub findings: Vec<Finding>,
    /// True if what failed may go otherwise the next time: then this is no answer for later.
    pub transient: bool,
}

impl Report {
    /// Notes how a step went; true if the next can be tried.
    pub fn note(&mut self, step: Step, found: Result<(), Failure>) -> bool {
        let found = match found {
            Ok(()) => Found::Works,
            Err(failure) => {
                self.transient |= failure.transient && step.is_needed();
                Found::Fails(failure.why)
            }
        };
        let works = found == Found::Works;
        self.findings.push(Finding { step, found });
        works
    }

    /// Notes that a step was not tried.
    pub fn leave_out(&mut self, step: Step, why: &str) {
        self.findings.push(Finding { step, found: Found::LeftOut(why.to_owned()) });
    }
}

/// Why eBPF cannot be used, from what was found; `None` if it can. A step that is missing has not worked.
pub fn obstacle(findings: &[Finding]) -> Option<String> {
    for step in Step::ALL.into_iter().filter(|step| step.is_needed()) {
        match findings.iter().find(|finding| finding.step == step).map(|finding| &finding.found) {
            Some(Found::Works) => {}
            Some(Found::LeftOut(_)) if step.is_v6() => {}
            Some(Found::Fails(why) | Found::LeftOut(why)) => return Some(why.clone()),
            None => return Some(format!("the probe did not get as far as step {}", step.as_str())),
        }
    }
    None
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    /// Everything works.
    pub(crate) fn healthy() -> Vec<Finding> {
        Step::ALL.map(|step| Finding { step, found: Found::Works }).to_vec()
    }

    /// The same up to a step that fails.
    pub(crate) fn broken(step: Step, why: &str) -> Vec<Finding> {
        let mut findings = healthy();
        let at = findings.iter().position(|finding| finding.step == step).unwrap();
        findings.truncate(at);
        findings.push(Finding { step, found: Found::Fails(why.to_owned()) });
        findings.push(Finding { step: Step::Tidy, found: Found::Works });
        findings
    }

    #[test]
    fn names_are_those_of_the_file() {
        for step in Step::ALL {
            assert_eq!(json!(step), json!(step.as_str()));
        }
        let finding = Finding { step: Step::AttachPod, found: Found::Fails("no".to_owned()) };
        assert_eq!(json!(finding), json!({"step": "attach-pod", "result": "fails", "why": "no"}));
        let finding = Finding { step: Step::Load, found: Found::Works };
        assert_eq!(json!(finding), json!({"step": "load", "result": "works"}));
        for finding in healthy() {
            let text = serde_json::to_string(&finding).unwrap();
            assert_eq!(serde_json::from_str::<Finding>(&text).unwrap(), finding);
        }
    }

    #[test]
    fn every_needed_step_must_have_worked() {
        assert_eq!(obstacle(&healthy()), None);
        for step in Step::ALL {
            let why = obstacle(&broken(step, "no way"));
            assert_eq!(why, (step != Step::Tidy).then(|| "no way".to_owned()), "{step:?}");
            let mut findings = healthy();
            findings.retain(|finding| finding.step != step);
            assert_eq!(obstacle(&findings).is_some(), step != Step::Tidy, "{step:?}");
            let mut findings = healthy();
            for finding in &mut findings {
                if finding.step == step {
                    finding.found = Found::LeftOut("none here".to_owned());
                }
            }
            let fine = matches!(step, Step::OutboundIpv6 | Step::InboundIpv6 | Step::Tidy);
            assert_eq!(obstacle(&findings).is_none(), fine, "{step:?}");
        }
        assert!(obstacle(&[]).is_some());
    }

    #[test]
    fn a_reason_is_what_was_tried_and_what_the_kernel_said() {
        for (errno, transient) in [
            (libc::EPERM, false),
            (libc::EINVAL, false),
            (libc::EOPNOTSUPP, false),
            (libc::ENOENT, false),
            (libc::EROFS, false),
            (libc::ENOMEM, true),
            (libc::EAGAIN, true),
            (libc::EMFILE, true),
        ] {
            let error = std::io::Error::from_raw_os_error(errno);
            let text = format!("attach sk_lookup: {error}");
            let failure = Failure::from(Fault::new("attach sk_lookup", error));
            assert_eq!((failure.why, failure.transient), (text, transient));
        }
        let nested = Fault::new("load program connect4", Fault::new("call bpf\n  with 1", "many\n\nlines"));
        assert_eq!(Failure::from(nested).why, "load program connect4: call bpf with 1: many lines");
        let long = Failure::from(Fault::new("load", "x".repeat(5000)));
        assert!(long.why.chars().count() <= 601);
    }

    #[test]
    fn only_what_decides_makes_a_report_transient() {
        let late = || Err(Failure::late("waiting"));
        let mut report = Report::default();
        assert!(report.note(Step::Lock, Ok(())));
        assert!(!report.note(Step::Tidy, late()));
        assert!(!report.transient);
        assert!(!report.note(Step::Load, late()));
        assert!(report.transient);
    }
}
