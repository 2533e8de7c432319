//! Any sequence of edits by neighbours, of deaths and restarts: in the end our entry is once in what a runtime would load, everything
//! else is as its owner wrote it, and after `uninstall` nothing else is there.

use std::collections::BTreeMap;
use std::fs;

use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop, prop_oneof, proptest};
use proptest::strategy::Union;

use crate::host::{Host, Thing, moment, replace};
use crate::live::Live;
use crate::neighbours::ALL;
use crate::runtime::{Loaded, OURS};

/// The owner's files, all of one mode and owner.
const FILES: [&str; 5] = ["00-c.conflist", "05-b.conf", "10-a.conflist", "10-a.json", "20-d.conflist"];

#[derive(Debug, Clone)]
enum Event {
    /// A file gets a network; in place, or by a rename.
    Write(usize, usize, bool),
    /// A file is half-written for a while.
    Break(usize),
    /// A file goes.
    Remove(usize),
    /// A file gets the name of another.
    Rename(usize, usize),
    /// Somebody removes everything of ours from the directory.
    Undo,
    /// Somebody removes the plugin.
    RemovePlugin,
    /// SIGKILL.
    Kill,
    /// SIGTERM.
    Stop,
    /// A new one, which may be a second.
    Start,
    /// Time passes.
    Wait(u16),
}

fn event() -> Union<impl Strategy<Value = Event>> {
    let file = || 0..FILES.len();
    prop_oneof![
        (file(), 0..ALL.len(), any::<bool>())
            .prop_map(|(file, network, whole)| Event::Write(file, network, whole))
            .boxed(),
        (file(), 0..ALL.len(), any::<bool>())
            .prop_map(|(file, network, whole)| Event::Write(file, network, whole))
            .boxed(),
        file().prop_map(Event::Break).boxed(),
        file().prop_map(Event::Remove).boxed(),
        (file(), file()).prop_map(|(from, to)| Event::Rename(from, to)).boxed(),
        Just(Event::Undo).boxed(),
        Just(Event::RemovePlugin).boxed(),
        Just(Event::Kill).boxed(),
        Just(Event::Stop).boxed(),
        Just(Event::Start).boxed(),
        (1_u16..150).prop_map(Event::Wait).boxed(),
        (1_u16..30).prop_map(Event::Wait).boxed(),
    ]
}

/// A host, and what its owner wrote.
struct Scene {
    // First: they end before the host goes.
    live: Vec<Live>,
    written: BTreeMap<&'static str, String>,
    host: Host,
}

impl Scene {
    /// A network in the form this file has to have.
    fn network(file: &str, number: usize) -> String {
        let single = !file.ends_with(".conflist");
        let mut turned = ALL.iter().cycle().skip(number);
        let found = turned.find(|neighbour| neighbour.is_single() == single).expect("there are some of both");
        found.primary.text.to_owned()
    }

    fn write(&mut self, file: &'static str, text: &str, whole: bool) {
        let path = self.host.conf(file);
        if whole || !path.exists() {
            replace(&path, text.as_bytes(), 0o644);
        } else {
            fs::write(&path, text).expect("own file");
        }
        self.written.insert(file, text.to_owned());
    }

    fn happens(&mut self, event: &Event) {
        match *event {
            Event::Write(file, network, whole) => {
                let file = FILES[file];
                self.write(file, &Self::network(file, network), whole);
            }
            Event::Break(file) => self.write(FILES[file], "{ \"name\": \"half", false),
            // An owner removes what it finds; a file that was put aside it does not find.
            Event::Remove(file) => {
                if fs::remove_file(self.host.conf(FILES[file])).is_ok() {
                    self.written.remove(FILES[file]);
                }
            }
            Event::Rename(from, to) => {
                let (from, to) = (FILES[from], FILES[to]);
                let same_form = from.ends_with(".conflist") == to.ends_with(".conflist");
                if same_form && from != to && fs::rename(self.host.conf(from), self.host.conf(to)).is_ok() {
                    let text = self.written.remove(from).expect("it was the owner's");
                    self.written.insert(to, text);
                }
            }
            Event::Undo => {
                for name in ["00-shunt.conflist", "00-0-shunt.conflist"] {
                    drop(fs::remove_file(self.host.conf(name)));
                }
            }
            Event::RemovePlugin => drop(fs::remove_file(self.host.binary())),
            Event::Kill => self.live.pop().into_iter().for_each(Live::kill),
            Event::Stop => self.live.pop().into_iter().for_each(Live::end),
            Event::Start => self.live.push(Live::start(&self.host)),
            Event::Wait(milliseconds) => moment(milliseconds),
        }
    }

    fn is_right(&self) -> Result<(), String> {
        let Loaded::List(list) = self.host.loaded() else { return Err(format!("{:?}", self.host.loaded())) };
        let (file, text) = self.written.first_key_value().expect("there is a primary");
        let is_last = list.kinds().last().is_some_and(|kind| kind == OURS);
        if list.ours() != 1 || !is_last {
            return Err(format!("our entry once and last: {list:?}"));
        }
        let follows = if file.ends_with(".conflist") {
            list.less_ours() == *text
        } else {
            list.plugins.len() == 2 && list.plugins.first().is_some_and(|plugin| plugin == text.trim())
        };
        if follows { self.host.runs() } else { Err(format!("{file} is to be followed: {list:?}")) }
    }

    fn ends(mut self, events: &[Event]) {
        for event in events {
            self.happens(event);
        }
        // Everybody comes to rest: no file is half-written, and there is a network.
        for file in FILES {
            if self.written.get(file).is_some_and(|text| text.contains("half")) {
                self.write(file, &Self::network(file, 3), true);
            }
        }
        if self.written.is_empty() {
            self.write("10-a.conflist", &Self::network("10-a.conflist", 0), true);
        }
        self.live.push(Live::start(&self.host));
        let last = self.live.last().expect("just started");
        last.wait(&format!("{events:?}: {:?}", self.is_right()), || {
            self.is_right().is_ok() && last.readyz().0 == 200
        });
        self.host.run(&["uninstall"]).ok();
        let left = self.host.everything();
        let conf: BTreeMap<String, &Thing> = left
            .iter()
            .filter(|(path, thing)| path.starts_with("etc/cni/net.d/") && thing.mode & 0o170_000 != 0o040_000)
            .map(|(path, thing)| (path.file_name().expect("a name").to_string_lossy().into_owned(), thing))
            .collect();
        let names: Vec<_> = conf.keys().map(String::as_str).collect();
        assert_eq!(names, self.written.keys().copied().collect::<Vec<_>>(), "{events:?}");
        for (name, text) in &self.written {
            let thing = conf[*name];
            assert_eq!(String::from_utf8_lossy(&thing.content), *text, "{name}: {events:?}");
            assert_eq!((thing.mode & 0o7777, thing.uid, thing.gid), (0o644, 0, 0), "{name}: {events:?}");
        }
        assert!(!self.host.binary().exists() && !self.host.path("run/shunt").exists(), "{events:?}");
    }
}

fn cases() -> u32 {
    if std::env::var_os("SHUNT_TESTS_ALL").is_some() { 100 } else { 8 }
}

fn scene(mode: &str) -> Scene {
    let mut host = Host::with_script();
    host.options = vec!["--mode".to_owned(), mode.to_owned()];
    let mut scene = Scene { live: Vec::new(), written: BTreeMap::new(), host };
    scene.write("10-a.conflist", &Scene::network("10-a.conflist", 0), true);
    scene.live.push(Live::start(&scene.host));
    for live in &scene.live {
        live.ready();
    }
    scene
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 0, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_it_ends_well_owned(events in prop::collection::vec(event(), 5..25)) {
        scene("owned").ends(&events);
    }

    #[test]
    fn whatever_happens_it_ends_well_chained(events in prop::collection::vec(event(), 5..25)) {
        scene("chained").ends(&events);
    }
}
