//! Well-known names. Whoever needs one of them takes it from here.

/// CNI `type` of our entry, and the file name of the plugin binary.
pub const TYPE: &str = "shunt";

/// Attachment records, locks; gone after a reboot, as the pods are. Key `stateDir`.
pub const STATE_DIR: &str = "/run/shunt";

/// Name of the mark in the state directory that says that the plugin takes itself off the node with the last attachment's DEL. Whoever
/// installs anew removes it.
pub const RETIRED: &str = "retired";

/// Pinned programs, links and maps, on a bpf file system. Key `bpfDir`.
pub const BPF_DIR: &str = "/sys/fs/bpf/shunt";

/// Where the plugin logs. Key `log.file`.
pub const LOG_FILE: &str = "/var/log/shunt/shunt.log";

/// Prefix of the annotations that are ours.
pub const ANNOTATION_PREFIX: &str = "shunt-cni.io/";

/// Prefix of the iptables chains that are ours.
pub const CHAIN_PREFIX: &str = "SHUNT_";

/// Capability under which runtimes hand over all annotations of the pod (containerd 1.5, CRI-O 1.29 and later).
pub const CAPABILITY_ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";

/// Capability under which runtimes hand over the pod's cgroup (containerd 1.7, CRI-O 1.28 and later).
pub const CAPABILITY_CGROUP: &str = "cgroupPath";
