//! Bad input: whatever comes, one JSON document goes out, and nothing is changed.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::time::{Duration, Instant};

use nix::sys::stat::Mode;
use serde_json::{Value, json};

use crate::bed::{Answer, Bed, Call, Place, Pod};

/// Pods and programs that are there, so that a change would show.
struct Ground {
    bed: Bed,
    place: Place,
    bystander: Pod,
    pod: Pod,
}

impl Ground {
    fn new() -> Self {
        let bed = Bed::new();
        let (place, bystander, pod) = (bed.place(), bed.pod(), bed.pod());
        place.add(&bystander);
        Self { bed, place, bystander, pod }
    }

    /// The call is refused with this code, says `words`, and changes nothing.
    #[track_caller]
    fn refuses(&self, what: &str, call: &Call, code: u64, words: &[&str]) -> Answer {
        let before = self.place.files();
        let answer = call.run();
        assert!(answer.code == Some(1), "{what}: {answer}");
        let (said, text) = answer.refused();
        assert_eq!(said, code, "{what}: {answer}");
        for word in words {
            assert!(text.contains(word), "{what}: not a word of {word}: {answer}");
        }
        assert_eq!(self.place.files(), before, "{what}");
        self.place.nothing_of(&self.pod);
        self.place.check(&self.bystander);
        answer
    }

    fn add(&self) -> Call {
        self.place.call("ADD", &self.pod)
    }
}

#[test]
fn what_is_on_stdin() {
    let ground = Ground::new();
    let good = ground.add().stdin;
    let half = good.get(..good.len() / 2).expect("half of it").to_vec();
    let nested = |open: &str, close: &str| {
        format!("{{\"a\":{}1{}}}", open.repeat(100_000), close.repeat(100_000)).into_bytes()
    };
    let mut not_utf8 = good.clone();
    not_utf8.splice(1..1, *b"\"\xff\xfe\":1,");
    let long = [b"{\"x\":\"".as_slice(), &vec![b'y'; 10 * 1024 * 1024], b"\"}"].concat();
    for (what, stdin, code) in [
        ("empty", Vec::new(), 6),
        ("blank", b" \n\t".to_vec(), 6),
        ("truncated", half, 6),
        ("a zero", vec![0], 6),
        ("10 MiB", long, 5),
        ("10 MiB of nothing", vec![b' '; 10 * 1024 * 1024], 5),
        ("nested arrays", nested("[", "]"), 6),
        ("nested objects", nested("{\"b\":", "}"), 6),
        ("arrays without an end", vec![b'['; 1024 * 1024], 6),
        ("not UTF-8", not_utf8, 6),
        ("a list", b"[]".to_vec(), 6),
        ("a word", b"null".to_vec(), 6),
        ("two documents", [good.as_slice(), &good].concat(), 6),
        ("a document and a half", [good.as_slice(), b"{"].concat(), 6),
    ] {
        ground.refuses(what, &ground.add().saying(stdin.clone()), code, &[]);
        let del = ground.place.call("DEL", &ground.pod).saying(stdin);
        if what.starts_with("nested") {
            // An object, and so enough for DEL, which reads no more of it than it needs.
            del.run().silent();
        } else {
            // What is no configuration at all is an error for DEL too; it loses nothing.
            ground.refuses(what, &del, code, &[]);
        }
    }
}

#[test]
fn stdin_that_never_ends() {
    let ground = Ground::new();
    let whole = ground.add().stdin;
    let half = whole.get(..20).expect("a start").to_vec();
    std::thread::scope(|scope| {
        for stdin in [Vec::new(), half, whole] {
            let ground = &ground;
            scope.spawn(move || {
                let mut call = ground.add().saying(stdin);
                call.hangs = true;
                let started = Instant::now();
                let answer = call.run();
                assert_eq!(answer.refused().0, 5);
                // The plugin's own limit is 3 seconds; a busy machine gets some more.
                assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
            });
        }
    });
    ground.place.nothing_of(&ground.pod);
    ground.place.check(&ground.bystander);
}

#[test]
fn the_environment() {
    let ground = Ground::new();
    let text = |text: &str| Some(OsString::from(text));
    let long = |count: usize| Some(OsString::from("a".repeat(count)));
    let odd = Some(OsString::from_vec(b"a\xff\xfe".to_vec()));
    for (name, values) in [
        (
            "CNI_CONTAINERID",
            vec![
                None,
                text(""),
                text(".."),
                text("."),
                text("/"),
                text("a/../b"),
                text("a b"),
                text("a\n"),
                text("-a"),
                text("\u{e4}"),
                long(300),
                odd.clone(),
            ],
        ),
        (
            "CNI_IFNAME",
            vec![
                None,
                text(""),
                text(".."),
                text("."),
                text("/"),
                text("a/b"),
                text("a:b"),
                text("a b"),
                text("a\tb"),
                long(16),
                long(300),
                odd.clone(),
            ],
        ),
        (
            "CNI_NETNS",
            vec![
                None,
                text(""),
                text("pod1"),
                text("../pod1"),
                long(300),
                Some(OsString::from(format!("/{}", "a".repeat(5000)))),
            ],
        ),
        ("CNI_ARGS", vec![long(70_000), odd.clone()]),
        ("CNI_PATH", vec![None, text("")]),
        ("CNI_COMMAND", vec![text("add"), text("ADD "), text(".."), long(300), odd.clone()]),
    ] {
        for value in values {
            let call = ground.add().with(name, value.as_deref());
            ground.refuses(&format!("{name}={value:?}"), &call, 4, &[name]);
        }
    }
    // Whatever the shape of the path is, it must lead to a namespace.
    for path in [OsStr::from_bytes(b"/\xff\xfe"), OsStr::new("/.."), OsStr::new("/a\nb"), OsStr::new("/%s%n")]
    {
        let call = ground.add().with("CNI_NETNS", Some(path));
        ground.refuses(&format!("{path:?}"), &call, 8, &[]);
    }
    // All that are missing are named at once.
    let bare = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"]
        .iter()
        .fold(ground.add(), |call, name| call.with(name, None::<&str>));
    ground.refuses("nothing", &bare, 4, &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"]);
    // Not asked for anything: an explanation for people, nothing for a runtime.
    let about = ground.add().with("CNI_COMMAND", None::<&str>).run();
    about.silent();
    assert!(!about.stderr.is_empty());
}

#[test]
fn the_network_namespace() {
    let ground = Ground::new();
    let dir = ground.bed.dir();
    let path = |name: &str| dir.join(name);
    std::fs::write(path("file"), "").expect("own directory");
    std::fs::create_dir(path("directory")).expect("own directory");
    nix::unistd::mkfifo(&path("fifo"), Mode::S_IRWXU).expect("own directory");
    std::os::unix::fs::symlink(path("nowhere"), path("dangling")).expect("own directory");
    for (what, netns) in [
        ("a file", path("file")),
        ("a directory", path("directory")),
        ("a fifo nobody writes to", path("fifo")),
        ("a link to nowhere", path("dangling")),
        ("gone", path("gone")),
        ("a device", "/dev/null".into()),
        ("a device that never ends", "/dev/zero".into()),
        ("another kind of namespace", "/proc/self/ns/mnt".into()),
        ("the host's own", "/proc/self/ns/net".into()),
    ] {
        for verb in ["ADD", "CHECK"] {
            // CHECK asks for the record first, and there is none.
            let code = if verb == "ADD" { 8 } else { 104 };
            let call = ground.place.call(verb, &ground.pod).with("CNI_NETNS", Some(&netns));
            ground.refuses(&format!("{verb}: {what}"), &call, code, &[]);
            // The policy is about nodes that cannot intercept, not about calls that make no sense.
            let open = call.configured(|config| config["failurePolicy"] = json!("open"));
            if verb == "ADD" {
                ground.refuses(&format!("open: {what}"), &open, code, &[]);
            }
        }
        ground.place.call("DEL", &ground.pod).with("CNI_NETNS", Some(&netns)).run().silent();
    }
}

/// A change to the configuration, with the code it is refused with and what the answer has to name.
type Change = (&'static str, fn(&mut Value), u64, &'static [&'static str]);

fn drop_key(config: &mut Value, key: &str) {
    config.as_object_mut().expect("an object").remove(key);
}

#[test]
fn the_configuration() {
    let ground = Ground::new();
    let annotate = |key: &str, value: &str| {
        let (key, value) = (key.to_owned(), value.to_owned());
        move |config: &mut Value| {
            config["runtimeConfig"]["io.kubernetes.cri.pod-annotations"][key] = json!(value);
        }
    };
    let changes: [Change; 21] = [
        ("an unknown key", |c| c["redirrect"] = json!({}), 7, &["redirrect"]),
        (
            "an unknown key further down",
            |c| c["redirect"]["outboundPorts"] = json!(1),
            7,
            &["redirect", "outboundPorts"],
        ),
        ("no prevResult", |c| drop_key(c, "prevResult"), 7, &["prevResult", "chained"]),
        ("null for prevResult", |c| c["prevResult"] = json!(null), 7, &["prevResult"]),
        ("a list for prevResult", |c| c["prevResult"] = json!([]), 7, &["prevResult"]),
        ("no name", |c| drop_key(c, "name"), 7, &["name"]),
        ("a bad name", |c| c["name"] = json!("../x"), 7, &["name", "../x"]),
        ("no version", |c| drop_key(c, "cniVersion"), 1, &["0.1.0"]),
        ("an old version", |c| c["cniVersion"] = json!("0.2.0"), 1, &["0.2.0", "1.1.0"]),
        ("a version to come", |c| c["cniVersion"] = json!("1.2.0"), 1, &["1.2.0", "1.1.0"]),
        ("a number for a version", |c| c["cniVersion"] = json!(1), 6, &["cniVersion"]),
        ("a mesh nobody knows", |c| c["mesh"] = json!("mush"), 7, &["mesh"]),
        ("a port too high", |c| c["redirect"]["outboundPort"] = json!(65536), 7, &["redirect.outboundPort"]),
        ("port 0", |c| c["redirect"]["inboundPort"] = json!(0), 7, &["redirect.inboundPort"]),
        (
            "a range backwards",
            |c| c["redirect"]["excludeOutboundPorts"] = json!(["9-1"]),
            7,
            &["excludeOutboundPorts", "9-1"],
        ),
        (
            "a bad network",
            |c| c["redirect"]["excludeOutboundCidrs"] = json!(["10.0.0.0/33"]),
            7,
            &["excludeOutboundCidrs", "10.0.0.0/33"],
        ),
        ("a relative directory", |c| c["stateDir"] = json!("run"), 7, &["stateDir"]),
        ("a proxy without a port", |c| drop_key(&mut c["redirect"], "outboundPort"), 7, &["outboundPort"]),
        (
            "text for annotations",
            |c| c["runtimeConfig"]["io.kubernetes.cri.pod-annotations"] = json!("x"),
            7,
            &["pod-annotations"],
        ),
        (
            "a cgroup above all",
            |c| c["runtimeConfig"]["cgroupPath"] = json!("/../../etc"),
            7,
            &["cgroupPath"],
        ),
        ("dns without its port", |c| c["redirect"]["dnsPort"] = json!(null), 7, &["dnsPort"]),
    ];
    for (what, change, code, words) in changes {
        ground.refuses(what, &ground.add().configured(change), code, words);
        // None of these is what `failurePolicy` is about.
        let open = |config: &mut Value| {
            change(config);
            config["failurePolicy"] = json!("open");
        };
        ground.refuses(&format!("open: {what}"), &ground.add().configured(open), code, words);
    }
    for (key, value) in [
        ("shunt-cni.io/intercept", "yes"),
        ("shunt-cni.io/outbound-port", "http"),
        ("shunt-cni.io/exclude-outbound-cidrs", "10.0.0.0/99"),
        ("shunt-cni.io/exclude-outbound-ports", "70000"),
        ("shunt-cni.io/no-such-key", "1"),
    ] {
        ground.refuses(key, &ground.add().configured(annotate(key, value)), 7, &[key, value]);
    }
}

#[test]
fn the_annotations_of_a_mesh() {
    let ground = Ground::new();
    for (mesh, annotations, code, words) in [
        (
            "linkerd",
            json!({"linkerd.io/proxy-version": "v", "config.linkerd.io/skip-inbound-ports": "http"}),
            7,
            ["config.linkerd.io/skip-inbound-ports", "http"],
        ),
        (
            "kuma",
            json!({"kuma.io/sidecar-injected": "true", "traffic.kuma.io/transparent-proxy-config": "redirect: {inbound: {port: x}}"}),
            7,
            ["traffic.kuma.io/transparent-proxy-config", "redirect.inbound.port"],
        ),
        (
            "istio",
            json!({"sidecar.istio.io/status": "{}", "proxy.istio.io/config": "interceptionMode: TPROXY"}),
            2,
            ["proxy.istio.io/config", "interceptionMode"],
        ),
    ] {
        let change = |config: &mut Value| {
            config["mesh"] = json!(mesh);
            config["runtimeConfig"]["io.kubernetes.cri.pod-annotations"] = annotations.clone();
        };
        ground.refuses(mesh, &ground.add().configured(change), code, &words);
    }
}
