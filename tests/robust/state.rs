//! The state directory as nobody wants it: missing, read-only, full, holding garbage.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use shunt_tests::scratch::with_own_mounts;

use crate::bed::Bed;

#[test]
fn a_missing_one_is_made_for_root_alone() {
    let bed = Bed::new();
    let (place, pod) = (bed.place(), bed.pod());
    place.add(&pod);
    for directory in [
        place.state.clone(),
        place.state.join("attachments"),
        place.state.join("locks"),
        place.bpf.clone(),
        place.object(),
    ] {
        let mode = fs::metadata(&directory).expect("made").permissions().mode() & 0o7777;
        assert_eq!(mode, 0o700, "{}", directory.display());
    }
    let mode = fs::metadata(place.record(&pod)).expect("made").permissions().mode() & 0o7777;
    assert_eq!(mode, 0o600);
    place.del(&pod);
}

/// The state directory is removed under a pod that runs.
#[test]
fn one_that_vanishes() {
    let bed = Bed::new();
    let (place, pod) = (bed.place(), bed.pod());
    place.add(&pod);
    fs::remove_dir_all(&place.state).expect("own directory");
    assert_eq!(place.call("CHECK", &pod).run().refused().0, 104);
    place.del(&pod);
    place.add(&pod);
    fs::remove_dir_all(&place.state).expect("own directory");
    place.add(&pod);
    place.check(&pod);
    place.del(&pod);
}

fn read_only(path: &Path) {
    let none = None::<&str>;
    mount(Some(path), path, none, MsFlags::MS_BIND, none).expect("a directory can be bound");
    mount(none, path, none, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, none)
        .expect("as read-only");
}

#[test]
fn a_read_only_one() {
    let bed = Bed::new();
    let (place, bystander, attached, pod) = (bed.place(), bed.pod(), bed.pod(), bed.pod());
    place.add(&bystander);
    place.add(&attached);
    with_own_mounts(|| {
        read_only(&place.state);
        let answer = place.call("ADD", &pod).run();
        let (code, said) = answer.refused();
        assert!([11, 105].contains(&code) && said.contains("Read-only"), "{answer}");
        // What can be removed is: the pins and map entries. The record waits.
        place.call("DEL", &attached).run().silent();
        place.call("CHECK", &bystander).run().silent();
    });
    place.nothing_of(&pod);
    assert_eq!(shunt_tests::kernel::entries(&place.bpf, attached.cookie), [""; 0], "{}", place.log());
    place.del(&attached);
    place.check(&bystander);
}

#[test]
fn a_full_one() {
    let bed = Bed::new();
    let (place, attached, pod) = (bed.place(), bed.pod(), bed.pod());
    with_own_mounts(|| {
        fs::create_dir_all(&place.state).expect("own directory");
        mount(Some("tmpfs"), &place.state, Some("tmpfs"), MsFlags::empty(), Some("size=64k,mode=0700"))
            .expect("root may mount");
        place.add(&attached);
        let filler = place.state.join("filler");
        // As much as goes in; the last write fails.
        let _full = fs::write(&filler, vec![0_u8; 1024 * 1024]);
        let answer = place.call("ADD", &pod).run();
        let (code, said) = answer.refused();
        assert!([11, 105].contains(&code) && said.contains("No space left"), "{answer}");
        place.nothing_of(&pod);
        place.call("CHECK", &attached).run().silent();
        // A repeated ADD cannot record anything new; the pod stays as it is.
        place.call("ADD", &attached).run();
        place.call("CHECK", &attached).run().silent();
        place.del(&attached);
        fs::remove_file(&filler).expect("own file");
        place.add(&pod);
        place.check(&pod);
        place.del(&pod);
    });
}

type Damage = (&'static str, fn(&Path), bool);

/// What may stand where the record should be, and whether ADD can put one there.
const GARBAGE: [Damage; 8] = [
    ("garbage", |path| fs::write(path, [0xff; 100]).expect("own directory"), true),
    ("nothing", |path| fs::write(path, "").expect("own directory"), true),
    ("another's JSON", |path| fs::write(path, "{\"a\":1}").expect("own directory"), true),
    ("a fifo", |path| nix::unistd::mkfifo(path, Mode::S_IRWXU).expect("own directory"), true),
    ("a link to nowhere", |path| std::os::unix::fs::symlink("/no/such", path).expect("own directory"), true),
    (
        "a link to a file",
        |path| std::os::unix::fs::symlink("/etc/passwd", path).expect("own directory"),
        true,
    ),
    ("a directory", |path| fs::create_dir(path).expect("own directory"), false),
    (
        "a directory that is not empty",
        |path| {
            fs::create_dir(path).expect("own directory");
            fs::write(path.join("x"), "").expect("own directory");
        },
        false,
    ),
];

#[test]
fn garbage_for_a_record() {
    let bed = Bed::new();
    let place = bed.place();
    place.ready();
    let passwd = fs::read("/etc/passwd").expect("every machine has one");
    for beside in [false, true] {
        for (what, damage, add_works) in GARBAGE {
            let pod = bed.pod();
            // The record itself, or the file it is written to first.
            let path = if beside { place.record(&pod).with_extension("new") } else { place.record(&pod) };
            fs::create_dir_all(path.parent().expect("it has one")).expect("own directory");
            damage(&path);
            let answer = place.call("ADD", &pod).run();
            if answer.code == Some(0) {
                place.check(&pod);
            } else {
                assert!(!add_works, "{what}, beside {beside}: {answer}");
                let (code, _) = answer.refused();
                assert!([11, 105].contains(&code), "{what}: {answer}");
            }
            let answer = place.call("DEL", &pod).run();
            assert!(answer.code == Some(0) && answer.stdout.is_empty(), "{what}: {answer}");
            assert_eq!(shunt_tests::kernel::entries(&place.bpf, pod.cookie), [""; 0], "{what}");
            let pins = place.object().join("pods").join(pod.pin_name());
            assert!(!pins.exists(), "{what}");
            let left = place.traces(&pod);
            assert!(left.is_empty(), "{what}, beside {beside}: {left:?}");
        }
    }
    assert_eq!(fs::read("/etc/passwd").expect("still there"), passwd);
}

type Garbage = (&'static str, fn(&Path));

#[test]
fn garbage_for_a_lock_or_a_directory() {
    let bed = Bed::new();
    let pod = bed.pod();
    let kinds: [Garbage; 4] = [
        ("a file", |path| fs::write(path, "x").expect("own directory")),
        ("a fifo", |path| nix::unistd::mkfifo(path, Mode::S_IRWXU).expect("own directory")),
        ("a link to nowhere", |path| std::os::unix::fs::symlink("/no/such", path).expect("own directory")),
        ("a directory", |path| fs::create_dir(path).expect("own directory")),
    ];
    for inside in ["", "attachments", "locks", &format!("locks/pod-{}", pod.container), "locks/load"] {
        for (what, damage) in kinds {
            let place = bed.place();
            let path = place.state.join(inside);
            fs::create_dir_all(path.parent().expect("it has one")).expect("own directory");
            let path = if inside.is_empty() { &place.state } else { &path };
            damage(path);
            let answer = place.call("ADD", &pod).run();
            if answer.code == Some(0) {
                place.check(&pod);
            } else {
                answer.refused();
            }
            let answer = place.call("DEL", &pod).run();
            assert!(answer.code == Some(0) && answer.stdout.is_empty(), "{what} for {inside:?}: {answer}");
            let mut left = place.traces(&pod);
            left.retain(|trace| *trace != path.display().to_string());
            assert!(left.is_empty(), "{what} for {inside:?}: {left:?}");
        }
    }
}

/// Somebody's own pins and files in the directory of ours are not ours to remove, and do not stand in the way.
#[test]
fn a_shared_bpf_directory() {
    let bed = Bed::new();
    let (place, pod) = (bed.place(), bed.pod());
    let theirs = place.bpf.join("cilium/globals");
    fs::create_dir_all(&theirs).expect("root may make directories in bpffs");
    place.add(&pod);
    // A pin that is a file, where directories of objects are.
    let map = place.bpf.join("their_map");
    fs::hard_link(place.object_among("cilium").join("maps/ROTATION"), &map).expect("one file system");
    place.check(&pod);
    place.add(&pod);
    place.del(&pod);
    assert!(theirs.is_dir() && map.exists(), "{}", place.log());
}

/// A host that has mounted neither a BPF file system nor a cgroup2 hierarchy gets both from us.
#[test]
fn a_host_without_the_file_systems() {
    let bed = Bed::new();
    let (place, pod) = (bed.place(), bed.pod());
    with_own_mounts(|| {
        let parent = place.bpf.parent().expect("below a BPF file system").to_path_buf();
        for mounted in [shunt_tests::cgroup::mount_point().expect("a cgroup2 mount"), parent] {
            // As often as something is mounted there.
            while umount2(&mounted, MntFlags::MNT_DETACH).is_ok() {}
        }
        place.call("ADD", &pod).run().ok();
        place.call("CHECK", &pod).run().silent();
        let cgroup2 = statfs(&place.state.join("cgroup2")).expect("made").filesystem_type();
        assert_eq!(cgroup2, CGROUP2_SUPER_MAGIC, "{}", place.log());
        assert!(place.object().join("links/connect4").exists(), "{}", place.log());
        place.call("DEL", &pod).run().silent();
        // Whoever takes us off the node takes the mount away, too.
        place.swept(&["purge"]);
        assert!(!place.state.exists() && !place.bpf.exists(), "{:?}", place.files());
    });
}
