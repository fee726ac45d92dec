//! A made-up machine of a card, a loopback, a container's end and a tunnel.

use std::path::Path;

use devmon_plugin_network::NetworkSource;
use devmon_plugin_network::read::Roots;

pub(crate) struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let machine = Self { dir };
        machine.write(
            "proc/net/dev",
            "Inter-|   Receive                            |  Transmit\n face |bytes    packets\n\
             \x20   lo: 9 9 0 0 0 0 0 0 9 9 0 0 0 0 0 0\n\
             \x20 eth0: 1000 10 1 2 0 0 0 0 2000 20 3 4 0 0 0 0\n\
             veth12: 9 9 0 0 0 0 0 0 9 9 0 0 0 0 0 0\n\
             \x20 tun0: 50 5 0 0 0 0 0 0 60 6 0 0 0 0 0 0\n",
        );
        machine.write("sys/class/net/eth0/operstate", "up\n");
        machine.write("sys/class/net/eth0/speed", "1000\n");
        machine.write("sys/class/net/tun0/operstate", "unknown\n");
        machine.write("sys/class/net/tun0/flags", "0x1091\n");
        machine.write("sys/class/net/tun0/speed", "-1\n");
        machine
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.path().join(path);
        std::fs::create_dir_all(path.parent().expect("below the directory")).expect("writable");
        std::fs::write(path, text).expect("writable");
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn source(&self, config: &str) -> NetworkSource {
        let roots = Roots {
            proc: self.path().join("proc"),
            sys: self.path().join("sys"),
        };
        NetworkSource::with_roots(config, roots).expect("good options")
    }
}
