//! Puts the plugin on a host.
fn main() {}
