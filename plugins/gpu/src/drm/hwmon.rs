//! Which sensor of a GPU is which: the kernel numbers them and labels some.

use std::path::{Path, PathBuf};

use super::attribute::{numbered, text};

/// The sensors of the whole device: `hwmon/hwmonN`, where `name` is the driver's. i915 has others, `i915_gtN`, for parts of it.
pub(super) fn directory(device: &Path, driver: &str) -> Option<PathBuf> {
    numbered(&device.join("hwmon"), "hwmon")
        .into_iter()
        .map(|(_, dir)| dir)
        .find(|dir| text(&dir.join("name")).is_ok_and(|name| name == driver))
}

/// The file of the die's temperature.
pub(super) fn temperature(dir: &Path, wanted: &[&str]) -> Option<PathBuf> {
    let sensors: Vec<(u32, Option<String>)> = (1..=MAX_SENSORS)
        .filter(|n| dir.join(format!("temp{n}_input")).exists())
        .map(|n| (n, text(&dir.join(format!("temp{n}_label"))).ok()))
        .collect();
    choose(&sensors, wanted).map(|n| dir.join(format!("temp{n}_input")))
}

/// The drivers have up to 8.
const MAX_SENSORS: u32 = 16;

/// The first of `wanted` that there is; else the first without a label, for a driver that labels none has but the die's.
fn choose(sensors: &[(u32, Option<String>)], wanted: &[&str]) -> Option<u32> {
    let labelled = |label: &&str| sensors.iter().find(|(_, of)| of.as_deref() == Some(*label));
    wanted
        .iter()
        .find_map(labelled)
        .or_else(|| sensors.iter().find(|(_, label)| label.is_none()))
        .map(|(number, _)| *number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_never_taken_for_the_die() {
        let sensor = |n, label: &str| (n, Some(label.to_owned()));
        let all = [sensor(1, "junction"), sensor(2, "edge"), sensor(3, "mem")];
        assert_eq!(choose(&all, &["edge", "junction"]), Some(2));
        assert_eq!(choose(&all[..1], &["edge", "junction"]), Some(1));
        assert_eq!(choose(&all[2..], &["edge", "junction"]), None);
        assert_eq!(choose(&[(1, None)], &["pkg"]), Some(1));
        assert_eq!(choose(&[sensor(3, "vram"), (4, None)], &["pkg"]), Some(4));
    }
}
