//! Node tool.
fn main() {}
