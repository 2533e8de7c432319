//! The same for rules: SIGKILL of the plugin and of the tools it runs, and errors, at their system calls.
//!
//! The tools are not ours and make most of the calls; a sample of them is taken, all with `SHUNT_TESTS_ALL=1`.

use nix::errno::Errno;
use serde_json::json;

use crate::bed::{Answer, Bed, Call, Place, Pod, all, in_parallel};
use crate::races::together;
use crate::trace::{Act, Made, changes, run};

/// Calls that change something, and those by which a tool is started and set up.
fn counted(made: &Made) -> bool {
    const MORE: [i64; 6] = [
        libc::SYS_setsockopt,
        libc::SYS_execve,
        libc::SYS_clone,
        libc::SYS_clone3,
        libc::SYS_prctl,
        libc::SYS_setns,
    ];
    changes(made) || MORE.contains(&made.number)
}

/// Of the tools' calls those that speak to the kernel's rules, of the plugin's all that it could fail at.
fn spoilable(made: &Made) -> bool {
    const TOOL: [i64; 5] =
        [libc::SYS_sendmsg, libc::SYS_sendto, libc::SYS_setsockopt, libc::SYS_execve, libc::SYS_prctl];
    if made.own { counted(made) || made.number == libc::SYS_pipe2 } else { TOOL.contains(&made.number) }
}

/// Numbers below the length of an undisturbed run: every one, or as many as there is time for.
fn sample(call: &Call, counted: fn(&Made) -> bool, most: usize) -> Vec<usize> {
    let traced = run(call, counted, 0, Act::Watch);
    traced.answer.ok();
    let step = if all() { 1 } else { traced.made.len().div_ceil(most) };
    (0..traced.made.len()).step_by(step).collect()
}

fn add(place: &Place, pod: &Pod) -> Call {
    place.call("ADD", pod)
}

/// Another plan, so that a second ADD has something to write.
fn other(place: &Place, pod: &Pod) -> Call {
    add(place, pod).configured(|config| config["redirect"]["excludeOutboundPorts"] = json!([9001]))
}

/// Both families' jumps: nothing of the app's gets out bare.
fn captured(pod: &Pod) -> bool {
    let found = pod.netns.rules_of_ours();
    ["iptables-nft", "ip6tables-nft"].iter().all(|word| {
        ["-A OUTPUT", "-A PREROUTING"]
            .iter()
            .all(|jump| found.iter().any(|rule| rule.starts_with(&format!("{word} {jump} -p tcp"))))
            && found.iter().any(|rule| {
                rule.starts_with(&format!("{word} -A SHUNT_OUT")) && rule.ends_with("--to-ports 15001")
            })
    })
}

fn said(made: &[Made], at: usize, act: Act) -> String {
    match made.get(at) {
        Some(made) => format!(
            "{act:?} at call {at}, number {} {:x?} {}, plugin {}",
            made.number, made.arguments, made.path, made.own
        ),
        None => format!("{act:?}: no call {at}"),
    }
}

/// A killed tool is an error like any other; a killed plugin says nothing.
fn whole_or_nothing(place: &Place, pod: &Pod, answer: &Answer, what: &str) {
    match answer.code {
        Some(0) => {
            place.check(pod);
            assert!(captured(pod), "{what}: ADD said it worked");
        }
        Some(_) => {
            answer.refused();
            let left = place.traces(pod);
            assert!(left.is_empty(), "{what}: ADD failed and left {left:?}: {answer}");
        }
        None => {}
    }
}

#[test]
fn add_and_its_tools_are_killed() {
    let spots = {
        let bed = Bed::new();
        sample(&add(&bed.place_on_iptables(), &bed.pod()), counted, 30)
    };
    in_parallel(spots.len() * 3, |bed, next| {
        let (place, pod) = (bed.place_on_iptables(), bed.pod());
        while let Some(index) = next() {
            let (at, act) = (spots[index / 3], [Act::Kill, Act::Orphan, Act::KillCaller][index % 3]);
            let traced = run(&add(&place, &pod), counted, at, act);
            let what = said(&traced.made, at, act);
            whole_or_nothing(&place, &pod, &traced.answer, &what);
            if index % 2 == 0 {
                add(&place, &pod).run().ok();
                place.check(&pod);
                assert!(captured(&pod), "{what}");
            }
            place.deletes(&pod, &what);
        }
    });
}

/// A plugin that dies before its tool has asked to die with it.
#[test]
fn a_tool_does_nothing_after_its_plugin() {
    let asks = |made: &Made| {
        made.number == libc::SYS_prctl
            && made.arguments[0] == u64::from(libc::PR_SET_PDEATHSIG.unsigned_abs())
    };
    let bed = Bed::new();
    let (place, pod) = (bed.place_on_iptables(), bed.pod());
    for at in 0..2 {
        let traced = run(&add(&place, &pod), asks, at, Act::Orphan);
        assert!(traced.reached);
        let found: Vec<String> =
            pod.netns.rules_of_ours().into_iter().filter(|rule| at == 0 || rule.starts_with("ip6")).collect();
        assert_eq!(found, [""; 0], "{at}: written by a tool whose plugin is dead");
        place.del(&pod);
    }
}

#[test]
fn a_repeated_add_and_its_tools_are_killed() {
    let spots = {
        let bed = Bed::new();
        let (place, pod) = (bed.place_on_iptables(), bed.pod());
        place.add(&pod);
        sample(&other(&place, &pod), counted, 20)
    };
    in_parallel(spots.len() * 2, |bed, next| {
        let (place, pod) = (bed.place_on_iptables(), bed.pod());
        while let Some(index) = next() {
            let (at, act) = (spots[index / 2], [Act::Kill, Act::KillCaller][index % 2]);
            place.add(&pod);
            let traced = run(&other(&place, &pod), counted, at, act);
            let what = said(&traced.made, at, act);
            assert!(captured(&pod), "{what}: {}", traced.answer);
            if traced.answer.code == Some(1) {
                // As it was.
                place.check(&pod);
            }
            other(&place, &pod).run().ok();
            place.check(&pod);
            place.del(&pod);
        }
    });
}

#[test]
fn del_and_its_tools_are_killed() {
    let spots = {
        let bed = Bed::new();
        let (place, pod) = (bed.place_on_iptables(), bed.pod());
        place.add(&pod);
        sample(&place.call("DEL", &pod), counted, 20)
    };
    in_parallel(spots.len() * 2, |bed, next| {
        let (place, pod) = (bed.place_on_iptables(), bed.pod());
        while let Some(index) = next() {
            let (at, act) = (spots[index / 2], [Act::Kill, Act::KillCaller][index % 2]);
            place.add(&pod);
            let traced = run(&place.call("DEL", &pod), counted, at, act);
            let what = said(&traced.made, at, act);
            assert!(matches!(traced.answer.code, None | Some(0)), "{what}: {}", traced.answer);
            if index % 4 < 2 {
                add(&place, &pod).run().ok();
                place.check(&pod);
                assert!(captured(&pod), "{what}");
            }
            place.deletes(&pod, &what);
        }
    });
}

#[test]
fn add_and_its_tools_meet_errors() {
    const ERRORS: [Errno; 3] = [Errno::ENOSPC, Errno::ENOMEM, Errno::EPERM];
    let spots = {
        let bed = Bed::new();
        sample(&add(&bed.place_on_iptables(), &bed.pod()), spoilable, 45)
    };
    in_parallel(spots.len(), |bed, next| {
        let (place, pod) = (bed.place_on_iptables(), bed.pod());
        while let Some(index) = next() {
            let (at, error) = (spots[index], ERRORS[index % 3]);
            let traced = run(&add(&place, &pod), spoilable, at, Act::Fail(error as i32));
            let what = format!("{error}: {}", said(&traced.made, at, Act::Fail(error as i32)));
            let is_answer = traced
                .made
                .get(at)
                .is_some_and(|made| made.number == libc::SYS_write && made.arguments[0] == 1);
            if !is_answer {
                whole_or_nothing(&place, &pod, &traced.answer, &what);
            }
            place.deletes(&pod, &what);
        }
    });
}

/// A node that starts: all its pods at once.
#[test]
fn many_pods_at_once() {
    let bed = Bed::new();
    let place = bed.place_on_iptables();
    let pods: Vec<Pod> = (0..30).map(|_| bed.pod()).collect();
    let calls = |verb: &str| -> Vec<Call> { pods.iter().map(|pod| place.call(verb, pod)).collect() };
    for verb in ["ADD", "CHECK", "ADD", "CHECK", "DEL"] {
        for (answer, pod) in together(&calls(verb)).iter().zip(&pods) {
            assert_eq!(answer.code, Some(0), "{verb}: {answer}");
            assert_eq!(captured(pod), verb != "DEL");
        }
    }
    for pod in &pods {
        place.nothing_of(pod);
    }
}

/// Two attachments of one container share their rules: while one comes and goes the other's pod stays captured.
#[test]
fn two_attachments_at_once() {
    let bed = Bed::new();
    let (place, pod) = (bed.place_on_iptables(), bed.pod());
    place.add(&pod);
    let second = |verb: &str| place.call(verb, &pod).with("CNI_IFNAME", Some("net1"));
    for round in 0..12 {
        let verbs = if round % 2 == 0 { ["ADD", "DEL"] } else { ["DEL", "ADD"] };
        let calls = [
            second(verbs[0]),
            add(&place, &pod),
            second(verbs[1]),
            place.call("CHECK", &pod),
            second("CHECK"),
        ];
        for answer in together(&calls).iter().take(3) {
            assert_eq!(answer.code, Some(0), "{answer}; {}", place.log());
        }
        assert!(captured(&pod), "round {round}");
        place.check(&pod);
    }
    second("DEL").run().silent();
    place.del(&pod);
}
