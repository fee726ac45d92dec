//! `/memory`: how much main memory and swap is in use.
//!
//! **Measures** total, available and used memory, and total and used swap, as `/proc/meminfo` has them.
//! **Units**: bytes; utilization is a ratio 0–1 in steps of 0.0001.
//! **Cost**: one read of `/proc/meminfo` a round.
//! **Means**: *available* is the kernel's estimate of what programs can get without swapping; *used* is total − available, so caches do not
//! count as used. A machine without swap has `swap/total_bytes` = 0 and `swap/used_bytes` = 0: both are true, and an operator can tell
//! "no swap" from "not measured".
//! **Leaves out**: buffers, caches and slabs one by one; processes; cgroup limits (inside a container these are the host's numbers).
//! **When it fails**: an unreadable `/proc/meminfo`, or one without a total, is a failed round, never an old value.

use devmon_core::{CollectError, MetricSource, MetricTree, export_plugin};

pub mod read;

use read::{Reader, Reading};

/// What a metric of this source means.
pub const METRICS_TOML: &str = include_str!("../metrics.toml");

/// There are no options; the struct refuses any by name.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
struct Config {}

/// The `memory` source.
pub struct MemorySource {
    reader: Reader,
}

impl MemorySource {
    /// Starts the source.
    ///
    /// # Errors
    /// An option in `config` (there are none), or a platform that sysinfo does not know.
    pub fn new(config: &str) -> Result<Self, String> {
        let Config {} = serde_json::from_str(config)
            .map_err(|e| format!("memory takes no options, remove them: {e}"))?;
        let reader = Reader::new("/proc".into()).map_err(|e| e.to_string())?;
        Ok(Self { reader })
    }
}

impl MetricSource for MemorySource {
    fn collect(&mut self) -> Result<MetricTree, CollectError> {
        tree_of(self.reader.read()?)
    }
}

/// Names what was read. A total of 0 is no machine: nothing was read.
fn tree_of(reading: Reading) -> Result<MetricTree, CollectError> {
    if reading.total_bytes == 0 {
        let reason = "/proc/meminfo has no MemTotal; is the real /proc mounted?";
        return Err(CollectError::Failed(reason.into()));
    }
    // Under a race the estimate can exceed the total by a few pages.
    let available = reading.available_bytes.min(reading.total_bytes);
    let used = reading.total_bytes - available;
    let mut tree = MetricTree::new();
    tree.set("total_bytes", reading.total_bytes);
    tree.set("available_bytes", available);
    tree.set("used_bytes", used);
    tree.set("utilization", ratio(used, reading.total_bytes));
    let swap = tree.branch("swap");
    swap.set("total_bytes", reading.swap_total_bytes);
    let swap_used = reading
        .swap_total_bytes
        .saturating_sub(reading.swap_free_bytes);
    swap.set("used_bytes", swap_used);
    Ok(tree)
}

/// Four decimals: the bytes beside it are exact, and short decimals store small.
fn ratio(part: u64, whole: u64) -> f64 {
    (part as f64 / whole as f64 * 10_000.0).round() / 10_000.0
}

export_plugin! {
    name: "memory",
    metrics: METRICS_TOML,
    new: MemorySource::new,
}

#[cfg(test)]
mod tests {
    use super::*;
    use devmon_core::{Node, Value};

    const MACHINE: Reading = Reading {
        total_bytes: 8_000,
        available_bytes: 6_000,
        swap_total_bytes: 1_000,
        swap_free_bytes: 250,
    };

    fn leaves(reading: Reading) -> Vec<String> {
        tree_of(reading)
            .unwrap()
            .leaves()
            .map(|(path, value)| format!("{path} {value}"))
            .collect()
    }

    #[test]
    fn used_is_what_is_not_available() {
        assert_eq!(
            leaves(MACHINE),
            [
                "/available_bytes 6000",
                "/swap/total_bytes 1000",
                "/swap/used_bytes 750",
                "/total_bytes 8000",
                "/used_bytes 2000",
                "/utilization 0.25"
            ]
        );
    }

    #[test]
    fn no_swap_is_a_true_zero() {
        let without = Reading {
            swap_total_bytes: 0,
            swap_free_bytes: 0,
            ..MACHINE
        };
        let tree = tree_of(without).unwrap();
        let Some(Node::Branch(swap)) = tree.get("swap") else {
            panic!("no swap branch")
        };
        for name in ["total_bytes", "used_bytes"] {
            assert_eq!(swap.get(name), Some(&Node::Leaf(Value::Integer(0))));
        }
    }

    #[test]
    fn numbers_that_contradict_each_other_do_not_wrap() {
        let torn = Reading {
            available_bytes: 9_000,
            swap_free_bytes: 2_000,
            ..MACHINE
        };
        let leaves = leaves(torn);
        assert!(leaves.contains(&"/used_bytes 0".to_owned()), "{leaves:?}");
        assert!(
            leaves.contains(&"/swap/used_bytes 0".to_owned()),
            "{leaves:?}"
        );
    }

    #[test]
    fn nothing_read_is_a_failure_and_not_zero() {
        let nothing = Reading {
            total_bytes: 0,
            ..MACHINE
        };
        assert!(matches!(tree_of(nothing), Err(CollectError::Failed(_))));
    }

    #[test]
    fn an_option_is_refused_by_name() {
        let error = MemorySource::new(r#"{"swap":false}"#).err().unwrap();
        assert!(
            error.contains("swap") && error.contains("no options"),
            "{error}"
        );
    }
}
