//! `/gpu`: NVIDIA GPUs, by their index in NVML.
//!
//! **Measures**, per GPU: utilization, memory, temperature, power and name, each only where driver and GPU can tell it.
//! **Units**: bytes, degrees Celsius, watts; utilization is a ratio 0–1, in NVML's own steps of 0.01 for the GPU and 0.0001 for memory.
//! `memory/utilization` is used ÷ total; NVML's "memory utilization", the time that memory was being read or written, is `memory_controller/utilization`.
//! **Cost**: six calls into the driver a GPU a round, some µs to some ms each; opening NVML can take a second, once.
//! **Leaves out**: processes, clocks, ECC, MIG slices, GPUs of other makers.
//! **When it fails**: without a driver or a GPU the source is unavailable and says what to do. A GPU that gives nothing shows its `error`, and
//! `lost` if it left the bus, while the others stay. After that, or when the driver itself is lost, NVML is opened anew at growing intervals
//! ([`RETRY_FIRST`] to [`RETRY_MOST`]).

use std::ffi::OsString;
use std::time::{Duration, Instant};

use devmon_core::{CollectError, MetricSource, MetricTree, export_plugin};
use nvml_wrapper::Nvml;

pub mod read;

use read::{DEFAULT_LIBRARY, Facts, Gpu, GpuError, Round};

/// What a metric of this source means.
pub const METRICS_TOML: &str = include_str!("../metrics.toml");

/// A GPU that was reset, or a driver that was reloaded, is often back within seconds.
pub const RETRY_FIRST: Duration = Duration::from_secs(1);
/// A lost GPU may wait for a technician for days, and opening NVML can take the driver a second.
pub const RETRY_MOST: Duration = Duration::from_secs(300);

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
    library: OsString,
    nvml: Option<Nvml>,
    facts: Facts,
    /// Set while a GPU gives nothing or NVML broke.
    retry: Option<Retry>,
}

/// When NVML is to be opened anew, and why.
struct Retry {
    at: Instant,
    delay: Duration,
    reason: String,
}

impl GpuSource {
    /// Starts the source; without a driver it starts as well, and every round tries again.
    ///
    /// # Errors
    /// A text that names the option that is wrong.
    pub fn new(config: &str) -> Result<Self, String> {
        let config: Config =
            serde_json::from_str(config).map_err(|e| format!("gpu options: {e}"))?;
        if config.library.is_empty() {
            return Err("gpu options: `library` is empty; leave it out for the default".into());
        }
        let mut source = Self {
            library: config.library.into(),
            nvml: None,
            facts: Facts::default(),
            retry: None,
        };
        // For the facts; a failure is reported by the first round, which tries again.
        let _ = source.open();
        Ok(source)
    }

    /// [`collect`](MetricSource::collect) with the time as a parameter.
    ///
    /// # Errors
    /// As `collect`.
    pub fn collect_at(&mut self, now: Instant) -> Result<MetricTree, CollectError> {
        if let Some(retry) = &self.retry {
            if now >= retry.at {
                self.nvml = None;
            } else if self.nvml.is_none() {
                let wait = (retry.at - now).as_secs() + 1;
                let reason = format!("{}; opening NVML anew in {wait} s", retry.reason);
                return Err(CollectError::Failed(reason));
            }
        }
        let round = match self.open().map(read::read) {
            // The agent asks an unavailable source more slowly by itself.
            Err(reason) => return Err(CollectError::Unavailable(reason)),
            Ok(Err(broken)) => {
                self.nvml = None;
                self.retry_later(now, &broken.0);
                return Err(CollectError::Failed(broken.0));
            }
            Ok(Ok(round)) => round,
        };
        match round.iter().find_map(|gpu| gpu.as_ref().err()) {
            Some(error) => self.retry_later(now, &error.reason),
            None => self.retry = None,
        }
        if round.is_empty() {
            self.nvml = None; // a GPU that is plugged in later is seen by a new NVML only
            return Err(CollectError::Unavailable(
                "the NVIDIA driver is loaded but sees no GPU. See `nvidia-smi -L`, or switch this source off".into(),
            ));
        }
        tree_of(&round)
    }

    /// NVML, opened if it is not.
    fn open(&mut self) -> Result<&Nvml, String> {
        match self.nvml {
            Some(ref nvml) => Ok(nvml),
            None => {
                let nvml = read::open(&self.library)?;
                self.facts = read::facts(&nvml);
                Ok(self.nvml.insert(nvml))
            }
        }
    }

    /// Sets the next attempt, unless one is set already; each takes twice as long as the one before.
    fn retry_later(&mut self, now: Instant, reason: &str) {
        let delay = match &self.retry {
            Some(retry) if now < retry.at => return,
            Some(retry) => (retry.delay * 2).min(RETRY_MOST),
            None => RETRY_FIRST,
        };
        self.retry = Some(Retry {
            at: now + delay,
            delay,
            reason: reason.to_owned(),
        });
    }
}

impl MetricSource for GpuSource {
    fn collect(&mut self) -> Result<MetricTree, CollectError> {
        self.collect_at(Instant::now())
    }

    fn facts(&self) -> MetricTree {
        let mut tree = MetricTree::new();
        tree.set_some("driver_version", self.facts.driver_version.clone());
        tree.set_some("nvml_version", self.facts.nvml_version.clone());
        tree.set_some("cuda_version", self.facts.cuda_version.clone());
        for (index, (name, uuid)) in self.facts.gpus.iter().enumerate() {
            let gpu = tree.branch(index.to_string());
            gpu.set_some("name", name.clone());
            gpu.set_some("uuid", uuid.clone());
        }
        tree
    }
}

/// The GPUs by index; a failure when none of them gave anything.
fn tree_of(round: &Round) -> Result<MetricTree, CollectError> {
    if round.iter().all(Result::is_err) {
        let reasons: Vec<&str> = round
            .iter()
            .filter_map(|gpu| gpu.as_ref().err())
            .map(|e| e.reason.as_str())
            .collect();
        return Err(CollectError::Failed(reasons.join("; ")));
    }
    let mut tree = MetricTree::new();
    for (index, gpu) in round.iter().enumerate() {
        let branch = tree.branch(index.to_string());
        match gpu {
            Ok(gpu) => describe(gpu, branch),
            Err(GpuError { lost, reason }) => {
                branch.set("lost", *lost);
                branch.set("error", reason.as_str());
            }
        }
    }
    Ok(tree)
}

fn describe(gpu: &Gpu, tree: &mut MetricTree) {
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
    if let Some(memory) = gpu.memory.filter(|m| m.total > 0) {
        let branch = tree.branch("memory");
        branch.set("total_bytes", memory.total);
        branch.set("used_bytes", memory.used);
        let ratio = memory.used as f64 / memory.total as f64;
        branch.set("utilization", (ratio * 10_000.0).round() / 10_000.0);
    }
}

export_plugin! {
    name: "gpu",
    metrics: METRICS_TOML,
    new: GpuSource::new,
}
