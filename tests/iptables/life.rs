//! ADD, CHECK, DEL, and what is left.

use crate::mesh::{SERVICES, outcomes};
use crate::scene;

#[test]
fn added_checked_removed() {
    let mesh = scene::added();
    mesh.node.call("CHECK", &mesh.pod, "eth0").ok();
    assert!(!scene::rules(&mesh.pod.netns, "nft").is_empty());
    mesh.node.del(&mesh.pod);
    assert_eq!(scene::rules(&mesh.pod.netns, "nft"), Vec::<String>::new());
    assert_eq!(mesh.node.kept(), [].into());
    assert_eq!(outcomes(&mesh.app(SERVICES)), ["world"; 3]);
    mesh.node.del(&mesh.pod);
}
