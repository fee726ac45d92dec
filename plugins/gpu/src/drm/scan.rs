//! Finds the GPUs in `/sys/class/drm`.
//!
//! Only `cardN` is a device: `cardN-HDMI-A-1` is a connector, `renderDN` the same device again. A card counts if it is on the PCI bus and has one of
//! the drivers that measure something: so virtual adapters (virtio_gpu, bochs, ast, simpledrm), systems on a chip and nouveau are passed over, and
//! NVIDIA's own driver too, which NVML speaks for. All files read here are kept by the kernel itself: none wakes a GPU.

use std::fs;
use std::path::{Path, PathBuf};

use super::attribute::{numbered, text};
use crate::index::PciAddress;

/// The largest name that fits a leaf is 1 KiB; product names have some 30 bytes.
const MAX_NAME_CHARS: usize = 128;

/// A frame holds 10 000 leaves and a GPU has 13; no machine has half as many.
const MAX_GPUS: usize = 64;

/// Who drives a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    Amdgpu,
    /// AMD's GPUs up to 2013; has a temperature only.
    Radeon,
    I915,
    /// Intel's newer driver.
    Xe,
}

impl Driver {
    /// Of the kernel module's name.
    fn of(name: &str) -> Option<Self> {
        [Self::Amdgpu, Self::Radeon, Self::I915, Self::Xe]
            .into_iter()
            .find(|driver| driver.name() == name)
    }

    /// The kernel module's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Amdgpu => "amdgpu",
            Self::Radeon => "radeon",
            Self::I915 => "i915",
            Self::Xe => "xe",
        }
    }

    fn maker(self) -> &'static str {
        match self {
            Self::Amdgpu | Self::Radeon => "AMD",
            Self::I915 | Self::Xe => "Intel",
        }
    }
}

/// A GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub address: PciAddress,
    pub driver: Driver,
    /// `/sys/class/drm/cardN`; its `device` is the PCI device.
    pub card: PathBuf,
    pub name: String,
}

/// What is in `/sys/class/drm`.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// In order of PCI address, each once.
    pub found: Vec<Found>,
    pub passed_over: Vec<String>,
}

/// Looks for GPUs; a machine without the directory has none.
pub(super) fn scan(sys: &Path) -> Scan {
    let mut scan = Scan::default();
    for (number, card) in numbered(&sys.join("class/drm"), "card") {
        let device = card.join("device");
        let driver = link_name(&device.join("driver"));
        let address = link_name(&device).and_then(|name| PciAddress::parse(&name));
        match (address, driver.as_deref().and_then(Driver::of)) {
            (Some(address), Some(driver)) => scan.found.push(Found {
                address,
                driver,
                name: name(&device, driver),
                card,
            }),
            _ => {
                let driver = driver.as_deref().unwrap_or("no driver");
                scan.passed_over.push(format!("card{number} ({driver})"));
            }
        }
    }
    scan.found.sort_by_key(|found| found.address);
    scan.found.dedup_by_key(|found| found.address);
    scan.found.truncate(MAX_GPUS);
    scan.passed_over.truncate(MAX_GPUS);
    scan
}

/// Counts NVIDIA's display controllers (PCI class 03) on the PCI bus.
pub(super) fn nvidia_on_bus(sys: &Path) -> u32 {
    let is = |device: &Path, file: &str, start: &str| {
        text(&device.join(file)).is_ok_and(|text| text.starts_with(start))
    };
    let devices = fs::read_dir(sys.join("bus/pci/devices"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|device| is(device, "vendor", "0x10de") && is(device, "class", "0x03"));
    u32::try_from(devices.count()).unwrap_or(u32::MAX)
}

/// The product name where the board has one, else the PCI ids.
fn name(device: &Path, driver: Driver) -> String {
    if let Ok(name) = text(&device.join("product_name")) {
        let name: String = name.trim().chars().take(MAX_NAME_CHARS).collect();
        if !name.is_empty() {
            return name;
        }
    }
    let id = |file: &str| {
        let text = text(&device.join(file)).ok()?;
        text.strip_prefix("0x").map(str::to_owned)
    };
    let maker = driver.maker();
    match (id("vendor"), id("device")) {
        (Some(vendor), Some(device)) => format!("{maker} GPU {vendor}:{device}"),
        _ => format!("{maker} GPU"),
    }
}

/// The last part of where a link points to.
fn link_name(link: &Path) -> Option<String> {
    let target = fs::read_link(link).ok()?;
    Some(target.file_name()?.to_str()?.to_owned())
}
