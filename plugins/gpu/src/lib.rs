//! `/gpu`: GPUs of NVIDIA through NVML, of AMD and Intel through `/sys/class/drm`.
//!
//! **Measures**, per GPU: utilization, memory, temperature, power, energy, clock and name, each only where driver and GPU can tell it.
//! **Units**: bytes, degrees Celsius, watts, joules, hertz; utilization is a ratio 0–1. README.md says what each maker means by it.
//! **Indices**: NVIDIA's are NVML's; the others follow, by PCI address ([`index`]).
//! **Cost**: NVIDIA: six calls into the driver a GPU a round, some µs to some ms each; opening NVML can take a second, once. AMD and Intel: about
//! ten small files a GPU a round, and a look for new ones every [`drm::SCAN_EVERY`].
//! **Leaves out**: processes, ECC, MIG slices, engines one by one; other makers' GPUs, and NVIDIA's under nouveau, which measures nothing.
//! **When it fails**: without any GPU the source is unavailable and says what it looked for. A GPU that gives nothing shows its `error`, and
//! `lost` if it left the bus, while the others stay. NVML is then opened anew at growing intervals ([`RETRY_FIRST`] to [`RETRY_MOST`]).
//! An AMD or Intel GPU that sleeps is left asleep: it has its name and `suspended`, and no values.

use std::path::PathBuf;
use std::time::Instant;

use devmon_core::{CollectError, MetricSource, MetricTree, export_plugin};

pub mod drm;
pub mod index;
pub mod nvidia;
pub mod nvml;
mod tree;

use drm::Drm;
use index::Indices;
use nvidia::{Nvidia, Seen};
use nvml::{DEFAULT_LIBRARY, GpuError};
use tree::Gpu;

pub use nvidia::{RETRY_FIRST, RETRY_MOST};

/// What a metric of this source means.
pub const METRICS_TOML: &str = include_str!("../metrics.toml");

/// The plugin's options; README.md explains them.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a JSON object")]
struct Config {
    /// A path or a name for dlopen(3).
    library: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            library: DEFAULT_LIBRARY.into(),
        }
    }
}

/// The `gpu` source.
pub struct GpuSource {
    nvidia: Nvidia,
    drm: Drm,
    indices: Indices,
}

impl GpuSource {
    /// Starts the source; without a GPU it starts as well, and every round looks again.
    ///
    /// # Errors
    /// A text that names the option that is wrong.
    pub fn new(config: &str) -> Result<Self, String> {
        Self::with_root(config, "/sys")
    }

    /// The same with another directory in place of `/sys`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_root(config: &str, sys: impl Into<PathBuf>) -> Result<Self, String> {
        let config: Config =
            serde_json::from_str(config).map_err(|e| format!("gpu options: {e}"))?;
        if config.library.is_empty() {
            return Err("gpu options: `library` is empty; leave it out for the default".into());
        }
        let drm = Drm::new(sys.into());
        let mut source = Self {
            nvidia: Nvidia::new(config.library.into()),
            indices: Indices::new(drm.nvidia_on_bus()),
            drm,
        };
        source
            .indices
            .give(source.nvidia.count(), source.drm.addresses());
        Ok(source)
    }

    /// [`collect`](MetricSource::collect) with the time as a parameter.
    ///
    /// # Errors
    /// As `collect`.
    pub fn collect_at(&mut self, now: Instant) -> Result<MetricTree, CollectError> {
        // These first: `now` dates their counters, and opening NVML may take a second.
        let cards = self.drm.read(now);
        let seen = self.nvidia.read(now, !cards.is_empty());
        let nvidia = match seen {
            Seen::Gpus(round) => round,
            Seen::Absent(reason) if cards.is_empty() => {
                let reason = format!("{reason}. {}", self.drm.nothing_found());
                return Err(CollectError::Unavailable(reason));
            }
            Seen::Failed(reason) if cards.is_empty() => return Err(CollectError::Failed(reason)),
            // Those that were there before NVML went away; none where it never was.
            Seen::Absent(reason) | Seen::Failed(reason) => {
                let error = GpuError {
                    lost: false,
                    reason,
                };
                vec![Err(error); self.nvidia.count() as usize]
            }
        };
        let indices = self
            .indices
            .give(self.nvidia.count(), cards.iter().map(|card| card.address));
        let nvidia = (0..).zip(nvidia.into_iter().map(Gpu::Nvidia));
        let others = indices.into_iter().zip(cards.into_iter().map(Gpu::Card));
        tree::of(nvidia.chain(others).collect())
    }
}

impl MetricSource for GpuSource {
    fn collect(&mut self) -> Result<MetricTree, CollectError> {
        self.collect_at(Instant::now())
    }

    fn facts(&self) -> MetricTree {
        let mut tree = MetricTree::new();
        let facts = self.nvidia.facts();
        tree.set_some("driver_version", facts.driver_version.clone());
        tree.set_some("nvml_version", facts.nvml_version.clone());
        tree.set_some("cuda_version", facts.cuda_version.clone());
        for (index, (name, uuid)) in facts.gpus.iter().enumerate() {
            let gpu = tree.branch(index.to_string());
            gpu.set_some("name", name.clone());
            gpu.set_some("uuid", uuid.clone());
        }
        for found in self.drm.found() {
            if let Some(index) = self.indices.of(found.address) {
                let gpu = tree.branch(index.to_string());
                gpu.set("name", found.name.as_str());
                gpu.set("driver", found.driver.name());
                gpu.set("pci_address", found.address.to_string());
            }
        }
        tree
    }
}

export_plugin! {
    name: "gpu",
    metrics: METRICS_TOML,
    new: GpuSource::new,
}
