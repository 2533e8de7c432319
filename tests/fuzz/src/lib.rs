//! What must hold whatever the input. A broken promise is a panic, and the fuzzer keeps the input.

use std::ffi::OsString;
use std::io::{self, Read};
use std::time::Duration;

use serde_json::Value;
use shunt::cni::{
    AddRequest, Annotations, CheckRequest, DelRequest, GcRequest, Outcome, PodRef, StatusRequest, Verbs, run,
};
use shunt::error::Error;
use shunt::host::{Host, Input};
use shunt::tally::End;
use shunt::plan::Plan;
use shunt::policy::{Decision, decide};
use shunt::settings::Settings;
use shunt_api::{Entry, Mesh, Redirect, Select};

const COMMANDS: [&str; 6] = ["ADD", "DEL", "CHECK", "STATUS", "GC", "VERSION"];

/// Decides as the real one does, and touches nothing.
struct Deciding;

impl Verbs for Deciding {
    fn add(&self, it: &AddRequest) -> Result<Outcome, Error> {
        decide(&it.pod, &it.conf.annotations, &it.conf.settings).map(|_| Outcome::new(End::Ok, "decided"))
    }

    fn del(&self, it: &DelRequest) -> Result<Outcome, Error> {
        assert!(it.conf.state_dir.is_absolute() && it.conf.bpf_dir.is_absolute());
        Ok(Outcome::new(End::Ok, "gone"))
    }

    fn check(&self, it: &CheckRequest) -> Result<Outcome, Error> {
        decide(&it.pod, &it.conf.annotations, &it.conf.settings).map(|_| Outcome::new(End::Ok, "decided"))
    }

    fn status(&self, _: &StatusRequest) -> Result<Outcome, Error> {
        Ok(Outcome::new(End::Ok, "ready"))
    }

    fn gc(&self, _: &GcRequest) -> Result<Outcome, Error> {
        Ok(Outcome::new(End::Ok, "nothing"))
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

/// One run; its answer must be one JSON document, or nothing where nothing is due, and fit the exit code.
fn answered(command: &str, args: &[u8], stdin: &[u8]) {
    let args = <OsString as std::os::unix::ffi::OsStringExt>::from_vec(args.to_vec());
    let mut stdout = Vec::new();
    let mut host = Host {
        env: Box::new(|name| match name {
            "CNI_COMMAND" => Some(command.into()),
            "CNI_CONTAINERID" => Some("fuzz".into()),
            "CNI_IFNAME" => Some("eth0".into()),
            "CNI_NETNS" => Some("/run/netns/fuzz".into()),
            "CNI_PATH" => Some("/opt/cni/bin".into()),
            "CNI_ARGS" => Some(args.clone()),
            _ => None,
        }),
        stdin: Box::new(Bytes(stdin)),
        stdout: Box::new(&mut stdout),
        stderr: Box::new(io::sink()),
        logger: Box::new(|_| shunt::log::none()),
        count: Box::new(|_, _| {}),
    };
    let code = run(&mut host, &Deciding);
    drop(host);
    if code == 0 && !matches!(command, "ADD" | "VERSION") {
        assert!(stdout.is_empty(), "{command} says something");
        return;
    }
    let document: Value = serde_json::from_slice(&stdout).expect("one JSON document");
    match code {
        0 => assert!(document.get("code").is_none() || command == "ADD"),
        1 => assert!(document["code"].as_u64().is_some_and(|code| code > 0) && document["msg"].is_string()),
        other => panic!("exit code {other}"),
    }
    let text = String::from_utf8_lossy(&stdout).to_ascii_lowercase();
    assert!(code == 0 || !text.contains("not found"), "containerd would take this for success");
}

/// The first byte chooses the command, the rest is standard input.
pub fn stdin(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let command = COMMANDS[usize::from(*first) % COMMANDS.len()];
    answered(command, b"K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart", rest);
}

/// `CNI_ARGS`: read by itself, and in whole runs of ADD and DEL.
pub fn cni_args(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let pod = PodRef::parse(text);
        for part in [pod.namespace, pod.name, pod.uid, pod.sandbox].into_iter().flatten() {
            assert!(!part.is_empty() && !part.contains(';') && text.contains(&part));
        }
    }
    let conf = br#"{"cniVersion":"1.0.0","name":"net","prevResult":{}}"#;
    answered("ADD", data, conf);
    answered("DEL", data, conf);
}

/// Lines `key=value`; a line that ends in a backslash goes on in the next, so that a document has room. For every mesh,
/// whichever pods are selected.
pub fn annotations(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let text = text.replace("\\\n", "\u{1}");
    let pairs = text.split('\n').filter_map(|line| line.split_once('='));
    let annotations: Annotations =
        pairs.map(|(key, value)| (key.to_owned(), value.replace('\u{1}', "\n"))).collect();
    for mesh in Mesh::ALL {
        for select in [Select::Annotated, Select::All] {
            let redirect = Redirect { proxy_uids: Some(vec![1337]), ..Redirect::default() };
            let entry = Entry { mesh: *mesh, select, redirect, ..Entry::default() };
            let settings = Settings::new(entry).expect("valid");
            match decide(&PodRef::default(), &annotations, &settings) {
                Ok(Decision::Intercept(plan)) => planned(&plan),
                Ok(Decision::Skip(_)) => assert!(select == Select::Annotated),
                Err(error) => assert!(error.details().chars().count() <= 4097),
            }
        }
    }
}

/// A plan keeps its promises and survives the record.
fn planned(plan: &Plan) {
    assert!(plan.outbound_port > 0 && plan.inbound_port > 0);
    assert!(!plan.exempt_uids.is_empty() || !plan.exempt_gids.is_empty());
    let text = serde_json::to_string(plan).expect("plain");
    assert_eq!(&serde_json::from_str::<Plan>(&text).expect("as written"), plan);
}
