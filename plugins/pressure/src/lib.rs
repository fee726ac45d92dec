//! `/pressure`: how long work has waited for processor, memory and disk (PSI, the kernel's pressure stall information).
//!
//! **Measures**, for cpu, memory and io: the share of time in which *some* task waited, and in which *all* did (`full`), averaged over 10, 60 and
//! 300 s by the kernel, and the time waited in all as a counter.
//! **Units**: utilization is a ratio 0–1 in the kernel's steps of 0.0001; seconds in the kernel's steps of a microsecond.
//! **Cost**: three small files of `/proc/pressure` a round.
//! **Leaves out**: `full` of cpu, which the kernel gives as a constant 0 because it has no meaning for a whole machine; cgroups one by one; `irq`.
//! **When it fails**: a kernel without PSI, or with it switched off, is unavailable and says how to switch it on. A resource
//! that cannot be read is absent while the others stay; none readable for another reason is a failed round.

use std::path::PathBuf;

use devmon_core::{CollectError, MetricSource, MetricTree, export_plugin};

pub mod read;

use read::{Reader, Resource, Stall};

/// What a metric of this source means.
pub const METRICS_TOML: &str = include_str!("../metrics.toml");

/// There are no options; the struct refuses any by name.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
struct Config {}

/// The `pressure` source.
pub struct PressureSource {
    reader: Reader,
}

impl PressureSource {
    /// Starts the source.
    ///
    /// # Errors
    /// An option in `config`: there are none.
    pub fn new(config: &str) -> Result<Self, String> {
        Self::with_proc(config, "/proc".into())
    }

    /// The same with another `/proc`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_proc(config: &str, proc: PathBuf) -> Result<Self, String> {
        let Config {} = serde_json::from_str(config)
            .map_err(|e| format!("pressure takes no options, remove them: {e}"))?;
        Ok(Self {
            reader: Reader::new(&proc),
        })
    }
}

impl MetricSource for PressureSource {
    fn collect(&mut self) -> Result<MetricTree, CollectError> {
        Ok(tree_of(&self.reader.read()?))
    }
}

fn tree_of(resources: &[Resource]) -> MetricTree {
    let mut tree = MetricTree::new();
    for resource in resources {
        let branch = tree.branch(resource.name);
        if let Some(some) = &resource.some {
            describe(some, branch.branch("some"));
        }
        // Of a whole machine: while all wait for a processor, who has it? The kernel says 0 (Documentation/accounting/psi.rst).
        if let Some(full) = resource.full.as_ref().filter(|_| resource.name != "cpu") {
            describe(full, branch.branch("full"));
        }
    }
    tree
}

fn describe(stall: &Stall, tree: &mut MetricTree) {
    for (window, percent) in ["avg10", "avg60", "avg300"].iter().zip(stall.percent) {
        let ratio = (percent * 100.0).round() / 10_000.0;
        tree.branch(*window).set("utilization", ratio);
    }
    tree.set("stalled_seconds_total", stall.total_us as f64 / 1e6);
}

export_plugin! {
    name: "pressure",
    metrics: METRICS_TOML,
    new: PressureSource::new,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_refused_by_name() {
        let error = PressureSource::new(r#"{"irq":true}"#).err().unwrap();
        assert!(
            error.contains("irq") && error.contains("no options"),
            "{error}"
        );
    }
}
