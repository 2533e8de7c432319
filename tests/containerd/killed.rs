//! The daemon dies while a pod is being made: the pod is made again, and what the first try did is gone or goes with its namespace.

use std::fs;
use std::time::{Duration, Instant};

use nix::poll::poll;
use serde_json::json;
use shunt_tests::machine::containerd;

use crate::host::{Host, PLUGIN, replace};
use crate::pods::Spec;

const BEFORE: &str = "scribe-before";
const AFTER: &str = "scribe-after";

/// Where ADD stands when the daemon dies.
#[derive(Debug, Clone, Copy)]
enum Point {
    /// In the plugin before ours.
    Before,
    /// Ours has been started and has done nothing; what it does it does when nobody waits for it any more.
    Within,
    /// The same, but it only goes on when the runtime has taken the first try down.
    Late,
    /// In the plugin after ours.
    After,
    /// Behind ADD, while the sandbox's container is made.
    Sandbox,
}

impl Point {
    const ALL: [Self; 5] = [Self::Before, Self::Within, Self::Late, Self::After, Self::Sandbox];

    /// Who waits, and with what.
    const fn place(self) -> &'static str {
        match self {
            Self::Before => "scribe-before.hold.ADD",
            Self::Within | Self::Late => "shunt.hold.ADD",
            Self::After => "scribe-after.hold.ADD",
            Self::Sandbox => "runc.hold.create",
        }
    }

    /// There while it waits.
    const fn waits(self) -> &'static str {
        match self {
            Self::Before => "scribe-before.holds",
            Self::Within | Self::Late => "shunt.holds",
            Self::After => "scribe-after.holds",
            Self::Sandbox => "runc.holds",
        }
    }
}

/// Stands for the plugin and waits before it is the plugin.
const HESITANT: &str = "#!/bin/sh
d=/run/scribe
if [ -e $d/shunt.hold.$CNI_COMMAND ]; then
    touch $d/shunt.holds
    while [ -e $d/shunt.hold.$CNI_COMMAND ]; do sleep 0.02; done
    /opt/rig/shunt
    status=$?
    rm -f $d/shunt.holds
    exit $status
fi
exec /opt/rig/shunt
";

pub(crate) fn run(host: &mut Host) -> String {
    let host = &*host;
    for kind in [BEFORE, AFTER] {
        containerd::install_scribe(&host.machine, kind);
    }
    host.edit(|list| {
        let plugins = list["plugins"].as_array_mut().expect("plugins");
        plugins.insert(plugins.len() - 1, containerd::scribe(BEFORE));
        plugins.push(containerd::scribe(AFTER));
    });
    replace(&host.machine.path(PLUGIN), HESITANT.as_bytes(), 0o755);
    let neighbour = host.pod(&Spec::meshed("neighbour"), true);
    let mut remarks = Vec::new();
    for point in Point::ALL {
        let spec = Spec::meshed(&format!("killed-{point:?}").to_lowercase());
        let hold = host.scribe(point.place());
        fs::write(&hold, "").expect("own file");
        let done = std::thread::scope(|scope| {
            let asked = scope.spawn(|| host.sandbox(&spec).map(|pod| pod.sandbox));
            host.machine.until(&format!("{point:?}: it waits"), || host.scribe(point.waits()).exists());
            host.kill_daemon();
            let done = asked.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            assert!(done.is_err(), "{point:?}: nobody was there to answer: {done:?}");
            let release = || {
                fs::remove_file(&hold).expect("own file");
                if matches!(point, Point::Sandbox) {
                    // runc is killed by the daemon that comes after.
                    let _gone = fs::remove_file(host.scribe(point.waits()));
                }
                host.machine
                    .until(&format!("{point:?}: it goes on"), || !host.scribe(point.waits()).exists());
            };
            if matches!(point, Point::Late) {
                let done = host.clear(&spec);
                release();
                done
            } else {
                release();
                host.clear(&spec)
            }
        });
        again(host, &spec, &format!("{point:?}"));
        remarks.push(format!("{} {}/{}", format!("{point:?}").to_lowercase(), done.0, done.1));
        assert_eq!(neighbour.captured(), Ok(()), "{point:?}");
    }
    neighbour.remove();
    let theirs = settle(host);
    format!("sandboxes known/ready after each: {}; containerd left {theirs} namespaces", remarks.join(", "))
}

/// The daemon dies so and so long after a pod was asked for, from at once to about when it is there.
pub(crate) fn odd(host: &mut Host) -> String {
    const ROUNDS: u32 = 10;
    let host = &*host;
    let usual = (0..3).map(|_| {
        let begun = Instant::now();
        let pod = host.sandbox(&Spec::meshed("measured")).unwrap_or_else(|why| panic!("{why}"));
        let took = begun.elapsed();
        pod.remove();
        took
    });
    let usual = usual.min().expect("three of them");
    let (mut failed, mut found) = (0, 0);
    let neighbour = host.pod(&Spec::meshed("neighbour"), true);
    let work = || {
        for round in 0..ROUNDS {
            let spec = Spec::meshed(&format!("odd-{round}"));
            let outcome = std::thread::scope(|scope| {
                let asked = scope.spawn(|| host.sandbox(&spec).map(|pod| pod.sandbox));
                wait(usual * round / ROUNDS);
                host.kill_daemon();
                asked.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            failed += u32::from(outcome.is_err());
            found += host.clear(&spec).0;
            again(host, &spec, &format!("round {round}"));
        }
    };
    let ((), dialled) = neighbour.dials_while(work);
    neighbour.remove();
    let theirs = settle(host);
    format!(
        "{ROUNDS} kills within {} ms: {failed} calls failed, {found} sandboxes were known afterwards; a neighbour dialled {dialled} times; containerd left {theirs} namespaces",
        usual.as_millis()
    )
}

/// Nobody waits for ADD any longer: the daemon kills the plugin that runs then, and takes the others' work back.
pub(crate) fn given_up(host: &mut Host) -> String {
    let host = &*host;
    containerd::install_scribe(&host.machine, AFTER);
    host.edit(|list| list["plugins"].as_array_mut().expect("plugins").push(containerd::scribe(AFTER)));
    let hold = host.scribe(Point::After.place());
    fs::write(&hold, "").expect("own file");
    let spec = Spec::meshed("given-up");
    let done = host.sandbox_within(4, &spec).map(|pod| pod.sandbox);
    let why = done.expect_err("it takes longer than that").to_string();
    assert!(why.contains("DeadlineExceeded"), "{why}");
    let added = host.calls(AFTER).iter().filter(|call| call["command"] == "ADD").count();
    assert_eq!(added, 1, "ours had done its part");
    fs::remove_file(&hold).expect("own file");
    // It was killed.
    let _gone = fs::remove_file(host.scribe(Point::After.waits()));
    let known = host.clear(&spec);
    host.machine.until("what ADD did is taken back", || host.ours().is_empty());
    again(host, &spec, "given up");
    let theirs = settle(host);
    format!("sandboxes known/ready afterwards: {}/{}; containerd left {theirs} namespaces", known.0, known.1)
}

fn wait(time: Duration) {
    let milliseconds = u16::try_from(time.as_millis()).expect("a short time");
    let _waited = poll(&mut [], milliseconds);
}

/// The kubelet's next try works and is captured.
fn again(host: &Host, spec: &Spec, what: &str) {
    let next = Spec { attempt: 1, ..spec.clone() };
    let pod = host.pod(&next, true);
    assert_eq!(pod.captured(), Ok(()), "{what}: the second try");
    pod.remove();
}

/// What is left of ours belongs to namespaces that the runtime has left; when those are gone nothing is. Says how many there were.
pub(crate) fn settle(host: &Host) -> usize {
    let sweep = || {
        let entry = json!({}).to_string();
        host.machine.run("/bin/sh", &["-c", &format!("echo '{entry}' | /opt/rig/shunt sweep")]);
    };
    sweep();
    let names = host.theirs();
    let abandoned: Vec<_> = names.iter().filter_map(|one| one.strip_prefix("run/netns/")).collect();
    let ours = host.recorded();
    assert!(
        ours <= abandoned.len(),
        "records of namespaces that are gone: {:#?}\n{}",
        host.ours(),
        host.machine.logs()
    );
    for name in &abandoned {
        host.machine.run("ip", &["netns", "delete", name]);
    }
    host.machine.until("namespaces go", || {
        sweep();
        host.ours().is_empty()
    });
    abandoned.len()
}
