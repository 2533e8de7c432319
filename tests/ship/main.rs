//! What is shipped around the installer: the image, the chart, the kustomize overlays, and what the pages say of them.
//!
//! The tools are those a user has, helm and kustomize; what they make is checked against the schemas of Kubernetes. The privileges
//! that the chart asks for are tried out: the plugin works with them, and with none of them less.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test stops where its ground gives way, and JSON takes keys by index"
)]

mod chart;
mod image;
mod invariants;
mod kustomize;
mod privileges;
mod tools;
