//! A made-up machine of seven processes and two sessions, one of which has ended.

use std::path::Path;

use devmon_plugin_system::SystemSource;
use devmon_plugin_system::read::Roots;
use devmon_plugin_system::utmp::RECORD_BYTES;

pub(crate) struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let machine = Self { dir };
        machine.write("proc/uptime", b"1234.56 99.00\n");
        machine.write(
            "proc/stat",
            b"cpu  1 2 3\nintr 500 1 2\nctxt 600\nbtime 1795473886\nprocesses 700\nprocs_running 2\n",
        );
        machine.write("proc/sys/fs/file-nr", b"1359\t0\t9223372036854775807\n");
        machine.write("proc/self/stat", b"not a number");
        for (pid, state) in [
            (1, 'S'),
            (2, 'I'),
            (30, 'R'),
            (31, 'D'),
            (32, 'Z'),
            (33, 'T'),
            (34, 'S'),
        ] {
            let stat = format!("{pid} (a b) {state} 1 1 1 0 -1 0 1 2 3 4 5 6 7 8 20 0 2 0 9 1 2\n");
            machine.write(&format!("proc/{pid}/stat"), stat.as_bytes());
        }
        let mut utmp = Vec::new();
        for pid in [30_i32, 9999] {
            let mut record = [0; RECORD_BYTES];
            record[..2].copy_from_slice(&7_i16.to_ne_bytes());
            record[4..8].copy_from_slice(&pid.to_ne_bytes());
            utmp.extend(record);
        }
        machine.write("run/utmp", &utmp);
        machine
    }

    pub(crate) fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.path().join(path);
        std::fs::create_dir_all(path.parent().expect("below the directory")).expect("writable");
        std::fs::write(path, bytes).expect("writable");
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn source(&self, config: &str) -> SystemSource {
        let roots = Roots {
            proc: self.path().join("proc"),
            run: self.path().join("run"),
        };
        SystemSource::with_roots(config, roots).expect("good options")
    }
}
