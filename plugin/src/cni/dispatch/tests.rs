//! Environment and standard input in; standard output, exit code and the verb that was called out.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt as _;
use std::time::{Duration, Instant};

use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::strategy::{Just, Strategy as _};
use serde_json::{Value, json};
use shunt_api::Backend;

use super::{Verbs, run};
use crate::cni::request::read_stdin;
use crate::cni::{
    AddRequest, CheckRequest, Deadline, DelRequest, GcRequest, Outcome, StatusRequest, Version,
};
use crate::error::{Error, Kind};
use crate::host::{Host, Input};
use crate::log;
use crate::tally::End;

type Env = BTreeMap<String, OsString>;

/// Notes what it is asked; says yes unless told otherwise.
#[derive(Default)]
struct Spy {
    calls: RefCell<Vec<String>>,
    fails: bool,
}

impl Spy {
    fn note(&self, call: String) -> Result<Outcome, Error> {
        self.calls.borrow_mut().push(call);
        if self.fails {
            Err(Error::new(Kind::Attach, "link not found").because("Not Found").under(Backend::Ebpf))
        } else {
            Ok(Outcome::new(End::Ok, "done"))
        }
    }
}

impl Verbs for Spy {
    fn add(&self, it: &AddRequest) -> Result<Outcome, Error> {
        self.note(format!("add {} {} {:?}", it.attachment, it.netns.display(), it.pod.name))
    }

    fn del(&self, it: &DelRequest) -> Result<Outcome, Error> {
        self.note(format!("del {} {:?} {}", it.attachment, it.netns, it.conf.state_dir.display()))
    }

    fn check(&self, it: &CheckRequest) -> Result<Outcome, Error> {
        self.note(format!("check {} {}", it.attachment, it.netns.display()))
    }

    fn status(&self, it: &StatusRequest) -> Result<Outcome, Error> {
        self.note(format!("status {}", it.conf.name))
    }

    fn gc(&self, it: &GcRequest) -> Result<Outcome, Error> {
        self.note(format!("gc {:?}", it.valid.as_ref().map(Vec::len)))
    }
}

struct Bytes<'a>(&'a [u8]);

impl Read for Bytes<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Input for Bytes<'_> {
    fn wait(&mut self, _: Duration) -> io::Result<bool> {
        Ok(true)
    }
}

/// What came of a run.
#[derive(Debug)]
struct Seen {
    code: u8,
    stdout: String,
    stderr: String,
    calls: Vec<String>,
    counted: Vec<String>,
}

impl Seen {
    /// The one JSON document.
    fn document(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The code of the error document, which must be well-formed; 0 for success.
    fn cni_code(&self) -> u64 {
        if self.code == 0 {
            return 0;
        }
        let document = self.document();
        let keys: Vec<&String> = document.as_object().expect("an object").keys().collect();
        assert_eq!(keys, ["cniVersion", "code", "msg", "details"], "{self:?}");
        assert!(document["msg"].as_str().is_some_and(|msg| !msg.is_empty()), "{self:?}");
        assert!(Version::exact(document["cniVersion"].as_str().expect("text")).is_some(), "{self:?}");
        document["code"].as_u64().expect("a number")
    }
}

fn called(spy: &Spy, env: &Env, stdin: &[u8]) -> Seen {
    let (mut stdout, mut stderr, counted) = (Vec::new(), Vec::new(), RefCell::new(Vec::new()));
    let mut host = Host {
        env: Box::new(|name| env.get(name).cloned()),
        stdin: Box::new(Bytes(stdin)),
        stdout: Box::new(&mut stdout),
        stderr: Box::new(&mut stderr),
        logger: Box::new(|_| log::none()),
        count: Box::new(|state_dir, count| {
            let (command, end) = (count.command.as_str(), count.end.word());
            let backend = count.backend.map_or("none", Backend::as_str);
            counted.borrow_mut().push(format!("{} {command} {end} {backend}", state_dir.display()));
        }),
    };
    let code = run(&mut host, spy);
    drop(host);
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Seen {
        code,
        stdout: text(stdout),
        stderr: text(stderr),
        calls: spy.calls.borrow().clone(),
        counted: counted.into_inner(),
    }
}

fn env_of(command: &str) -> Env {
    [
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", "abc"),
        ("CNI_NETNS", "/run/netns/x"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart"),
        ("CNI_PATH", "/opt/cni/bin"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.into()))
    .collect()
}

fn with(command: &str, name: &str, value: impl Into<OsString>) -> Env {
    let mut env = env_of(command);
    env.insert(name.to_owned(), value.into());
    env
}

fn conf(version: &str) -> Value {
    json!({"cniVersion": version, "name": "net", "type": "shunt", "prevResult": {"cniVersion": version, "ips": []}})
}

fn ask(env: &Env, conf: &Value) -> Seen {
    called(&Spy::default(), env, conf.to_string().as_bytes())
}

#[test]
fn every_version_by_every_command() {
    let versions = ["", "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0", "1.2.0"];
    for (command, codes) in [
        ("ADD", [1, 1, 1, 0, 0, 0, 0, 0, 1]),
        ("DEL", [0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("CHECK", [1, 1, 1, 1, 1, 0, 0, 0, 1]),
        ("STATUS", [1, 1, 1, 1, 1, 1, 1, 0, 1]),
        ("GC", [1, 1, 1, 1, 1, 1, 1, 0, 1]),
        ("VERSION", [0, 0, 0, 0, 0, 0, 0, 0, 0]),
    ] {
        for (version, code) in versions.into_iter().zip(codes) {
            let seen = ask(&env_of(command), &conf(version));
            assert_eq!(seen.cni_code(), code, "{command} {version}: {seen:?}");
            assert_eq!(
                seen.calls.len(),
                usize::from(code == 0 && command != "VERSION"),
                "{command} {version}"
            );
            let known = Version::exact(version).unwrap_or(Version::LATEST);
            if code != 0 || command == "VERSION" || command == "ADD" {
                assert_eq!(seen.document()["cniVersion"], known.as_str(), "{command} {version}");
            } else {
                assert_eq!(seen.stdout, "", "{command} {version}");
            }
        }
    }
}

#[test]
fn add_answers_prev_result_in_the_version_asked() {
    let mut asked = conf("0.3.1");
    asked["prevResult"] =
        json!({"cniVersion": "1.0.0", "ips": [{"version": "4", "address": "10.0.0.2/24"}], "x": 1});
    let seen = ask(&env_of("ADD"), &asked);
    assert_eq!(
        seen.stdout,
        "{\"cniVersion\":\"0.3.1\",\"ips\":[{\"version\":\"4\",\"address\":\"10.0.0.2/24\"}],\"x\":1}\n"
    );
    assert_eq!((seen.code, seen.stderr.as_str()), (0, ""));
    assert_eq!(seen.calls, ["add abc eth0 /run/netns/x Some(\"cart\")"]);
}

#[test]
fn golden_replies() {
    for (env, stdin, reply) in [
        (
            env_of("VERSION"),
            r#"{"cniVersion":"1.0.0"}"#,
            r#"{"cniVersion":"1.0.0","supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}"#,
        ),
        (
            env_of("VERSION"),
            "",
            r#"{"cniVersion":"1.1.0","supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}"#,
        ),
        (
            env_of("ADD"),
            r#"{"cniVersion":"1.0.0","name":"net"}"#,
            r#"{"cniVersion":"1.0.0","code":7,"msg":"network configuration or annotation invalid","details":"no prevResult: must be called as a chained plugin, after one that makes the interface"}"#,
        ),
        (
            env_of("GC"),
            r#"{"cniVersion":"1.0.0","name":"net"}"#,
            r#"{"cniVersion":"1.0.0","code":1,"msg":"CNI version not supported","details":"GC exists since CNI version 1.1.0, asked for in 1.0.0"}"#,
        ),
        (
            env_of("ADD"),
            r#"{"cniVersion":"1.0.0","name":"net","prevResult":{},"mash":1}"#,
            r#"{"cniVersion":"1.0.0","code":7,"msg":"network configuration or annotation invalid","details":"key \"mash\": unknown field `mash`, expected one of `mesh`, `backend`, `select`, `excludeNamespaces`, `failurePolicy`, `beforeProxy`, `captureDns`, `udp`, `redirect`, `log`, `stateDir`, `bpfDir`"}"#,
        ),
        (
            env_of("ADD"),
            "",
            r#"{"cniVersion":"1.1.0","code":6,"msg":"standard input is not a network configuration in JSON","details":"standard input is empty"}"#,
        ),
        (
            env_of("FROB"),
            "",
            r#"{"cniVersion":"1.1.0","code":4,"msg":"CNI environment variables missing or invalid","details":"CNI_COMMAND \"FROB\" is not a command of CNI"}"#,
        ),
    ] {
        let seen = called(&Spy::default(), &env, stdin.as_bytes());
        assert_eq!(seen.stdout, format!("{reply}\n"), "{stdin}");
    }
}

#[test]
fn nobody_asked() {
    for env in [Env::new(), with("", "X", "y")] {
        let seen = called(&Spy::default(), &env, b"");
        assert_eq!((seen.code, seen.stdout.as_str()), (0, ""));
        assert!(seen.stderr.contains("Shunt") && seen.stderr.contains("0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"));
    }
}

#[test]
fn all_missing_variables_in_one_message() {
    for (command, needs) in [
        ("ADD", "CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME, CNI_PATH"),
        ("CHECK", "CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME, CNI_PATH"),
        ("DEL", "CNI_CONTAINERID, CNI_IFNAME"),
        ("STATUS", "CNI_PATH"),
        ("GC", "CNI_PATH"),
    ] {
        let absent: Env = [("CNI_COMMAND".to_owned(), command.into())].into();
        let empty: Env = env_of(command)
            .into_keys()
            .map(|name| if name == "CNI_COMMAND" { (name, command.into()) } else { (name, OsString::new()) })
            .collect();
        for env in [absent, empty] {
            let seen = ask(&env, &conf("1.1.0"));
            assert_eq!(seen.cni_code(), 4, "{seen:?}");
            assert!(seen.stdout.contains(&format!("{command} needs {needs}, which")), "{seen:?}");
            assert!(seen.calls.is_empty());
        }
    }
}

#[test]
fn hostile_variables() {
    let long = "a".repeat(300);
    let path = format!("/{}", "a".repeat(5000));
    for (name, value) in [
        ("CNI_CONTAINERID", OsString::from("..")),
        ("CNI_CONTAINERID", "a/b".into()),
        ("CNI_CONTAINERID", "/".into()),
        ("CNI_CONTAINERID", "a\0b".into()),
        ("CNI_CONTAINERID", long.clone().into()),
        ("CNI_CONTAINERID", OsString::from_vec(vec![0xff])),
        ("CNI_IFNAME", "..".into()),
        ("CNI_IFNAME", "a/b".into()),
        ("CNI_IFNAME", long.into()),
        ("CNI_IFNAME", OsString::from_vec(vec![b'e', 0xff])),
        ("CNI_NETNS", "netns".into()),
        ("CNI_NETNS", "../x".into()),
        ("CNI_NETNS", "/a\0b".into()),
        ("CNI_NETNS", path.into()),
        ("CNI_ARGS", OsString::from_vec(vec![0xff])),
        ("CNI_ARGS", "a=b;".repeat(100_000).into()),
    ] {
        for command in ["ADD", "CHECK"] {
            let seen = ask(&with(command, name, value.clone()), &conf("1.0.0"));
            assert_eq!(seen.cni_code(), 4, "{name}={value:?}");
            assert!(
                seen.calls.is_empty() && seen.stdout.contains(name) && seen.stdout.len() < 1000,
                "{seen:?}"
            );
        }
        // DEL needs an attachment, and nothing else has to make sense.
        let del = ask(&with("DEL", name, value.clone()), &conf("1.0.0"));
        let needed = name == "CNI_CONTAINERID" || name == "CNI_IFNAME";
        assert_eq!(del.cni_code(), if needed { 4 } else { 0 }, "DEL {name}={value:?}");
    }
}

#[test]
fn del_takes_any_object() {
    for stdin in [
        "{}",
        r#"{"cniVersion":"7","name":1,"prevResult":[],"dns":{},"redirect":"x","mash":1,"runtimeConfig":3}"#,
        r#"{"cniVersion":[],"mesh":"linkerd","captureDns":true,"dns":true,"udp":"block"}"#,
        r#"{"stateDir":"relative","log":{"level":"loud","file":7}}"#,
    ] {
        let seen = called(&Spy::default(), &env_of("DEL"), stdin.as_bytes());
        assert_eq!((seen.code, seen.stdout.as_str()), (0, ""), "{stdin}");
        assert_eq!(seen.calls, ["del abc eth0 Some(\"/run/netns/x\") /run/shunt"], "{stdin}");
    }
    let mut env = env_of("DEL");
    env.remove("CNI_NETNS");
    let seen = called(&Spy::default(), &env, br#"{"stateDir":"/a"}"#);
    assert_eq!(seen.calls, ["del abc eth0 None /a"]);
}

#[test]
fn what_is_not_json_touches_nothing() {
    let deep = "[".repeat(1_000_000);
    let big = vec![b' '; 10 * 1024 * 1024];
    for command in ["ADD", "DEL", "CHECK", "STATUS", "GC"] {
        for (stdin, code) in [
            (&b""[..], 6),
            (b"{", 6),
            (br#"{"cniVersion":"1.0.0","na"#, 6),
            (b"[]", 6),
            (b"null", 6),
            (b"\xff\xfe", 6),
            (b"{\"a\":\"\xc3\"}", 6),
            (deep.as_bytes(), 6),
            (&big, 5),
        ] {
            let seen = called(&Spy::default(), &env_of(command), stdin);
            assert_eq!(seen.cni_code(), code, "{command}");
            assert!(seen.calls.is_empty() && seen.stdout.len() < 1000, "{command}");
        }
    }
}

#[test]
fn lists_of_gc() {
    for (list, valid) in [
        (json!({}), "gc None"),
        (json!({"cni.dev/valid-attachments": null}), "gc None"),
        (json!({"cni.dev/valid-attachments": []}), "gc Some(0)"),
        (json!({"cni.dev/attachments": [{"containerID": "a", "ifname": "eth0"}]}), "gc Some(1)"),
    ] {
        let mut asked = conf("1.1.0");
        asked.as_object_mut().expect("object").extend(list.as_object().expect("object").clone());
        assert_eq!(ask(&env_of("GC"), &asked).calls, [valid]);
    }
    let mut asked = conf("1.1.0");
    asked["cni.dev/valid-attachments"] = json!([{"containerID": 1}]);
    let seen = ask(&env_of("GC"), &asked);
    assert_eq!((seen.cni_code(), seen.calls.len()), (7, 0));
}

#[test]
fn a_verb_that_fails() {
    for command in ["ADD", "DEL", "CHECK", "STATUS", "GC"] {
        let spy = Spy { fails: true, ..Spy::default() };
        let seen = called(&spy, &env_of(command), conf("1.1.0").to_string().as_bytes());
        assert_eq!((seen.cni_code(), seen.calls.len()), (102, 1));
        assert!(!seen.stdout.to_ascii_lowercase().contains("not found"), "{seen:?}");
    }
}

#[test]
fn each_call_is_counted_once_where_it_is_known_in_which_directory() {
    for command in ["ADD", "DEL", "CHECK", "STATUS", "GC", "VERSION"] {
        let seen = ask(&env_of(command), &conf("1.1.0"));
        let wanted = format!("/run/shunt {command} ok none");
        assert_eq!(seen.counted, if command == "VERSION" { vec![] } else { vec![wanted] });
    }
    let spy = Spy { fails: true, ..Spy::default() };
    let with_key = |key: &str, value: Value| {
        let mut conf = conf("1.0.0");
        conf[key] = value;
        conf.to_string()
    };
    let add = env_of("ADD");
    for (stdin, wanted) in [
        (with_key("stateDir", json!("/a")), &["/a ADD failed ebpf"][..]),
        (with_key("captureDns", json!(true)), &["/run/shunt ADD failed ebpf"]),
        (with_key("mash", json!(1)), &["/run/shunt ADD failed none"]),
        (with_key("stateDir", json!("a")), &[]),
        (with_key("stateDir", json!(1)), &[]),
        ("{".to_owned(), &[]),
    ] {
        assert_eq!(called(&spy, &add, stdin.as_bytes()).counted, wanted, "{stdin}");
    }
    assert_eq!(called(&Spy::default(), &with("ADD", "CNI_IFNAME", ""), b"{}").counted, [""; 0]);
}

#[test]
fn a_closed_standard_output_is_a_failure() {
    struct Closed;
    impl io::Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (env, stdin) = (env_of("ADD"), conf("1.0.0").to_string());
    let mut host = Host {
        env: Box::new(|name| env.get(name).cloned()),
        stdin: Box::new(Bytes(stdin.as_bytes())),
        stdout: Box::new(Closed),
        stderr: Box::new(io::sink()),
        logger: Box::new(|_| log::none()),
        count: Box::new(|_, _| {}),
    };
    assert_eq!(run(&mut host, &Spy::default()), 1);
}

#[test]
fn standard_input_that_does_not_end() {
    struct Silent;
    impl Read for Silent {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::WouldBlock.into())
        }
    }
    impl Input for Silent {
        fn wait(&mut self, patience: Duration) -> io::Result<bool> {
            std::thread::park_timeout(patience);
            Ok(false)
        }
    }
    let started = Instant::now();
    let error = read_stdin(&mut Silent, 1, Deadline::after(Duration::from_millis(30))).expect_err("no end");
    assert_eq!(error.kind(), Kind::Io);
    assert!(started.elapsed() >= Duration::from_millis(30));
    assert_eq!(error.details(), "standard input did not end in time, 0 bytes came");
}

/// A configuration of which one part is odd: near enough to a good one to get past the first checks.
fn nearly_good() -> impl proptest::strategy::Strategy<Value = Vec<u8>> {
    let odd = prop_oneof![
        Just(json!(null)),
        Just(json!(7)),
        Just(json!(-1.5)),
        Just(json!([])),
        Just(json!({})),
        Just(json!("")),
        Just(json!("*")),
        Just(json!(["x", 1])),
        Just(json!({"io.kubernetes.cri.pod-annotations": {"sidecar.istio.io/status": "{}"}})),
        Just(json!("1.0.0")),
        Just(json!(true)),
        any::<String>().prop_map(Value::from),
    ];
    let key = prop_oneof![
        prop::sample::select(vec![
            "cniVersion",
            "name",
            "prevResult",
            "runtimeConfig",
            "dns",
            "captureDns",
            "redirect",
            "log",
            "stateDir",
            "mesh",
            "type",
            "args",
            "cni.dev/valid-attachments",
            "excludeNamespaces",
            "capabilities",
        ])
        .prop_map(str::to_owned),
        any::<String>(),
    ];
    (prop::sample::select(vec!["0.3.0", "0.4.0", "1.1.0", "2"]), key, odd, 0.2_f64..6.0).prop_map(
        |(version, key, odd, keep)| {
            let mut conf = conf(version);
            conf[key] = odd;
            let mut text = conf.to_string().into_bytes();
            if keep < 1.0 {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    clippy::cast_precision_loss,
                    reason = "a place to cut at"
                )]
                text.truncate((text.len() as f64 * keep) as usize);
            }
            text
        },
    )
}

proptest! {
    #[test]
    fn whatever_comes_one_answer_goes_out(
        command in prop_oneof![
            8 => prop::sample::select(vec!["ADD", "DEL", "CHECK", "STATUS", "GC", "VERSION"]).prop_map(OsString::from),
            1 => prop::collection::vec(1_u8.., 0..6).prop_map(OsString::from_vec),
        ],
        others in prop::collection::vec((0_usize..5, prop::collection::vec(1_u8.., 0..20)), 0..2),
        stdin in prop_oneof![
            3 => nearly_good(),
            1 => prop::collection::vec(any::<u8>(), 0..64),
            1 => "[\\[\\]{}\",:0-9a-z\\\\ ]{0,40}".prop_map(String::into_bytes),
        ],
        fails: bool,
    ) {
        const NAMES: [&str; 5] = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH"];
        let mut env = with("", "CNI_COMMAND", command.clone());
        for (which, value) in others {
            env.insert(NAMES[which].to_owned(), OsString::from_vec(value));
        }
        let seen = called(&Spy { fails, ..Spy::default() }, &env, &stdin);
        prop_assert!(seen.code <= 1);
        prop_assert!(seen.calls.len() <= 1);
        let silent = ["DEL", "CHECK", "STATUS", "GC", ""].iter().any(|silent| command == *silent);
        if seen.code == 1 {
            prop_assert!(seen.cni_code() > 0);
            prop_assert!(!seen.stdout.to_ascii_lowercase().contains("not found"));
        } else if silent {
            prop_assert_eq!(&seen.stdout, "");
        } else {
            prop_assert!(seen.document().is_object());
        }
        prop_assert!(seen.stdout.is_empty() || seen.stdout.ends_with('\n'));
        prop_assert!(!fails || seen.calls.is_empty() || seen.code == 1);
        // Refused before the verb, or done by it.
        prop_assert!(seen.code == 1 || seen.calls.len() == 1 || command == "VERSION" || command.is_empty());
    }
}
