use std::os::unix::fs::symlink;

use shunt_api::Backend;
use shunt_api::report::Report;

use super::*;
use crate::tally::End;

const DELETED: Count =
    Count { command: Command::Del, end: End::Removed, backend: Some(Backend::Ebpf), took_us: 900 };
const ADDED: Count =
    Count { command: Command::Add, end: End::Intercepted, backend: Some(Backend::Ebpf), took_us: 900 };

/// How many calls were counted.
fn counted(state_dir: &Path) -> u64 {
    let mut report = Report::default();
    read(state_dir).tell(&mut report);
    report.calls.iter().map(|calls| calls.count).sum()
}

#[test]
fn an_add_makes_the_directory_and_nothing_else_does() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("deep/state");
    count(&state, &DELETED);
    keep(&state, &[(Decision::Outbound, 1)]);
    assert!(!state.exists());
    assert_eq!(counted(&state), 0);
    count(&state, &ADDED);
    count(&state, &DELETED);
    assert_eq!(counted(&state), 2);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&state), mode(&path(&state))), (0o700, 0o600));
    assert_eq!(fs::read_dir(&state).unwrap().count(), 1);
}

#[test]
fn what_stands_in_its_place_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path();
    let (path, other) = (path(state), state.join("other"));
    fs::write(&other, "theirs").unwrap();
    let things: [(&str, &dyn Fn()); 9] = [
        ("nothing", &|| {}),
        ("an empty file", &|| fs::write(&path, "").unwrap()),
        ("garbage", &|| fs::write(&path, [0xff; 100]).unwrap()),
        ("another version", &|| {
            let mut bytes = vec![0_u8; LENGTH];
            bytes[..16].copy_from_slice(&HEADER);
            bytes[15] += 1;
            fs::write(&path, bytes).unwrap();
        }),
        ("one cut short", &|| fs::write(&path, HEADER).unwrap()),
        ("one too long", &|| fs::write(&path, [0; LENGTH + 100]).unwrap()),
        ("a fifo", &|| nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap()),
        ("a link", &|| symlink(&other, &path).unwrap()),
        ("an empty directory", &|| fs::create_dir(&path).unwrap()),
    ];
    for (what, put) in things {
        put();
        assert_eq!(counted(state), 0, "{what}");
        count(state, &DELETED);
        assert_eq!(counted(state), 1, "{what}");
        let found = fs::symlink_metadata(&path).unwrap();
        assert!(found.is_file() && found.permissions().mode() & 0o777 == 0o600, "{what}");
        fs::remove_file(&path).unwrap();
    }
    assert_eq!(fs::read_to_string(other).unwrap(), "theirs");
    fs::create_dir_all(path.join("full")).unwrap();
    count(state, &DELETED);
    assert!(path.join("full").is_dir());
}

#[test]
fn a_lock_that_is_held_costs_a_count_and_no_time() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path();
    count(state, &DELETED);
    let holder = File::open(path(state)).unwrap();
    holder.lock().unwrap();
    let started = std::time::Instant::now();
    count(state, &DELETED);
    assert!(started.elapsed() < Duration::from_millis(500), "{:?}", started.elapsed());
    assert_eq!(counted(state), 1);
    drop(holder);
    count(state, &DELETED);
    assert_eq!(counted(state), 2);
}

#[test]
fn decisions_add_up() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path();
    keep(state, &[]);
    assert!(!path(state).exists());
    for _ in 0..2 {
        keep(state, &[(Decision::Inbound, 3), (Decision::Dns, 1)]);
    }
    let mut report = Report::default();
    read(state).tell(&mut report);
    assert_eq!(report.decisions, [("dns".to_owned(), 2), ("inbound".to_owned(), 6)].into());
}
