//! Whole processes: what ADD, CHECK and DEL of the plugin cost a runtime, beside the reference plugins and beside a static program
//! that only reads its input and prints an answer. With eBPF the yardstick is `tuning`, with iptables `portmap`, which writes
//! rules as well.
//!
//! All of them take turns in one run on one machine; what counts is the ratio of medians. `RUNS=300 make bench`.

#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "a bench prints its figures and stops where it cannot measure"
)]

use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shunt_tests::net::Shape;
use shunt_tests::node::{Node, Pod};
use shunt_tests::{bin, need};

const NOTHING_NAME: &str = "nothing (static, reads stdin)";
/// Reads stdin, prints `{}`: what any static program costs.
const NOTHING: &str = "use std::io::Read;\nfn main() { let mut s = String::new(); \
                       std::io::stdin().read_to_string(&mut s).ok(); print!(\"{{}}\"); }\n";

fn main() {
    need::root();
    let runs: usize = std::env::var("RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(200);
    let node = Node::new();
    let world = node.world();
    let pod = node.pod(&world, Shape::dual());
    // A node has other pods: without one, every ADD would switch the kernel's hooks on and every DEL off again.
    let neighbour = node.pod(&world, Shape::dual());
    node.add(&neighbour);
    let mut series = [
        Series::new(NOTHING_NAME, nothing(&node), "ADD", &answerless()),
        Series::new("shunt ADD", bin::shunt(), "ADD", &node.config(&pod, true)),
        Series::new("shunt CHECK", bin::shunt(), "CHECK", &node.config(&pod, true)),
        Series::new("shunt DEL", bin::shunt(), "DEL", &node.config(&pod, true)),
        Series::new("tuning ADD", reference("tuning"), "ADD", &tuning_config(&node, &pod)),
        Series::new("tuning CHECK", reference("tuning"), "CHECK", &tuning_config(&node, &pod)),
        Series::new("tuning DEL", reference("tuning"), "DEL", &tuning_config(&node, &pod)),
    ];
    for _ in 0..runs {
        for one in &mut series {
            one.run(&pod);
        }
    }
    report(&series, "tuning", runs);
    let mut with_rules = with_rules(&node, &pod);
    // The reference plugin writes into the namespace it is called in, and that shall not be the machine's.
    for _ in 0..runs.div_ceil(4) {
        world.netns().enter(|| with_rules.iter_mut().for_each(|one| one.run(&pod)));
    }
    println!();
    report(&with_rules, "portmap", runs.div_ceil(4));
    let size = std::fs::metadata(bin::shunt()).expect("the plugin is built").len();
    println!("\nplugin: {size} bytes");
}

/// The iptables backend beside a plugin that writes rules too. Each ADD is a first one: DEL comes before the next turn.
fn with_rules(node: &Node, pod: &Pod) -> [Series; 7] {
    node.del(pod);
    node.configure(|entry| entry["backend"] = json!("iptables"));
    let (ours, portmap) = (node.config(pod, true), reference("portmap"));
    let theirs = portmap_config(node, pod);
    [
        Series::new(NOTHING_NAME, nothing(node), "ADD", &answerless()),
        Series::new("shunt ADD", bin::shunt(), "ADD", &ours),
        Series::new("shunt CHECK", bin::shunt(), "CHECK", &ours),
        Series::new("shunt DEL", bin::shunt(), "DEL", &ours),
        Series::new("portmap ADD", portmap.clone(), "ADD", &theirs),
        Series::new("portmap CHECK", portmap.clone(), "CHECK", &theirs),
        Series::new("portmap DEL", portmap, "DEL", &theirs),
    ]
}

/// One program with one command.
struct Series {
    name: &'static str,
    program: PathBuf,
    verb: &'static str,
    config: String,
    times: Vec<Duration>,
    peak_kib: u64,
}

impl Series {
    fn new(name: &'static str, program: PathBuf, verb: &'static str, config: &Value) -> Self {
        Self { name, program, verb, config: config.to_string(), times: Vec::new(), peak_kib: 0 }
    }

    fn run(&mut self, pod: &Pod) {
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .env("CNI_COMMAND", self.verb)
            .envs(pod.environment("eth0"))
            .env("CNI_PATH", "/nowhere")
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let started = Instant::now();
        #[expect(
            clippy::zombie_processes,
            reason = "waited for below, by the call that also tells its peak memory"
        )]
        let mut child = command.spawn().expect("the program starts");
        child
            .stdin
            .take()
            .expect("stdin is piped")
            .write_all(self.config.as_bytes())
            .expect("it reads its input");
        let (status, peak) = wait(&child);
        self.times.push(started.elapsed());
        self.peak_kib = self.peak_kib.max(peak);
        assert!(status.success(), "{} failed: {status}", self.name);
    }

    fn at(&self, share: f64) -> Duration {
        let mut sorted = self.times.clone();
        sorted.sort_unstable();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index"
        )]
        let index = ((sorted.len() - 1) as f64 * share) as usize;
        sorted.get(index).copied().unwrap_or_default()
    }
}

/// Waits for the child and returns its peak memory in KiB.
#[expect(unsafe_code, reason = "wait4 has no safe wrapper")]
fn wait(child: &Child) -> (std::process::ExitStatus, u64) {
    let mut status = 0;
    // SAFETY: rusage is plain numbers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    let pid = libc::pid_t::try_from(child.id()).expect("a process id");
    // SAFETY: a child of ours that nobody else waits for, and two buffers of the right type.
    let waited = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
    assert_eq!(waited, pid, "the child ends");
    (std::process::ExitStatus::from_raw(status), u64::try_from(usage.ru_maxrss).unwrap_or(0))
}

fn answerless() -> Value {
    json!({ "cniVersion": "1.0.0", "name": "scratch", "type": "nothing" })
}

/// Compiles the do-nothing program, static as the plugin is.
fn nothing(node: &Node) -> PathBuf {
    let directory = node.directory();
    let source = directory.join("nothing.rs");
    std::fs::write(&source, NOTHING).expect("a scratch file");
    let program = directory.join("nothing");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let built = Command::new(rustc)
        .args([
            "--edition=2024",
            "-Copt-level=3",
            "-Cpanic=abort",
            "-Cstrip=symbols",
            "-Ctarget-feature=+crt-static",
            "-o",
        ])
        .arg(&program)
        .arg(&source)
        .status()
        .expect("rustc runs");
    assert!(built.success(), "the do-nothing program builds");
    program
}

/// A reference plugin, where `make deps` put it.
fn reference(name: &str) -> PathBuf {
    let path = std::env::var_os("CNI_BIN")
        .map(PathBuf::from)
        .expect("CNI_BIN names the reference plugins: `make bench` sets it");
    let program = Path::new(&path).join(name);
    assert!(program.is_file(), "{} is missing: run `make deps`", program.display());
    program
}

/// One port of the pod, for both families.
fn portmap_config(node: &Node, pod: &Pod) -> Value {
    let mut config = node.config(pod, true);
    let object = config.as_object_mut().expect("an object");
    object.retain(|key, _| matches!(key.as_str(), "cniVersion" | "name" | "prevResult"));
    object.insert("type".to_owned(), json!("portmap"));
    object.insert("backend".to_owned(), json!("iptables"));
    object.insert("capabilities".to_owned(), json!({ "portMappings": true }));
    let port = json!({ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" });
    object.insert("runtimeConfig".to_owned(), json!({ "portMappings": [port] }));
    config
}

/// One sysctl of the pod's namespace.
fn tuning_config(node: &Node, pod: &Pod) -> Value {
    let mut config = node.config(pod, true);
    let object = config.as_object_mut().expect("an object");
    object.retain(|key, _| matches!(key.as_str(), "cniVersion" | "name" | "prevResult"));
    object.insert("type".to_owned(), json!("tuning"));
    object.insert("sysctl".to_owned(), json!({ "net.ipv4.conf.eth0.log_martians": "1" }));
    object.insert("dataDir".to_owned(), json!(node.directory().join("tuning")));
    config
}

fn report(series: &[Series], yardstick: &str, runs: usize) {
    let base =
        |name: &str| series.iter().find(|one| one.name == name).map_or(Duration::MAX, |one| one.at(0.5));
    let nothing = base(NOTHING_NAME);
    println!("{runs} runs each, in turns; whole processes, spawn to exit\n");
    println!(
        "{:<32} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "",
        "median",
        "p10",
        "p90",
        "/nothing",
        format!("/{yardstick}"),
        "peak KiB"
    );
    for one in series {
        let median = one.at(0.5);
        let twin = base(&format!("{yardstick} {}", one.verb));
        let ratio = |to: Duration| format!("{:.2}", median.as_secs_f64() / to.as_secs_f64());
        println!(
            "{:<32} {:>6} µs {:>6} µs {:>6} µs {:>9} {:>9} {:>9}",
            one.name,
            median.as_micros(),
            one.at(0.1).as_micros(),
            one.at(0.9).as_micros(),
            ratio(nothing),
            if one.name.starts_with("shunt") { ratio(twin) } else { String::new() },
            one.peak_kib
        );
    }
}
