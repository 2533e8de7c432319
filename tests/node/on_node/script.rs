//! What `make test-cluster` runs, on this node's API server as on anybody's.

use std::process::Command;

use super::leave::assert_as_before;
use crate::scenario::Bed;

/// The same program without a node of its own: it has a kubeconfig and the names of images, and passes.
pub(crate) fn test_cluster(bed: &mut Bed) -> String {
    let cluster = &bed.cluster;
    let netns = cluster.netns.as_ref().expect("the clients of a node of ours are in its world");
    let done = Command::new("nsenter")
        .arg(format!("--net={}", netns.display()))
        .arg("--")
        .arg(std::env::current_exe().expect("a test knows its own path"))
        .env("KUBECONFIG", &cluster.kubeconfig)
        .env("IMAGE", &cluster.images.installer)
        .env("NEXT_IMAGE", &cluster.images.next)
        .env("POD_IMAGE", &cluster.images.pod)
        .output()
        .expect("nsenter can be run");
    let said = String::from_utf8_lossy(&done.stdout);
    for line in said.lines() {
        println!("    {line}");
    }
    assert!(done.status.success(), "{}: {}", done.status, String::from_utf8_lossy(&done.stderr));
    let before = bed.before();
    assert_as_before(bed, &before);
    said.lines().last().unwrap_or_default().to_owned()
}
