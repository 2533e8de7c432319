//! containerd through its CRI, in two versions, with the plugin as the installer puts it there.

#![expect(
    clippy::panic,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot be judged must fail; JSON objects take keys by index"
)]

mod host;
mod pods;
mod smoke;
