//! stasis
fn main() {}
