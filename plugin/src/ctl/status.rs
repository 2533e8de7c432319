//! `shuntctl status`: what this node has of us, and what its runtime will do.

mod show;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::geteuid;
use serde::Serialize;
use serde_json::Value;
use shunt_abi::names::{GETSOCKOPT, SHARED_PROGRAMS};
use shunt_api::paths;
use shunt_api::report::{Calls, Report};

use super::lists::{Host, List, Lists, runnable};
use super::{Directories, EXIT_CODES, FAILED, Format, JSON_VERSION, Said, TOLD};
use crate::backend::{self, Places};
use crate::bpf::object;
use crate::bpf::pins::Layout;
use crate::bpf::programs::{attached_to, is_bpffs};
use crate::cgroup::Cgroups;
use crate::choice::{self, Ask};
use crate::error::{Error, chain};
use crate::iptables::room::{Room, Run};
use crate::iptables::tools::Tool;
use crate::lock::Lock;
use crate::note::{Notes, What};
use crate::record::{Records, read_whole};
use crate::{log, probe, tally};

/// How long the plugin, the installer and STATUS may take to answer, each.
const PATIENCE: Duration = Duration::from_secs(5);

/// Tells what this node has of Shunt, and which network configuration its runtime will take
///
/// Kernel, mounts, what the probe has found, the programs that are loaded and where they are attached, the plugin's file, the lists in the
/// order of the runtime and whether our entry is in the one it takes, the installer, and what was counted since the node booted. Changes
/// nothing, unless --probe asks for STATUS.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct Args {
    /// Ask for STATUS too, with the entry in the list: whether this node can intercept. That loads the programs if they are not.
    #[arg(long)]
    probe: bool,
    /// Where the installer listens: whether it says that it is ready.
    #[arg(long, value_name = "ADDR:PORT")]
    installer: Option<SocketAddr>,
    /// How it is printed.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: Format,
    #[command(flatten)]
    host: Host,
    #[command(flatten)]
    directories: Directories,
}

impl Args {
    /// What others than its own command line ask.
    pub(super) fn plain(host: &Host, directories: &Directories) -> Self {
        let (host, directories) = (host.clone(), directories.clone());
        Self { probe: false, installer: None, output: Format::Json, host, directories }
    }
}

/// What is said; `conf/schemas/status.json` describes it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    version: u32,
    kernel: String,
    /// Where the cgroup2 hierarchy is mounted; none: nowhere.
    cgroup2: Option<PathBuf>,
    /// Whether `bpfDir` is, or would be, on a BPF file system.
    bpffs: bool,
    probe: Option<Probed>,
    objects: Vec<Object>,
    attachments: Attachments,
    plugin: Plugin,
    status: Status,
    lists: Loaded,
    installer: Installer,
    tally: Tally,
    /// What is not as it should be, in words; `shuntctl check` says what to do.
    problems: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
struct Probed {
    backend: String,
    /// Why it is not `ebpf`.
    reason: Option<String>,
}

/// A kernel object that is loaded.
#[derive(Debug, Clone, Serialize)]
struct Object {
    hash: String,
    /// Version of its names and layouts; none: no record says.
    abi: Option<u32>,
    /// Whether it is the one this shuntctl, and a plugin made with it, has.
    own: bool,
    /// How many attachments it serves.
    pods: usize,
    links: Vec<Link>,
}

#[derive(Debug, Clone, Serialize)]
struct Link {
    program: &'static str,
    state: LinkState,
    /// The cgroup it is attached to.
    cgroup: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum LinkState {
    Attached,
    /// Its cgroup was removed.
    Gone,
    /// There is no pin.
    Missing,
}

/// How many there are of each.
#[derive(Debug, Clone, Default, Serialize)]
struct Attachments {
    ebpf: usize,
    iptables: usize,
    skipped: usize,
    open: usize,
    failed: usize,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Plugin {
    path: PathBuf,
    /// What is wrong with the file.
    problem: Option<String>,
    version: Option<String>,
    /// Whether it has the same kernel object as this shuntctl.
    same_object: Option<bool>,
}

/// STATUS, as far as is known.
#[derive(Debug, Clone, Serialize)]
struct Status {
    /// How often it said that the node can intercept, since it booted.
    ok: u64,
    /// How often not.
    failed: u64,
    /// What it says now; none: it was not asked.
    now: Option<StatusNow>,
}

#[derive(Debug, Clone, Serialize)]
struct StatusNow {
    ok: bool,
    words: String,
}

#[derive(Debug, Clone, Serialize)]
struct Loaded {
    directory: PathBuf,
    files: Vec<List>,
    /// The file that pods get.
    taken: Option<String>,
    /// How many entries of ours are in it.
    entries: usize,
    /// Whether our entry is the last in it.
    last: bool,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Installer {
    /// The list that the installer keeps, if there is one.
    owned_list: Option<String>,
    /// What the last installer that took its turn was here for: `install` or `uninstall`; none: there was none since boot.
    turn: Option<String>,
    /// What /readyz says; none: it was not asked.
    ready: Option<Ready>,
}

#[derive(Debug, Clone, Serialize)]
struct Ready {
    ok: bool,
    words: String,
}

/// What was counted since the node booted.
#[derive(Debug, Clone, Serialize)]
struct Tally {
    calls: Vec<Ended>,
    skipped: BTreeMap<String, u64>,
    failed: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Ended {
    command: String,
    outcome: String,
    backend: String,
    count: u64,
    mean_us: u64,
}

/// Looks.
pub(super) fn run(args: &Args) -> Said {
    if !geteuid().is_root() {
        return Said::failed(FAILED, "only root may read what Shunt has on this node");
    }
    let answer = match answer(args) {
        Ok(answer) => answer,
        Err(why) => return Said::failed(FAILED, &why),
    };
    match args.output {
        Format::Table => Said::told(TOLD, show::text(&answer)),
        Format::Json => Said::json(TOLD, &answer),
    }
}

/// Looks.
pub(super) fn answer(args: &Args) -> Result<Answer, String> {
    let places = args.directories.places();
    let told = |fault: crate::fault::Fault| chain(&fault);
    let cgroups = Cgroups::mounted().map_err(told)?;
    let lists = Lists::read(&args.host.conf_dir)?;
    let mut report = Report::default();
    tally::file::read(places.state_dir).tell(&mut report);
    let status = Status {
        ok: count(&report.calls, "STATUS", "ok"),
        failed: count(&report.calls, "STATUS", "failed"),
        now: args.probe.then(|| status_now(places, &lists)),
    };
    let mut answer = Answer {
        version: JSON_VERSION,
        kernel: kernel(),
        bpffs: is_bpffs(places.bpf_dir) || places.bpf_dir.parent().is_some_and(is_bpffs),
        probe: probe::kept(places).map(|answer| Probed {
            backend: answer.backend().as_str().to_owned(),
            reason: answer.obstacle(),
        }),
        objects: objects(places, cgroups.as_ref()).map_err(told)?,
        cgroup2: cgroups.map(|cgroups| cgroups.root().to_owned()),
        attachments: attachments(places)?,
        plugin: plugin(&args.host.bin_dir.join(paths::TYPE)),
        status,
        lists: loaded(&args.host.conf_dir, lists),
        installer: Installer {
            owned_list: owned(&args.host.conf_dir),
            turn: turn(places.state_dir),
            ready: args.installer.map(ready),
        },
        tally: Tally {
            calls: report.calls.iter().map(ended).collect(),
            skipped: report.skipped,
            failed: report.failed,
        },
        problems: Vec::new(),
    };
    answer.problems = problems(&answer);
    Ok(answer)
}

/// The kernel's release.
pub(super) fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned()).unwrap_or_default()
}

fn objects(places: Places<'_>, cgroups: Option<&Cgroups>) -> crate::fault::Outcome<Vec<Object>> {
    let records = Records::new(places.state_dir);
    let mut paths: BTreeMap<u64, Option<PathBuf>> = BTreeMap::new();
    let mut found = Vec::new();
    for layout in Layout::all(places.bpf_dir)? {
        let pods = layout.attachments()?;
        let own = layout.hash() == object::HASH;
        let said = || {
            let record = pods.iter().find_map(|name| records.read(name).ok().flatten())?;
            match record.receipt {
                backend::Receipt::Ebpf { abi, .. } => Some(abi),
                backend::Receipt::Iptables { .. } => None,
            }
        };
        let abi = if own { Some(shunt_abi::VERSION) } else { said() };
        let mut links = Vec::new();
        for program in SHARED_PROGRAMS.into_iter().chain([GETSOCKOPT]) {
            let (state, cgroup) = match attached_to(&layout.link(program))? {
                Some(0) => (LinkState::Gone, None),
                Some(id) => {
                    let path = || cgroups.and_then(|cgroups| cgroups.with_id(id));
                    (LinkState::Attached, paths.entry(id).or_insert_with(path).clone())
                }
                // Each pod has one of its own, if it has a cgroup.
                None if program == GETSOCKOPT => continue,
                None => (LinkState::Missing, None),
            };
            links.push(Link { program, state, cgroup });
        }
        found.push(Object { hash: layout.hash().to_owned(), abi, own, pods: pods.len(), links });
    }
    Ok(found)
}

fn attachments(places: Places<'_>) -> Result<Attachments, String> {
    let told = |error: Error| error.details();
    let mut found = Attachments {
        ebpf: backend::ebpf::attachments(places).map_err(told)?.len(),
        iptables: backend::iptables::attachments(places).map_err(told)?.len(),
        ..Attachments::default()
    };
    // Where they cannot be read, none is known.
    for note in Notes::new(places.state_dir).all().unwrap_or_default() {
        *match note.what {
            What::Skipped { .. } => &mut found.skipped,
            What::Open { .. } => &mut found.open,
            What::Failed { .. } => &mut found.failed,
        } += 1;
    }
    Ok(found)
}

/// Looks at the plugin's file, and asks it for its version: of a node that has nothing, so that it answers at once.
fn plugin(path: &Path) -> Plugin {
    let mut plugin = Plugin { path: path.to_owned(), problem: None, version: None, same_object: None };
    if let Err(why) = runnable(path) {
        plugin.problem = Some(why);
        return plugin;
    }
    let nowhere = r#"{"stateDir": "/proc/self/nothing", "bpfDir": "/proc/self/nothing"}"#;
    let tool = Tool { program: path.to_owned(), name: paths::TYPE.to_owned() };
    let run = Run { tool: &tool, arguments: &["report"], input: nowhere, writes: false };
    match Room::plain(Instant::now() + PATIENCE).run(&[run]) {
        Ok(said) => {
            let report = said.first().and_then(|text| serde_json::from_str::<Report>(text).ok());
            plugin.version = report.map(|report| report.plugin).filter(|version| !version.is_empty());
        }
        Err(fault) => plugin.problem = Some(chain(&fault)),
    }
    let has = |bytes: Vec<u8>| {
        let hash = object::HASH.as_bytes();
        bytes.windows(hash.len()).any(|found| found == hash)
    };
    plugin.same_object = fs::read(path).ok().map(has);
    plugin
}

fn status_now(places: Places<'_>, lists: &Lists) -> StatusNow {
    let asked = || -> Result<String, String> {
        let list = lists.ours().ok_or("no list has an entry of ours")?;
        let settings = list.settings().unwrap_or_else(|| Err("the list has no entry of ours".to_owned()))?;
        let deadline = Instant::now() + PATIENCE;
        let choice = choice::for_node(&Ask { places, deadline, log: &log::none() }, settings.backend)
            .map_err(|error| error.details())?;
        backend::prepare(places, &Lock::new(places.state_dir, deadline), choice.backend(), deadline)
            .map_err(|error| error.details())?;
        Ok(choice.words())
    };
    match asked() {
        Ok(words) => StatusNow { ok: true, words },
        Err(words) => StatusNow { ok: false, words },
    }
}

fn loaded(directory: &Path, lists: Lists) -> Loaded {
    let taken = lists.taken();
    Loaded {
        directory: directory.to_owned(),
        taken: taken.map(|list| list.file.clone()),
        entries: taken.map(List::entries).unwrap_or_default(),
        last: taken.is_some_and(|list| list.plugins.last().is_some_and(|kind| kind == paths::TYPE)),
        files: lists.files,
    }
}

/// Names that the installer's list can have.
pub(super) const OWN_LISTS: [&str; 2] = ["00-shunt.conflist", "00-0-shunt.conflist"];

fn owned(directory: &Path) -> Option<String> {
    OWN_LISTS.into_iter().find(|name| directory.join(name).is_file()).map(str::to_owned)
}

/// The second word of the claim that the last installer has left.
fn turn(state_dir: &Path) -> Option<String> {
    let claim = read_whole(&state_dir.join("installer/claim"), 256).ok().flatten()?;
    claim.split_whitespace().nth(1).map(str::to_owned)
}

/// Asks /readyz.
fn ready(at: SocketAddr) -> Ready {
    let asked = || -> std::io::Result<Ready> {
        const MOST: u64 = 64 * 1024;
        let mut stream = TcpStream::connect_timeout(&at, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        write!(stream, "GET /readyz HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.take(MOST).read_to_end(&mut answer)?;
        let text = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let code = head.split(' ').nth(1).unwrap_or_default();
        Ok(Ready { ok: code == "200", words: body.trim().to_owned() })
    };
    asked().unwrap_or_else(|error| Ready { ok: false, words: format!("ask {at}: {error}") })
}

fn count(calls: &[Calls], command: &str, outcome: &str) -> u64 {
    let is_it = |of: &&Calls| of.command == command && of.outcome == outcome;
    calls.iter().filter(is_it).map(|of| of.count).sum()
}

fn ended(calls: &Calls) -> Ended {
    Ended {
        command: calls.command.clone(),
        outcome: calls.outcome.clone(),
        backend: calls.backend.clone(),
        count: calls.count,
        mean_us: calls.sum_us.checked_div(calls.count).unwrap_or_default(),
    }
}

/// What is to be said before anything else.
fn problems(answer: &Answer) -> Vec<String> {
    let mut problems = Vec::new();
    if answer.cgroup2.is_none() {
        problems.push("no cgroup2 hierarchy is mounted".to_owned());
    }
    if !answer.bpffs {
        problems.push("no BPF file system is mounted where the pins are to be".to_owned());
    }
    if let Some(why) = &answer.plugin.problem {
        problems.push(format!("plugin {}: {why}", answer.plugin.path.display()));
    }
    let lists = &answer.lists;
    if let Some(first) = lists.files.first()
        && let Some(why) = &first.broken
    {
        problems.push(format!("{} sorts first and is broken: {why}", first.file));
    }
    match (&lists.taken, lists.entries, lists.last) {
        (None, ..) => problems.push(format!("{} has no list for pods", lists.directory.display())),
        (Some(file), 0, _) => {
            problems.push(format!("{file} is the list that pods get, and our entry is not in it"));
        }
        (Some(_), 1, true) => {}
        (Some(file), 1, false) => problems.push(format!("our entry is not the last in {file}")),
        (Some(file), count, _) => problems.push(format!("our entry is {count} times in {file}")),
    }
    for object in answer.objects.iter().filter(|object| object.pods > 0) {
        let off = object.links.iter().filter(|link| link.state != LinkState::Attached);
        problems.extend(
            off.map(|link| format!("program {} of object {} runs nowhere", link.program, object.hash)),
        );
    }
    if let Some(StatusNow { ok: false, words }) = &answer.status.now {
        problems.push(format!("STATUS: {words}"));
    }
    problems
}

/// As JSON, for a bundle.
pub(super) fn value(args: &Args) -> Value {
    match answer(args) {
        Ok(answer) => serde_json::to_value(answer).unwrap_or_default(),
        Err(why) => Value::String(why),
    }
}
