//! containerd on a machine, in the versions there are, with runc and the reference CNI plugins.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::bin;
use crate::machine::beyond::{PODS_V4, PODS_V6};
use crate::machine::cri::Cri;
use crate::machine::daemon::Service;
use crate::machine::{Machine, copy, image};

/// Name of the daemon.
pub const DAEMON: &str = "containerd";
/// Its socket, inside.
pub const SOCKET: &str = "/run/containerd/containerd.sock";
/// The primary network's list.
pub const PRIMARY: &str = "10-bridge.conflist";

/// Where plugins that write down what they are given keep that, inside.
pub const SCRIBE_DIRECTORY: &str = "/run/scribe";

/// Which containerd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Debian 12's.
    V1_6,
    /// Built from its module.
    V2,
}

impl Version {
    /// All.
    pub const ALL: [Self; 2] = [Self::V2, Self::V1_6];

    /// The directory of its programs below `target/tools`.
    pub const fn directory(self) -> &'static str {
        match self {
            Self::V1_6 => "containerd-1.6",
            Self::V2 => "containerd-2",
        }
    }

    /// The runc that goes with it, below `target/tools`. User namespaces need the newer one.
    pub const fn runc(self) -> &'static str {
        match self {
            Self::V1_6 => "runc-debian",
            Self::V2 => "runc",
        }
    }

    /// The highest CNI version its libcni speaks.
    pub const fn cni(self) -> &'static str {
        match self {
            Self::V1_6 => "1.0.0",
            Self::V2 => "1.1.0",
        }
    }

    fn config(self) -> String {
        // No AppArmor and no right to lower anybody's OOM score here, no systemd, and nothing to pull a pause image from.
        match self {
            Self::V1_6 => format!(
                r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "{SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "/opt/rig/bin/runc"
        SystemdCgroup = false
"#,
                pause = image::PAUSE
            ),
            Self::V2 => format!(
                r#"version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "{SOCKET}"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{pause}"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
        BinaryName = "/opt/rig/bin/runc"
        SystemdCgroup = false
"#,
                pause = image::PAUSE
            ),
        }
    }
}

/// Puts containerd, runc and the reference plugins on a machine that is off.
pub fn install(machine: &mut Machine, version: Version) {
    machine.show(&bin::tool(version.directory()), "/opt/rig/containerd");
    // A copy: runc makes one of itself out of the directory it lies in, and does not see there what is bound over a file.
    let runc = bin::tool(version.runc()).canonicalize().expect("it is there");
    copy(&runc, &machine.path("opt/rig/runc"));
    machine.show(&bin::static_probe(), "/opt/rig/bin/probe");
    program(
        &machine.path("opt/rig/bin/runc"),
        "#!/bin/sh\nexec /opt/rig/bin/probe runc /opt/rig/runc \"$@\"\n",
    );
    let config = machine.path("etc/containerd/config.toml");
    fs::create_dir_all(config.parent().expect("a file lies in a directory")).expect("own disk");
    fs::write(config, version.config()).expect("own disk");
    for plugin in ["bridge", "host-local", "loopback", "portmap"] {
        let from = bin::tool(plugin).canonicalize().expect("it is there");
        copy(&from, &machine.path("opt/cni/bin").join(plugin));
    }
    let primary = machine.path("etc/cni/net.d").join(PRIMARY);
    fs::create_dir_all(primary.parent().expect("a file lies in a directory")).expect("own disk");
    fs::write(primary, format!("{:#}\n", primary_list(version.cni()))).expect("own disk");
}

/// Installs a plugin of this type that writes down what it is given and can be made to wait.
pub fn install_scribe(machine: &Machine, kind: &str) {
    program(&machine.path("opt/cni/bin").join(kind), "#!/bin/sh\nexec /opt/rig/bin/probe scribe\n");
}

/// The entry of such a plugin in a list.
pub fn scribe(kind: &str) -> Value {
    json!({ "type": kind, "capabilities": { "io.kubernetes.cri.pod-annotations": true, "cgroupPath": true } })
}

/// Writes a script.
fn program(path: &Path, text: &str) {
    fs::write(path, text).expect("own disk");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("own disk");
}

/// The list of the primary network: the reference plugins, both families, no masquerading, so that the world sees who it is.
pub fn primary_list(version: &str) -> Value {
    json!({
        "cniVersion": version,
        "name": "pods",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                "ipMasq": false,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{ "subnet": PODS_V4 }], [{ "subnet": PODS_V6 }]],
                    "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    })
}

/// Starts it on a machine that runs, and waits until it answers. The images have to be imported once for each disk.
pub fn start(machine: &mut Machine) -> Cri {
    machine.start(&Service::new(
        DAEMON,
        "/opt/rig/containerd/containerd",
        &["--config", "/etc/containerd/config.toml"],
    ));
    let cri = Cri::of(machine);
    wait(machine, &cri);
    cri
}

/// Waits until it answers.
pub fn wait(machine: &Machine, cri: &Cri) {
    machine.until("containerd answers", || cri.call("Status", &json!({})).is_ok());
}
