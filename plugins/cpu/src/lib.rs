//! `/cpu`: how busy the processors are.
//!
//! **Measures** utilization of all cores together and of each core (share of time not idle since the previous round), and the load averages.
//! **Units**: utilization is a ratio 0–1 in steps of 0.0001, finer than the kernel's clock ticks; load is a number of tasks.
//! **Cost**: one read each of `/proc/stat`, `/proc/loadavg` and `/sys/devices/system/cpu/online` a round.
//! **Leaves out**: utilization in a round less than 200 ms after the one before (or after the start), and in the round in which a core came
//! or went, for there is no interval to average over; frequencies and temperatures; per-process use. Time stolen by a hypervisor counts as
//! busy, time waiting for a disk as idle.
//! **When it fails**: `/proc/stat` or `/proc/loadavg` unreadable is a failed round, never an old value.

use devmon_core::{CollectError, MetricSource, MetricTree, export_plugin};

pub mod read;

use read::{Reader, Reading, Roots};

/// What a metric of this source means.
pub const METRICS_TOML: &str = include_str!("../metrics.toml");

/// There are no options; the struct refuses any by name.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
struct Config {}

/// The `cpu` source.
pub struct CpuSource {
    reader: Reader,
}

impl CpuSource {
    /// Starts the source; the interval of the first utilization begins here.
    ///
    /// # Errors
    /// An option in `config` (there are none), or a platform that sysinfo does not know.
    pub fn new(config: &str) -> Result<Self, String> {
        Self::with_roots(config, Roots::default())
    }

    /// The same with other directories for what is not read through sysinfo.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_roots(config: &str, roots: Roots) -> Result<Self, String> {
        let Config {} = serde_json::from_str(config)
            .map_err(|e| format!("cpu takes no options, remove them: {e}"))?;
        let reader = Reader::new(roots).map_err(|e| e.to_string())?;
        Ok(Self { reader })
    }
}

impl MetricSource for CpuSource {
    fn collect(&mut self) -> Result<MetricTree, CollectError> {
        Ok(tree_of(&self.reader.read()?))
    }

    fn facts(&self) -> MetricTree {
        let facts = self.reader.facts();
        let mut tree = MetricTree::new();
        tree.set_some("model", facts.model);
        tree.set_some("vendor", facts.vendor);
        tree.set_some("cores", facts.cores);
        tree.set_some("physical_cores", facts.physical_cores);
        tree.set_some("max_frequency_hertz", facts.max_frequency_hertz);
        tree
    }
}

fn tree_of(reading: &Reading) -> MetricTree {
    let mut tree = MetricTree::new();
    let load = tree.branch("load");
    load.set("1m", reading.load.one);
    load.set("5m", reading.load.five);
    load.set("15m", reading.load.fifteen);
    if let Some(utilization) = &reading.utilization {
        tree.set("utilization", ratio(utilization.all_percent));
        let cores = tree.branch("core");
        for (core, percent) in &utilization.core_percent {
            cores.branch(core).set("utilization", ratio(*percent));
        }
    }
    tree
}

/// Percent to a ratio of four decimals: f32 noise beyond the clock's resolution would cost storage and tell nothing.
fn ratio(percent: f32) -> f64 {
    (f64::from(percent) * 100.0).round() / 10_000.0
}

export_plugin! {
    name: "cpu",
    metrics: METRICS_TOML,
    new: CpuSource::new,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_short_decimals() {
        assert_eq!(ratio(0.0), 0.0);
        assert_eq!(ratio(12.345_678), 0.1235);
        assert_eq!(ratio(100.0), 1.0);
    }

    #[test]
    fn an_option_is_refused_by_name() {
        let error = CpuSource::new(r#"{"percore":true}"#).err().unwrap();
        assert!(
            error.contains("percore") && error.contains("no options"),
            "{error}"
        );
        assert!(CpuSource::new("7").is_err());
    }
}
