//! AMD's GPUs, by the drivers amdgpu and radeon. Sources: the kernel's docs, gpu/amdgpu/thermal and gpu/amdgpu/driver-misc, and hwmon/sysfs-interface.
//!
//! | file below `device/` | unit | value |
//! |---|---|---|
//! | `gpu_busy_percent`, `mem_busy_percent` | % | load as the firmware computes it |
//! | `mem_info_vram_total`, `mem_info_vram_used` | bytes | memory; on an APU the part that the firmware set aside |
//! | `hwmon/hwmonN/tempM_input` labelled `edge`, else `junction` | m°C | temperature |
//! | `hwmon/hwmonN/power1_average`, else `power1_input` | µW | power; on an APU with the CPU |
//! | `hwmon/hwmonN/freq1_input` | Hz | clock of the graphics engine |

use std::path::PathBuf;

use super::attribute::Attributes;
use super::{Found, Values, hwmon};

/// Where a GPU's values are.
pub(super) struct Files {
    device: PathBuf,
    hwmon: Option<PathBuf>,
    temperature: Option<PathBuf>,
}

impl Files {
    pub(super) fn of(found: &Found) -> Self {
        let device = found.card.join("device");
        let hwmon = hwmon::directory(&device, found.driver.name());
        let temperature = hwmon
            .as_ref()
            .and_then(|dir| hwmon::temperature(dir, &["edge", "junction"]));
        Self {
            device,
            hwmon,
            temperature,
        }
    }

    pub(super) fn read(&self, attributes: &mut Attributes) -> Values {
        let mut sensor = |name: &str| attributes.number(&self.hwmon.as_ref()?.join(name));
        let microwatts: Option<u64> = sensor("power1_average").or_else(|| sensor("power1_input"));
        let frequency_hertz = sensor("freq1_input");
        let millicelsius: Option<i64> = self
            .temperature
            .as_ref()
            .and_then(|file| attributes.number(file));
        let mut percent = |name: &str| {
            let percent: u32 = attributes.number(&self.device.join(name))?;
            Some(f64::from(percent.min(100)) / 100.0) // some firmware says 101
        };
        Values {
            utilization: percent("gpu_busy_percent"),
            memory_controller_utilization: percent("mem_busy_percent"),
            memory_total: attributes.number(&self.device.join("mem_info_vram_total")),
            memory_used: attributes.number(&self.device.join("mem_info_vram_used")),
            temperature_celsius: millicelsius.map(|milli| milli as f64 / 1e3),
            power_watts: microwatts.map(|micro| micro as f64 / 1e6),
            energy_joules: None,
            frequency_hertz,
        }
    }
}
