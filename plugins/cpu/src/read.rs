//! Reads through sysinfo, around its traps.
//!
//! sysinfo averages between two *effective* refreshes: one within 200 ms of the last does nothing and leaves the old numbers in place, and
//! the first gives 0 per core. It also keeps the old numbers without a word when `/proc/stat` cannot be opened (no file descriptor left, say),
//! and it tells cores apart by their position in that file, so that a core that goes offline shifts its neighbours. [`Reader`] hands out
//! a [`Utilization`] only when none of this applies.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use devmon_core::CollectError;
use sysinfo::{CpuRefreshKind, LoadAvg, MINIMUM_CPU_UPDATE_INTERVAL, System};

/// Where the files lie that are read beside sysinfo (which has `/proc` built in).
pub struct Roots {
    pub proc: PathBuf,
    /// `/sys/devices/system/cpu`.
    pub cpus: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self {
            proc: "/proc".into(),
            cpus: "/sys/devices/system/cpu".into(),
        }
    }
}

/// One round.
pub struct Reading {
    pub load: LoadAvg,
    /// `None` while there is no interval to average over.
    pub utilization: Option<Utilization>,
}

/// Busy time since the last effective refresh, in percent as sysinfo gives it.
pub struct Utilization {
    pub all_percent: f32,
    /// Core number as the kernel counts, and its share.
    pub core_percent: Vec<(String, f32)>,
}

/// What does not change; absent where the machine does not say.
pub struct Facts {
    pub model: Option<String>,
    pub vendor: Option<String>,
    /// Cores that are online.
    pub cores: Option<u64>,
    pub physical_cores: Option<u64>,
    pub max_frequency_hertz: Option<u64>,
}

/// Keeps sysinfo's state between rounds.
pub struct Reader {
    system: System,
    roots: Roots,
    /// At or after sysinfo's own note of its last effective refresh, so that waiting from here is waiting long enough.
    refreshed: Instant,
    /// The kernel's list of online cores when `system` was made, e.g. `0-3`.
    online: Option<String>,
}

impl Reader {
    /// Takes the baseline of the first utilization.
    ///
    /// # Errors
    /// A platform that sysinfo does not know.
    pub fn new(roots: Roots) -> Result<Self, sysinfo::Error> {
        let online = online(&roots);
        let system = baseline()?;
        Ok(Self {
            system,
            roots,
            refreshed: Instant::now(),
            online,
        })
    }

    /// Reads the load and, when it is due, the utilization.
    ///
    /// # Errors
    /// [`CollectError::Failed`] when a file of `/proc` cannot be read.
    pub fn read(&mut self) -> Result<Reading, CollectError> {
        let load = System::load_average()
            .map_err(|e| CollectError::Failed(format!("cannot read /proc/loadavg: {e}")))?;
        let stat = self.roots.proc.join("stat");
        fs::File::open(&stat)
            .map_err(|e| CollectError::Failed(format!("cannot open {}: {e}", stat.display())))?;
        let utilization = self.utilization().map_err(CollectError::failed)?;
        Ok(Reading { load, utilization })
    }

    fn utilization(&mut self) -> Result<Option<Utilization>, sysinfo::Error> {
        let online = online(&self.roots);
        if online != self.online {
            self.system = baseline()?;
            self.refreshed = Instant::now();
            self.online = online;
            return Ok(None);
        }
        if self.refreshed.elapsed() < MINIMUM_CPU_UPDATE_INTERVAL {
            return Ok(None);
        }
        self.system.refresh_cpu_usage();
        self.refreshed = Instant::now();
        let cores = self.system.cpus();
        Ok((!cores.is_empty()).then(|| Utilization {
            all_percent: self.system.global_cpu_usage(),
            core_percent: cores
                .iter()
                .map(|core| (number(core.name()).to_owned(), core.usage()))
                .collect(),
        }))
    }

    /// Reads the facts anew; for a call now and then, since `/proc/cpuinfo` is slow on large machines.
    #[must_use]
    pub fn facts(&self) -> Facts {
        let first = self.system.cpus().first();
        let text = |s: &str| (!s.trim().is_empty()).then(|| s.trim().to_owned());
        Facts {
            model: first.and_then(|core| text(core.brand())),
            vendor: first.and_then(|core| text(core.vendor_id())),
            cores: Some(self.system.cpus().len() as u64).filter(|n| *n > 0),
            physical_cores: System::physical_core_count()
                .ok()
                .map(|n| n as u64)
                .filter(|n| *n > 0),
            max_frequency_hertz: self.max_frequency_hertz(),
        }
    }

    /// From cpufreq, or in a virtual machine, which has none, the constant in `cpuinfo`. Not through sysinfo, which reads `cpuinfo` once a core.
    fn max_frequency_hertz(&self) -> Option<u64> {
        let file = self.roots.cpus.join("cpu0/cpufreq/cpuinfo_max_freq");
        let from_cpufreq = fs::read_to_string(file)
            .ok()
            .and_then(|text| text.trim().parse::<u64>().ok())
            .map(|khz| khz * 1_000);
        from_cpufreq.or_else(|| {
            let cpuinfo = fs::read_to_string(self.roots.proc.join("cpuinfo")).ok()?;
            frequency_hertz(&cpuinfo)
        })
    }
}

/// A `System` that has made its first refresh.
fn baseline() -> Result<System, sysinfo::Error> {
    let mut system = System::new()?;
    system.refresh_cpu_list(CpuRefreshKind::nothing().with_usage());
    Ok(system)
}

fn online(roots: &Roots) -> Option<String> {
    fs::read_to_string(roots.cpus.join("online")).ok()
}

/// `cpu12` is core 12.
fn number(name: &str) -> &str {
    name.strip_prefix("cpu").unwrap_or(name)
}

/// The first `cpu MHz` of `/proc/cpuinfo` (x86; other processors do not tell).
fn frequency_hertz(cpuinfo: &str) -> Option<u64> {
    let line = cpuinfo.lines().find(|line| line.starts_with("cpu MHz"))?;
    let mhz: f64 = line.split(':').nth(1)?.trim().parse().ok()?;
    (mhz > 0.0).then_some((mhz * 1e6).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequency_is_known_or_absent() {
        let x86 = "processor\t: 0\nmodel name\t: X\ncpu MHz\t\t: 2899.998\ncache size\t: 1 KB\n";
        assert_eq!(frequency_hertz(x86), Some(2_899_998_000));
        assert_eq!(
            frequency_hertz("processor\t: 0\nBogoMIPS\t: 108.00\n"),
            None
        );
        assert_eq!(frequency_hertz("cpu MHz\t\t: unknown\n"), None);
    }
}
