//! `shuntctl trace`: decisions as the kernel's programs make them, a line each.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use nix::unistd::geteuid;
use serde::Serialize;
use shunt_abi::trace::{Event, call, verdict};
use shunt_abi::{Address, PodKey, Reason};

use super::captured::{Pods, chain, complaints, cookie, name, object};
use super::clock::{date_of, length, rfc3339, time};
use super::stream::{Stream, Woken, remark};
use super::{Directories, EXIT_CODES, FAILED, Format, Said, TOLD};
use crate::bpf::object::HASH;
use crate::bpf::pins::Layout;
use crate::bpf::trace::{LOOK, Listening, RENEWAL};
use crate::fault::Outcome;

/// Shows decisions of the kernel's programs as they are made
///
/// A line for each connection that is made, arrives, or is refused, and for each DNS query: time, pod, process, uid, source and
/// destination, verdict and reason. Until it is ended, or for as long or as many as is said. While nobody listens, nothing is told.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Args {
    /// Whose; all pods if left out: namespace/name, a name, or the beginning of a container's id.
    pod: Option<String>,
    #[command(flatten)]
    filter: Filter,
    /// How it is printed: a line a decision, or an object a line.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: Format,
    /// End after so many.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// End after so long: 30s, 500ms, 2m.
    #[arg(long = "for", value_name = "LENGTH", value_parser = lasting)]
    lasts: Option<Duration>,
    #[command(flatten)]
    directories: Directories,
}

/// Which decisions are shown; of what is left out, all.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
struct Filter {
    /// Only these: passed, captured, refused.
    #[arg(long = "verdict", value_name = "LIST", value_delimiter = ',', value_parser = verdict_called)]
    verdicts: Vec<u16>,
    /// Only for these reasons, by name.
    #[arg(long = "reason", value_name = "LIST", value_delimiter = ',', value_parser = reason_called)]
    reasons: Vec<Reason>,
    /// Only to these: `10.0.0.0/8`, `10.0.0.1:80`, `[fd00::/8]:80`, `:80`.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = To::asked)]
    to: Vec<To>,
    /// Only of these who connect.
    #[arg(long = "uid", value_name = "LIST", value_delimiter = ',')]
    uids: Vec<u32>,
}

/// Destinations.
#[derive(Debug, Clone, PartialEq, Eq)]
struct To {
    network: Option<IpNetwork>,
    port: Option<u16>,
}

const VERDICTS: [(u16, &str); 3] =
    [(verdict::PASSED, "passed"), (verdict::CAPTURED, "captured"), (verdict::REFUSED, "refused")];

/// `30s`, `500ms`, `2m`
pub(super) fn lasting(text: &str) -> Result<Duration, String> {
    length(text).ok_or_else(|| "must be a length such as 30s, 500ms or 2m".to_owned())
}

fn verdict_called(name: &str) -> Result<u16, String> {
    let found = VERDICTS.iter().find(|(_, known)| *known == name).map(|(verdict, _)| *verdict);
    found.ok_or_else(|| "must be passed, captured or refused".to_owned())
}

fn reason_called(name: &str) -> Result<Reason, String> {
    let found = Reason::ALL.iter().copied().find(|reason| reason.label() == name);
    found.ok_or_else(|| {
        let names: Vec<_> = Reason::ALL.iter().map(|reason| reason.label()).collect();
        format!("must be one of {}", names.join(", "))
    })
}

impl To {
    fn asked(text: &str) -> Result<Self, String> {
        Self::parse(text)
            .ok_or_else(|| "must be an address, a network or a port such as 10.0.0.0/8:80 or :80".to_owned())
    }

    /// `10.0.0.0/8`, `10.0.0.1:80`, `10.0.0.0/8:80`, `fd00::/8`, `[fd00::/8]:80`, `[::1]:80`, `:80`.
    fn parse(text: &str) -> Option<Self> {
        let network = |text: &str| text.parse::<IpNetwork>().ok();
        if let Some(port) = text.strip_prefix(':').and_then(|port| port.parse().ok()) {
            return Some(Self { network: None, port: Some(port) });
        }
        if let Some(network) = network(text) {
            return Some(Self { network: Some(network), port: None });
        }
        let (before, port) = text.rsplit_once(':')?;
        let before = before.strip_prefix('[').map_or(Some(before), |inner| inner.strip_suffix(']'))?;
        Some(Self { network: Some(network(before)?), port: Some(port.parse().ok()?) })
    }

    fn covers(&self, ip: IpAddr, port: u16) -> bool {
        self.network.is_none_or(|network| network.contains(ip))
            && self.port.is_none_or(|wanted| wanted == port)
    }
}

impl Filter {
    fn shows(&self, decision: &Decision<'_>) -> bool {
        let event = decision.event;
        let reason = |reason: &Reason| reason.code() == event.reason;
        (self.verdicts.is_empty() || self.verdicts.contains(&event.verdict))
            && (self.reasons.is_empty() || self.reasons.iter().any(reason))
            && (self.to.is_empty() || self.to.iter().any(|to| to.covers(event.destination.ip(), event.port)))
            && (self.uids.is_empty() || decision.caller.is_some_and(|caller| self.uids.contains(&caller.uid)))
    }
}

/// Who called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Caller {
    pid: u32,
    uid: u32,
    command: [u8; 16],
}

impl Caller {
    fn command(&self) -> String {
        let name = self.command.split(|byte| *byte == 0).next().unwrap_or_default();
        // A program names itself: nothing in it may move the cursor or end the line.
        String::from_utf8_lossy(name).chars().map(|c| if c.is_control() { '?' } else { c }).collect()
    }
}

/// Who made the connections that are on their way to the proxy: whoever looks for its listener cannot ask.
#[derive(Debug, Default)]
struct Callers(HashMap<(PodKey, Address, u16, u16), Caller>);

impl Callers {
    /// Connections that are on their way are few.
    const LIMIT: usize = 4096;

    fn of(&mut self, event: &Event) -> Option<Caller> {
        let key = (event.pod, event.destination, event.port, event.sent_port);
        if event.call == call::HAND_OVER {
            return self.0.get(&key).copied();
        }
        let caller = Caller { pid: event.pid, uid: event.uid, command: event.command };
        if event.call == call::ARRIVE {
            return None;
        }
        if event.call == call::CONNECT && event.verdict == verdict::CAPTURED {
            if self.0.len() >= Self::LIMIT {
                self.0.clear();
            }
            self.0.insert(key, caller);
        }
        Some(caller)
    }
}

/// An event with what the kernel does not know of it.
#[derive(Debug)]
struct Decision<'a> {
    event: &'a Event,
    pod: &'a str,
    caller: Option<Caller>,
    date: Duration,
}

/// A line of `--output json`; `conf/schemas/trace.json` describes it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    r#type: &'a str,
    time: String,
    pod: &'a str,
    call: &'a str,
    direction: &'a str,
    protocol: &'a str,
    pid: Option<u32>,
    command: Option<String>,
    uid: Option<u32>,
    family: &'a str,
    source: Option<SocketAddr>,
    destination: SocketAddr,
    sent_to: Option<SocketAddr>,
    verdict: &'a str,
    reason: &'a str,
}

/// Another one: events there was no room for.
#[derive(Serialize)]
struct LostLine<'a> {
    r#type: &'a str,
    events: u64,
}

const AF_INET: u16 = 2;

impl Decision<'_> {
    fn call(&self) -> &'static str {
        match self.event.call {
            call::CONNECT => "connect",
            call::ARRIVE => "inbound",
            call::HAND_OVER => "handover",
            call::CONNECT_UDP => "connect-udp",
            call::SEND => "send-udp",
            _ => "?",
        }
    }

    fn family(&self) -> &'static str {
        match (self.event.family, self.event.destination.is_v4()) {
            (AF_INET, _) => "ipv4",
            (_, true) => "mapped",
            (_, false) => "ipv6",
        }
    }

    fn verdict(&self) -> &'static str {
        VERDICTS.iter().find(|(verdict, _)| *verdict == self.event.verdict).map_or("?", |(_, name)| name)
    }

    fn reason(&self) -> &'static str {
        Reason::ALL
            .iter()
            .find(|reason| reason.code() == self.event.reason)
            .map_or("?", |reason| reason.label())
    }

    fn source(&self) -> Option<SocketAddr> {
        let known = self.event.source_port != 0 || !self.event.source.is_unspecified();
        known.then(|| SocketAddr::new(self.event.source.ip(), self.event.source_port))
    }

    fn destination(&self) -> SocketAddr {
        SocketAddr::new(self.event.destination.ip(), self.event.port)
    }

    fn sent_to(&self) -> Option<SocketAddr> {
        let sent = self.event.sent_port != 0;
        sent.then(|| SocketAddr::new(self.event.sent_to.ip(), self.event.sent_port))
    }

    fn text(&self) -> String {
        let (process, uid) = match &self.caller {
            Some(caller) => (format!("{}[{}]", caller.command(), caller.pid), caller.uid.to_string()),
            None => ("-".to_owned(), "-".to_owned()),
        };
        let source = self.source().map_or_else(|| "-".to_owned(), |source| source.to_string());
        row([
            &time(self.date),
            self.pod,
            self.call(),
            &process,
            &uid,
            self.family(),
            &source,
            &self.destination().to_string(),
            self.verdict(),
            self.reason(),
        ])
    }

    fn json(&self) -> String {
        json(&Line {
            r#type: "decision",
            time: rfc3339(self.date),
            pod: self.pod,
            call: self.call(),
            direction: if self.event.call == call::ARRIVE { "inbound" } else { "outbound" },
            protocol: if matches!(self.event.call, call::CONNECT_UDP | call::SEND) { "udp" } else { "tcp" },
            pid: self.caller.map(|caller| caller.pid),
            command: self.caller.map(|caller| caller.command()),
            uid: self.caller.map(|caller| caller.uid),
            family: self.family(),
            source: self.source(),
            destination: self.destination(),
            sent_to: self.sent_to(),
            verdict: self.verdict(),
            reason: self.reason(),
        })
    }
}

fn json(line: &impl Serialize) -> String {
    // Plain data always has a text.
    serde_json::to_string(line).unwrap_or_default() + "\n"
}

/// Columns of a fixed width where that is enough.
fn row(columns: [&str; 10]) -> String {
    const WIDTHS: [usize; 9] = [12, 24, 11, 20, 6, 6, 21, 21, 8];
    let mut line = String::new();
    for (column, width) in columns.iter().zip(WIDTHS.into_iter().chain([0])) {
        // Writing into a String cannot fail.
        let _ = write!(line, "{column:width$} ");
    }
    line.truncate(line.trim_end().len());
    line + "\n"
}

fn header() -> String {
    row([
        "TIME (UTC)",
        "POD",
        "CALL",
        "PROCESS",
        "UID",
        "FAMILY",
        "SOURCE",
        "DESTINATION",
        "VERDICT",
        "REASON",
    ])
}

/// Listens, and prints until it is ended.
pub(super) fn run(asked: &Args) -> Said {
    if !geteuid().is_root() {
        return Said::failed(FAILED, "only root may listen to the programs");
    }
    match listened(asked) {
        Ok(said) => said,
        Err(fault) => Said::failed(FAILED, &chain(&fault)),
    }
}

fn listened(asked: &Args) -> Outcome<Said> {
    let pods = Pods::read(&asked.directories.state_dir)?;
    let mut refused = pods.unread.clone();
    let (mut objects, mut cookies) = (BTreeSet::from([HASH.to_owned()]), BTreeSet::new());
    let called = pods.called(asked.pod.as_deref());
    if let (Some(asked), true) = (&asked.pod, called.is_empty()) {
        return Ok(Said::failed(FAILED, &pods.unknown(asked)));
    }
    for record in &called {
        match object(record, "trace") {
            Ok(object) => {
                objects.insert(object.to_owned());
                cookies.extend(cookie(record));
            }
            Err(why) => refused.push(why),
        }
    }
    if asked.pod.is_some() && cookies.is_empty() {
        return Ok(complaints(&refused));
    }
    // Before anything else: a signal from here on ends it cleanly.
    let stream = Stream::new()?;
    // The programs can pick one pod; what is about several is picked here.
    let one = asked.pod.as_ref().and(cookies.first()).filter(|_| cookies.len() == 1);
    let listening = Listening::new(&asked.directories.state_dir, one.copied().unwrap_or(0))?;
    let mut trace = Trace {
        asked,
        names: pods.by_cookie(),
        cookies: asked.pod.as_ref().map(|_| cookies),
        listening,
        callers: Callers::default(),
        shown: 0,
        lost: 0,
        more: false,
        looked: Instant::now(),
    };
    trace.listen_to(&objects)?;
    for why in &refused {
        remark(why);
    }
    let what = asked.pod.as_ref().map_or_else(
        || "all pods".to_owned(),
        |_| called.first().map_or_else(String::new, |record| name(record)),
    );
    trace.follow(stream, &format!("listening to {what}"))?;
    Ok(Said::told(TOLD, ""))
}

/// More than this at once, and what else there is to do would wait.
const BATCH: usize = 256;
/// How often records are read again, for pods and programs that are not known.
const REREAD: Duration = Duration::from_secs(1);

struct Trace<'a> {
    asked: &'a Args,
    names: HashMap<PodKey, String>,
    /// The pods that were asked for, where the programs cannot pick them.
    cookies: Option<BTreeSet<PodKey>>,
    listening: Listening,
    callers: Callers,
    shown: u64,
    lost: u64,
    /// There may be more events than were taken.
    more: bool,
    looked: Instant,
}

impl Trace<'_> {
    /// Has these objects' programs tell; one that is not loaded has none.
    fn listen_to(&mut self, objects: &BTreeSet<String>) -> Outcome<()> {
        for layout in Layout::all(&self.asked.directories.bpf_dir)? {
            if objects.contains(layout.hash()) {
                self.listening.listen_to(&layout)?;
            }
        }
        Ok(())
    }

    fn follow(&mut self, mut stream: Stream, beginning: &str) -> Outcome<()> {
        let end = self.asked.lasts.map(|lasts| Instant::now() + lasts);
        if self.asked.output != Format::Json {
            stream.push(&header());
        }
        remark(beginning);
        let mut renewed = Instant::now();
        loop {
            let look = if self.more { Duration::ZERO } else { LOOK };
            let wake = Instant::now() + look;
            if stream.wait(end.map_or(wake, |end| wake.min(end)))? == Woken::Ended {
                stream.finish(true)?;
                break;
            }
            if renewed.elapsed() >= RENEWAL {
                renewed = Instant::now();
                self.listening.renew()?;
                self.follow_upgrades()?;
                self.tell_lost(&mut stream);
            }
            self.take(&mut stream)?;
            if self.is_enough() || end.is_some_and(|end| Instant::now() >= end) {
                self.tell_lost(&mut stream);
                stream.finish(false)?;
                break;
            }
        }
        if self.lost > 0 {
            remark(&format!("{} events were lost: they came faster than they were read", self.lost));
        }
        Ok(())
    }

    /// True when as many have been shown as were asked for.
    fn is_enough(&self) -> bool {
        self.asked.count.is_some_and(|count| self.shown >= count)
    }

    /// Takes what is there.
    fn take(&mut self, stream: &mut Stream) -> Outcome<()> {
        self.more = false;
        for _one in 0..BATCH {
            if self.is_enough() || stream.is_full() {
                return Ok(());
            }
            let Some(event) = self.listening.take() else { return Ok(()) };
            let caller = self.callers.of(&event);
            if self.cookies.as_ref().is_some_and(|cookies| !cookies.contains(&event.pod)) {
                continue;
            }
            let pod = self.name(event.pod);
            let decision = Decision { event: &event, pod: &pod, caller, date: date_of(event.time)? };
            if self.asked.filter.shows(&decision) {
                stream.push(&if self.asked.output == Format::Json {
                    decision.json()
                } else {
                    decision.text()
                });
                self.shown += 1;
            }
        }
        self.more = true;
        Ok(())
    }

    /// What people call a pod; its record comes after its first connections could.
    fn name(&mut self, pod: PodKey) -> String {
        if !self.names.contains_key(&pod) && self.looked.elapsed() >= REREAD {
            self.reread();
        }
        self.names.get(&pod).cloned().unwrap_or_else(|| format!("netns-cookie-{pod}"))
    }

    fn reread(&mut self) {
        self.looked = Instant::now();
        // What cannot be read now has no name for now.
        if let Ok(pods) = Pods::read(&self.asked.directories.state_dir) {
            self.names = pods.by_cookie();
        }
    }

    /// A new plugin has loaded its object: its pods are listened to as well, if they are of this version.
    fn follow_upgrades(&mut self) -> Outcome<()> {
        let new = |layout: &Layout| !self.listening.listens_to(layout);
        if !Layout::all(&self.asked.directories.bpf_dir)?.iter().any(new) || self.looked.elapsed() < REREAD {
            return Ok(());
        }
        self.looked = Instant::now();
        let pods = Pods::read(&self.asked.directories.state_dir)?;
        let objects = pods.called(None).into_iter().filter_map(|record| object(record, "trace").ok());
        let mut objects: BTreeSet<String> = objects.map(str::to_owned).collect();
        objects.insert(HASH.to_owned());
        self.listen_to(&objects)
    }

    fn tell_lost(&mut self, stream: &mut Stream) {
        let lost = self.listening.lost();
        if lost > self.lost {
            let events = lost - self.lost;
            if self.asked.output == Format::Json {
                stream.push(&json(&LostLine { r#type: "lost", events }));
            } else {
                stream.push(&format!("{:12} {events} events lost\n", ""));
            }
            self.lost = lost;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<Args, String> {
        #[derive(Debug, clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: Args,
        }
        let line = <Line as clap::Parser>::try_parse_from(std::iter::once(&"trace").chain(words));
        line.map(|line| line.args).map_err(|error| error.to_string())
    }

    #[test]
    fn filters_are_read() {
        let asked = parsed(&[
            "shop/cart",
            "--verdict",
            "refused,passed",
            "--reason",
            "no-listener",
            "--to",
            "10.0.0.0/8:80,fd00::/8",
            "--uid",
            "1000",
            "--count",
            "3",
            "--for",
            "2s",
            "--output",
            "json",
        ])
        .unwrap();
        assert_eq!(asked.pod.as_deref(), Some("shop/cart"));
        assert_eq!(asked.filter.verdicts, [verdict::REFUSED, verdict::PASSED]);
        assert_eq!(asked.filter.reasons, [Reason::NoListener]);
        assert_eq!((asked.filter.to.len(), asked.filter.uids.as_slice()), (2, &[1000][..]));
        assert_eq!((asked.count, asked.lasts), (Some(3), Some(Duration::from_secs(2))));
        assert_eq!(asked.output, Format::Json);
        for (words, named) in [
            (&["--verdict", "lost"][..], "lost"),
            (&["--reason", "whim"], "whim"),
            (&["--to", "10.0.0.0/8:http"], "http"),
            (&["--to", "[fd00::/8"], "fd00"),
            (&["--uid", "root"], "root"),
            (&["--for", "ever"], "ever"),
            (&["--count"], "--count"),
            (&["a", "b"], "b"),
            (&["--all"], "--all"),
        ] {
            let why = parsed(words).unwrap_err();
            assert!(why.contains(named), "{words:?}: {why}");
        }
    }

    #[test]
    fn destinations_are_covered() {
        for (to, at, covered) in [
            ("10.0.0.0/8", "10.1.2.3:80", true),
            ("10.0.0.0/8", "11.1.2.3:80", false),
            ("10.1.2.3", "10.1.2.3:80", true),
            ("10.1.2.3:443", "10.1.2.3:80", false),
            ("10.0.0.0/8:80", "10.1.2.3:80", true),
            (":80", "[fd00::1]:80", true),
            (":80", "[fd00::1]:81", false),
            ("fd00::/8", "[fd00::1]:81", true),
            ("[fd00::/8]:81", "[fd00::1]:81", true),
            ("[fd00::1]:81", "[fd00::2]:81", false),
        ] {
            let at: SocketAddr = at.parse().unwrap();
            assert_eq!(To::parse(to).unwrap().covers(at.ip(), at.port()), covered, "{to} {at}");
        }
    }

    #[test]
    fn lines_for_people_and_for_programs() {
        let event = Event {
            source: Address::from_ip("10.0.0.7".parse().unwrap()),
            destination: Address::from_ip("192.0.2.10".parse().unwrap()),
            port: 80,
            sent_to: Address::from_ip("10.0.0.7".parse().unwrap()),
            sent_port: 62417,
            verdict: verdict::CAPTURED,
            family: 10,
            ..Event::default()
        };
        let caller = Some(Caller { pid: 7, uid: 1000, command: *b"a\x1b[2Jb\0\0\0\0\0\0\0\0\0\0" });
        let decision = Decision { event: &event, pod: "shop/cart", caller, date: Duration::from_millis(1) };
        assert_eq!(
            decision.text().split_whitespace().collect::<Vec<_>>(),
            [
                "00:00:00.001",
                "shop/cart",
                "connect",
                "a?[2Jb[7]",
                "1000",
                "mapped",
                "10.0.0.7:0",
                "192.0.2.10:80",
                "captured",
                "outbound"
            ]
        );
        assert_eq!(
            decision.json(),
            "{\"type\":\"decision\",\"time\":\"1970-01-01T00:00:00.001000Z\",\"pod\":\"shop/cart\",\"call\":\"connect\",\
             \"direction\":\"outbound\",\"protocol\":\"tcp\",\"pid\":7,\"command\":\"a?[2Jb\",\"uid\":1000,\
             \"family\":\"mapped\",\"source\":\"10.0.0.7:0\",\"destination\":\"192.0.2.10:80\",\
             \"sentTo\":\"10.0.0.7:62417\",\"verdict\":\"captured\",\"reason\":\"outbound\"}\n"
        );
    }
}
