//! A directory that steps are applied to, and a runtime of our own that says what pods would get from it.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::{Just, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
use serde_json::Value;

use super::*;
use crate::choose::{GRACE, SETTLE};
use crate::files::Stamp;

const ENTRY: &str = r#"{"type":"shunt","mesh":"istio"}"#;
const OTHER: &str = r#"{"type":"shunt","mesh":"kuma"}"#;

/// Files by name, and what an installer remembers.
#[derive(Debug, Clone, Default)]
struct Host {
    files: BTreeMap<String, (String, u32)>,
    memory: Memory,
}

impl Host {
    fn with(files: &[(&str, &str)]) -> Self {
        let files = files.iter().map(|(name, text)| ((*name).to_owned(), ((*text).to_owned(), 0o644)));
        Self { files: files.collect(), memory: Memory::default() }
    }

    fn conf(&self) -> Conf {
        let mut conf = Conf::default();
        for (name, (text, mode)) in &self.files {
            let stamp = Stamp::for_tests(Like::root(*mode));
            let file = ConfFile { name: name.clone(), stamp, text: Ok(text.clone()) };
            if name.ends_with(SAVED) {
                conf.saved.push(file);
            } else if Form::of(name).is_some() {
                conf.files.push(file);
            }
        }
        conf
    }

    fn apply(&mut self, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Write { file, text, like, over, cause } => {
                    if let Some(over) = over {
                        assert_eq!(self.text(file), Some(over.as_str()));
                    }
                    self.files.insert(file.clone(), (text.clone(), like.mode));
                    self.memory.wrote.insert(file.clone(), text.clone());
                    if *cause == Cause::Moved && !OWN_LISTS.contains(&file.as_str()) {
                        *self.memory.leftovers.entry(file.clone()).or_default() += 1;
                    }
                }
                Step::Rename { from, to } => {
                    let file = self.files.remove(from).expect("renamed what is there");
                    self.files.insert(to.clone(), file);
                }
                Step::Remove { file } => drop(self.files.remove(file).expect("removed what is there")),
            }
        }
    }

    /// Plans and applies until nothing is left to do; the last plan.
    fn converge(&mut self, wish: Wish<'_>, since: Duration) -> Plan {
        for _ in 0..6 {
            let plan = plan(&self.conf(), wish, &self.memory, since);
            self.memory.followed.clone_from(&plan.followed);
            if plan.good.is_some() {
                self.memory.last_good.clone_from(&plan.good);
            }
            if plan.steps.is_empty() {
                return plan;
            }
            self.apply(&plan.steps);
        }
        panic!("it never ends: {self:#?}");
    }

    /// A new process: it knows nothing.
    fn restart(&mut self) {
        self.memory = Memory::default();
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.files.get(name).map(|(text, _)| text.as_str())
    }

    /// What containerd takes: the first file; nothing if that is broken. Types of its plugins.
    fn loaded(&self) -> Option<Vec<String>> {
        let (name, (text, _)) = self.files.iter().find(|(name, _)| Form::of(name).is_some())?;
        let value: Value = serde_json::from_str(text).ok()?;
        let plugins = match Form::of(name)? {
            Form::List => value.get("plugins")?.as_array()?.clone(),
            Form::Single => vec![value],
        };
        plugins.iter().map(|plugin| Some(plugin.get("type")?.as_str()?.to_owned())).collect()
    }
}

const fn wish(mode: Mode) -> Wish<'static> {
    Wish { mode, entry: Some(ENTRY), primary: None }
}

const CALICO: &str = r#"{
  "name": "k8s-pod-network",
  "cniVersion": "0.3.1",
  "plugins": [
    {"type": "calico", "mtu": 0, "kubernetes": {"kubeconfig": "/etc/cni/net.d/calico-kubeconfig"}},
    {"type": "portmap", "snat": true, "capabilities": {"portMappings": true}}
  ]
}"#;
const FLANNEL: &str = r#"{"name":"cbr0","cniVersion":"0.3.1","plugins":[{"type":"flannel","delegate":{"hairpinMode":true,"isDefaultGateway":true}},{"type":"portmap","capabilities":{"portMappings":true}}]}"#;
const CILIUM: &str = "\n{\n  \"cniVersion\": \"0.3.1\",\n  \"name\": \"cilium\",\n  \"plugins\": [\n    {\n       \"type\": \"cilium-cni\",\n       \"enable-debug\": false\n    }\n  ]\n}";
const AWS: &str = r#"{"cniVersion":"0.4.0","name":"aws-cni","disableCheck":true,"plugins":[{"name":"aws-cni","type":"aws-cni","vethPrefix":"eni"},{"name":"egress-cni","type":"egress-cni"},{"type":"portmap"}]}"#;
const MULTUS: &str = r#"{"capabilities":{"portMappings":true},"cniVersion":"0.3.1","logLevel":"verbose","name":"multus-cni-network","clusterNetwork":"/host/etc/cni/net.d/10-calico.conflist","type":"multus-shim"}"#;
const KINDNET: &str = "\n{\n\t\"cniVersion\": \"0.3.1\",\n\t\"name\": \"kindnet\",\n\t\"plugins\": [\n\t{\n\t\t\"type\": \"ptp\",\n\t\t\"ipMasq\": false\n\t},\n\t{\n\t\t\"type\": \"portmap\"\n\t}\n\t]\n}\n";
const WEAVE: &str = r#"{"cniVersion":"0.3.0","name":"weave","plugins":[{"name":"weave","type":"weave-net","hairpinMode":true},{"type":"portmap","snat":true}]}"#;
const BRIDGE: &str =
    "{ \"cniVersion\": \"0.4.0\", \"name\": \"plain\", \"type\": \"bridge\", \"vlan\": 9007199254740993 }\n";

/// A neighbour: its files, and what pods get when we are there.
type Neighbour = (&'static str, &'static [(&'static str, &'static str)], &'static [&'static str]);

const NEIGHBOURS: &[Neighbour] = &[
    ("calico", &[("10-calico.conflist", CALICO)], &["calico", "portmap", "shunt"]),
    ("flannel", &[("10-flannel.conflist", FLANNEL)], &["flannel", "portmap", "shunt"]),
    ("cilium", &[("05-cilium.conflist", CILIUM)], &["cilium-cni", "shunt"]),
    ("aws", &[("10-aws.conflist", AWS)], &["aws-cni", "egress-cni", "portmap", "shunt"]),
    ("multus", &[("00-multus.conf", MULTUS), ("10-calico.conflist", CALICO)], &["multus-shim", "shunt"]),
    ("kindnet", &[("10-kindnet.conflist", KINDNET)], &["ptp", "portmap", "shunt"]),
    ("weave", &[("10-weave.conflist", WEAVE)], &["weave-net", "portmap", "shunt"]),
    ("plain .conf", &[("87-plain.conf", BRIDGE)], &["bridge", "shunt"]),
    ("plain .json", &[("87-plain.json", BRIDGE)], &["bridge", "shunt"]),
    (
        "beside podman",
        &[("10-calico.conflist", CALICO), ("87-podman.conflist", FLANNEL)],
        &["calico", "portmap", "shunt"],
    ),
];

#[test]
fn beside_each_neighbour() {
    for (name, files, types) in NEIGHBOURS {
        for mode in [Mode::Owned, Mode::Chained] {
            let before = Host::with(files);
            let mut host = before.clone();
            let plan = host.converge(wish(mode), Duration::ZERO);
            assert_eq!(plan.findings, [], "{name} {mode:?}");
            assert_eq!(host.loaded().expect("loaded"), *types, "{name} {mode:?}: {host:#?}");
            let list = host.text(&plan.list.expect("a list")).expect("there").to_owned();
            assert_eq!(list.matches(ENTRY).count(), 1, "{name} {mode:?}");
            if mode == Mode::Owned {
                assert_eq!(host.files[&OWN_LISTS[usize::from(*name == "multus")].to_owned()].1, 0o600);
                for (file, text) in *files {
                    assert_eq!(
                        host.text(file),
                        Some(*text),
                        "{name}: the primary's file is not ours to touch"
                    );
                }
            }
            host.restart();
            let again = host.clone();
            assert_eq!(host.converge(wish(mode), Duration::ZERO).steps, []);
            assert_eq!(host.files, again.files, "{name} {mode:?}: a new process has nothing to do");
            host.apply(&removal(&host.conf()));
            assert_eq!(host.files, before.files, "{name} {mode:?}: as its owner left it");
        }
    }
}

#[test]
fn from_one_mode_to_the_other() {
    for (name, files, types) in NEIGHBOURS {
        let before = Host::with(files);
        let mut host = before.clone();
        for mode in [Mode::Owned, Mode::Chained, Mode::Owned] {
            host.restart();
            host.converge(wish(mode), Duration::ZERO);
            assert_eq!(host.loaded().expect("loaded"), *types, "{name} {mode:?}: {host:#?}");
        }
        let own = OWN_LISTS[usize::from(*name == "multus")];
        assert!(host.files.remove(own).is_some());
        assert_eq!(host.files, before.files, "{name}");
    }
}

#[test]
fn pods_never_get_less_on_the_way() {
    // Whatever has been done when the installer is killed, what the runtime takes is the primary's list or that with ours: and once
    // ours was in it, ours stays in it.
    for (name, files, types) in NEIGHBOURS {
        let mut host = Host::with(files);
        let mut was_in = false;
        for mode in [Mode::Owned, Mode::Chained, Mode::Owned] {
            host.restart();
            loop {
                let steps = plan(&host.conf(), wish(mode), &host.memory, Duration::ZERO).steps;
                let Some(step) = steps.first() else { break };
                host.apply(std::slice::from_ref(step));
                let loaded = host.loaded().expect("loaded");
                let ours = loaded.contains(&"shunt".to_owned());
                assert!(ours || !was_in, "{name} {mode:?} {step:?}: {host:#?}");
                assert!(
                    types.starts_with(&loaded.iter().map(String::as_str).collect::<Vec<_>>()),
                    "{name} {mode:?} {step:?}"
                );
                was_in |= ours;
            }
        }
        assert!(was_in);
    }
}

/// Killed after the first step of each plan: what is left is all the same as when nobody is.
#[test]
fn nothing_is_left_by_plans_that_were_cut_short() {
    fn first(host: &mut Host, plan: impl Fn(&Host) -> Vec<Step>) {
        while let Some(step) = plan(host).first() {
            host.restart();
            host.apply(std::slice::from_ref(step));
        }
    }
    for (name, files, _) in NEIGHBOURS {
        let before = Host::with(files);
        let mut host = before.clone();
        for mode in [Mode::Owned, Mode::Chained, Mode::Owned, Mode::Chained] {
            first(&mut host, |host| plan(&host.conf(), wish(mode), &host.memory, Duration::ZERO).steps);
            let with_us = host.files.values().filter(|(text, _)| text.contains(ENTRY)).count();
            assert_eq!(with_us, 1, "{name} {mode:?}: {host:#?}");
        }
        for mode in [Mode::Owned, Mode::Chained] {
            host.converge(wish(mode), Duration::ZERO);
            first(&mut host, |host| removal(&host.conf()));
            assert_eq!(host.files, before.files, "{name} {mode:?}");
        }
    }
}

#[test]
fn the_primary_changes_and_ours_follows() {
    let mut host = Host::with(&[("10-calico.conflist", CALICO)]);
    let mut ours = |change: &dyn Fn(&mut Host), since| {
        change(&mut host);
        let plan = host.converge(wish(Mode::Owned), since);
        let text = host.text("00-shunt.conflist").expect("ours").to_owned();
        (text, plan.findings)
    };
    let put = |name: &'static str, text: &'static str| {
        move |host: &mut Host| drop(host.files.insert(name.to_owned(), (text.to_owned(), 0o600)))
    };
    let now = Duration::ZERO;
    let (calico, findings) = ours(&|_| (), now);
    assert!(calico.contains("calico") && findings.is_empty());
    // Half-written, empty, gone: the last good one stays.
    for broken in ["", "{\"name\":\"k8s-pod", "[]"] {
        let (text, findings) = ours(&put("10-calico.conflist", broken), GRACE);
        assert_eq!(text, calico);
        assert!(matches!(findings[..], [Finding::Hold(Why::Unreadable(_))]), "{findings:?}");
    }
    let (text, findings) = ours(&|host| drop(host.files.remove("10-calico.conflist")), GRACE);
    assert_eq!((text, findings), (calico.clone(), vec![Finding::Hold(Why::Nothing)]));
    // Even when ours is removed while there is nothing to make it of.
    let (text, _) = ours(&|host| drop(host.files.remove("00-shunt.conflist")), now);
    assert_eq!(text, calico);
    // Another network, for long enough.
    let (text, findings) = ours(&put("20-flannel.conflist", FLANNEL), now);
    assert_eq!(text, calico);
    assert!(matches!(findings[..], [Finding::Hold(Why::Settling(..))]));
    let (text, findings) = ours(&|_| (), SETTLE);
    assert!(text.contains("flannel") && !text.contains("calico") && findings.is_empty());
    let (text, _) = ours(&put("05-cilium.conflist", CILIUM), now);
    assert!(text.contains("cilium-cni"), "what comes first is what the runtime would take");
}

#[test]
fn an_entry_that_is_not_usable_leaves_the_one_in_use() {
    let mut host = Host::with(&[("10-flannel.conflist", FLANNEL)]);
    let none = Wish { entry: None, ..wish(Mode::Owned) };
    let plan = host.converge(none, Duration::ZERO);
    assert_eq!((plan.list, plan.findings), (None, vec![Finding::NoEntry]));
    host.converge(wish(Mode::Owned), Duration::ZERO);
    let ours = host.text("00-shunt.conflist").map(str::to_owned);
    host.restart();
    let plan = host.converge(none, Duration::ZERO);
    assert_eq!((plan.findings, host.text("00-shunt.conflist").map(str::to_owned)), (vec![], ours));
    let plan = super::plan(&host.conf(), Wish { entry: Some(OTHER), ..none }, &host.memory, Duration::ZERO);
    assert!(matches!(&plan.steps[..], [Step::Write { cause: Cause::Entry, .. }]), "{plan:?}");
}

#[test]
fn causes() {
    let mut host = Host::with(&[("10-flannel.conflist", FLANNEL)]);
    let mut cause = |change: &dyn Fn(&mut Host)| {
        change(&mut host);
        let steps = plan(&host.conf(), wish(Mode::Owned), &host.memory, Duration::ZERO).steps;
        host.converge(wish(Mode::Owned), Duration::ZERO);
        steps.first().map(Step::cause)
    };
    assert_eq!(cause(&|_| ()), Some(Cause::Missing));
    assert_eq!(cause(&|_| ()), None);
    assert_eq!(cause(&|host| drop(host.files.remove("00-shunt.conflist"))), Some(Cause::Undone));
    let spoil = |host: &mut Host| {
        drop(host.files.insert("00-shunt.conflist".to_owned(), (FLANNEL.to_owned(), 0o600)));
    };
    assert_eq!(cause(&spoil), Some(Cause::Undone));
    assert_eq!(
        cause(&|host| host.files.get_mut("00-shunt.conflist").expect("ours").1 = 0o644),
        Some(Cause::Undone)
    );
    let change = |host: &mut Host| {
        drop(host.files.insert("10-flannel.conflist".to_owned(), (WEAVE.to_owned(), 0o600)));
    };
    assert_eq!(cause(&change), Some(Cause::Primary));
    assert_eq!(
        cause(&|host| drop(host.files.insert("00-aaa.conf".to_owned(), (BRIDGE.to_owned(), 0o600)))),
        Some(Cause::Moved)
    );
}

/// In its own file, too: who changes it is followed, and who writes the same again without us is not, for long.
#[test]
fn causes_in_the_file_of_the_primary() {
    let mut host = Host::with(&[("10-flannel.conflist", FLANNEL)]);
    let mut cause = |text: &str| {
        host.files.insert("10-flannel.conflist".to_owned(), (text.to_owned(), 0o644));
        let steps = plan(&host.conf(), wish(Mode::Chained), &host.memory, Duration::ZERO).steps;
        host.converge(wish(Mode::Chained), Duration::ZERO);
        steps.first().map(Step::cause)
    };
    assert_eq!(cause(FLANNEL), Some(Cause::Missing));
    assert_eq!(cause(FLANNEL), Some(Cause::Undone));
    assert_eq!(cause(WEAVE), Some(Cause::Primary));
    assert_eq!(cause(FLANNEL), Some(Cause::Primary));
    assert_eq!(cause(FLANNEL), Some(Cause::Undone));
}

#[test]
fn what_is_put_aside_is_what_the_list_is_made_of() {
    let mut host = Host::with(&[("87-plain.conf", BRIDGE)]);
    host.converge(wish(Mode::Chained), Duration::ZERO);
    // Its owner wrote it anew between the list that stands in for it and the putting aside.
    let newer = BRIDGE.replace("\"bridge\"", "\"macvlan\"");
    host.files.insert("87-plain.conf.shunt-saved".to_owned(), (newer.clone(), 0o644));
    host.converge(wish(Mode::Chained), Duration::ZERO);
    assert_eq!(host.loaded().expect("loaded"), ["macvlan", "shunt"]);
    host.apply(&removal(&host.conf()));
    assert_eq!(host.text("87-plain.conf"), Some(newer.as_str()));
}

#[test]
fn what_cannot_be_done_is_said() {
    let mut first = Host::with(&[("!.conflist", FLANNEL)]);
    let plan = first.converge(wish(Mode::Owned), Duration::ZERO);
    assert_eq!(plan.findings, [Finding::SortsFirst("!.conflist".to_owned())]);
    let mut broken = Host::with(&[("00-x.conf", ""), ("10-flannel.conflist", FLANNEL)]);
    let plan = broken.converge(wish(Mode::Chained), GRACE);
    assert!(matches!(&plan.findings[..], [Finding::BrokenFirst(file, _)] if file == "00-x.conf"));
    assert!(broken.text("10-flannel.conflist").expect("there").contains(ENTRY));
    // Its owner insists on an entry of ours: then that is his.
    let with_ours = parse(Form::List, FLANNEL, &[]).expect("valid").with_entry(OTHER);
    let mut insists = Host::with(&[("10-flannel.conflist", &with_ours)]);
    for _ in 0..=LEFTOVER_TRIES {
        insists.files.insert("10-flannel.conflist".to_owned(), (with_ours.clone(), 0o644));
        insists.converge(wish(Mode::Owned), Duration::ZERO);
    }
    assert_eq!(insists.text("10-flannel.conflist"), Some(with_ours.as_str()));
    assert_eq!(insists.loaded().expect("loaded"), ["flannel", "portmap", "shunt"]);
    let plan = insists.converge(wish(Mode::Owned), Duration::ZERO);
    assert!(plan.findings.is_empty() && plan.notes.len() == 1, "{plan:?}");
    insists.apply(&removal(&insists.conf()));
    assert_eq!(insists.files.keys().collect::<Vec<_>>(), ["10-flannel.conflist"]);
    assert_eq!(
        insists.text("10-flannel.conflist"),
        Some(FLANNEL),
        "or no pod could be made once the plugin is gone"
    );
}

#[test]
fn multus_that_takes_our_list_for_its_own_is_not_followed() {
    let mut host = Host::with(&[("00-multus.conf", MULTUS), ("10-calico.conflist", CALICO)]);
    host.converge(wish(Mode::Owned), Duration::ZERO);
    let ours = host.text("00-0-shunt.conflist").map(str::to_owned);
    let nested = MULTUS.replace("10-calico.conflist", "00-0-shunt.conflist");
    host.files.insert("00-multus.conf".to_owned(), (nested, 0o600));
    let plan = host.converge(wish(Mode::Owned), GRACE);
    assert!(matches!(&plan.findings[..], [Finding::Hold(Why::Unreadable(_))]), "{plan:?}");
    assert!(plan.notes.iter().any(|note| note.contains("--multus-master-cni-file-name")), "{plan:?}");
    assert_eq!(host.text("00-0-shunt.conflist").map(str::to_owned), ours);
}

/// What neighbours, people and power cuts do to the directory.
#[derive(Debug, Clone)]
enum Event {
    Put(&'static str, &'static str),
    Break(&'static str, usize),
    Remove(&'static str),
    TouchOurs(usize, bool),
    Mode(Mode),
    Restart,
    Killed(usize),
    Time,
}

fn event() -> impl Strategy<Value = Event> {
    let file =
        prop_oneof![Just("05-a.conflist"), Just("10-b.conflist"), Just("10-b.conf"), Just("00-multus.conf")];
    let text = prop_oneof![Just(CALICO), Just(FLANNEL), Just(CILIUM), Just(KINDNET)];
    prop_oneof![
        4 => (file.clone(), text).prop_map(|(file, text)| {
            if Form::of(file) == Some(Form::Single) { Event::Put(file, BRIDGE) } else { Event::Put(file, text) }
        }),
        1 => (file.clone(), 0_usize..40).prop_map(|(file, at)| Event::Break(file, at)),
        1 => file.prop_map(Event::Remove),
        1 => (0_usize..3, any::<bool>()).prop_map(|(which, remove)| Event::TouchOurs(which, remove)),
        1 => prop_oneof![Just(Mode::Owned), Just(Mode::Chained)].prop_map(Event::Mode),
        1 => Just(Event::Restart),
        2 => (0_usize..4).prop_map(Event::Killed),
        1 => Just(Event::Time),
    ]
}

proptest! {
    /// Any sequence of edits, kills and restarts ends with our entry once in what the runtime takes, and the rest as its owner wrote it.
    #[test]
    fn whatever_happens(events in prop::collection::vec(event(), 1..24)) {
        let mut host = Host::default();
        let mut owners: BTreeMap<String, String> = BTreeMap::new();
        let mut mode = Mode::Owned;
        for event in events {
            match event {
                Event::Put(file, text) => {
                    host.files.insert(file.to_owned(), (text.to_owned(), 0o644));
                    owners.insert(file.to_owned(), text.to_owned());
                }
                Event::Break(file, at) => {
                    if let Some((text, _)) = host.files.get_mut(file) {
                        text.truncate(at);
                        owners.insert(file.to_owned(), text.clone());
                    }
                }
                Event::Remove(file) => {
                    let stand_in = format!("{file}.conflist");
                    host.files.retain(|name, _| name != file && *name != stand_in && *name != format!("{file}{SAVED}"));
                    owners.remove(file);
                }
                Event::TouchOurs(which, remove) => match (host.files.get_mut(OWN_LISTS[which]), remove) {
                    (Some(_), true) => drop(host.files.remove(OWN_LISTS[which])),
                    (Some((text, _)), false) => text.clear(),
                    (None, _) => {}
                },
                Event::Mode(other) => mode = other,
                Event::Restart => host.restart(),
                Event::Killed(steps) => {
                    let plan = plan(&host.conf(), wish(mode), &host.memory, Duration::ZERO);
                    host.apply(plan.steps.get(..steps.min(plan.steps.len())).expect("within"));
                    host.restart();
                }
                Event::Time => {}
            }
            host.converge(wish(mode), Duration::ZERO);
        }
        // The owners have finished what they were writing.
        for (file, text) in &mut owners {
            if serde_json::from_str::<Value>(text).is_err() {
                *text = if Form::of(file) == Some(Form::Single) { BRIDGE } else { FLANNEL }.to_owned();
                host.files.insert(file.clone(), (text.clone(), 0o644));
            }
        }
        let plan = host.converge(wish(mode), GRACE);
        if !owners.is_empty() {
            prop_assert_eq!(&plan.findings, &[]);
            let loaded = host.loaded().expect("the runtime has a list");
            prop_assert_eq!(loaded.iter().filter(|kind| *kind == "shunt").count(), 1, "{:#?}", host);
            prop_assert_eq!(loaded.last().map(String::as_str), Some("shunt"));
            let first: Value = serde_json::from_str(owners.values().next().expect("one")).expect("JSON");
            let theirs = first["plugins"].as_array().map_or(1, Vec::len);
            prop_assert_eq!(loaded.len(), theirs + 1, "what the runtime would have taken, and ours");
        }
        host.apply(&removal(&host.conf()));
        let left: BTreeMap<String, String> = host.files.iter().map(|(name, (text, _))| (name.clone(), text.clone())).collect();
        prop_assert_eq!(left, owners);
        prop_assert!(removal(&host.conf()).is_empty());
    }
}
