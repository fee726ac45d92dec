//! A made-up `/sys`: a processor, two disks of one driver, a board with a fan.

use std::path::Path;

use devmon_plugin_sensors::SensorsSource;

pub(crate) struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    /// `/sys/class` with nothing in it.
    pub(crate) fn bare() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(dir.path().join("class")).expect("writable");
        Self { dir }
    }

    pub(crate) fn new() -> Self {
        let machine = Self::bare();
        machine.chip(0, "coretemp", "devices/platform/coretemp.0");
        machine.hwmon(0, "temp1_label", "Package id 0");
        machine.hwmon(0, "temp1_input", "48000");
        machine.hwmon(0, "temp1_max", "82000");
        machine.hwmon(0, "temp1_crit", "100000");
        machine.hwmon(0, "temp2_label", "Core 0");
        machine.hwmon(0, "temp2_input", "-4500");
        // As NVMe disks stand in sysfs: the chip sits on `nvmeN`, and that on the PCI device.
        for (hwmon, disk, bus) in [(1, "nvme1", "0000:01:00.0"), (2, "nvme0", "0000:02:00.0")] {
            machine.chip(hwmon, "nvme", &format!("devices/{disk}"));
            machine.write(&format!("devices/{bus}/device"), "0xa808");
            machine.link(&format!("devices/{disk}/device"), &format!("../{bus}"));
            machine.hwmon(hwmon, "temp1_label", "Composite");
            machine.hwmon(hwmon, "temp1_input", &format!("3{hwmon}850"));
            machine.hwmon(hwmon, "temp1_max", "65261850");
        }
        machine.chip(3, "nct6775", "devices/platform/nct6775.656");
        machine.hwmon(3, "fan1_input", "1180");
        machine.hwmon(3, "temp1_input", "31000");
        machine
    }

    /// `class/hwmon/hwmonN` with a link to its device.
    pub(crate) fn chip(&self, n: u32, name: &str, device: &str) {
        self.hwmon(n, "name", name);
        std::fs::create_dir_all(self.path().join(device)).expect("writable");
        let link = format!("class/hwmon/hwmon{n}/device");
        self.link(&link, &format!("../../../{device}"));
    }

    pub(crate) fn hwmon(&self, n: u32, file: &str, text: &str) {
        self.write(&format!("class/hwmon/hwmon{n}/{file}"), text);
    }

    pub(crate) fn zone(&self, n: u32, zone_type: &str, temp: &str) {
        self.write(&format!("class/thermal/thermal_zone{n}/type"), zone_type);
        self.write(&format!("class/thermal/thermal_zone{n}/temp"), temp);
    }

    pub(crate) fn link(&self, path: &str, target: &str) {
        std::os::unix::fs::symlink(target, self.path().join(path)).expect("writable");
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.path().join(path);
        std::fs::create_dir_all(path.parent().expect("below the directory")).expect("writable");
        std::fs::write(path, format!("{text}\n")).expect("writable");
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn source(&self) -> SensorsSource {
        SensorsSource::with_sys("{}", self.path().into()).expect("good options")
    }
}
