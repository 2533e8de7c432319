//! Our entry in the `plugins` list of a conflist, as written.

use std::num::NonZeroU16;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Include, Network, PortRange, paths};

/// Keys of the object on a plugin's standard input that are CNI's and not ours. libcni puts `cniVersion`, `name`,
/// `runtimeConfig` and `prevResult` there and leaves `type` and `capabilities` in; `args` and `ipam` are conventions of
/// CNI that callers with typed configurations write even when they are empty. So are all keys that begin with
/// [`RESERVED_PREFIX`], and [`CNI_DNS`].
pub const TOLERATED: [&str; 8] =
    ["type", "name", "cniVersion", "capabilities", "runtimeConfig", "prevResult", "args", "ipam"];

/// Keys that begin so are reserved to CNI (`cni.dev/valid-attachments` and what may come).
pub const RESERVED_PREFIX: &str = "cni.dev/";

/// CNI's name servers, an object, of no concern to us. libcni refuses a whole list, and a runtime then has no network, when an
/// entry has anything else there; so [`Entry::from_object`] says so first.
pub const CNI_DNS: &str = "dns";

/// The entry: what the administrator decides for all pods of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Entry {
    /// Which mesh's proxy sits in the pods: its ports, ids, exclusions, annotations and marker.
    pub mesh: Mesh,
    /// How traffic is redirected.
    pub backend: Backend,
    /// Which pods.
    pub select: Select,
    /// Pods of these namespaces are never touched.
    pub exclude_namespaces: Vec<String>,
    /// What a selected pod gets when it cannot be intercepted.
    pub failure_policy: FailurePolicy,
    /// What outbound connections get until the proxy has listened for the first time.
    pub before_proxy: BeforeProxy,
    /// Capture DNS (UDP and TCP port 53) to the proxy's DNS port. It cannot be called `dns`: libcni reads CNI's key of that name
    /// in every entry, as an object, and loads no list in which it is anything else.
    pub capture_dns: bool,
    /// UDP other than DNS that leaves a captured pod.
    pub udp: Udp,
    /// Overrides of the profile, or everything for `custom`.
    pub redirect: Redirect,
    /// How much is logged, and where.
    pub log: Log,
    /// Attachment records; absolute.
    pub state_dir: PathBuf,
    /// Pins; absolute, on a bpf file system.
    pub bpf_dir: PathBuf,
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            mesh: Mesh::Istio,
            backend: Backend::Auto,
            select: Select::Annotated,
            exclude_namespaces: vec!["kube-system".to_owned()],
            failure_policy: FailurePolicy::Closed,
            before_proxy: BeforeProxy::Closed,
            capture_dns: false,
            udp: Udp::Pass,
            redirect: Redirect::default(),
            log: Log::default(),
            state_dir: PathBuf::from(paths::STATE_DIR),
            bpf_dir: PathBuf::from(paths::BPF_DIR),
        }
    }
}

/// A closed list of words in the configuration, each with its spelling.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $word)] $variant),+
        }

        impl $name {
            /// All of them, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// As it is written in the configuration.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// A service mesh, or `custom` for a proxy that is described by `redirect` alone.
    Mesh {
        /// Istio with sidecars.
        Istio = "istio",
        /// Linkerd.
        Linkerd = "linkerd",
        /// Kuma and Kong Mesh.
        Kuma = "kuma",
        /// Consul service mesh with transparent proxy.
        Consul = "consul",
        /// Open Service Mesh.
        Osm = "osm",
        /// Flomesh.
        Fsm = "fsm",
        /// AWS App Mesh.
        Appmesh = "appmesh",
        /// Anything else.
        Custom = "custom",
    }
}

words! {
    /// How traffic is redirected.
    Backend {
        /// eBPF where the node can and the plan can be expressed, else iptables.
        Auto = "auto",
        /// eBPF or an error.
        Ebpf = "ebpf",
        /// iptables or an error.
        Iptables = "iptables",
    }
}

words! {
    /// Which pods are intercepted.
    Select {
        /// Those that carry the profile's marker.
        Annotated = "annotated",
        /// Every pod.
        All = "all",
    }
}

words! {
    /// What a selected pod gets when it cannot be intercepted.
    FailurePolicy {
        /// An ADD error.
        Closed = "closed",
        /// A pass, with a warning.
        Open = "open",
    }
}

words! {
    /// What outbound connections get until the proxy has listened for the first time.
    BeforeProxy {
        /// They are refused.
        Closed = "closed",
        /// They go out directly.
        Bypass = "bypass",
    }
}

words! {
    /// What happens to UDP other than DNS that leaves a captured pod.
    Udp {
        /// It leaves.
        Pass = "pass",
        /// It is refused.
        Block = "block",
    }
}

words! {
    /// The least important message that is logged.
    Level {
        /// Everything.
        Trace = "trace",
        /// Each stage.
        Debug = "debug",
        /// One line for each ADD and DEL.
        Info = "info",
        /// What works but should not be so.
        Warn = "warn",
        /// What failed.
        Error = "error",
    }
}

/// How much is logged, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Log {
    /// The least important message that is logged.
    pub level: Level,
    /// Absolute path; its directory is made when it is missing.
    pub file: PathBuf,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: Level::Info, file: PathBuf::from(paths::LOG_FILE) }
    }
}

/// One layer of redirection: what is set here replaces what lower layers say, key by key. The entry's `redirect`, a pod's
/// own annotations, the mesh's annotations and a profile are all of this shape.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Redirect {
    /// Where the proxy listens for connections of the app.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outbound_port: Option<NonZeroU16>,
    /// Where the proxy listens for connections to the app.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inbound_port: Option<NonZeroU16>,
    /// Where the proxy listens for DNS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns_port: Option<NonZeroU16>,
    /// User ids whose connections are the proxy's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_uids: Option<Vec<u32>>,
    /// Group ids whose connections are the proxy's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_gids: Option<Vec<u32>>,
    /// Destinations that are captured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub include_outbound_cidrs: Option<Include<Network>>,
    /// Destinations that are not, looked at before the included ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_outbound_cidrs: Option<Vec<Network>>,
    /// Destination ports that are captured whatever the included networks say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub include_outbound_ports: Option<Vec<PortRange>>,
    /// Destination ports that are not captured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_outbound_ports: Option<Vec<PortRange>>,
    /// The app's ports that are captured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub include_inbound_ports: Option<Include<PortRange>>,
    /// The app's ports that are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_inbound_ports: Option<Vec<PortRange>>,
    /// Sources whose connections are not captured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_inbound_cidrs: Option<Vec<Network>>,
    /// Interfaces of the pod that are left alone, in both directions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_interfaces: Option<Vec<String>>,
}

impl Redirect {
    /// This layer on top of `lower`: a key that is set here replaces the one there, lists as a whole.
    #[must_use]
    pub fn over(self, lower: Self) -> Self {
        Self {
            outbound_port: self.outbound_port.or(lower.outbound_port),
            inbound_port: self.inbound_port.or(lower.inbound_port),
            dns_port: self.dns_port.or(lower.dns_port),
            proxy_uids: self.proxy_uids.or(lower.proxy_uids),
            proxy_gids: self.proxy_gids.or(lower.proxy_gids),
            include_outbound_cidrs: self.include_outbound_cidrs.or(lower.include_outbound_cidrs),
            exclude_outbound_cidrs: self.exclude_outbound_cidrs.or(lower.exclude_outbound_cidrs),
            include_outbound_ports: self.include_outbound_ports.or(lower.include_outbound_ports),
            exclude_outbound_ports: self.exclude_outbound_ports.or(lower.exclude_outbound_ports),
            include_inbound_ports: self.include_inbound_ports.or(lower.include_inbound_ports),
            exclude_inbound_ports: self.exclude_inbound_ports.or(lower.exclude_inbound_ports),
            exclude_inbound_cidrs: self.exclude_inbound_cidrs.or(lower.exclude_inbound_cidrs),
            exclude_interfaces: self.exclude_interfaces.or(lower.exclude_interfaces),
        }
    }
}

/// What is wrong with an entry, and where.
#[derive(Debug, thiserror::Error)]
#[error("key \"{path}\": {message}")]
pub struct EntryError {
    /// The key, as `redirect.outboundPort` or `excludeNamespaces[0]`.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

impl Entry {
    /// Reads the entry from an object that may also hold CNI's keys (see [`TOLERATED`]).
    ///
    /// # Errors
    /// The first key that is unknown or has a value of the wrong shape.
    pub fn from_object(object: &Map<String, Value>) -> Result<Self, EntryError> {
        let own: Map<String, Value> = object
            .iter()
            .filter(|(key, _)| is_own(key) && *key != CNI_DNS)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if object.get(CNI_DNS).is_some_and(|dns| !dns.is_object() && !dns.is_null()) {
            return Err(EntryError {
                path: CNI_DNS.to_owned(),
                message: "is CNI's object of name servers, and no runtime loads a list where it is something else; whether DNS is captured is said by \"captureDns\"".to_owned(),
            });
        }
        serde_path_to_error::deserialize(Value::Object(own)).map_err(|error| EntryError {
            path: error.path().to_string(),
            message: error.into_inner().to_string(),
        })
    }
}

/// Whether a key of the object on standard input is ours to understand.
pub fn is_own(key: &str) -> bool {
    !TOLERATED.contains(&key) && !key.starts_with(RESERVED_PREFIX)
}

/// At most 120 characters of `text`, for messages.
pub fn shortened(text: &str) -> String {
    const MOST: usize = 120;
    match text.char_indices().nth(MOST) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value, json};

    use super::{Backend, Entry, Include, Mesh};

    fn object(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(object) => object,
            other => panic!("{other} is not an object"),
        }
    }

    #[test]
    fn entry_as_shipped_is_the_default() {
        let shipped: Value = serde_json::from_str(include_str!("../../../conf/entry.json")).expect("JSON");
        assert_eq!(shipped["type"], crate::paths::TYPE);
        assert_eq!(shipped["capabilities"][crate::paths::CAPABILITY_ANNOTATIONS], true);
        assert_eq!(shipped["capabilities"][crate::paths::CAPABILITY_CGROUP], true);
        assert_eq!(Entry::from_object(&object(shipped)).expect("valid"), Entry::default());
    }

    #[test]
    fn default_in_full() {
        assert_eq!(
            serde_json::to_value(Entry::default()).expect("plain"),
            json!({
                "mesh": "istio", "backend": "auto", "select": "annotated", "excludeNamespaces": ["kube-system"],
                "failurePolicy": "closed", "beforeProxy": "closed", "captureDns": false, "udp": "pass", "redirect": {},
                "log": {"level": "info", "file": "/var/log/shunt/shunt.log"},
                "stateDir": "/run/shunt", "bpfDir": "/sys/fs/bpf/shunt"
            })
        );
    }

    #[test]
    fn every_word_is_read() {
        for mesh in Mesh::ALL {
            assert_eq!(
                Entry::from_object(&object(json!({"mesh": mesh.as_str()}))).expect("valid").mesh,
                *mesh
            );
        }
        for backend in Backend::ALL {
            assert_eq!(
                Entry::from_object(&object(json!({"backend": backend.as_str()}))).expect("valid").backend,
                *backend
            );
        }
    }

    #[test]
    fn cni_keys_pass() {
        let entry = json!({
            "type": "shunt", "name": "n", "cniVersion": "1.0.0", "capabilities": {}, "runtimeConfig": {"a": 1},
            "prevResult": {}, "args": {"cni": {}}, "ipam": {}, "dns": {"nameservers": ["10.0.0.1"]}, "cni.dev/valid-attachments": [], "cni.dev/x": 1
        });
        assert_eq!(Entry::from_object(&object(entry)).expect("valid"), Entry::default());
    }

    #[test]
    fn everything_in_redirect() {
        let many: Vec<u16> = (1..=20_000).collect();
        let entry = Entry::from_object(&object(json!({"redirect": {
            "outboundPort": 1, "inboundPort": 65535, "dnsPort": 53, "proxyUids": [0, 4_294_967_294_u32], "proxyGids": [],
            "includeOutboundCidrs": ["10.0.0.0/8", "fd00::/8", "192.0.2.1"], "excludeOutboundCidrs": [],
            "includeOutboundPorts": [80, "8000-8999", "443"], "excludeOutboundPorts": many,
            "includeInboundPorts": "*", "excludeInboundPorts": [], "excludeInboundCidrs": ["::1"], "excludeInterfaces": ["net1"]
        }})))
        .expect("valid");
        assert_eq!(entry.redirect.include_inbound_ports, Some(Include::All));
        assert_eq!(entry.redirect.exclude_outbound_ports.map(|list| list.len()), Some(20_000));
        assert!(
            matches!(entry.redirect.include_outbound_cidrs, Some(Include::Only(list)) if list.len() == 3)
        );
    }

    /// libcni reads its own keys in every entry, whatever their case, and loads no list in which one is not of its type.
    #[test]
    fn no_key_is_one_of_cnis() {
        let Value::Object(keys) = serde_json::to_value(Entry::default()).expect("plain") else {
            panic!("an entry is an object");
        };
        for key in keys.keys() {
            assert!(super::TOLERATED.iter().all(|taken| !taken.eq_ignore_ascii_case(key)), "{key}");
        }
        let cni = object(json!({"dns": {"nameservers": ["10.0.0.1"]}, "captureDns": true}));
        assert!(Entry::from_object(&cni).is_ok_and(|entry| entry.capture_dns), "CNI's own passes");
    }

    #[test]
    fn errors_name_the_key() {
        for (entry, path) in [
            (json!({"mash": "istio"}), "mash"),
            (json!({"mesh": "isto"}), "mesh"),
            (json!({"Mesh": "istio"}), "Mesh"),
            (json!({"dns": true}), "dns"),
            (json!({"dns": []}), "dns"),
            (json!({"captureDns": {}}), "captureDns"),
            (json!({"plugins": []}), "plugins"),
            (json!({"redirect": {"outboundPrt": 1}}), "redirect.outboundPrt"),
            (json!({"redirect": {"outboundPort": 0}}), "redirect.outboundPort"),
            (json!({"redirect": {"outboundPort": "15001"}}), "redirect.outboundPort"),
            (json!({"redirect": {"proxyUids": [1, -1]}}), "redirect.proxyUids[1]"),
            (json!({"redirect": {"excludeOutboundPorts": [1, 2, "x"]}}), "redirect.excludeOutboundPorts[2]"),
            (
                json!({"redirect": {"includeOutboundCidrs": ["10.0.0.0/8", "10.0.0.0/40"]}}),
                "redirect.includeOutboundCidrs[1]",
            ),
            (json!({"redirect": {"includeInboundPorts": "80"}}), "redirect.includeInboundPorts"),
            (json!({"log": {"level": "loud"}}), "log.level"),
            (json!({"log": {"colour": true}}), "log.colour"),
            (json!({"excludeNamespaces": [1]}), "excludeNamespaces[0]"),
            (json!({"stateDir": 5}), "stateDir"),
        ] {
            let error = Entry::from_object(&object(entry.clone())).expect_err("invalid");
            assert_eq!(error.path, path, "{entry}: {error}");
        }
    }
}
