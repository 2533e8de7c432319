//! Kubernetes itself: the installer as the pod of the chart's `DaemonSet`, and what becomes of real pods.
//!
//! Without `KUBECONFIG` all scenarios play on a node of ours, a machine of [`shunt_tests::machine`] with Kubernetes' own programs: `make
//! test-node`. With it those that need no more than an API server play on that cluster: `make test-cluster KUBECONFIG=…`. It is the
//! same code. Arguments choose scenarios by parts of their names, but the first, which installs, is always played.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a program for people, which stops where its ground gives way"
)]
#![expect(
    clippy::format_push_string,
    clippy::indexing_slicing,
    reason = "texts and JSON are put together piece by piece"
)]

mod cluster;
mod images;
mod node;
mod objects;
mod on_cluster;
mod on_node;
mod scenario;
mod wait;
mod world;

use std::process::ExitCode;
use std::time::Instant;

use crate::cluster::{Cluster, Images, NAMESPACE};
use crate::node::{Node, Whole};
use crate::scenario::{Bed, Count, Scenario, play_all};
use crate::world::World;

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let passed = match std::env::var_os("KUBECONFIG") {
        _ if wanted.first().is_some_and(|word| word == "--images") => write_images(),
        Some(path) => on_a_cluster(path.into(), &wanted),
        None => on_a_node(&wanted),
    };
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Writes the archives of `make test-images` and says what is in them.
fn write_images() -> bool {
    let dir = cluster::root().join("target/test-images");
    std::fs::create_dir_all(&dir).expect("target can be written to");
    let (Images { installer, next, pod }, [of_installer, of_next, of_pod]) = images::write(&dir);
    for (variable, name, archive) in
        [("IMAGE", installer, of_installer), ("NEXT_IMAGE", next, of_next), ("POD_IMAGE", pod, of_pod)]
    {
        println!("{variable:<10} {name:<28} {}", archive.display());
    }
    true
}

fn is_wanted(wanted: &[String], scenario: &Scenario) -> bool {
    wanted.is_empty()
        || scenario.name == on_cluster::INSTALL.name
        || wanted.iter().any(|word| scenario.name.contains(word.as_str()))
}

fn on_a_node(wanted: &[String]) -> bool {
    let begun = Instant::now();
    println!("starting a node: etcd, API server, controller manager, scheduler, containerd, kubelet");
    let (node, cluster, world) = Node::new();
    cluster.namespace(NAMESPACE);
    println!("ready after {:.1} s", begun.elapsed().as_secs_f64());
    let before = Some(Whole::of(&node));
    let mut bed = Bed { cluster, world, node: Some(node), before, count: Count::default() };
    let scenarios = [on_cluster::INSTALL]
        .into_iter()
        .chain(on_cluster::SCENARIOS)
        .chain(on_node::SCENARIOS)
        .collect::<Vec<_>>();
    let passed = play_all(&mut bed, &scenarios, |scenario| is_wanted(wanted, scenario));
    if let Some(node) = &bed.node {
        if !passed {
            println!("the node's logs: {}", node.keep_logs().display());
        }
        if std::env::var("KEEP").is_ok_and(|keep| !keep.is_empty()) {
            hold(&bed.cluster, node);
        }
    }
    passed
}

/// Keeps the node until somebody presses Enter.
fn hold(cluster: &Cluster, node: &Node) {
    let netns = cluster.netns.as_deref().unwrap_or(std::path::Path::new("/proc/self/ns/net")).display();
    println!(
        "\nthe node runs until you press Enter. On it:\n  nsenter --target {} --all --wd=/ env -i PATH=/opt/rig/bin:/opt/rig/containerd:/opt/rig/kubernetes:/usr/sbin:/usr/bin KUBECONFIG=/etc/kubernetes/admin.conf bash",
        node.machine.first()
    );
    println!(
        "beside it:\n  nsenter --net={netns} env KUBECONFIG={} {} get pods -A",
        cluster.kubeconfig.display(),
        shunt_tests::bin::tool("kubectl").display()
    );
    let _pressed = std::io::stdin().read_line(&mut String::new());
}

fn on_a_cluster(kubeconfig: std::path::PathBuf, wanted: &[String]) -> bool {
    assert!(kubeconfig.is_file(), "KUBECONFIG={}: it is to name one file", kubeconfig.display());
    let image = |name: &str| {
        let image = std::env::var(name).unwrap_or_default();
        assert!(
            !image.is_empty(),
            "{name} is not set: it names an image that the cluster's nodes can get, see `make test-images`"
        );
        image
    };
    let images = Images { installer: image("IMAGE"), next: image("NEXT_IMAGE"), pod: image("POD_IMAGE") };
    let values = std::env::var("VALUES").unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    let cluster = Cluster { kubeconfig, netns: None, images, values };
    cluster.namespace(NAMESPACE);
    let world = World::pod(&cluster);
    let mut bed = Bed { cluster, world, node: None, before: None, count: Count::default() };
    let scenarios: Vec<_> = [on_cluster::INSTALL]
        .into_iter()
        .chain(on_cluster::SCENARIOS)
        .chain([on_cluster::UNINSTALL])
        .collect();
    let passed = play_all(&mut bed, &scenarios, |scenario| is_wanted(wanted, scenario));
    if passed {
        bed.cluster.kubectl(&["delete", "namespace", NAMESPACE, "--timeout=120s"]);
    } else {
        println!("what was made is left for you to look at: namespaces {NAMESPACE} and {}", cluster::SYSTEM);
    }
    passed
}
