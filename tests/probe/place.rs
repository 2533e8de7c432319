//! Enters namespaces and cgroups, and changes identity.

use std::fs;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use shunt_tests::ask::Place;

/// What a runtime starts in a container has its parent outside, which goes as soon as it has: nobody to die with.
pub(crate) fn die_with_parent() {
    if nix::unistd::getppid().as_raw() == 0 {
        return;
    }
    prctl::set_pdeathsig(Signal::SIGKILL).expect("a process may ask for its own end");
}

/// Without the right to raise the hard limit, several processes share what one cannot hold.
pub(crate) fn raise_file_limit() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("limits can be read");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("up to the hard limit is allowed");
}

/// Everything happens before the first socket is made: a socket belongs to the cgroup and the namespace it was made in.
pub(crate) fn enter(place: &Place) {
    if let Some(cgroup) = &place.cgroup {
        fs::write(cgroup.join("cgroup.procs"), "0").expect("root may move itself");
    }
    if let Some(netns) = &place.netns {
        let file = fs::File::open(netns).expect("the namespace is mounted there");
        setns(file, CloneFlags::CLONE_NEWNET).expect("root may enter namespaces");
    }
    if !nix::unistd::geteuid().is_root() {
        // A worker of a server that has gone where it should already.
        return;
    }
    let (uid, gid) = (Uid::from_raw(place.uid), Gid::from_raw(place.gid));
    let effective = place.euid.map_or(uid, Uid::from_raw);
    setgroups(&[]).expect("root may drop its groups");
    setresgid(gid, gid, gid).expect("root may change its ids");
    setresuid(uid, effective, effective).expect("root may change its ids");
    // A change of identity clears both.
    die_with_parent();
    prctl::set_dumpable(true).expect("a process may be dumpable");
    if let Some(pretend) = place.pretend {
        unshare(CloneFlags::CLONE_NEWUSER).expect("users may make user namespaces here");
        fs::write("/proc/self/setgroups", "deny").expect("own namespace");
        fs::write("/proc/self/uid_map", format!("{pretend} {uid} 1")).expect("own namespace");
        fs::write("/proc/self/gid_map", format!("{pretend} {gid} 1")).expect("own namespace");
        assert_eq!(nix::unistd::getuid().as_raw(), pretend, "the namespace maps the id");
    }
}
