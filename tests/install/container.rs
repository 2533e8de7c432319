//! The installer in a container, as the chart runs it: a root that holds the two programs, three directories of the host and its
//! `/proc`, cgroup and process namespaces of its own, and no more privileges than it says. The host is another mount namespace.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use shunt_tests::cgroup::Cgroup;
use shunt_tests::scratch::Scratch;
use shunt_tests::{bin, need};

use crate::host::{ENTRY, Said, until};
use crate::neighbours::{ALL, Neighbour};

const CALICO: Neighbour = ALL[0];

/// What the chart grants; `tests/ship` sees that it does, and that nothing works without one of them.
const CAPABILITIES: &str =
    "-all,+sys_admin,+sys_chroot,+sys_ptrace,+net_admin,+net_raw,+setuid,+dac_override,+chown,+fowner";

/// A host: directories of its own where it keeps what it has, the machine's elsewhere. It ends when its input does.
struct Node {
    holder: Child,
    cgroup: Cgroup,
    scratch: Scratch,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _gone = self.holder.kill();
        let _gone = self.holder.wait();
    }
}

const HOST: &str = "mount -t tmpfs tmpfs /opt; mkdir -p /opt/cni/bin /opt/cni/net.d; mount -t tmpfs tmpfs /run; \
    mount -t tmpfs tmpfs /var/log; mount -t bpf bpf /sys/fs/bpf; echo ready; exec cat";

/// `$1`: the container's root; `$2`: its cgroup; `$3`: capabilities; the rest: what is run.
const CONTAINER: &str = "root=$1; echo $$ > \"$2/cgroup.procs\"; set=$3; shift 3; mkdir -p /run/shunt; \
    mount -t tmpfs tmpfs \"$root\"; cd \"$root\"; mkdir -p proc etc/shunt host/proc host/opt/cni/bin host/opt/cni/net.d host/run/shunt; \
    cp \"$INSTALLER\" shunt-installer; cp \"$PLUGIN\" shunt; cp \"$ENTRY\" etc/shunt/entry.json; \
    for one in opt/cni/bin opt/cni/net.d run/shunt proc; do mount --bind /$one host/$one; done; \
    mount -o remount,ro,bind host/proc; mount -o remount,ro .; \
    exec unshare --cgroup --pid --fork --kill-child --mount-proc=\"$root/proc\" setpriv --no-new-privs --inh-caps=-all --bounding-set=\"$set\" -- chroot . /shunt-installer \"$@\"";

impl Node {
    fn new() -> Self {
        need::root();
        need::tool("setpriv");
        need::tool("nsenter");
        let scratch = Scratch::new();
        let mut holder = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "bash", "-euc", HOST])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare can be run");
        let mut line = String::new();
        BufReader::new(holder.stdout.take().expect("piped")).read_line(&mut line).expect("text");
        assert_eq!(line, "ready\n", "a host");
        // As the chart has it: what the node can do is found out from the container.
        fs::write(scratch.dir().join("entry"), ENTRY.replace("ebpf", "auto")).expect("own file");
        let node = Self { holder, cgroup: Cgroup::new(scratch.name()), scratch };
        crate::host::owned(&node.path("/opt/cni/net.d/10-calico.conflist"), CALICO.primary.text, 0o600, 998);
        node
    }

    /// A path of the host, from here.
    fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.holder.id()))
    }

    /// The installer in a new container.
    fn container(&self, words: &[&str]) -> Command {
        let root = self.scratch.dir().join("container");
        fs::create_dir_all(&root).expect("own directory");
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--mount=/proc/{}/ns/mnt", self.holder.id()))
            .args(["unshare", "--mount", "--propagation", "private", "bash", "-euc", CONTAINER, "bash"])
            .arg(&root)
            .arg(self.cgroup.child("container"))
            .arg(CAPABILITIES)
            .args(words)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("INSTALLER", bin::installer())
            .env("PLUGIN", bin::shunt())
            .env("ENTRY", self.scratch.dir().join("entry"))
            .env("SHUNT_HOST_NS", format!("/host/proc/{}/ns", self.holder.id()))
            .env("SHUNT_CONF_DIR", "/opt/cni/net.d")
            .env("SHUNT_ENTRY", "/etc/shunt/entry.json")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> Said {
        self.container(words).output().expect("nsenter can be run").into()
    }

    fn is_clean(&self) -> Result<(), String> {
        let gone = ["/opt/cni/bin/shunt", "/run/shunt", "/sys/fs/bpf/shunt", "/var/log/shunt"];
        for path in gone {
            if self.path(path).symlink_metadata().is_ok() {
                return Err(format!("{path} is there"));
            }
        }
        let names: Vec<_> = fs::read_dir(self.path("/opt/cni/net.d"))
            .expect("there")
            .map(|entry| entry.expect("listed").file_name())
            .collect();
        if names == ["10-calico.conflist"] { Ok(()) } else { Err(format!("{names:?}")) }
    }

    fn is_installed(&self) -> bool {
        matches!(crate::runtime::containerd(&self.path("/opt/cni/net.d")),
            crate::runtime::Loaded::List(list) if list.ours() == 1 && list.less_ours() == CALICO.primary.text)
    }
}

/// One that runs in a container; killed on drop, and with it what is in its namespace.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

#[test]
fn with_the_privileges_of_the_chart_and_no_more() {
    let node = Node::new();
    for _ in 0..2 {
        let said = node.run(&["once"]);
        said.ok();
        assert!(said.stdout.contains("STATUS   ready"), "{said:?}");
        assert!(node.is_installed());
        // On the host, and not in the container.
        for path in
            ["/opt/cni/bin/shunt", "/run/shunt/tally", "/sys/fs/bpf/shunt", "/var/log/shunt/shunt.log"]
        {
            assert!(node.path(path).exists(), "{path}");
        }
        // In a container the plugin has other process ids than on the host, and finds all the same that eBPF works.
        let answer = fs::read_to_string(node.path("/run/shunt/backend.json")).expect("STATUS has probed");
        assert!(
            answer.contains(r#""backend": "ebpf""#) || answer.contains(r#""backend":"ebpf""#),
            "{answer}"
        );
        node.run(&["status"]).ok();
        let said = node.run(&["uninstall"]);
        said.ok();
        assert!(said.stdout.contains("nothing of Shunt is on this node any more"), "{said:?}");
        assert_eq!(node.is_clean(), Ok(()));
    }
    // Without a plugin on the host it is the one in the image that cleans up, by its descriptor.
    node.run(&["once"]).ok();
    fs::remove_file(node.path("/opt/cni/bin/shunt")).expect("there");
    node.run(&["uninstall", "--detach"]).ok();
    assert_eq!(node.is_clean(), Ok(()));
}

/// In a container the state directory that was removed stays mounted: an uninstall that stays does not see there who comes later.
#[test]
fn one_that_installs_after_an_uninstall_that_stays() {
    let node = Node::new();
    node.run(&["once"]).ok();
    let log = node.scratch.dir().join("log");
    let stays =
        node.container(&["uninstall", "--stay"]).stderr(crate::host::created(&log)).spawn().map(Running);
    let stays = stays.expect("nsenter can be run");
    until("it is off", || node.is_clean().is_ok());
    node.run(&["once"]).ok();
    let said = || fs::read_to_string(&log).expect("own file");
    until("it sees that", || said().contains("was installed on this node again"));
    assert!(node.is_installed() && node.path("/opt/cni/bin/shunt").exists(), "{}", said());
    drop(stays);
    node.run(&["uninstall"]).ok();
}
