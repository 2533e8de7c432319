//! The answer for people.

use super::super::lines::{Lines, columns};
use super::{Answer, Link, LinkState, Loaded, Object, Plugin};

/// As lines.
pub(super) fn text(answer: &Answer) -> String {
    let mut lines = Lines::default();
    lines.put("kernel", &answer.kernel);
    let nowhere = || "not mounted".to_owned();
    lines.put(
        "cgroup2",
        &answer.cgroup2.as_ref().map_or_else(nowhere, |path| format!("mounted on {}", path.display())),
    );
    lines.put("bpffs", if answer.bpffs { "mounted" } else { "not mounted" });
    let probed = answer.probe.as_ref().map_or_else(
        || "not probed since boot, or not with this version".to_owned(),
        |probed| {
            let why = probed.reason.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
            format!("{}{why}", probed.backend)
        },
    );
    lines.put("probe", &probed);
    lines.put("plugin", &plugin(&answer.plugin));
    let status = &answer.status;
    lines.put("status", &format!("{} ok, {} failed since boot", status.ok, status.failed));
    if let Some(now) = &status.now {
        lines.put("", &format!("{}: {}", if now.ok { "now ok" } else { "now failed" }, now.words));
    }
    lines.list("objects", answer.objects.iter().flat_map(object));
    let pods = &answer.attachments;
    lines.put(
        "pods",
        &format!(
            "{} with eBPF, {} with iptables; left alone {}, bare {}, failed {}",
            pods.ebpf, pods.iptables, pods.skipped, pods.open, pods.failed
        ),
    );
    lists(&mut lines, &answer.lists);
    let installer = &answer.installer;
    let owned =
        installer.owned_list.as_ref().map_or("no list of its own".to_owned(), |list| format!("keeps {list}"));
    let turn = installer.turn.as_ref().map(|turn| format!("; last turn: {turn}")).unwrap_or_default();
    lines.put("installer", &format!("{owned}{turn}"));
    if let Some(ready) = &installer.ready {
        lines.put("", &format!("{}: {}", if ready.ok { "ready" } else { "not ready" }, ready.words));
    }
    for problem in &answer.problems {
        lines.put("problem", problem);
    }
    let calls: Vec<Vec<String>> = answer
        .tally
        .calls
        .iter()
        .map(|of| {
            let mean = format!("{}.{:03}", of.mean_us / 1000, of.mean_us % 1000);
            vec![of.command.clone(), of.outcome.clone(), of.backend.clone(), of.count.to_string(), mean]
        })
        .collect();
    if !calls.is_empty() {
        lines.0.push('\n');
        lines.0.push_str(&columns(&["CALL", "OUTCOME", "BACKEND", "COUNT", "MEAN MS"], &calls));
    }
    lines.0
}

fn plugin(plugin: &Plugin) -> String {
    let path = plugin.path.display();
    let Plugin { problem, version, same_object, .. } = plugin;
    let version = version.as_ref().map(|version| format!(", version {version}")).unwrap_or_default();
    let object = match same_object {
        Some(true) => ", with the same programs as this shuntctl",
        Some(false) => ", with other programs than this shuntctl",
        None => "",
    };
    match problem {
        Some(why) => format!("{path}: {why}"),
        None => format!("{path}{version}{object}"),
    }
}

fn object(object: &Object) -> Vec<String> {
    let own = if object.own { ", this version's" } else { "" };
    let abi = object.abi.map(|abi| format!(", interface {abi}")).unwrap_or_default();
    let mut lines = vec![format!("{}{own}{abi}: serves {}", object.hash, object.pods)];
    // Where they are, each place once.
    let mut places: Vec<(String, Vec<&str>)> = Vec::new();
    for link in &object.links {
        let place = place(link);
        match places.iter_mut().find(|(known, _)| *known == place) {
            Some((_, programs)) => programs.push(link.program),
            None => places.push((place, vec![link.program])),
        }
    }
    lines.extend(places.iter().map(|(place, programs)| format!("  {place}: {}", programs.join(" "))));
    lines
}

fn place(link: &Link) -> String {
    match (link.state, &link.cgroup) {
        (LinkState::Attached, Some(path)) => format!("on {}", path.display()),
        (LinkState::Attached, None) => "on a cgroup that is not seen here".to_owned(),
        (LinkState::Gone, _) => "cgroup removed".to_owned(),
        (LinkState::Missing, _) => "not attached".to_owned(),
    }
}

fn lists(lines: &mut Lines, lists: &Loaded) {
    lines.put("lists", &lists.directory.display().to_string());
    for list in &lists.files {
        let what = match &list.broken {
            Some(why) => format!("broken: {why}"),
            None => list.plugins.join(" → "),
        };
        let taken = if lists.taken.as_ref() == Some(&list.file) { "* " } else { "  " };
        lines.put("", &format!("{taken}{}: {what}", list.file));
    }
    let said = match (&lists.taken, lists.entries, lists.last) {
        (None, ..) => "pods get no network".to_owned(),
        (Some(_), 0, _) => "pods are not intercepted: our entry is not in the list they get (*)".to_owned(),
        (Some(_), 1, true) => "our entry is in the list pods get (*), once, last".to_owned(),
        (Some(_), count, last) => {
            let place = if last { "last" } else { "not last" };
            format!("our entry is in the list pods get (*), {count} times, {place}")
        }
    };
    lines.put("", &said);
}
