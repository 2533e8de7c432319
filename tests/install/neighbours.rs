//! The primary CNIs a node may have, by what they write, and who else writes beside them.

use crate::host::{Host, owned};

/// A file somebody writes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written {
    /// Its name.
    pub(crate) name: &'static str,
    /// Its mode.
    pub(crate) mode: u32,
    /// Its owner.
    pub(crate) owner: u32,
    /// What is in it.
    pub(crate) text: &'static str,
}

/// A primary CNI.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Neighbour {
    /// What it is called.
    pub(crate) name: &'static str,
    /// The file with its network.
    pub(crate) primary: Written,
    /// Others beside it.
    pub(crate) others: &'static [Written],
    /// The list of ours that has to sort first.
    pub(crate) own: &'static str,
}

impl Neighbour {
    /// Writes all its files.
    pub(crate) fn settle(&self, host: &Host) {
        for file in self.others.iter().chain([&self.primary]) {
            owned(&host.conf(file.name), file.text, file.mode, file.owner);
        }
    }

    /// Whether its network is one plugin and not a list.
    pub(crate) fn is_single(&self) -> bool {
        !self.primary.name.ends_with(".conflist")
    }

    /// The same network as its owner writes it after a change.
    pub(crate) fn changed(&self) -> String {
        let text = self.primary.text.replacen("\"type\"", "\"added\": 7.50e1, \"type\"", 1);
        assert_ne!(text, self.primary.text);
        text
    }
}

const fn list(name: &'static str, text: &'static str) -> Written {
    Written { name, mode: 0o644, owner: 0, text }
}

/// What podman leaves on a host.
const PODMAN: Written = list(
    "87-podman-bridge.conflist",
    r#"{"cniVersion":"0.4.0","name":"podman","plugins":[{"type":"bridge","bridge":"cni-podman0"},{"type":"firewall"}]}"#,
);

const CALICO: &str = r#"{
  "name": "k8s-pod-network",
  "cniVersion": "1.0.0",
  "plugins": [
    {
      "container_settings": { "allow_ip_forwarding": false },
      "datastore_type": "kubernetes",
      "ipam": { "assign_ipv4": "true", "assign_ipv6": "false", "type": "calico-ipam" },
      "kubernetes": { "k8s_api_root": "https://10.96.0.1:443", "kubeconfig": "/etc/cni/net.d/calico-kubeconfig" },
      "log_file_max_age": 30, "log_file_max_count": 10, "log_file_max_size": 100,
      "log_file_path": "/var/log/calico/cni/cni.log", "log_level": "Info",
      "mtu": 0, "nodename_file_optional": false,
      "policy": { "type": "k8s" },
      "policy_setup_timeout_seconds": 0,
      "type": "calico"
    },
    {"type": "portmap", "snat": true, "capabilities": {"portMappings": true}}
  ]
}"#;

const FLANNEL: &str = "{\n  \"name\": \"cbr0\",\n  \"cniVersion\": \"0.3.1\",\n  \"plugins\": [\n    {\n      \"type\": \"flannel\",\n      \"delegate\": {\n        \"hairpinMode\": true,\n        \"isDefaultGateway\": true\n      }\n    },\n    {\n      \"type\": \"portmap\",\n      \"capabilities\": {\n        \"portMappings\": true\n      }\n    }\n  ]\n}\n";

const CILIUM: &str = "\n{\n  \"cniVersion\": \"0.3.1\",\n  \"name\": \"cilium\",\n  \"plugins\": [\n    {\n       \"type\": \"cilium-cni\",\n       \"enable-debug\": false,\n       \"log-file\": \"/var/run/cilium/cilium-cni.log\"\n    }\n  ]\n}\n";

const AWS: &str = r#"{
  "cniVersion": "0.4.0",
  "name": "aws-cni",
  "disableCheck": true,
  "plugins": [
    {
      "name": "aws-cni",
      "type": "aws-cni",
      "vethPrefix": "eni",
      "mtu": "9001",
      "podSGEnforcingMode": "strict",
      "pluginLogFile": "/var/log/aws-routed-eni/plugin.log",
      "pluginLogLevel": "DEBUG",
      "capabilities": {"io.kubernetes.cri.pod-annotations": true}
    },
    { "name": "egress-cni", "type": "egress-cni", "mtu": "9001", "enabled": "false", "nodeIP": "", "ipam": { "type": "host-local", "ranges": [[{"subnet": "fd00::ac:00/118"}]], "routes": [{"dst": "::/0"}], "dataDir": "/run/cni/v4pd/egress-v6-ipam" } },
    {
      "type": "portmap",
      "capabilities": {"portMappings": true},
      "snat": true
    }
  ]
}
"#;

const MULTUS: &str = r#"{"capabilities":{"bandwidth":true,"portMappings":true},"cniVersion":"0.3.1","logLevel":"verbose","logToStderr":true,"name":"multus-cni-network","clusterNetwork":"/host/etc/cni/net.d/10-flannel.conflist","type":"multus-shim","daemonSocketDir":"/run/multus"}"#;

const KINDNET: &str = "\n{\n\t\"cniVersion\": \"0.3.1\",\n\t\"name\": \"kindnet\",\n\t\"plugins\": [\n\t{\n\t\t\"type\": \"ptp\",\n\t\t\"ipMasq\": false,\n\t\t\"ipam\": {\n\t\t\t\"type\": \"host-local\",\n\t\t\t\"dataDir\": \"/run/cni-ipam-state\",\n\t\t\t\"routes\": [\n\t\t\t\t{ \"dst\": \"0.0.0.0/0\" }\n\t\t\t],\n\t\t\t\"ranges\": [\n\t\t\t\t[ { \"subnet\": \"10.244.0.0/24\" } ]\n\t\t\t]\n\t\t}\n\t\t,\n\t\t\"mtu\": 1500\n\t},\n\t{\n\t\t\"type\": \"portmap\",\n\t\t\"capabilities\": {\n\t\t\t\"portMappings\": true\n\t\t}\n\t}\n\t]\n}\n";

const WEAVE: &str = r#"{
    "cniVersion": "0.3.0",
    "name": "weave",
    "disableCheck": true,
    "plugins": [
        {
            "name": "weave",
            "type": "weave-net",
            "hairpinMode": true
        },
        {
            "type": "portmap",
            "capabilities": {"portMappings": true},
            "snat": true
        }
    ]
}
"#;

const BRIDGE: &str = "{\n    \"cniVersion\": \"0.3.1\",\n    \"name\": \"bridge\",\n    \"type\": \"bridge\",\n    \"bridge\": \"cni0\",\n    \"ipam\": { \"type\": \"host-local\", \"subnet\": \"10.244.0.0/16\" }\n}\n";

/// Everything JSON may hold and a careless editor loses.
const ODD: &str = "\u{20}\t{ \"plugins\" : [ {\"type\":\"a\\u0062\", \"n\": 1.0, \"big\": 123456789012345678901234567890, \"t\": \"\\ud83d\\ude00 \u{e9}\"} \n ,\r\n {\"type\":\"b\",\"type2\":{}} ] , \"x-unknown\": [ ] , \"name\":\"odd\" , \"cniVersions\": [\"0.4.0\", \"1.0.0\"], \"cniVersion\":\"1.0.0\", \"loadOnlyInlinedPlugins\": true}\t\n\n";

/// All of them.
pub(crate) const ALL: [Neighbour; 12] = [
    Neighbour {
        name: "Calico, which holds credentials",
        primary: Written { name: "10-calico.conflist", mode: 0o600, owner: 998, text: CALICO },
        others: &[Written { name: "calico-kubeconfig", mode: 0o600, owner: 998, text: "token: secret\n" }],
        own: "00-shunt.conflist",
    },
    Neighbour {
        name: "Flannel",
        primary: list("10-flannel.conflist", FLANNEL),
        others: &[],
        own: "00-shunt.conflist",
    },
    Neighbour {
        name: "Cilium, which puts others aside",
        primary: Written { name: "05-cilium.conflist", mode: 0o600, owner: 0, text: CILIUM },
        others: &[list("10-crio-bridge.conflist.cilium_bak", BRIDGE)],
        own: "00-shunt.conflist",
    },
    Neighbour { name: "AWS", primary: list("10-aws.conflist", AWS), others: &[], own: "00-shunt.conflist" },
    Neighbour {
        name: "Multus as a daemon, before Flannel",
        primary: Written { name: "00-multus.conf", mode: 0o600, owner: 0, text: MULTUS },
        others: &[list("10-flannel.conflist", FLANNEL)],
        own: "00-0-shunt.conflist",
    },
    Neighbour {
        name: "kindnet",
        primary: list("10-kindnet.conflist", KINDNET),
        others: &[],
        own: "00-shunt.conflist",
    },
    Neighbour {
        name: "Weave",
        primary: list("10-weave.conflist", WEAVE),
        others: &[],
        own: "00-shunt.conflist",
    },
    Neighbour {
        name: "one plugin in a .conf",
        primary: Written { name: "10-bridge.conf", mode: 0o640, owner: 1000, text: BRIDGE },
        others: &[],
        own: "00-shunt.conflist",
    },
    Neighbour {
        name: "one plugin in a .json",
        primary: list("10-bridge.json", BRIDGE),
        others: &[],
        own: "00-shunt.conflist",
    },
    Neighbour {
        name: "Calico beside podman and files that no runtime loads",
        primary: Written { name: "10-calico.conflist", mode: 0o600, owner: 998, text: CALICO },
        others: &[
            PODMAN,
            list("99-loopback.conf", r#"{"cniVersion":"0.3.1","name":"lo","type":"loopback"}"#),
            list("README", "not for runtimes"),
            list(".hidden.conflist.swp", "\u{0}"),
            list("20-later.conflist", "{ broken"),
        ],
        own: "00-shunt.conflist",
    },
    Neighbour {
        name: "a list as odd as JSON allows",
        primary: Written { name: "10-odd.conflist", mode: 0o400, owner: 65534, text: ODD },
        others: &[],
        own: "00-shunt.conflist",
    },
    Neighbour {
        name: "one whose name sorts before ours",
        primary: list("00-a.conflist", WEAVE),
        others: &[PODMAN],
        own: "00-0-shunt.conflist",
    },
];
