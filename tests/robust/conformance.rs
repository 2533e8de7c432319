//! Every command in every version of the specification, through the real binary.

use serde_json::{Value, json};

use crate::bed::{Bed, Call, Place, Pod};

const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

fn call(place: &Place, pod: &Pod, command: &str, version: &str, result: &str) -> Call {
    let call = place.call(command, pod).configured(|config| {
        config["cniVersion"] = json!(version);
        config["prevResult"] = json!("HERE");
    });
    let text = String::from_utf8(call.stdin.clone()).expect("JSON");
    call.saying(text.replacen("\"HERE\"", result, 1))
}

#[test]
fn each_command_in_each_version() {
    let bed = Bed::new();
    let (place, pod) = (bed.place(), bed.pod());
    for version in VERSIONS {
        let result = format!(
            r#"{{"cniVersion":"{version}","interfaces":[{{"name":"eth0","mac":"","sandbox":"/x","mtu":1500.0}}],"ips":[{{"interface":-1,"address":"10.77.0.2/16","version":"4"}}],"routes":[{{"dst":"0.0.0.0/0","table":254}}],"dns":{{}},"unknown":{{"big":123456789012345678901234567890,"e":1.50E3,"text":"\u00e9"}}}}"#
        );
        let is = |at_least: &str| {
            VERSIONS.iter().position(|v| *v == version) >= VERSIONS.iter().position(|v| *v == at_least)
        };
        let answer = call(&place, &pod, "ADD", version, &result).run();
        assert_eq!(
            answer.ok(),
            format!("{result}\n"),
            "{version}: ADD passes the result through, byte for byte"
        );
        for (command, since) in [("CHECK", "0.4.0"), ("STATUS", "1.1.0"), ("GC", "1.1.0")] {
            let answer = call(&place, &pod, command, version, &result).run();
            if is(since) {
                answer.silent();
            } else {
                let (code, said) = answer.refused();
                assert_eq!(
                    (code, answer.document().map(|said| said["cniVersion"].clone())),
                    (1, Some(json!(version)))
                );
                assert!(said.contains(command) && said.contains(since), "{said}");
            }
        }
        call(&place, &pod, "DEL", version, &result).run().silent();
        place.nothing_of(&pod);
        let answer = call(&place, &pod, "VERSION", version, &result).run();
        let wanted = json!({ "cniVersion": version, "supportedVersions": VERSIONS });
        assert_eq!(serde_json::from_str::<Value>(&answer.ok()).expect("JSON"), wanted);
        // Errors too are in the version of the question.
        let error = call(&place, &pod, "ADD", version, "[]").run();
        error.refused();
        assert_eq!(error.document().expect("one")["cniVersion"], version);
    }
}

#[test]
fn a_result_in_no_version_gets_the_one_asked() {
    let bed = Bed::new();
    let (place, pod) = (bed.place(), bed.pod());
    let answer =
        call(&place, &pod, "ADD", "0.4.0", r#"{"ips":[],"n":9007199254740993,"cniVersion":"1.0.0"}"#).run();
    assert_eq!(answer.ok(), "{\"cniVersion\":\"0.4.0\",\"ips\":[],\"n\":9007199254740993}\n");
}

#[test]
fn version_needs_nothing() {
    let bed = Bed::new();
    let place = bed.place();
    for stdin in ["", "{", "[]", "{}", r#"{"cniVersion":"7.0.0"}"#, r#"{"cniVersion":"1.1.0"}"#] {
        let answer = place.bare("VERSION").with("CNI_PATH", None::<&str>).saying(stdin).run();
        let said: Value = serde_json::from_str(&answer.ok()).expect("JSON");
        assert_eq!(said["supportedVersions"], json!(VERSIONS), "{stdin}");
    }
    assert_eq!(place.files().len(), 0);
}

/// Answers are whole even when nobody reads the log and stderr is closed.
#[test]
fn unknown_environment_and_daemon_variables_are_nothing_to_us() {
    let bed = Bed::new();
    let (place, pod) = (bed.place(), bed.pod());
    let noisy = [
        ("RUST_LOG", "trace"),
        ("RUST_BACKTRACE", "full"),
        ("NOTIFY_SOCKET", "/x"),
        ("http_proxy", "http://u:secret@h"),
        ("LANG", "xx"),
    ];
    let call = noisy.iter().fold(place.call("ADD", &pod), |call, (name, value)| call.with(name, Some(value)));
    call.run().ok();
    let log = std::fs::read_to_string(&place.log).expect("a log");
    assert!(!log.contains("secret"), "{log}");
    place.del(&pod);
}
