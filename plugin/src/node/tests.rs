use std::collections::BTreeMap;
use std::io::{self, Read};

use super::*;
use crate::host::Input;
use crate::log;

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

fn said(arguments: &[&str], stdin: &str, env: &[(&str, &str)]) -> (Option<u8>, String, String) {
    let env: BTreeMap<&str, &str> = env.iter().copied().collect();
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut host = Host {
        env: Box::new(|name| env.get(name).map(OsString::from)),
        stdin: Box::new(Bytes(stdin.as_bytes())),
        stdout: Box::new(&mut stdout),
        stderr: Box::new(&mut stderr),
        logger: Box::new(|_| log::none()),
        count: Box::new(|_, _| {}),
    };
    let code = run(&mut host, arguments.iter().map(OsString::from));
    drop(host);
    (code, String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn parse(words: &[&str]) -> Option<Asked> {
    Asked::parse(words.iter().map(OsString::from))
}

#[test]
fn arguments() {
    let purge =
        |detach, binary: Option<&str>| Some(Asked::Purge { detach, binary: binary.map(PathBuf::from) });
    for (words, asked) in [
        (&["report"][..], Some(Asked::Report)),
        (&["sweep"], Some(Asked::Sweep)),
        (&["purge"], purge(false, None)),
        (&["purge", "--detach"], purge(true, None)),
        (&["purge", "--binary", "/opt/cni/bin/shunt", "--detach"], purge(true, Some("/opt/cni/bin/shunt"))),
        (&[], None),
        (&["--report"], None),
        (&["report", "now"], None),
        (&["sweep", "--detach"], None),
        (&["purge", "--binary"], None),
        (&["purge", "--binary", "shunt"], None),
        (&["purge", "--detach=yes"], None),
    ] {
        assert_eq!(parse(words), asked, "{words:?}");
    }
}

#[test]
fn wrong_arguments_are_no_answer_and_no_arguments_no_question() {
    assert_eq!(said(&["remove"], "", &[]), (Some(2), String::new(), USAGE.to_owned()));
    assert_eq!(said(&[], "", &[]).0, None);
    assert_eq!(said(&["anything"], "", &[("CNI_COMMAND", "ADD")]).0, None);
}

#[test]
fn a_node_that_has_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let entry = serde_json::json!({
        "type": "shunt", "mash": 1, "stateDir": at("state"), "bpfDir": at("bpf"), "log": { "file": at("log/shunt.log") },
    });
    let version = env!("CARGO_PKG_VERSION");
    let (code, stdout, _) = said(&["report"], &entry.to_string(), &[("CNI_COMMAND", "ADD")]);
    assert_eq!(code, Some(0), "{stdout}");
    let report: shunt_api::report::Report = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report, shunt_api::report::Report { plugin: version.to_owned(), ..Default::default() });
    for arguments in [&["sweep"][..], &["purge"], &["purge", "--detach", "--binary", "/no/such/shunt"]] {
        let (code, stdout, _) = said(arguments, &entry.to_string(), &[]);
        assert_eq!(
            (code, stdout.as_str()),
            (Some(0), "{\"removed\":0,\"left\":0,\"problems\":[]}\n"),
            "{arguments:?}"
        );
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn what_is_no_entry_is_an_error_in_one_document() {
    for stdin in ["[]", "{", "x"] {
        let (code, stdout, _) = said(&["report"], stdin, &[]);
        let document: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!((code, document["code"].as_u64()), (Some(1), Some(6)), "{stdin}: {stdout}");
    }
}
