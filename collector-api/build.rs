//! Makes cargo build the collector anew when the dashboard was built.

use std::path::Path;

fn main() {
    let dist = Path::new("../web/dist");
    // Cargo takes a missing path as changed and would compile the collector on every call. An empty folder says the same without that; if it can
    // not be made, nothing worse happens.
    let _ = std::fs::create_dir(dist);
    println!("cargo::rerun-if-changed={}", dist.display());
    println!("cargo::rerun-if-changed=build.rs");
}
