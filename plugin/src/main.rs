//! CNI binary.
fn main() {}
