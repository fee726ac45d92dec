//! The tree of a round. Pure.

use devmon_core::{CollectError, MetricTree};

use crate::drm::{CardRound, Reading, Values};
use crate::nvml::{self, GpuError};

/// A GPU in one round.
pub(crate) enum Gpu {
    Nvidia(Result<nvml::Gpu, GpuError>),
    Card(CardRound),
}

impl Gpu {
    /// Why it gave nothing.
    fn error(&self) -> Option<&str> {
        match self {
            Self::Nvidia(Err(error)) => Some(&error.reason),
            Self::Card(CardRound {
                reading: Reading::Failed(reason),
                ..
            }) => Some(reason),
            Self::Nvidia(Ok(_)) | Self::Card(_) => None,
        }
    }
}

/// The GPUs by index; a failure when none of them gave anything.
pub(crate) fn of(gpus: Vec<(u32, Gpu)>) -> Result<MetricTree, CollectError> {
    let mut errors: Vec<&str> = gpus.iter().filter_map(|(_, gpu)| gpu.error()).collect();
    if errors.len() == gpus.len() {
        errors.dedup(); // a driver that is gone says the same for each
        return Err(CollectError::Failed(errors.join("; ")));
    }
    let mut tree = MetricTree::new();
    for (index, gpu) in gpus {
        let branch = tree.branch(index.to_string());
        match gpu {
            Gpu::Nvidia(Ok(gpu)) => nvidia(&gpu, branch),
            Gpu::Nvidia(Err(GpuError { lost, reason })) => {
                branch.set("lost", lost);
                branch.set("error", reason);
            }
            Gpu::Card(round) => card(round, branch),
        }
    }
    Ok(tree)
}

fn nvidia(gpu: &nvml::Gpu, tree: &mut MetricTree) {
    let percent = |p: u32| f64::from(p) / 100.0;
    tree.set("lost", false);
    tree.set_some("name", gpu.name.clone());
    tree.set_some("utilization", gpu.utilization_percent.map(percent));
    tree.set_some("temperature_celsius", gpu.temperature_celsius);
    tree.set_some(
        "power_watts",
        gpu.power_milliwatts.map(|mw| f64::from(mw) / 1_000.0),
    );
    if let Some(controller) = gpu.memory_controller_percent {
        tree.branch("memory_controller")
            .set("utilization", percent(controller));
    }
    if let Some(used) = gpu.memory {
        memory(Some(used.total), Some(used.used), tree);
    }
}

fn card(round: CardRound, tree: &mut MetricTree) {
    tree.set("name", round.name);
    tree.set("suspended", matches!(round.reading, Reading::Suspended));
    match round.reading {
        Reading::Values(values) => self::values(&values, tree),
        Reading::Failed(reason) => tree.set("error", reason),
        Reading::Suspended | Reading::Resting => {}
    }
}

fn values(gpu: &Values, tree: &mut MetricTree) {
    tree.set_some("utilization", gpu.utilization);
    tree.set_some("temperature_celsius", gpu.temperature_celsius);
    tree.set_some("power_watts", gpu.power_watts);
    tree.set_some("energy_joules_total", gpu.energy_joules);
    tree.set_some("frequency_hertz", gpu.frequency_hertz);
    if let Some(busy) = gpu.memory_controller_utilization {
        tree.branch("memory_controller").set("utilization", busy);
    }
    memory(gpu.memory_total, gpu.memory_used, tree);
}

/// A total of 0 is what drivers say for a GPU without memory of its own.
fn memory(total: Option<u64>, used: Option<u64>, tree: &mut MetricTree) {
    let Some(total) = total.filter(|total| *total > 0) else {
        return;
    };
    let branch = tree.branch("memory");
    branch.set("total_bytes", total);
    if let Some(used) = used {
        branch.set("used_bytes", used);
        let ratio = (used as f64 / total as f64).min(1.0);
        branch.set("utilization", (ratio * 10_000.0).round() / 10_000.0);
    }
}
