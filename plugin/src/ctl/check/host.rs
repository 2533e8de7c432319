//! The node: mounts, programs, lists, the plugin's file, and pods that no ADD has seen.

use std::path::Path;

use shunt_abi::names::SHARED_PROGRAMS;
use shunt_api::{Backend, Entry, Select, paths};

use super::super::attached::Attached;
use super::super::lists::{Host, List, Lists, runnable};
use super::super::sockets::listening;
use super::super::status::kernel;
use super::{Finding, called, options};
use crate::backend::Places;
use crate::bpf::pins::{Layout, children};
use crate::bpf::programs::{attached_to, is_bpffs};
use crate::cgroup::Cgroups;
use crate::cni::{Annotations, PodRef};
use crate::error::{Error, chain};
use crate::netns::Netns;
use crate::note::{Note, Notes, What};
use crate::plan::Plan;
use crate::policy::{Decision, decide};
use crate::probe;
use crate::settings::Settings;

/// The oldest kernel the design aims at.
const OLDEST: (u32, u32) = (5, 15);

/// Types of the plugins of other meshes: each intercepts, or means to.
const MESHES: [&str; 7] =
    ["istio-cni", "linkerd-cni", "kuma-cni", "consul-cni", "kmesh-cni", "xcni", "aws-appmesh"];

/// Looks.
pub(super) fn findings(
    places: Places<'_>,
    host: &Host,
    netns_dir: &Path,
    attached: &[Attached],
) -> Vec<Finding> {
    let mut findings = mounts(places);
    findings.extend(programs(places));
    let lists = match Lists::read(&host.conf_dir) {
        Ok(lists) => lists,
        Err(why) => {
            findings.push(Finding::error("no-list", why, "see why the runtime's directory cannot be read"));
            Lists::default()
        }
    };
    findings.extend(loaded(&lists, host));
    findings.extend(backend(places, &lists));
    findings.extend(options::findings(wanted(&lists), &kernel()));
    if places.state_dir.join(paths::RETIRED).exists() {
        findings.push(Finding::warning(
            "leaving",
            "the plugin was told to leave this node: the DEL of the last captured pod removes it",
            "nothing, if that is meant; whoever installs anew removes the mark",
        ));
    }
    let notes = Notes::new(places.state_dir).all().unwrap_or_default();
    findings.extend(notes.iter().filter_map(note));
    findings.extend(bare(&lists, netns_dir, attached, &notes));
    for one in attached.iter().filter(|one| !one.alive) {
        let finding = Finding::warning(
            "ended",
            "its network namespace is gone, and neither DEL nor GC has come for it",
            "run `shunt sweep`; the installer does that from time to time",
        );
        findings.push(finding.of(&called(one)));
    }
    findings
}

fn mounts(places: Places<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !matches!(Cgroups::mounted(), Ok(Some(_))) {
        findings.push(Finding::error(
            "cgroup2-missing",
            "no cgroup2 hierarchy is mounted",
            "mount one, or let STATUS do it: the plugin mounts its own under its state directory",
        ));
    }
    let bpf_dir = places.bpf_dir;
    if !is_bpffs(bpf_dir) && !bpf_dir.parent().is_some_and(is_bpffs) {
        findings.push(Finding::error(
            "bpffs-missing",
            format!("{} is not on a BPF file system: programs and links are not kept", bpf_dir.display()),
            "mount -t bpf bpf /sys/fs/bpf, then `shuntctl repair --all`",
        ));
    }
    findings.extend(old(&kernel()));
    findings
}

/// A kernel from before the programs' time.
fn old(release: &str) -> Option<Finding> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|text| text.parse::<u32>().ok());
    let version = numbers.next().zip(numbers.next())?;
    (version < OLDEST).then(|| {
        Finding::warning(
            "kernel-old",
            format!("the kernel is {release}; the programs are made for {}.{} and newer", OLDEST.0, OLDEST.1),
            "take a newer kernel, or backend \"iptables\"",
        )
    })
}

/// Programs that pods need and that run nowhere.
fn programs(places: Places<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for layout in Layout::all(places.bpf_dir).unwrap_or_default() {
        let pods = layout.attachments().unwrap_or_default().len();
        let off = |name: &&str| matches!(attached_to(&layout.link(name)), Ok(None | Some(0)));
        let off: Vec<&str> = SHARED_PROGRAMS.into_iter().filter(off).collect();
        if pods > 0 && !off.is_empty() {
            findings.push(Finding::error(
                "programs-off",
                format!(
                    "programs {} of object {} run nowhere and {pods} attachments need them",
                    off.join(", "),
                    layout.hash()
                ),
                "shuntctl repair --all",
            ));
        }
    }
    findings
}

fn loaded(lists: &Lists, host: &Host) -> Vec<Finding> {
    let directory = host.conf_dir.display();
    let mut findings = Vec::new();
    if let Some(List { file, broken: Some(why), .. }) = lists.files.first() {
        findings.push(Finding::error(
            "list-broken",
            format!("{file} sorts first in {directory} and is broken: {why}"),
            "mend or remove it: containerd does not get past it, and no pod starts",
        ));
    }
    let ours = lists.files.iter().find(|list| list.entries() > 0);
    let Some(taken) = lists.taken() else {
        findings.push(Finding::warning(
            "no-list",
            format!("{directory} has no network configuration for pods"),
            "install the primary CNI; if it keeps them elsewhere, name the directory with --conf-dir",
        ));
        return findings;
    };
    match (taken.entries(), ours) {
        (0, Some(List { file, .. })) => findings.push(Finding::error(
            "list-before",
            format!("pods get {}, which sorts before {file} and has no entry of ours", taken.file),
            "remove it or give it a later name; the installer's mode `owned` keeps a list that sorts first",
        )),
        (0, None) => findings.push(Finding::error(
            "entry-missing",
            format!(
                "pods get {}, and no list in {directory} has an entry of ours: new pods run bare",
                taken.file
            ),
            "run the installer (`shunt-installer status` says why it does not), or add our entry, last",
        )),
        (1, _) => {}
        (count, _) => findings.push(Finding::error(
            "entry-twice",
            format!("our entry is {count} times in {}", taken.file),
            "remove all but the last",
        )),
    }
    let Some(list) = lists.ours() else { return findings };
    if list.plugins.last().is_some_and(|last| last != paths::TYPE) {
        findings.push(Finding::warning(
            "entry-not-last",
            format!("our entry is not the last in {}: {}", list.file, list.plugins.join(", ")),
            "put it last: what comes after may change what ADD has seen of the pod",
        ));
    }
    for other in list.plugins.iter().filter(|kind| MESHES.contains(&kind.as_str())) {
        findings.push(Finding::error(
            "second-mesh",
            format!("{} has the plugin {other} of another mesh too: both intercept", list.file),
            "remove one of the two",
        ));
    }
    match list.settings() {
        Some(Ok(settings)) => findings.extend(incomplete(list, &settings)),
        Some(Err(why)) => findings.push(Finding::error(
            "entry-refused",
            format!("the plugin refuses our entry in {}: {why}", list.file),
            "correct it; until then ADD fails for every pod",
        )),
        None => {}
    }
    let hands_over = |capability: &str| {
        let entry = list.entry.as_ref().and_then(|entry| entry.get("capabilities"));
        entry.and_then(|entry| entry.get(capability)).and_then(serde_json::Value::as_bool) == Some(true)
    };
    if !hands_over(paths::CAPABILITY_ANNOTATIONS) {
        findings.push(Finding::error(
            "no-annotations",
            format!("our entry in {} does not ask for annotations: every pod looks unmarked", list.file),
            format!("add \"capabilities\": {{\"{}\": true}}", paths::CAPABILITY_ANNOTATIONS),
        ));
    }
    let plugin = host.bin_dir.join(paths::TYPE);
    if let Err(why) = runnable(&plugin) {
        findings.push(Finding::error(
            "plugin-missing",
            format!("{} names our plugin, and {}: {why}", list.file, plugin.display()),
            "put the plugin back (the installer does), or take the entry out: until then no pod starts",
        ));
    }
    findings
}

/// The backend that pods get, as the entry says.
fn wanted(lists: &Lists) -> Backend {
    lists.ours().and_then(|list| list.settings()?.ok()).map_or(Backend::Auto, |it| it.backend)
}

/// Nodes that are to use eBPF where they can, and cannot.
fn backend(places: Places<'_>, lists: &Lists) -> Option<Finding> {
    let wanted = wanted(lists);
    let why = probe::kept(places)?.obstacle()?;
    match wanted {
        Backend::Iptables => None,
        Backend::Ebpf => Some(Finding::error(
            "no-ebpf",
            format!("eBPF does not work on this node and the entry wants it: {why}"),
            "see `shuntctl backend`; take backend \"auto\", or mend what the step says",
        )),
        Backend::Auto => Some(Finding::warning(
            "no-ebpf",
            format!("eBPF does not work on this node, pods get iptables: {why}"),
            "see `shuntctl backend`; after mending, `shuntctl backend --probe`",
        )),
    }
}

/// Pods that are meshed and not captured, as ADD noted them.
pub(super) fn note(note: &Note) -> Option<Finding> {
    let pod = match (&note.pod.namespace, &note.pod.name) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        _ => note.attachment.container_id().to_owned(),
    };
    let finding = match &note.what {
        What::Failed { details, count, code, .. } => Finding::error(
            "add-failed",
            format!("its last ADD failed, {count} times so far, with code {code}: {details}"),
            "mend what it says; the runtime tries again by itself",
        ),
        What::Open { details, .. } => Finding::error(
            "runs-bare",
            format!("it could not be captured and runs bare, as failurePolicy says: {details}"),
            "mend what it says and restart the pod; failurePolicy \"closed\" would not have let it start",
        ),
        What::Skipped { code, words, .. } if code == "own-rules" => Finding::note(
            "left-alone",
            format!("it is meshed and left alone: {words}"),
            "nothing, if its init container is to write the rules; else install the mesh in its CNI mode",
        ),
        What::Skipped { .. } => return None,
    };
    Some(finding.of(&pod))
}

/// What a pod gets that says nothing but that it is meshed; none where nobody is.
fn marked_alone(settings: &Settings) -> Result<Option<Plan>, Error> {
    let entry = Entry { select: Select::All, exclude_namespaces: Vec::new(), ..(**settings).clone() };
    match decide(&PodRef::default(), &Annotations::new(), &Settings::new(entry)?)? {
        Decision::Intercept(plan) => Ok(Some(*plan)),
        Decision::Skip(_) => Ok(None),
    }
}

/// An entry that leaves something to annotations that must be said.
fn incomplete(list: &List, settings: &Settings) -> Option<Finding> {
    let error = marked_alone(settings).err()?;
    Some(Finding::warning(
        "entry-incomplete",
        format!(
            "with our entry in {} ADD refuses a pod that has the marker alone: {}",
            list.file,
            error.details()
        ),
        "add it to the entry; else the annotations of every meshed pod have to say it",
    ))
}

/// The ports of the mesh's proxy, as the list says.
fn ports(lists: &Lists) -> Option<Plan> {
    let settings = match lists.ours().and_then(List::settings) {
        Some(settings) => settings.ok()?,
        None => Settings::new(Entry::default()).ok()?,
    };
    marked_alone(&settings).ok()?
}

/// Namespaces in which the mesh's proxy listens and nothing is captured: pods from before the plugin was installed, or that the
/// runtime made while it was not.
fn bare(lists: &Lists, netns_dir: &Path, attached: &[Attached], notes: &[Note]) -> Vec<Finding> {
    let Some(plan) = ports(lists) else { return Vec::new() };
    let own = Netns::own().ok().map(|own| own.identity());
    let mut findings = Vec::new();
    for name in children(netns_dir).unwrap_or_default() {
        let path = netns_dir.join(&name);
        let Ok(netns) = Netns::open(&path) else { continue };
        let identity = netns.identity();
        let is_known =
            |one: &Attached| one.record.as_ref().is_some_and(|record| record.netns_identity == identity);
        if Some(identity) == own || attached.iter().any(is_known) {
            continue;
        }
        let sockets = match listening(&netns) {
            Ok(sockets) => sockets,
            Err(fault) => {
                findings.push(Finding::note("netns-unknown", chain(&fault), "nothing, if the pod is ending"));
                continue;
            }
        };
        let is_open = |port: u16| sockets.iter().any(|socket| !socket.udp && socket.port == port);
        if !is_open(plan.outbound_port) || !is_open(plan.inbound_port) {
            continue;
        }
        let ports = format!("{} and {}", plan.outbound_port, plan.inbound_port);
        let is_at = |note: &&Note| super::super::explain::find::is_at(&note.netns, identity);
        let finding = match notes.iter().find(is_at).map(|note| &note.what) {
            Some(What::Skipped { words, key, .. }) => Finding::warning(
                "proxy-unused",
                format!(
                    "a proxy listens on {ports} in {}, and the pod was left alone: {words}",
                    path.display()
                ),
                format!("see {key}; if the pod has the marker, the runtime does not hand annotations over"),
            ),
            // Told already.
            Some(_) => continue,
            None => Finding::error(
                "not-captured",
                format!(
                    "a proxy listens on {ports} in {}, and no ADD of this plugin has seen the pod: its traffic goes past the proxy",
                    path.display()
                ),
                "restart the pod: it was made before the plugin was in the list",
            ),
        };
        findings.push(finding);
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No mesh needs annotations that it does not give to every pod of its own; where nobody is the mesh, somebody has to say it.
    #[test]
    fn an_entry_is_complete_or_not() {
        let refused = |entry: serde_json::Value| {
            let entry: Entry = serde_json::from_value(entry).expect("an entry");
            marked_alone(&Settings::new(entry).expect("settings")).err().map(|error| error.details())
        };
        for mesh in ["istio", "linkerd", "kuma", "consul", "osm", "appmesh"] {
            assert_eq!(refused(serde_json::json!({"mesh": mesh})), None, "{mesh}");
        }
        let custom = refused(serde_json::json!({"mesh": "custom"})).expect("refused");
        assert!(custom.contains("redirect.outboundPort"), "{custom}");
    }

    #[test]
    fn a_kernel_is_old_or_not_or_does_not_tell() {
        let is_old = |release: &str| old(release).is_some();
        for release in ["5.10.0-46-cloud-amd64", "4.19.0", "5.14.99", "3.10.0-1160.el7.x86_64"] {
            assert!(is_old(release), "{release}");
        }
        for release in ["5.15.0", "6.1.0-56-cloud-amd64", "10.0.1", "", "new", "6"] {
            assert!(!is_old(release), "{release}");
        }
    }
}
