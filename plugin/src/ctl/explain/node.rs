//! On a node: what the plugin recorded, what the kernel has.

use shunt_abi::{LISTENER_PLACES, LISTENERS_PER_SLOT, ListenerKey, PodConfig, Rule, RuleKey, VERSION, slot};
use shunt_api::Backend;

use super::super::Directories;
use super::super::sockets::{Socket, listening};
use super::Args;
use super::answer::{Answer, Chosen, Connection, Failure, Listener, Pod, Proxy, State};
use super::find::{Found, Target, find, is_alive, named};
use super::paper::passes;
use super::verdict::{Caller, Ground, Listens, Question, app};
use crate::backend::{self, Places, Receipt};
use crate::bpf::ask;
use crate::bpf::object;
use crate::bpf::pins::Layout;
use crate::bpf::pod::{configuration, counts};
use crate::bpf::rules::{Ids, encoded};
use crate::cni::PodRef;
use crate::error::chain;
use crate::fault::{Fault, Outcome};
use crate::link;
use crate::netns::Netns;
use crate::note::{Note, What};
use crate::plan::Plan;
use crate::policy::Decision;
use crate::policy::source::{Because, Sourced, told, values};
use crate::record::Record;
use crate::userns;

/// Answers.
pub(super) fn answer(args: &Args, target: &str) -> Result<Answer, String> {
    of(&args.directories, &Target::here(target)?, args.question())
}

/// The same, whoever asks.
pub(super) fn of(
    directories: &Directories,
    target: &Target,
    question: Option<Question>,
) -> Result<Answer, String> {
    let places = directories.places();
    let found = find(places, target)?;
    if let Some(record) = found.records.first()
        && (is_alive(record) || found.notes.is_empty())
    {
        return captured(places, record, &found, question);
    }
    let mut answer = match found.notes.first() {
        Some(note) => noted(note),
        None => unknown(places, &found),
    };
    answer.connection = question.filter(|_| answer.state != State::Failed).map(passes);
    if question.is_some() && answer.state == State::Failed {
        answer.notes.push("there is no connection: the pod has no network".to_owned());
    }
    Ok(answer)
}

/// No record and no note.
fn unknown(places: Places<'_>, found: &Found) -> Answer {
    let netns = found.netns.as_ref();
    let pod = Pod { netns: netns.map(|netns| netns.path().to_owned()), ..Pod::default() };
    if found.host {
        return Answer::new(State::Host, pod);
    }
    if netns.is_some_and(|netns| has_configuration(places, netns).unwrap_or_default()) {
        let mut answer = Answer::new(State::Damaged, pod);
        answer
            .notes
            .push("the kernel captures it, but its record is lost: the pod's next ADD writes one".to_owned());
        return answer;
    }
    Answer::new(State::Unknown, pod)
}

fn has_configuration(places: Places<'_>, netns: &Netns) -> Outcome<bool> {
    let cookie = netns.cookie()?;
    let mut has = false;
    for layout in Layout::all(places.bpf_dir)? {
        // Another object's may be laid out otherwise.
        has |= layout.hash() == object::HASH && configuration(&layout, cookie)?.is_some();
    }
    Ok(has)
}

/// Not captured, and ADD said why.
fn noted(note: &Note) -> Answer {
    let pod = Pod {
        namespace: note.pod.namespace.clone(),
        name: note.pod.name.clone(),
        uid: note.pod.uid.clone(),
        container: Some(note.attachment.container_id().to_owned()),
        interface: Some(note.attachment.ifname().to_owned()),
        netns: Some(note.netns.clone()),
        network: Some(note.network.clone()),
    };
    let state = match note.what {
        What::Skipped { .. } => State::Skipped,
        What::Open { .. } => State::Open,
        What::Failed { .. } => State::Failed,
    };
    let mut answer = Answer::new(state, pod);
    match &note.what {
        What::Skipped { code, key, words } => {
            answer.because = Some(Because { code: code.clone(), key: key.clone(), words: words.clone() });
        }
        What::Open { kind, details } => {
            answer.failure = Some(Failure {
                kind: kind.clone(),
                code: None,
                details: details.clone(),
                count: None,
                since: None,
                at: Some(note.at),
            });
        }
        What::Failed { .. } => answer.failure = failure(note),
    }
    answer
}

fn failure(note: &Note) -> Option<Failure> {
    let What::Failed { kind, code, details, count, since } = &note.what else { return None };
    Some(Failure {
        kind: kind.clone(),
        code: Some(*code),
        details: details.clone(),
        count: Some(*count),
        since: Some(*since),
        at: Some(note.at),
    })
}

fn captured(
    places: Places<'_>,
    record: &Record,
    found: &Found,
    question: Option<Question>,
) -> Result<Answer, String> {
    let PodRef { namespace, name, uid, .. } = named(&record.pod);
    let pod = Pod {
        namespace,
        name,
        uid,
        container: Some(record.attachment.container_id().to_owned()),
        interface: Some(record.attachment.ifname().to_owned()),
        netns: Some(record.netns.clone()),
        network: Some(record.network.clone()),
    };
    let mut answer = Answer::new(State::Captured, pod);
    answer.mesh = Some(record.plan.mesh);
    remember(record, &mut answer);
    for other in found.records.iter().skip(1) {
        answer.notes.push(format!("attachment {} is in the same network namespace", other.attachment));
    }
    if let Some(note) = found.failed_since() {
        answer.failure = failure(note);
        answer.notes.push("an ADD of this pod under another container id failed".to_owned());
    }
    let netns = Netns::open(&record.netns).ok().filter(|netns| netns.identity() == record.netns_identity);
    let Some(netns) = netns else {
        answer.state = State::Damaged;
        answer.notes.push("its network namespace is gone: DEL or GC has not come yet".to_owned());
        if question.is_some() {
            answer.notes.push("there is no connection: the pod has no network".to_owned());
        }
        return Ok(answer);
    };
    if let Err(error) = backend::verify(places, &record.attachment, &netns, &record.receipt) {
        answer.state = State::Damaged;
        answer.notes.push(error.details());
    }
    let kernel = Kernel::of(places, record, &netns, &mut answer.notes);
    answer.counters = kernel.counters();
    answer.proxy = Some(kernel.proxy(&record.plan));
    if let Some(question) = question {
        answer.connection = Some(kernel.decide(record, &netns, &answer.plan, question, found.ids)?);
        if matches!(record.receipt, Receipt::Iptables { .. }) {
            answer.notes.push(
                "decided by the plan, of which the iptables rules are made; conf/differences.md has what they do otherwise"
                    .to_owned(),
            );
        }
    }
    Ok(answer)
}

/// Decides again from what the record has kept, and takes over what was told.
fn remember(record: &Record, answer: &mut Answer) {
    let name = record.receipt.backend().as_str().to_owned();
    answer.backend = Some(Chosen { name: name.clone(), because: String::new() });
    answer.plan = values(&record.plan)
        .into_iter()
        .map(|(key, value)| Sourced { key, value, from: Vec::new() })
        .collect();
    let Some(grounds) = &record.grounds else {
        answer
            .notes
            .push("an older plugin captured it and did not keep where the values came from".to_owned());
        return;
    };
    let settings = grounds.settings();
    let because = match (grounds.backend.split_once(": "), &settings) {
        (Some((_, why)), _) => why.to_owned(),
        (None, Ok(settings)) if settings.backend == Backend::Auto => {
            "auto takes it where the node can".to_owned()
        }
        _ => "as configured".to_owned(),
    };
    answer.backend = Some(Chosen { name, because });
    let Some(annotations) = &grounds.annotations else {
        answer.notes.push(
            "its annotations are too long to be kept: where the values came from is not known".to_owned(),
        );
        return;
    };
    let again = settings.and_then(|settings| told(&named(&record.pod), annotations, &settings));
    match again {
        Ok(told) if matches!(&told.decision, Decision::Intercept(plan) if **plan == record.plan) => {
            answer.because = Some(told.because);
            answer.plan = told.values;
        }
        Ok(told) => {
            answer.notes.push(
                "another version of the plugin captured it: this one would decide otherwise".to_owned(),
            );
            for value in &mut answer.plan {
                let same = told.values.iter().find(|now| now.key == value.key && now.value == value.value);
                value.from = same.map(|now| now.from.clone()).unwrap_or_default();
            }
        }
        Err(error) => answer.notes.push(format!(
            "another version of the plugin captured it: this one would refuse it: {}",
            error.details()
        )),
    }
}

/// What the kernel has of a pod.
struct Kernel {
    /// Of the eBPF backend, of this version: what its programs look at.
    programs: Option<Programs>,
    /// Who listens in the pod.
    open: Option<Vec<Socket>>,
}

struct Programs {
    config: PodConfig,
    rules: Vec<(u32, RuleKey, Rule)>,
    seen: bool,
    listeners: Vec<ListenerKey>,
    counters: Vec<(shunt_abi::Reason, u64)>,
}

impl Kernel {
    fn of(places: Places<'_>, record: &Record, netns: &Netns, notes: &mut Vec<String>) -> Self {
        let mut programs = None;
        if let Receipt::Ebpf { abi, object, cookie, .. } = &record.receipt {
            let read = || -> Outcome<Option<Programs>> {
                let layout = Layout::new(places.bpf_dir, object);
                let Some(config) = configuration(&layout, *cookie)? else { return Ok(None) };
                Ok(Some(Programs {
                    config,
                    rules: ask::rules(&layout, *cookie)?,
                    seen: ask::has_listened(&layout, *cookie)?,
                    listeners: ask::listeners(&layout, *cookie)?,
                    counters: counts(&layout, *cookie)?,
                }))
            };
            if *abi == VERSION {
                programs = read().unwrap_or_else(|fault| {
                    notes.push(chain(&fault));
                    None
                });
            } else {
                notes.push("programs of another version serve it: what they have is not read".to_owned());
            }
        }
        let open = listening(netns).map_err(|fault| notes.push(chain(&fault))).ok();
        Self { programs, open }
    }

    fn counters(&self) -> Option<std::collections::BTreeMap<String, u64>> {
        let counters = &self.programs.as_ref()?.counters;
        Some(counters.iter().map(|(reason, count)| (reason.label().to_owned(), *count)).collect())
    }

    fn is_open(&self, udp: bool, port: u16) -> Option<bool> {
        let is_it = |socket: &Socket| (socket.udp, socket.port) == (udp, port);
        self.open.as_ref().map(|open| open.iter().any(is_it))
    }

    fn proxy(&self, plan: &Plan) -> Proxy {
        let mut listeners = Vec::new();
        let dns = plan.dns.as_ref().map(|dns| ("dns", slot::DNS, dns.port));
        let both =
            [("outbound", slot::OUTBOUND, plan.outbound_port), ("inbound", slot::INBOUND, plan.inbound_port)];
        for (role, slot, port) in both.into_iter().chain(dns) {
            let known = |programs: &Programs| {
                programs.listeners.iter().any(|known| known.is_proxys() && known.slot == slot)
            };
            let open = if role == "dns" {
                self.is_open(true, port).zip(self.is_open(false, port)).map(|(udp, tcp)| udp || tcp)
            } else {
                self.is_open(false, port)
            };
            listeners.push(Listener { role, port, open, known: self.programs.as_ref().map(known) });
        }
        Proxy { seen: self.programs.as_ref().map(|programs| programs.seen), listeners }
    }

    fn decide(
        &self,
        record: &Record,
        netns: &Netns,
        values: &[Sourced],
        question: Question,
        process: Option<(u32, u32)>,
    ) -> Result<Connection, String> {
        let plan = &record.plan;
        let told = |fault: Fault| chain(&fault);
        let ids = userns::outside(netns, plan).map_err(told)?;
        let caller = match question {
            Question::Outbound { caller: Caller::OfPod { uid, gid }, .. } => outside(netns, uid, gid)?,
            _ => process.unwrap_or_else(|| app(&ids)),
        };
        let from_plan;
        let (config, rules, by) = if let Some(programs) = &self.programs {
            (programs.config, &programs.rules, "kernel")
        } else {
            let all_routes = !plan.exclude_interfaces.is_empty();
            let interfaces = netns.run(|| link::seen(all_routes)).map_err(told)?;
            from_plan = encoded(plan, &interfaces, record.attachment.ifname(), &ids, 0);
            (from_plan.config, &from_plan.rules, "plan")
        };
        let before_proxy = self.programs.as_ref().is_some_and(|programs| !programs.seen);
        let listens = |slot: u32, v4: bool| self.listens(&config, slot, v4);
        let ground = Ground { config, rules, by, plan, values, ids: &ids, before_proxy, listens: &listens };
        Ok(ground.decide(question, caller))
    }

    fn listens(&self, config: &PodConfig, slot: u32, v4: bool) -> Listens {
        let port = match slot {
            slot::INBOUND => config.inbound_port,
            slot::DNS => config.dns_port,
            _ => config.outbound_port,
        };
        let open = self.is_open(false, port);
        let Some(programs) = &self.programs else {
            return match open {
                Some(false) => Listens::No(format!("nobody listens on {port}")),
                _ => Listens::Yes,
            };
        };
        // The second half are sockets of IPv6, which may take IPv4 too. Others than the proxy count until it has been there.
        let takes = |known: &ListenerKey| {
            let first_of_v6 =
                if known.is_proxys() { LISTENERS_PER_SLOT / 2 } else { LISTENER_PLACES.saturating_sub(1) };
            known.slot == slot && (v4 || known.index >= first_of_v6) && (known.is_proxys() || !programs.seen)
        };
        if programs.listeners.iter().any(takes) {
            Listens::Yes
        } else if open == Some(true) {
            Listens::No(format!(
                "who listens on {port} is not known as the proxy: another user's, bound before ADD, or of the other family"
            ))
        } else {
            Listens::No(format!("the proxy does not listen on {port}"))
        }
    }
}

/// Ids that the pod calls so, as the kernel sees them.
fn outside(netns: &Netns, uid: u32, gid: u32) -> Result<(u32, u32), String> {
    let asked = Plan { exempt_gids: vec![gid], ..Plan::of_everything(1, 2, vec![uid]) };
    let Ids { uids, gids, .. } = userns::outside(netns, &asked).map_err(|fault| chain(&fault))?;
    Ok((uids.first().copied().unwrap_or(uid), gids.first().copied().unwrap_or(gid)))
}
