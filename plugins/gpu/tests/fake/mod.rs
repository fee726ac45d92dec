//! Builds `fake_nvml.c` for one test.

use std::path::{Path, PathBuf};
use std::process::Command;

use devmon_plugin_gpu::GpuSource;

/// A compiled fake and the folder of its switches.
pub(crate) struct Fake {
    dir: tempfile::TempDir,
}

impl Fake {
    /// Compiles the fake with each of `defines` defined.
    pub(crate) fn build(defines: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let fake = Self { dir };
        let output = Command::new("cc")
            .args(["-shared", "-fPIC", "-Wall", "-Werror", "-o"])
            .arg(fake.library())
            .arg(format!("-DSWITCHES=\"{}\"", fake.dir.path().display()))
            .args(defines.iter().map(|define| format!("-D{define}")))
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake_nvml.c"))
            .output()
            .expect("these tests need a C compiler named cc");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        fake
    }

    fn library(&self) -> PathBuf {
        self.dir.path().join("libnvidia-ml.so.1")
    }

    /// A source on this library, on a machine without other GPUs.
    #[allow(dead_code, clippy::allow_attributes)]
    pub(crate) fn source(&self) -> GpuSource {
        self.source_on(&self.dir.path().join("no_sys"))
    }

    /// A source on this library and another `/sys`.
    #[allow(dead_code, clippy::allow_attributes)]
    pub(crate) fn source_on(&self, sys: &Path) -> GpuSource {
        let options = format!(r#"{{"library":"{}"}}"#, self.library().display());
        GpuSource::with_root(&options, sys).expect("good options")
    }

    /// Switches something on (`lost0`) or off.
    #[allow(dead_code, clippy::allow_attributes)]
    pub(crate) fn switch(&self, name: &str, on: bool) {
        let file = self.dir.path().join(name);
        if on {
            std::fs::write(file, "").expect("writable");
        } else {
            std::fs::remove_file(file).expect("switched on before");
        }
    }

    /// How often the library was opened.
    #[allow(dead_code, clippy::allow_attributes)]
    pub(crate) fn inits(&self) -> usize {
        std::fs::read(self.dir.path().join("inits")).map_or(0, |bytes| bytes.len())
    }

    /// How often opening the library was tried, in vain as well.
    #[allow(dead_code, clippy::allow_attributes)]
    pub(crate) fn attempts(&self) -> usize {
        std::fs::read(self.dir.path().join("attempts")).map_or(0, |bytes| bytes.len())
    }
}
