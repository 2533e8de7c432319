//! Kubernetes' programs: their files on the disk and their flags.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;
use shunt_tests::machine::daemon::Service;
use shunt_tests::machine::{Machine, NODE_V4, NODE_V6, containerd};
use shunt_tests::{bin, need};

use super::{MANIFESTS, NAME};

/// The API server's name as a daemon.
pub(crate) const API: &str = "kube-apiserver";
/// The address of the service `kubernetes`.
const SERVICE: &str = "10.96.0.1";
const ETCD: &str = "http://127.0.0.1:2379";
const CERTIFICATE: &str = "/etc/kubernetes/api.crt";
/// Of the certificate, and what service accounts' tokens are signed with.
const KEY: &str = "/etc/kubernetes/api.key";
/// Who may do what: a token, a name, a group.
const USERS: [[&str; 3]; 4] = [
    ["admin", "admin", "system:masters"],
    ["kubelet", "system:node:node", "system:nodes"],
    ["controllers", "system:kube-controller-manager", "system:authenticated"],
    ["scheduler", "system:kube-scheduler", "system:authenticated"],
];

/// Kernel settings the kubelet wants, and does not find changed if it looks: it would change those of the whole host.
const SETTINGS: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a file lies in a directory")).expect("own disk");
    fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// Puts programs and their files on a machine that is off.
pub(crate) fn install(machine: &mut Machine) {
    need::tool("openssl");
    need::tool("iptables");
    for program in ["etcd", API, "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl"] {
        machine.show(&bin::tool(program), &format!("/opt/rig/kubernetes/{program}"));
    }
    for (setting, value) in SETTINGS {
        let file = machine.aside().join("settings").join(setting);
        write(&file, &format!("{value}\n"));
        machine.show(&file, &format!("/proc/sys/{setting}"));
    }
    make_certificate(machine);
    let mut tokens = String::new();
    for [token, user, group] in USERS {
        tokens += &format!("{token},{user},{user},{group}\n");
        write(&machine.path(&format!("etc/kubernetes/{token}.conf")), &kubeconfig(token).to_string());
    }
    write(&machine.path("etc/kubernetes/tokens.csv"), &tokens);
    write(&machine.path("etc/kubernetes/kubelet.json"), &kubelet_config().to_string());
    fs::create_dir_all(machine.path(MANIFESTS)).expect("own disk");
}

/// One certificate, its own authority.
fn make_certificate(machine: &Machine) {
    let names = format!(
        "subjectAltName=DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:localhost,IP:127.0.0.1,IP:{NODE_V4},IP:{NODE_V6},IP:{SERVICE}"
    );
    let (key, certificate) = (machine.path(KEY), machine.path(CERTIFICATE));
    fs::create_dir_all(key.parent().expect("a file lies in a directory")).expect("own disk");
    let done = Command::new("openssl")
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
        // Its own authority it is by being trusted; one that says it is an authority is refused as a server's.
        .args([
            "-subj",
            "/CN=kubernetes",
            "-addext",
            &names,
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-keyout",
        ])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .stdin(Stdio::null())
        .output()
        .expect("openssl is there");
    assert!(done.status.success(), "openssl: {}", String::from_utf8_lossy(&done.stderr));
    fs::set_permissions(&key, Permissions::from_mode(0o600)).expect("own disk");
}

/// How a program with this token talks to the API server, from inside and from here.
fn kubeconfig(token: &str) -> serde_json::Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        // The certificate is looked for beside this file.
        "clusters": [{ "name": NAME, "cluster": {
            "server": format!("https://{NODE_V4}:6443"), "certificate-authority": "api.crt",
        } }],
        "users": [{ "name": token, "user": { "token": token } }],
        "contexts": [{ "name": NAME, "context": { "cluster": NAME, "user": token } }],
        "current-context": NAME,
    })
}

fn kubelet_config() -> serde_json::Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "staticPodPath": format!("/{MANIFESTS}"),
        "fileCheckFrequency": "1s",
        "containerRuntimeEndpoint": format!("unix://{}", containerd::SOCKET),
        "authentication": { "anonymous": { "enabled": true }, "webhook": { "enabled": false } },
        "authorization": { "mode": "AlwaysAllow" },
        "resolvConf": "/etc/resolv.conf",
        // The hierarchy has no controllers, and nothing of the host's is to change.
        "cgroupDriver": "cgroupfs",
        "enforceNodeAllocatable": ["none"],
        "oomScoreAdj": 0,
        "failSwapOn": false,
        "protectKernelDefaults": true,
        "makeIPTablesUtilChains": false,
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        // The disk is the host's, and may be as full as it is.
        "evictionHard": {
            "memory.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%",
            "imagefs.available": "0%", "imagefs.inodesFree": "0%",
        },
        "imageGCHighThresholdPercent": 100,
        "imageMaximumGCAge": "0s",
    })
}

fn service(name: &str, arguments: &[&str]) -> Service {
    Service::new(name, &format!("/opt/rig/kubernetes/{name}"), arguments)
}

pub(crate) fn etcd() -> Service {
    let peer = "http://127.0.0.1:2380";
    service(
        "etcd",
        &[
            "--data-dir=/var/lib/etcd",
            "--unsafe-no-fsync",
            "--log-level=warn",
            &format!("--listen-client-urls={ETCD}"),
            &format!("--advertise-client-urls={ETCD}"),
            &format!("--listen-peer-urls={peer}"),
            &format!("--initial-advertise-peer-urls={peer}"),
            &format!("--initial-cluster=default={peer}"),
        ],
    )
}

pub(crate) fn api() -> Service {
    service(
        API,
        &[
            &format!("--etcd-servers={ETCD}"),
            &format!("--advertise-address={NODE_V4}"),
            &format!("--tls-cert-file={CERTIFICATE}"),
            &format!("--tls-private-key-file={KEY}"),
            &format!("--service-account-key-file={CERTIFICATE}"),
            &format!("--service-account-signing-key-file={KEY}"),
            "--service-account-issuer=https://kubernetes.default.svc",
            "--token-auth-file=/etc/kubernetes/tokens.csv",
            "--authorization-mode=Node,RBAC",
            "--allow-privileged",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--kubelet-preferred-address-types=InternalIP",
        ],
    )
}

/// The controller manager and the scheduler.
pub(crate) fn workers() -> [Service; 2] {
    let controllers = [
        "daemonset-controller",
        "deployment-controller",
        "replicaset-controller",
        "job-controller",
        "serviceaccount-controller",
        "root-ca-certificate-publisher-controller",
        "namespace-controller",
        "garbage-collector-controller",
        "pod-garbage-collector-controller",
        "node-lifecycle-controller",
        "taint-eviction-controller",
    ];
    [
        service(
            "kube-controller-manager",
            &[
                "--kubeconfig=/etc/kubernetes/controllers.conf",
                &format!("--service-account-private-key-file={KEY}"),
                &format!("--root-ca-file={CERTIFICATE}"),
                "--leader-elect=false",
                "--use-service-account-credentials",
                "--secure-port=0",
                &format!("--controllers={}", controllers.join(",")),
            ],
        ),
        service(
            "kube-scheduler",
            &["--kubeconfig=/etc/kubernetes/scheduler.conf", "--leader-elect=false", "--secure-port=0"],
        ),
    ]
}

pub(crate) fn kubelet() -> Service {
    service(
        "kubelet",
        &[
            "--config=/etc/kubernetes/kubelet.json",
            "--kubeconfig=/etc/kubernetes/kubelet.conf",
            &format!("--hostname-override={NAME}"),
            &format!("--node-ip={NODE_V4},{NODE_V6}"),
        ],
    )
}

/// The service's address leads to the API server; there is no kube-proxy.
pub(crate) fn network(machine: &Machine) {
    for chain in ["PREROUTING", "OUTPUT"] {
        let target = format!("{NODE_V4}:6443");
        let rule = [
            "-t", "nat", "-A", chain, "-d", SERVICE, "-p", "tcp", "--dport", "443", "-j", "DNAT", "--to",
            &target,
        ];
        machine.run("iptables", &rule);
    }
}
