//! `wait`: for this node, and for a `DaemonSet` at an API server that has its days.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use shunt_tests::scratch::Scratch;
use shunt_tests::{bin, need};

use crate::host::{Host, Said};
use crate::neighbours::ALL;

#[test]
fn for_this_node() {
    let host = Host::with_script();
    let said = host.run(&["wait", "--timeout", "1s"]);
    assert_eq!(said.code, Some(3), "{said:?}");
    assert!(said.stdout.contains("has not written its file"), "{said:?}");
    assert!(!host.path("run/shunt").exists(), "who waits changes nothing");
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| host.run(&["wait", "--timeout", "60s"]));
        ALL[0].settle(&host);
        host.once();
        waits.join().expect("no panic").ok();
    });
    host.run(&["wait", "--timeout", "0"]).ok();
}

const TOKEN: &str = "a-token-that-nobody-may-see";

/// An API server with a certificate; ended on drop.
struct Api {
    server: Child,
    port: String,
    scratch: Scratch,
}

impl Drop for Api {
    fn drop(&mut self) {
        let _gone = self.server.kill();
        let _gone = self.server.wait();
    }
}

impl Api {
    fn new(answers: &str) -> Self {
        need::root();
        need::tool("openssl");
        need::tool("python3");
        let scratch = Scratch::new();
        let account = scratch.dir().join("account");
        fs::create_dir(&account).expect("own directory");
        fs::write(account.join("token"), format!("{TOKEN}\n")).expect("own file");
        let key = scratch.dir().join("key");
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-days",
                "2",
            ])
            .args(["-subj", "/CN=kubernetes", "-addext", "subjectAltName=IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(account.join("ca.crt"))
            .output()
            .expect("openssl can be run");
        assert!(made.status.success(), "{made:?}");
        let mut server = Command::new("python3");
        let mut server = crate::host::ends_with_us(&mut server)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("install/api.py"))
            .arg(account.join("ca.crt"))
            .arg(&key)
            .args([TOKEN, answers])
            .arg(scratch.dir().join("log"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 can be run");
        let mut port = String::new();
        BufReader::new(server.stdout.take().expect("piped")).read_line(&mut port).expect("text");
        assert!(!port.is_empty(), "it serves");
        Self { server, port: port.trim().to_owned(), scratch }
    }

    fn account(&self) -> PathBuf {
        self.scratch.dir().join("account")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.scratch.dir().join("log")).unwrap_or_default()
    }

    /// `wait` as a pod of the cluster runs it: with its account where it always is.
    fn wait(&self, time: &str, port: &str) -> Said {
        let script = "mount -t tmpfs tmpfs /run; mkdir -p /run/secrets/kubernetes.io/serviceaccount; mount -t tmpfs tmpfs /var; \
            mkdir /var/run; mount --rbind /run /var/run; mount --bind \"$ACCOUNT\" /var/run/secrets/kubernetes.io/serviceaccount; exec \"$@\"";
        let said: Said = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "bash", "-euc", script, "bash"])
            .arg(bin::installer())
            .args(["wait", "--daemonset", "kube-system/shunt", "--timeout", time, "--log-level", "trace"])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("ACCOUNT", self.account())
            .env("KUBERNETES_SERVICE_HOST", "127.0.0.1")
            .env("KUBERNETES_SERVICE_PORT", port)
            // A proxy is for others.
            .env("https_proxy", "http://127.0.0.1:1")
            .stdin(Stdio::null())
            .output()
            .expect("unshare can be run")
            .into();
        assert!(!said.stdout.contains(TOKEN) && !said.stderr.contains(TOKEN), "{said:?}");
        said
    }
}

#[test]
fn for_a_daemonset_through_all_that_goes_wrong() {
    let api = Api::new("500,401,garbage,half,behind,ready");
    let said = api.wait("60s", &api.port);
    said.ok();
    assert_eq!(said.stdout, "DaemonSet kube-system/shunt is ready on every node\n");
    for words in ["500", "401", "read the API server's answer", "ready on 2"] {
        assert!(said.stderr.contains(words), "{words}: {}", said.stderr);
    }
    let asked = "/apis/apps/v1/namespaces/kube-system/daemonsets/shunt True";
    assert!(api.log().lines().all(|line| line.ends_with(asked)), "{}", api.log());
    assert_eq!(api.log().lines().count(), 6, "{}", api.log());
}

/// When time is up it says what was missing, and with a code that is told apart from one that is wrong.
#[test]
fn for_a_daemonset_in_vain() {
    let cases =
        [("behind", "ready on 2"), ("slow", "timeout"), ("401", "401"), ("refused", "onnection refused")];
    crate::host::in_parallel(&cases, |(answers, words)| {
        let api = Api::new(answers);
        // Nobody listens on the first port.
        let port = if *answers == "refused" { "1" } else { &api.port };
        let said = api.wait("1s", port);
        assert_eq!((said.code, said.stdout.as_str()), (Some(3), ""), "{answers}: {said:?}");
        assert!(said.stderr.contains(words), "{answers}: {said:?}");
        assert!(said.stderr.contains("is not ready within 1 s"), "{answers}: {said:?}");
    });
}

/// Whoever answers with another certificate is not told the token.
#[test]
fn an_impostor_is_not_told_the_token() {
    let (api, impostor) = (Api::new("ready"), Api::new("ready"));
    let said = api.wait("1s", &impostor.port);
    assert_eq!(said.code, Some(3), "{said:?}");
    assert_eq!(impostor.log(), "", "not even asked");
    assert!(said.stderr.contains("ertificate"), "{said:?}");
}

#[test]
fn what_cannot_be_waited_for() {
    let run = |words: &[&str]| -> Said {
        Command::new(bin::installer()).args(words).env_clear().output().expect("it can be run").into()
    };
    let said = run(&["wait", "--daemonset", "shunt"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("not NAMESPACE/NAME"), "{said:?}");
    let said = run(&["wait", "--daemonset", "kube-system/shunt"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("no pod of a cluster"), "{said:?}");
    assert_eq!(run(&["wait", "--timeout", "soon"]).code, Some(2));
}
