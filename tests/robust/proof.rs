//! What a steady-state ADD does not do, shown by its system calls.

use crate::bed::Bed;
use crate::trace::{Act, Made, run};

const BTF_LOAD: u64 = 18;
const MAP_CREATE: u64 = 0;
const SK_LOOKUP: u32 = 30;

fn bpf_commands(made: &[Made], command: u64) -> usize {
    made.iter().filter(|made| made.number == libc::SYS_bpf && made.arguments[0] == command).count()
}

/// On a node where the programs are pinned, ADD opens pins: no process is started, the kernel's types are not read, no map is made,
/// and the only program loaded is the pod's own copy of the `sk_lookup` one.
#[test]
fn a_steady_add_only_opens_pins() {
    let bed = Bed::new();
    let place = bed.place();
    place.ready();
    let pod = bed.pod();
    let traced = run(&place.call("ADD", &pod), |_| true, 0, Act::Watch);
    traced.answer.ok();
    let made = &traced.made;
    let count = |number: i64| made.iter().filter(|made| made.number == number).count();
    assert_eq!(count(libc::SYS_execve) + count(libc::SYS_execveat), 0);
    assert_eq!(count(libc::SYS_fork) + count(libc::SYS_vfork), 0);
    let processes =
        made.iter().filter(|made| made.number == libc::SYS_clone && made.arguments[0] & THREAD == 0);
    assert_eq!(processes.count(), 0);
    let btf: Vec<&Made> = made.iter().filter(|made| made.path.contains("/sys/kernel/btf")).collect();
    assert!(btf.is_empty(), "{btf:?}");
    assert_eq!(bpf_commands(made, BTF_LOAD), 0);
    assert_eq!(bpf_commands(made, MAP_CREATE), 0);
    let loaded: Vec<u32> = made.iter().filter_map(|made| made.loads).collect();
    assert_eq!(loaded, [SK_LOOKUP]);
    place.check(&pod);
}

const THREAD: u64 = libc::CLONE_THREAD as u64;
