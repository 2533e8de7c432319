//! Clients and servers of well-kept libraries, in Python: what they are told, and what they tell.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use serde_json::json;
use shunt_tests::ask::Place;
use shunt_tests::process::{Helper, becoming};
use shunt_tests::program::Become;
use shunt_tests::{bin, need};

/// Ports of the servers, as `peers/wire.py` has them.
pub(crate) mod port {
    pub(crate) const HTTP: u16 = 8001;
    pub(crate) const HTTP2: u16 = 8002;
    pub(crate) const GRPC: u16 = 8003;
    pub(crate) const WEBSOCKET: u16 = 8004;
    pub(crate) const ECHO: u16 = 9001;
    pub(crate) const BANNER: u16 = 9002;
    pub(crate) const BULK: u16 = 9003;
    pub(crate) const RESETS: u16 = 9004;
    pub(crate) const STEADY: u16 = 9005;
    pub(crate) const TLS: u16 = 9443;
}

/// What the proxy's resolver is asked for, likewise.
pub(crate) const DNS_NAME: &str = "mesh.example";
pub(crate) const DNS_RESULT: &str = "192.0.2.77";
/// Whose certificate the TLS server has.
pub(crate) const NAME: &str = "shop.example";

/// What both ends saw of a talk.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Talked {
    pub(crate) talk: String,
    /// What its requests carry as `x-talk`.
    pub(crate) id: String,
    /// The client's own end and the other end, as it was told; gRPC does not tell.
    pub(crate) local: Option<SocketAddr>,
    pub(crate) peer: Option<SocketAddr>,
    /// Whom the server saw.
    pub(crate) seen: Vec<SocketAddr>,
    pub(crate) port: Option<u16>,
    pub(crate) error: Option<String>,
}

/// How steady traffic came out.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Tally {
    /// Connections by outcome: `ok`, or the step that failed and how.
    pub(crate) came: BTreeMap<String, u64>,
    /// Addresses that the server saw.
    pub(crate) seen: BTreeMap<String, u64>,
    /// Of those that are kept open: `words` they carried, and how they ended.
    pub(crate) kept: BTreeMap<String, u64>,
}

/// The certificate that all servers share.
pub(crate) struct Certificate {
    certificate: PathBuf,
    key: PathBuf,
}

impl Certificate {
    /// Makes one.
    pub(crate) fn new(dir: &Path) -> Self {
        need::tool("openssl");
        let new = Self { certificate: dir.join("certificate.pem"), key: dir.join("key.pem") };
        let done = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
            .args([
                "-days",
                "2",
                "-subj",
                &format!("/CN={NAME}"),
                "-addext",
                &format!("subjectAltName=DNS:{NAME}"),
            ])
            .arg("-out")
            .arg(&new.certificate)
            .arg("-keyout")
            .arg(&new.key)
            .output()
            .expect("openssl can be run");
        assert!(done.status.success(), "openssl: {}", String::from_utf8_lossy(&done.stderr));
        new
    }
}

/// Runs one of the scripts in a place. Python and its packages may lie in a home that the place's user cannot enter, so it may read
/// all there is; nothing in the path of a connection asks for that.
fn python(place: &Place, script: &str, arguments: &[&str]) -> Helper {
    need::tool("python3");
    need::tool("setpriv");
    let script_file = Path::new(env!("CARGO_MANIFEST_DIR")).join("envoy/peers").join(script);
    let (uid, gid) = (place.uid.to_string(), place.gid.to_string());
    let reads_all = "+dac_read_search";
    let mut words = vec!["setpriv", "--reuid", &uid, "--regid", &gid, "--clear-groups"];
    words.extend(["--inh-caps", reads_all, "--ambient-caps", reads_all, "python3"]);
    words.push(script_file.to_str().expect("a path of ours"));
    words.extend(arguments);
    let program = Become {
        program: "/usr/bin/env".into(),
        arguments: words.into_iter().map(str::to_owned).collect(),
        shared_memory: None,
    };
    let mut command = becoming(&place.clone().ids(0, 0), &program);
    command.env("PYTHONPATH", bin::tool("peers")).env("PYTHONDONTWRITEBYTECODE", "1");
    let mut helper = Helper::of(&mut command);
    assert_eq!(helper.line().as_deref(), Some("ready"), "{script} does not start");
    helper
}

/// All servers, at a place.
pub(crate) struct Servers {
    _helper: Helper,
}

impl Servers {
    pub(crate) fn start(place: &Place, certificate: &Certificate) -> Self {
        let Certificate { certificate, key } = certificate;
        let files = [certificate.display().to_string(), key.display().to_string()];
        Self { _helper: python(place, "serve.py", &files.each_ref().map(String::as_str)) }
    }
}

/// A client that talks in every way there is.
pub(crate) struct Client {
    helper: Helper,
    number: u32,
}

impl Client {
    pub(crate) fn start(place: &Place, certificate: &Certificate) -> Self {
        let authority = certificate.certificate.display().to_string();
        Self { helper: python(place, "talk.py", &[&authority]), number: 0 }
    }

    /// Has these talks with a host, one after the other.
    pub(crate) fn talk(&mut self, host: IpAddr, talks: &[&str]) -> Vec<Talked> {
        self.number += 1;
        self.helper.say(&json!({ "host": host, "talks": talks, "number": self.number }).to_string());
        let line = self.helper.line().unwrap_or_else(|| panic!("the client died: {talks:?}"));
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"))
    }
}

/// New connections all the time.
pub(crate) struct Steady {
    helper: Helper,
}

impl Steady {
    pub(crate) fn start(place: &Place, hosts: &[IpAddr]) -> Self {
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        Self { helper: python(place, "steady.py", &hosts.iter().map(String::as_str).collect::<Vec<_>>()) }
    }

    /// How they came out so far.
    pub(crate) fn came(&mut self) -> Tally {
        self.helper.say("so far");
        let line = self.helper.line().expect("it goes on");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"))
    }
}
