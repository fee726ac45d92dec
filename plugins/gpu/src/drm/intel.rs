//! Intel's GPUs, by the drivers i915 and xe. Sources: the kernel's Documentation/ABI/testing/sysfs-driver-intel-i915-hwmon and sysfs-driver-intel-xe-hwmon;
//! the comments "Xe GT Idle" and "Xe GT Frequency Management" in drivers/gpu/drm/xe; drivers/gpu/drm/i915/gt/intel_gt_sysfs_pm.c.
//!
//! A GPU has one or more GTs (graphics, media). Below the card:
//!
//! | i915 | xe | unit | value |
//! |---|---|---|---|
//! | `gt/gtN/rc6_residency_ms`, else `power/rc6_residency_ms` | `device/tileN/gtN/gtidle/idle_residency_ms` | ms | time asleep |
//! | `gt/gtN/rps_act_freq_mhz`, else `gt_act_freq_mhz`, else `gt_cur_freq_mhz` | `device/tileN/gtN/freq0/act_freq` | MHz | clock; 0 while asleep |
//! | `lmem_total_bytes` (Intel's own builds of i915 only) | `device/tileN/physical_vram_size_bytes` | bytes | memory on the card |
//! | `device/hwmon/hwmonN/tempM_input` labelled `pkg`, or not at all | the same | m°C | temperature |
//! | `device/hwmon/hwmonN/energy1_input` (card), else `energy2_input` (package) | the same | µJ | energy |
//!
//! Neither has a file of how busy an engine is, nor of how much memory is used.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::attribute::{Attributes, numbered};
use super::{Driver, Found, Values, hwmon};

/// The sleep counter has steps of 1 ms: over a shorter time it says too little.
const MIN_ELAPSED: Duration = Duration::from_millis(100);

/// Where a GPU's values are, and what was read before.
pub(super) struct Files {
    asleep: Vec<PathBuf>,
    frequencies: Vec<PathBuf>,
    memory: Vec<PathBuf>,
    temperature: Option<PathBuf>,
    energy: Option<PathBuf>,
    before: Option<Counters>,
}

/// What only grows.
#[derive(Debug, Clone, PartialEq)]
struct Counters {
    at: Instant,
    asleep_ms: Vec<Option<u64>>,
    microjoules: Option<u64>,
    /// How long the whole GPU had been suspended.
    suspended_ms: Option<u64>,
}

impl Files {
    pub(super) fn of(found: &Found) -> Self {
        let device = found.card.join("device");
        let hwmon = hwmon::directory(&device, found.driver.name());
        let of_hwmon = |choose: fn(&Path) -> Option<PathBuf>| hwmon.as_deref().and_then(choose);
        let (asleep, frequencies, memory) = match found.driver {
            Driver::Xe => xe(&device),
            _ => i915(&found.card),
        };
        Self {
            asleep,
            frequencies,
            memory,
            temperature: of_hwmon(|dir| hwmon::temperature(dir, &["pkg"])),
            energy: of_hwmon(|dir| {
                first_of([dir.join("energy1_input"), dir.join("energy2_input")]).pop()
            }),
            before: None,
        }
    }

    /// Rates need two rounds, and no sleep of the whole GPU between them, during which its counters may stand.
    pub(super) fn read(
        &mut self,
        attributes: &mut Attributes,
        now: Instant,
        suspended_ms: Option<u64>,
    ) -> Values {
        let mut number = |file: &PathBuf| attributes.number::<u64>(file);
        let counters = Counters {
            at: now,
            asleep_ms: self.asleep.iter().map(&mut number).collect(),
            microjoules: self.energy.as_ref().and_then(&mut number),
            suspended_ms,
        };
        let megahertz = self.frequencies.iter().filter_map(&mut number).max();
        let memory: Option<Vec<u64>> = self.memory.iter().map(&mut number).collect();
        let millicelsius: Option<i64> = self
            .temperature
            .as_ref()
            .and_then(|file| attributes.number(file));
        let before = self.before.replace(counters.clone());
        let before = before.filter(|before| before.suspended_ms == suspended_ms);
        Values {
            utilization: before.as_ref().and_then(|b| awake(b, &counters)),
            memory_controller_utilization: None,
            memory_total: memory.filter(|m| !m.is_empty()).map(|m| m.iter().sum()),
            memory_used: None,
            temperature_celsius: millicelsius.map(|milli| milli as f64 / 1e3),
            power_watts: before.as_ref().and_then(|b| power(b, &counters)),
            energy_joules: counters.microjoules.map(|micro| micro as f64 / 1e6),
            frequency_hertz: megahertz.map(|mhz| mhz.saturating_mul(1_000_000)),
        }
    }
}

/// Files of: time asleep, frequency, memory.
type Chosen = (Vec<PathBuf>, Vec<PathBuf>, Vec<PathBuf>);

fn i915(card: &Path) -> Chosen {
    let each_gt = |name: &str| existing(numbered(&card.join("gt"), "gt"), name);
    let or = |files: Vec<PathBuf>, names: &[&str]| {
        if files.is_empty() {
            first_of(names.iter().map(|name| card.join(name)))
        } else {
            files
        }
    };
    (
        or(each_gt("rc6_residency_ms"), &["power/rc6_residency_ms"]),
        or(
            each_gt("rps_act_freq_mhz"),
            &["gt_act_freq_mhz", "gt_cur_freq_mhz"],
        ),
        first_of([card.join("lmem_total_bytes")]),
    )
}

fn xe(device: &Path) -> Chosen {
    let tiles = numbered(device, "tile");
    let gts: Vec<(u32, PathBuf)> = tiles
        .iter()
        .flat_map(|(_, tile)| numbered(tile, "gt"))
        .collect();
    (
        existing(gts.clone(), "gtidle/idle_residency_ms"),
        existing(gts, "freq0/act_freq"),
        existing(tiles, "physical_vram_size_bytes"),
    )
}

fn existing(dirs: Vec<(u32, PathBuf)>, name: &str) -> Vec<PathBuf> {
    let files = dirs.into_iter().map(|(_, dir)| dir.join(name));
    files.filter(|file| file.exists()).collect()
}

/// The first that exists, if one does.
fn first_of(files: impl IntoIterator<Item = PathBuf>) -> Vec<PathBuf> {
    files
        .into_iter()
        .find(|file| file.exists())
        .into_iter()
        .collect()
}

fn elapsed(before: &Counters, now: &Counters) -> Option<Duration> {
    let elapsed = now.at.saturating_duration_since(before.at);
    (elapsed >= MIN_ELAPSED).then_some(elapsed)
}

/// Share of the time in which the GT that slept least was awake.
fn awake(before: &Counters, now: &Counters) -> Option<f64> {
    let elapsed_ms = elapsed(before, now)?.as_secs_f64() * 1e3;
    let of_gt = |(before, now): (&Option<u64>, &Option<u64>)| {
        // 0: it has never slept, so it cannot, or sleep is switched off; then this says nothing of how busy it is.
        let slept = (*now).filter(|ms| *ms > 0)?.checked_sub((*before)?)?;
        Some((1.0 - slept as f64 / elapsed_ms).clamp(0.0, 1.0))
    };
    let gts = before.asleep_ms.iter().zip(&now.asleep_ms);
    let most = gts.filter_map(of_gt).max_by(f64::total_cmp)?;
    Some((most * 10_000.0).round() / 10_000.0)
}

/// Average watts between two rounds.
fn power(before: &Counters, now: &Counters) -> Option<f64> {
    let seconds = elapsed(before, now)?.as_secs_f64();
    let microjoules = now.microjoules?.checked_sub(before.microjoules?)?;
    Some((microjoules as f64 / 1e3 / seconds).round() / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, ms: u64, asleep_ms: &[u64], microjoules: u64) -> Counters {
        Counters {
            at: start + Duration::from_millis(ms),
            asleep_ms: asleep_ms.iter().map(|ms| Some(*ms)).collect(),
            microjoules: Some(microjoules),
            suspended_ms: None,
        }
    }

    #[test]
    fn the_gt_that_slept_least_counts() {
        let t = Instant::now();
        let before = after(t, 0, &[5_000, 5_000], 0);
        let busy = |asleep| awake(&before, &after(t, 2_000, asleep, 0));
        assert_eq!(busy(&[6_500, 7_000]), Some(0.25));
        assert_eq!(
            busy(&[7_010, 7_010]),
            Some(0.0),
            "a counter that runs ahead"
        );
        assert_eq!(busy(&[5_000, 7_000]), Some(1.0));
        assert_eq!(busy(&[10, 7_000]), Some(0.0), "one began anew");
        assert_eq!(awake(&before, &after(t, 50, &[5_040, 5_040], 0)), None);
    }

    #[test]
    fn a_gt_that_never_slept_says_nothing() {
        let t = Instant::now();
        let never = |ms| after(t, ms, &[0], 0);
        assert_eq!(awake(&never(0), &never(1_000)), None);
    }

    #[test]
    fn power_is_the_average_between_two_rounds() {
        let t = Instant::now();
        let before = after(t, 0, &[], 1_000_000);
        assert_eq!(
            power(&before, &after(t, 2_000, &[], 31_000_000)),
            Some(15.0)
        );
        assert_eq!(power(&before, &after(t, 2_000, &[], 0)), None, "began anew");
    }
}
