//! A made-up `/proc` of a machine with 100 ticks a second, two cores and pages of 4 KiB, and a clock that goes when it is told to.

#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "each test file is a crate of its own that needs a part of it"
)]

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use devmon_core::{CollectError, MetricTree};
use devmon_plugin_processes::ProcessesSource;
use devmon_plugin_processes::groups::Units;

pub(crate) const UNITS: Units = Units {
    ticks_per_second: 100,
    page_bytes: 4096,
};
const CORES: u64 = 2;

pub(crate) struct Machine {
    dir: tempfile::TempDir,
    now: Cell<Instant>,
    seconds: Cell<u64>,
}

/// A process; with its pid and command all that a line says.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Is {
    /// Seconds after the machine.
    pub(crate) started: u64,
    /// Processor time in ticks.
    pub(crate) ticks: u64,
    pub(crate) pages: u64,
    pub(crate) flags: u64,
}

impl Machine {
    /// `init`, `sshd` and a kernel thread, an hour after the start.
    pub(crate) fn new() -> Self {
        let machine = Self::bare();
        let is = |started, ticks, pages| Is {
            started,
            ticks,
            pages,
            flags: 0,
        };
        machine.process(1, b"init", is(0, 5_000, 2_000));
        machine.process(40, b"sshd", is(9, 70, 1_000));
        machine.process(41, b"sshd", is(3_000, 30, 500));
        let kernel = Is {
            flags: 0x0020_8040,
            ticks: 900,
            ..Is::default()
        };
        machine.process(2, b"kworker/0:1-events", kernel);
        machine
    }

    /// No process.
    pub(crate) fn bare() -> Self {
        let machine = Self {
            // In memory where there is such a place, as `/proc` is: thousands of small files take a busy disk long.
            dir: tempfile::tempdir_in("/dev/shm")
                .or_else(|_| tempfile::tempdir())
                .expect("a temporary directory"),
            now: Cell::new(Instant::now()),
            seconds: Cell::new(3600),
        };
        machine.write("self/stat", b"not a number");
        machine.write("12a/stat", b"not a number");
        machine.pass(0);
        machine
    }

    /// Time goes on.
    pub(crate) fn pass(&self, seconds: u64) {
        self.seconds.set(self.seconds.get() + seconds);
        self.now.set(self.now.get() + Duration::from_secs(seconds));
        let all = self.seconds.get() * CORES * UNITS.ticks_per_second;
        let stat = format!("cpu  {} 0 7 {} 0 0 0 0 0 0\nintr 5\n", 1000, all - 1007);
        self.write("stat", stat.as_bytes());
    }

    pub(crate) fn seconds(&self) -> u64 {
        self.seconds.get()
    }

    pub(crate) fn process(&self, pid: u32, command: &[u8], is: Is) {
        let mut line = format!("{pid} (").into_bytes();
        line.extend(command);
        let (flags, user, system) = (is.flags, is.ticks - is.ticks / 3, is.ticks / 3);
        let (started, pages) = (is.started * UNITS.ticks_per_second, is.pages);
        let rest = format!(
            ") S 1 {pid} {pid} 0 -1 {flags} 1 2 3 4 {user} {system} 7 8 20 0 1 0 {started} 99 {pages} 18446744073709551615 0 0\n"
        );
        line.extend(rest.bytes());
        self.write(&format!("{pid}/stat"), &line);
    }

    pub(crate) fn end(&self, pid: u32) {
        std::fs::remove_dir_all(self.path().join(pid.to_string())).expect("it runs");
    }

    pub(crate) fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.path().join(path);
        std::fs::create_dir_all(path.parent().expect("below the directory")).expect("writable");
        std::fs::write(path, bytes).expect("writable");
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn source(&self, config: &str) -> ProcessesSource {
        let proc = PathBuf::from(self.path());
        ProcessesSource::with_proc(config, proc, UNITS).expect("good options")
    }

    pub(crate) fn try_collect(
        &self,
        source: &mut ProcessesSource,
    ) -> Result<MetricTree, CollectError> {
        source.collect_at(self.now.get())
    }

    pub(crate) fn collect(&self, source: &mut ProcessesSource) -> MetricTree {
        let tree = self.try_collect(source).expect("processes");
        tree.validate().expect("a legal tree");
        tree
    }
}
