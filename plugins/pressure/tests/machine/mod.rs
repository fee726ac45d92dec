//! A made-up machine with PSI.

use std::path::Path;

use devmon_plugin_pressure::PressureSource;

pub(crate) struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(dir.path().join("pressure")).expect("writable");
        let machine = Self { dir };
        for (name, some) in [("cpu", "12.50"), ("memory", "0.00"), ("io", "100.00")] {
            let text = format!(
                "some avg10={some} avg60=0.35 avg300=0.01 total=1500000\nfull avg10=0.00 avg60=0.10 avg300=0.00 total=42\n"
            );
            std::fs::write(machine.path().join("pressure").join(name), text).expect("writable");
        }
        machine
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn source(&self) -> PressureSource {
        PressureSource::with_proc("{}", self.path().into()).expect("good options")
    }
}
