//! What the commands share with each other and with the end-to-end tests in `xtask/tests`.

pub mod chaos;
pub mod children;
pub mod collector;
pub mod fleet;
pub mod load;
pub mod new_plugin;
pub mod prepare;
pub mod relay;
pub mod soak;

use std::path::{Path, PathBuf};

/// The top of the repository.
#[must_use]
pub fn root() -> &'static Path {
    // The manifest lies in xtask/, one below the top.
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}

/// Where cargo puts what it builds.
#[must_use]
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}
