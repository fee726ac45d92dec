//! A made-up `/sys` with GPUs, laid out and linked as the kernel does.

#![allow(dead_code, clippy::allow_attributes)] // each test file uses a part

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use devmon_plugin_gpu::GpuSource;

/// AMD, Intel, NVIDIA.
pub(crate) const AMD: &str = "0x1002";
pub(crate) const INTEL: &str = "0x8086";
pub(crate) const NVIDIA: &str = "0x10de";

pub(crate) struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let machine = Self { dir };
        for dir in ["class/drm", "bus/pci/devices", "bus/pci/drivers"] {
            fs::create_dir_all(machine.sys().join(dir)).expect("writable");
        }
        machine
    }

    pub(crate) fn sys(&self) -> &Path {
        self.dir.path()
    }

    /// A display controller on the PCI bus, without a driver.
    pub(crate) fn controller(&self, address: &str, vendor: &str) {
        let at = |file: &str| format!("devices/pci0000:00/{address}/{file}");
        self.write(&at("vendor"), vendor);
        self.write(&at("device"), "0x73bf");
        self.write(&at("class"), "0x030000");
        let link = self.sys().join("bus/pci/devices").join(address);
        symlink(format!("../../../devices/pci0000:00/{address}"), link).expect("writable");
    }

    /// Card `number`: a display controller with a driver.
    pub(crate) fn card(&self, number: u32, address: &str, vendor: &str, driver: &str) -> Card<'_> {
        self.controller(address, vendor);
        let device = format!("devices/pci0000:00/{address}");
        let card = format!("{device}/drm/card{number}");
        self.write(&format!("{card}/dev"), "226:0");
        let link = |target: String, at: String| {
            symlink(target, self.sys().join(at)).expect("writable");
        };
        link(format!("../../../{address}"), format!("{card}/device"));
        link(
            format!("../../../bus/pci/drivers/{driver}"),
            format!("{device}/driver"),
        );
        link(format!("../../{card}"), format!("class/drm/card{number}"));
        Card {
            machine: self,
            number,
            path: card,
        }
    }

    /// An AMD card with all that there is.
    pub(crate) fn amd(&self, number: u32, address: &str) -> Card<'_> {
        let card = self.card(number, address, AMD, "amdgpu");
        for (file, text) in [
            ("product_name", "AMD Radeon PRO W6800"),
            ("gpu_busy_percent", "37"),
            ("mem_busy_percent", "12"),
            ("mem_info_vram_total", "34342961152"),
            ("mem_info_vram_used", "8585740288"),
            ("hwmon/hwmon3/name", "amdgpu"),
            ("hwmon/hwmon3/temp1_label", "edge"),
            ("hwmon/hwmon3/temp1_input", "41500"),
            ("hwmon/hwmon3/temp2_label", "junction"),
            ("hwmon/hwmon3/temp2_input", "55000"),
            ("hwmon/hwmon3/temp3_label", "mem"),
            ("hwmon/hwmon3/temp3_input", "66000"),
            ("hwmon/hwmon3/power1_average", "70500000"),
            ("hwmon/hwmon3/freq1_input", "2575000000"),
            ("power/runtime_status", "active"),
            ("power/control", "on"),
        ] {
            card.device(file, text);
        }
        card
    }

    /// An Intel card under xe with two GTs.
    pub(crate) fn xe(&self, number: u32, address: &str) -> Card<'_> {
        let card = self.card(number, address, INTEL, "xe");
        for (file, text) in [
            ("tile0/gt0/gtidle/idle_residency_ms", "5000"),
            ("tile0/gt1/gtidle/idle_residency_ms", "7000"),
            ("tile0/gt0/freq0/act_freq", "2400"),
            ("tile0/gt1/freq0/act_freq", "0"),
            ("tile0/physical_vram_size_bytes", "12884901888"),
            ("hwmon/hwmon4/name", "xe"),
            ("hwmon/hwmon4/temp2_label", "pkg"),
            ("hwmon/hwmon4/temp2_input", "52000"),
            ("hwmon/hwmon4/temp3_label", "vram"),
            ("hwmon/hwmon4/temp3_input", "60000"),
            ("hwmon/hwmon4/energy1_input", "1000000"),
            ("hwmon/hwmon4/energy2_input", "900000"),
            ("power/runtime_status", "active"),
            ("power/runtime_suspended_time", "0"),
        ] {
            card.device(file, text);
        }
        card
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.sys().join(path);
        fs::create_dir_all(path.parent().expect("below the directory")).expect("writable");
        fs::write(path, format!("{text}\n")).expect("writable");
    }

    /// A source on a machine without NVML.
    pub(crate) fn source(&self) -> GpuSource {
        let options = r#"{"library":"/nonexistent/libnvidia-ml.so.1"}"#;
        GpuSource::with_root(options, self.sys()).expect("good options")
    }
}

/// One card of a machine.
pub(crate) struct Card<'a> {
    machine: &'a Machine,
    number: u32,
    path: String,
}

impl Card<'_> {
    /// Writes an attribute of the card itself.
    pub(crate) fn own(&self, file: &str, text: &str) {
        self.machine.write(&format!("{}/{file}", self.path), text);
    }

    /// Writes an attribute of its PCI device.
    pub(crate) fn device(&self, file: &str, text: &str) {
        let path = self.device_path(file);
        if path.is_dir() {
            fs::remove_dir(&path).expect("empty");
        }
        self.own(&format!("../../{file}"), text);
    }

    /// Makes reading attributes fail; with EISDIR, as nothing else fails for root as well.
    pub(crate) fn unreadable(&self, files: &[&str]) {
        for file in files {
            let path = self.device_path(file);
            fs::remove_file(&path).expect("written before");
            fs::create_dir(&path).expect("writable");
        }
    }

    pub(crate) fn remove(&self, file: &str) {
        fs::remove_file(self.device_path(file)).expect("written before");
    }

    /// Takes the card away; what stays of its PCI device does not matter.
    pub(crate) fn unplug(&self) {
        fs::remove_file(self.link()).expect("plugged in");
    }

    pub(crate) fn plug_in(&self) {
        symlink(format!("../../{}", self.path), self.link()).expect("writable");
    }

    fn link(&self) -> PathBuf {
        let name = format!("class/drm/card{}", self.number);
        self.machine.sys().join(name)
    }

    fn device_path(&self, file: &str) -> PathBuf {
        self.machine.sys().join(&self.path).join("../..").join(file)
    }
}
