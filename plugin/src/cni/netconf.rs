//! The object on standard input: CNI's keys, our entry, and `prevResult`, which is never reshaped.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::ser::{SerializeMap as _, Serializer as _};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use shunt_api::entry::is_own;
use shunt_api::{Entry, Log, paths};

use super::version::Version;
use crate::attachment::{Attachment, is_identifier};
use crate::error::{Error, Failed as _, Kind};
use crate::settings::{Settings, is_sane_path};

/// Deepest nesting that is read; `serde_json`'s own limit.
const DEPTH_MAX: usize = 127;

/// Most bytes in all annotations together. Kubernetes allows 256 KiB.
const ANNOTATIONS_MAX: usize = 1024 * 1024;

/// `cni.dev/valid-attachments`, and the name an early draft of the specification used.
const VALID_ATTACHMENTS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

/// Annotations of the pod, as they were when its sandbox was made.
pub type Annotations = BTreeMap<String, String>;

/// The object as it came: each value still text.
#[derive(Debug)]
pub struct Document(BTreeMap<String, Box<RawValue>>);

impl Document {
    /// # Errors
    /// [`Kind::Decode`] when `bytes` are not one JSON object in UTF-8.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(Error::new(Kind::Decode, "standard input is empty"));
        }
        let text = std::str::from_utf8(bytes).failed(Kind::Decode, || "standard input is not UTF-8")?;
        serde_json::from_str(text).map(Self).failed(Kind::Decode, || "standard input is not a JSON object")
    }

    /// Refuses what is nested so deeply that whoever reads the result next would refuse it.
    ///
    /// # Errors
    /// [`Kind::Decode`] naming the key.
    pub fn shallow(&self) -> Result<(), Error> {
        match self.0.iter().find(|(_, raw)| depth(raw.get()) >= DEPTH_MAX) {
            None => Ok(()),
            Some((key, _)) => {
                let key = shunt_api::entry::shortened(key);
                Err(Error::new(
                    Kind::Decode,
                    format!("key {key:?} is nested more than {DEPTH_MAX} levels deep"),
                ))
            }
        }
    }

    /// `cniVersion`; an empty or absent one means 0.1.0, as in libcni.
    ///
    /// # Errors
    /// [`Kind::Version`] when it is not one of ours, [`Kind::Decode`] when it is no text.
    pub fn version(&self) -> Result<Version, Error> {
        let written: Option<String> = self.typed("cniVersion", Kind::Decode)?;
        let written = written.filter(|version| !version.is_empty()).unwrap_or_else(|| "0.1.0".to_owned());
        Version::exact(&written).ok_or_else(|| {
            let written = shunt_api::entry::shortened(&written);
            Error::new(Kind::Version, format!("cniVersion {written:?} is not one of {}", Version::list()))
        })
    }

    /// `stateDir`, as far as it can be told whatever else is wrong; none where it is no directory we could use.
    pub fn state_dir(&self) -> Option<PathBuf> {
        let written = self.typed::<PathBuf>("stateDir", Kind::Config).ok()?;
        written.map_or_else(
            || Some(paths::STATE_DIR.into()),
            |path| Some(path).filter(|path| is_sane_path(path)),
        )
    }

    /// A key's value; none when it is absent or null.
    fn typed<'a, T: Deserialize<'a>>(&'a self, key: &str, kind: Kind) -> Result<Option<T>, Error> {
        match self.0.get(key) {
            None => Ok(None),
            Some(raw) => {
                let mut from = serde_json::Deserializer::from_str(raw.get());
                serde_path_to_error::deserialize(&mut from).map_err(|error| {
                    let path = error.path().to_string();
                    let path = if path == "." { key.to_owned() } else { format!("{key}.{path}") };
                    Error::new(kind, format!("key \"{path}\"")).because(error.into_inner())
                })
            }
        }
    }

    /// Our own part.
    fn settings(&self) -> Result<Settings, Error> {
        let mut own = Map::new();
        for (key, raw) in self.0.iter().filter(|(key, _)| is_own(key)) {
            let value: Value = serde_json::from_str(raw.get())
                .failed(Kind::Decode, || format!("key {:?}", shunt_api::entry::shortened(key)))?;
            own.insert(key.clone(), value);
        }
        let entry = Entry::from_object(&own).map_err(|error| Error::new(Kind::Config, error.to_string()))?;
        Settings::new(entry)
    }

    /// The attachments that live, for GC.
    ///
    /// # Errors
    /// [`Kind::Config`] when a list is there and cannot be read: then nothing may be removed.
    pub fn valid_attachments(&self) -> Result<Option<Vec<Attachment>>, Error> {
        #[derive(Deserialize)]
        struct Named {
            #[serde(rename = "containerID")]
            container_id: String,
            ifname: String,
        }

        for key in VALID_ATTACHMENTS {
            if let Some(list) = self.typed::<Vec<Named>>(key, Kind::Config)? {
                let ours =
                    list.iter().filter_map(|named| Attachment::new(&named.container_id, &named.ifname).ok());
                return Ok(Some(ours.collect()));
            }
        }
        Ok(None)
    }
}

/// The configuration, for every command but DEL.
#[derive(Debug)]
pub struct NetConf {
    /// The version asked for; answers are in it.
    pub cni_version: Version,
    /// The network's name.
    pub name: String,
    /// Our entry.
    pub settings: Settings,
    /// The pod's annotations; empty when the runtime gave none.
    pub annotations: Annotations,
    /// `runtimeConfig.cgroupPath`, as the runtime wrote it; not empty.
    pub cgroup_path: Option<String>,
    /// The result of the plugins before us.
    pub prev_result: Option<PrevResult>,
}

impl NetConf {
    /// Reads it strictly. The version is known to be one of ours.
    ///
    /// # Errors
    /// [`Kind::Config`] naming the key, or [`Kind::Decode`].
    pub fn read(document: &Document, cni_version: Version) -> Result<Self, Error> {
        let name: String = document.typed("name", Kind::Config)?.unwrap_or_default();
        if !is_identifier(&name) {
            let name = shunt_api::entry::shortened(&name);
            return Err(Error::new(Kind::Config, format!("key \"name\": {name:?} is not a network's name")));
        }
        let settings = document.settings()?;
        let runtime = document.typed::<RuntimeConfig>("runtimeConfig", Kind::Config)?.unwrap_or_default();
        let annotations = runtime.annotations.unwrap_or_default();
        if annotations.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() > ANNOTATIONS_MAX {
            let text = format!("the pod's annotations are longer than {ANNOTATIONS_MAX} bytes");
            return Err(Error::new(Kind::Config, text));
        }
        Ok(Self {
            cni_version,
            name,
            settings,
            annotations,
            cgroup_path: runtime.cgroup_path.filter(|path| !path.is_empty()),
            prev_result: PrevResult::of(document)?,
        })
    }
}

/// What we read of `runtimeConfig`; whatever else is there is somebody else's.
#[derive(Default, Deserialize)]
struct RuntimeConfig {
    #[serde(rename = "io.kubernetes.cri.pod-annotations")]
    annotations: Option<Annotations>,
    #[serde(rename = "cgroupPath")]
    cgroup_path: Option<String>,
}

/// What DEL knows: whatever could be read, else the defaults. Reading it cannot fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DelConf {
    /// Key `stateDir`.
    pub state_dir: PathBuf,
    /// Key `bpfDir`.
    pub bpf_dir: PathBuf,
    /// Key `log`.
    pub log: Log,
    /// `runtimeConfig.cgroupPath`.
    pub cgroup_path: Option<String>,
}

impl DelConf {
    /// Takes each key by itself and the default for what is absent or makes no sense.
    pub fn read(document: &Document) -> Self {
        let path = |key: &str| {
            document.typed::<PathBuf>(key, Kind::Config).ok().flatten().filter(|path| is_sane_path(path))
        };
        let log =
            document.typed::<Log>("log", Kind::Config).ok().flatten().filter(|log| is_sane_path(&log.file));
        let cgroup_path = document
            .typed::<Map<String, Value>>("runtimeConfig", Kind::Config)
            .ok()
            .flatten()
            .and_then(|runtime| Some(runtime.get(paths::CAPABILITY_CGROUP)?.as_str()?.to_owned()))
            .filter(|path| !path.is_empty());
        Self {
            state_dir: path("stateDir").unwrap_or_else(|| PathBuf::from(paths::STATE_DIR)),
            bpf_dir: path("bpfDir").unwrap_or_else(|| PathBuf::from(paths::BPF_DIR)),
            log: log.unwrap_or_default(),
            cgroup_path,
        }
    }
}

/// The result of the plugins before us: an object, kept as text.
#[derive(Clone)]
pub struct PrevResult(Box<RawValue>);

impl fmt::Debug for PrevResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrevResult")
    }
}

impl PrevResult {
    fn of(document: &Document) -> Result<Option<Self>, Error> {
        match document.0.get("prevResult").filter(|raw| raw.get() != "null") {
            None => Ok(None),
            Some(raw) if raw.get().starts_with('{') => Ok(Some(Self(raw.clone()))),
            Some(_) => Err(Error::new(Kind::Config, "key \"prevResult\": must be an object")),
        }
    }

    /// The JSON text.
    pub fn get(&self) -> &str {
        self.0.get()
    }

    /// The JSON text for an answer in `version`: unchanged when it says so itself, else with `cniVersion` set and all other
    /// values and their order kept.
    ///
    /// # Errors
    /// [`Kind::Internal`]; cannot happen for text that was read as JSON.
    pub fn in_version(&self, version: Version) -> Result<String, Error> {
        let Pairs(pairs) =
            serde_json::from_str(self.get()).failed(Kind::Internal, || "reading prevResult again")?;
        let is_version = |(key, _): &&(String, &RawValue)| key == "cniVersion";
        let quoted = format!("\"{version}\"");
        let mut said = pairs.iter().filter(is_version).peekable();
        if said.peek().is_some() && said.all(|(_, raw)| raw.get() == quoted) {
            return Ok(self.get().to_owned());
        }
        let others = pairs.iter().filter(|pair| !is_version(pair));
        let mut text = Vec::with_capacity(self.get().len() + 32);
        let mut to = serde_json::Serializer::new(&mut text);
        let written = to.serialize_map(None).and_then(|mut map| {
            map.serialize_entry("cniVersion", version.as_str())?;
            for (key, raw) in others {
                map.serialize_entry(key, raw)?;
            }
            map.end()
        });
        written.failed(Kind::Internal, || "writing prevResult")?;
        String::from_utf8(text).failed(Kind::Internal, || "writing prevResult")
    }
}

/// An object's pairs in their order.
struct Pairs<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}

/// How deeply arrays and objects are nested in a text that is known to be JSON.
fn depth(json: &str) -> usize {
    let (mut now, mut most, mut quoted, mut escaped) = (0_usize, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => {
                now += 1;
                most = most.max(now);
            }
            b']' | b'}' if !quoted => now = now.saturating_sub(1),
            _ => {}
        }
    }
    most
}

#[cfg(test)]
mod tests {
    use super::{DelConf, Document, NetConf, PrevResult, depth};
    use crate::cni::Version;
    use crate::error::{Error, Kind};

    fn read(json: &str) -> Result<NetConf, Error> {
        let document = Document::parse(json.as_bytes())?;
        document.shallow()?;
        NetConf::read(&document, document.version()?)
    }

    fn prev(json: &str) -> PrevResult {
        let document = Document::parse(format!("{{\"prevResult\":{json}}}").as_bytes()).expect("JSON");
        PrevResult::of(&document).expect("object").expect("present")
    }

    #[test]
    fn prev_result_is_not_reshaped() {
        for json in [
            r#"{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","mac":"","sandbox":"/x","mtu":1500.0}],"ips":[{"interface":-1,"address":"10.0.0.1/24"}],"dns":{},"z":123456789012345678901234567890,"a":1e400}"#,
            "{ \"cniVersion\" : \"1.0.0\",\n \"odd\" : \"\\u00e9\\ud83d\\ude00\" }",
        ] {
            assert_eq!(prev(json).in_version(Version::V1_0_0).expect("JSON"), json);
        }
    }

    #[test]
    fn prev_result_gets_the_version_asked() {
        for (json, out) in [
            ("{}", r#"{"cniVersion":"0.3.1"}"#),
            (
                r#"{"ips": [ 1 ],"a":9007199254740993}"#,
                r#"{"cniVersion":"0.3.1","ips":[ 1 ],"a":9007199254740993}"#,
            ),
            (r#"{"b":1,"cniVersion":"1.0.0","a":1}"#, r#"{"cniVersion":"0.3.1","b":1,"a":1}"#),
            (r#"{"cniVersion":"0.3.1","cniVersion":"1.0.0"}"#, r#"{"cniVersion":"0.3.1"}"#),
            (r#"{"cniVersion":null}"#, r#"{"cniVersion":"0.3.1"}"#),
        ] {
            assert_eq!(prev(json).in_version(Version::V0_3_1).expect("JSON"), out);
        }
    }

    #[test]
    fn annotations_and_cgroup_in_all_shapes() {
        let conf = |runtime: &str| {
            read(&format!(r#"{{"cniVersion":"1.0.0","name":"n","runtimeConfig":{runtime}}}"#))
        };
        for nothing in [
            "{}",
            "null",
            r#"{"io.kubernetes.cri.pod-annotations":null,"cgroupPath":null}"#,
            r#"{"cgroupPath":"","portMappings":[{"HostPort":1}]}"#,
        ] {
            let conf = conf(nothing).expect("valid");
            assert!(conf.annotations.is_empty() && conf.cgroup_path.is_none(), "{nothing}");
        }
        let full =
            conf(r#"{"io.kubernetes.cri.pod-annotations":{"a/b":"c","d":""},"cgroupPath":"/kubepods/pod1"}"#)
                .expect("valid");
        assert_eq!(full.annotations.get("a/b").map(String::as_str), Some("c"));
        assert_eq!(full.cgroup_path.as_deref(), Some("/kubepods/pod1"));
        for (bad, path) in [
            ("[]", "runtimeConfig"),
            (r#"{"cgroupPath":1}"#, "runtimeConfig.cgroupPath"),
            (
                r#"{"io.kubernetes.cri.pod-annotations":{"a":1}}"#,
                "runtimeConfig.io.kubernetes.cri.pod-annotations",
            ),
            (
                r#"{"io.kubernetes.cri.pod-annotations":[]}"#,
                "runtimeConfig.io.kubernetes.cri.pod-annotations",
            ),
        ] {
            let error = conf(bad).expect_err("refused");
            assert_eq!(error.kind(), Kind::Config, "{bad}");
            assert!(error.details().contains(path), "{bad}: {}", error.details());
        }
        let long =
            format!(r#"{{"io.kubernetes.cri.pod-annotations":{{"a":"{}"}}}}"#, "x".repeat(1024 * 1024));
        assert_eq!(conf(&long).expect_err("refused").kind(), Kind::Config);
    }

    #[test]
    fn names_of_networks() {
        for (name, good) in [
            ("\"k8s-pod-network\"", true),
            ("\"a.b_c\"", true),
            ("\"\"", false),
            ("\"../a\"", false),
            ("\"a b\"", false),
            ("1", false),
            ("null", false),
        ] {
            let conf = read(&format!(r#"{{"cniVersion":"1.0.0","name":{name}}}"#));
            assert_eq!(conf.map_err(|error| error.kind()).err(), (!good).then_some(Kind::Config), "{name}");
        }
    }

    #[test]
    fn what_is_no_object() {
        for bytes in
            ["", " \n", "null", "[]", "1", "\"a\"", "{", "{}{}", "{\"a\"}", "{\"a\":}", "\u{feff}{}", "{} x"]
        {
            assert_eq!(
                Document::parse(bytes.as_bytes()).expect_err("refused").kind(),
                Kind::Decode,
                "{bytes:?}"
            );
        }
        assert_eq!(Document::parse(b"{\"a\":\"\xff\"}").expect_err("refused").kind(), Kind::Decode);
    }

    #[test]
    fn deep_ones() {
        let nested = |levels: usize| {
            format!(
                r#"{{"cniVersion":"1.0.0","name":"n","prevResult":{}{}}}"#,
                r#"{"a":"#.repeat(levels) + "1",
                "}".repeat(levels)
            )
        };
        assert!(read(&nested(100)).is_ok());
        for levels in [127, 1_000, 500_000] {
            assert_eq!(read(&nested(levels)).expect_err("refused").kind(), Kind::Decode, "{levels}");
        }
        assert_eq!(depth(r#"{"a[[[":"\"[[\\","b":[{}]}"#), 3);
    }

    #[test]
    fn del_takes_what_it_can() {
        let conf = |json: &str| DelConf::read(&Document::parse(json.as_bytes()).expect("object"));
        let plain = conf("{}");
        assert_eq!(plain.state_dir.to_str(), Some("/run/shunt"));
        assert_eq!(plain.bpf_dir.to_str(), Some("/sys/fs/bpf/shunt"));
        for odd in [
            r#"{"stateDir":1,"bpfDir":null,"log":"x","mash":2,"redirect":{"a":1},"cniVersion":7,"prevResult":"y","runtimeConfig":[]}"#,
            r#"{"stateDir":"run","bpfDir":"","log":{"level":"loud"},"runtimeConfig":{"cgroupPath":3}}"#,
        ] {
            assert_eq!(conf(odd), plain, "{odd}");
        }
        let full = conf(
            r#"{"stateDir":"/a","bpfDir":"/b","log":{"level":"error","file":"/c"},"runtimeConfig":{"cgroupPath":"/d"},"unknown":1}"#,
        );
        assert_eq!(
            (full.state_dir.to_str(), full.bpf_dir.to_str(), full.log.file.to_str()),
            (Some("/a"), Some("/b"), Some("/c"))
        );
        assert_eq!(full.cgroup_path.as_deref(), Some("/d"));
    }

    #[test]
    fn lists_for_gc() {
        let list = |json: &str| Document::parse(json.as_bytes()).expect("object").valid_attachments();
        for none in ["{}", r#"{"cni.dev/valid-attachments":null}"#] {
            assert_eq!(list(none).expect("valid"), None, "{none}");
        }
        assert_eq!(list(r#"{"cni.dev/valid-attachments":[]}"#).expect("valid"), Some(vec![]));
        for key in super::VALID_ATTACHMENTS {
            let some = list(&format!(
                r#"{{"{key}":[{{"containerID":"a","ifname":"eth0","more":1}},{{"containerID":"..","ifname":"eth0"}}]}}"#
            ));
            assert_eq!(some.expect("valid").map(|some| some.len()), Some(1));
        }
        for bad in [
            r#"{"cni.dev/valid-attachments":{}}"#,
            r#"{"cni.dev/valid-attachments":[{"containerID":"a"}]}"#,
            r#"{"cni.dev/attachments":[1]}"#,
        ] {
            assert_eq!(list(bad).expect_err("refused").kind(), Kind::Config, "{bad}");
        }
    }
}
