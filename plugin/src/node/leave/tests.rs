use super::*;

struct Place {
    _directory: tempfile::TempDir,
    root: PathBuf,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("node");
        fs::create_dir(&root).unwrap();
        Self { _directory: directory, root }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn put(&self, names: &[&str]) {
        for name in names {
            let path = self.at(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
    }

    fn leave(&self) -> (bool, Vec<String>) {
        let (state_dir, bpf_dir) = (self.at("state"), self.at("bpf"));
        let leaving = Leaving { binary: Some(self.at("bin/shunt")), log: self.at("log/shunt.log") };
        let now = Instant::now();
        let mut problems = Vec::new();
        let places = Places { state_dir: &state_dir, bpf_dir: &bpf_dir };
        let left = all(places, &leaving, Patience { load: now, run: now }, &mut problems).unwrap();
        (left, problems)
    }

    fn has(&self, name: &str) -> bool {
        self.at(name).symlink_metadata().is_ok()
    }
}

const ALL: [&str; 11] = [
    "bin/shunt",
    "state/retired",
    "state/tally",
    "state/backend.json",
    "state/locks/load",
    "state/locks/pod-a",
    "state/attachments/a@eth0.new",
    "state/iptables/a@eth0.new",
    "state/cgroup2/x",
    "log/shunt.log",
    "log/shunt.log.1",
];

#[test]
fn everything_of_ours_goes() {
    let place = Place::new();
    place.put(&ALL);
    fs::remove_file(place.at("state/cgroup2/x")).unwrap();
    fs::create_dir_all(place.at("bpf/loading-1-aside/maps")).unwrap();
    fs::create_dir_all(place.at("bpf/0123456789abcdef/pods")).unwrap();
    fs::set_permissions(place.at("log"), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(place.leave(), (true, vec![]));
    let left: Vec<_> = children(&place.root).unwrap();
    assert_eq!(left, ["bin"]);
    assert!(!place.has("bin/shunt"));
    assert_eq!(place.leave(), (true, vec![]), "a second time");
}

#[test]
fn what_is_not_ours_stays_and_is_named() {
    let place = Place::new();
    place.put(&ALL);
    let theirs =
        ["state/theirs", "state/locks/theirs", "state/attachments/theirs", "bpf/theirs", "log/theirs"];
    place.put(&theirs);
    let (left, problems) = place.leave();
    assert!(left, "{problems:?}");
    assert!(theirs.iter().all(|name| place.has(name)), "{problems:?}");
    for name in ["state", "state/locks", "state/attachments", "state/cgroup2", "bpf"] {
        let path = format!("{} stays: it holds", place.at(name).display());
        assert!(problems.iter().any(|problem| problem.starts_with(&path)), "{name}: {problems:?}");
    }
    for name in ["bin/shunt", "state/retired", "state/tally", "state/locks/load", "log/shunt.log"] {
        assert!(!place.has(name), "{name}: {problems:?}");
    }
}

#[test]
fn nothing_goes_while_somebody_is_there() {
    for here in
        ["state/attachments/b@eth0.json", "state/iptables/b@eth0.json", "bpf/0123456789abcdef/pods/b@eth0/1"]
    {
        let place = Place::new();
        place.put(&ALL);
        place.put(&[here]);
        assert_eq!(place.leave(), (false, vec![]), "{here}");
        for name in ["bin/shunt", "state/retired", "state/tally", "log/shunt.log", here] {
            assert!(place.has(name), "{here}: {name}");
        }
    }
    let place = Place::new();
    place.put(&ALL);
    let state = place.at("state");
    let _held = Lock::new(&state, Instant::now()).take("pod-a").unwrap();
    let (left, problems) = place.leave();
    assert!(!left && problems.len() == 1, "{problems:?}");
    assert!(["bin/shunt", "state/retired", "state/locks/pod-a"].iter().all(|name| place.has(name)));
}

#[test]
fn links_are_not_followed() {
    let place = Place::new();
    place.put(&["theirs/attachments.new", "theirs/shunt", "theirs/load", "bin/x", "state/retired"]);
    for name in ["state/attachments", "state/iptables", "state/cgroup2", "state/tally", "bin/shunt"] {
        std::os::unix::fs::symlink(place.at("theirs"), place.at(name)).unwrap();
    }
    let (left, problems) = place.leave();
    assert!(left);
    assert_eq!(children(&place.at("theirs")).unwrap().len(), 3);
    assert!(!place.has("state"));
    assert!(place.has("bin/shunt") && problems.len() == 1, "{problems:?}");
}

#[test]
fn directories_that_cannot_be_ours() {
    for (path, ours) in [
        ("/", false),
        ("/run", false),
        ("/run/shunt", true),
        ("/run/shunt/../..", false),
        ("/var/lib/shunt/state", true),
    ] {
        assert_eq!(could_be_ours(Path::new(path)), ours, "{path}");
    }
    let mut problems = Vec::new();
    remove_directory(Path::new("/run"), &mut problems).unwrap();
    assert_eq!(problems, ["/run is no directory of ours: it stays"]);
}
