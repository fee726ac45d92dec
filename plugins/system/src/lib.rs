//! `/system`: since when the machine runs, how many processes it has in which state, and who is logged in.
//!
//! **Measures** uptime and boot time, processes by state and their threads, sessions logged in, open files and their limit, and what the kernel counts:
//! context switches, interrupts, processes created.
//! **Units**: seconds (boot time: unix seconds); all else are plain numbers.
//! **Cost**: one `stat` file a process, and a round asks them all: cheap on a small device, dear on a busy host. So unless told otherwise the agent
//! asks every 10 s ([`INTERVAL_MS`]). The option `processes` switches that part off.
//! **Leaves out**: what the `cpu`, `memory` and `processes` sources have; cgroups.
//! **When it fails**: an unreadable `/proc/uptime` is a failed round; each other file that cannot be read costs its own leaves. A system without
//! utmp (those that only have systemd-logind) has no `users`, for nobody counts them there.

use devmon_core::{CollectError, MetricSource, MetricTree, export_plugin};

pub mod read;
pub mod utmp;

use read::{Reading, Roots, read};

/// What a metric of this source means.
pub const METRICS_TOML: &str = include_str!("../metrics.toml");

/// The interval if the operator sets none: nothing here changes faster than somebody looks, and walking all processes costs.
pub const INTERVAL_MS: u64 = 10_000;

/// The plugin's options; README.md explains them.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a JSON object")]
struct Config {
    /// Whether to count processes by state.
    processes: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { processes: true }
    }
}

/// The `system` source.
pub struct SystemSource {
    roots: Roots,
    config: Config,
}

impl SystemSource {
    /// Starts the source.
    ///
    /// # Errors
    /// A text that names the option that is wrong.
    pub fn new(config: &str) -> Result<Self, String> {
        Self::with_roots(config, Roots::default())
    }

    /// The same with other directories.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_roots(config: &str, roots: Roots) -> Result<Self, String> {
        let config = serde_json::from_str(config).map_err(|e| format!("system options: {e}"))?;
        Ok(Self { roots, config })
    }
}

impl MetricSource for SystemSource {
    fn collect(&mut self) -> Result<MetricTree, CollectError> {
        Ok(tree_of(&read(&self.roots, self.config.processes)?))
    }
}

fn tree_of(reading: &Reading) -> MetricTree {
    let mut tree = MetricTree::new();
    tree.set("uptime_seconds", reading.uptime_seconds);
    let kernel = &reading.kernel;
    tree.set_some("boot_time_seconds", kernel.boot_time_seconds);
    tree.set_some("context_switches_total", kernel.context_switches);
    tree.set_some("interrupts_total", kernel.interrupts);
    tree.set_some("processes_created_total", kernel.processes_created);
    tree.set_some("users", reading.users);
    if let Some(files) = reading.open_files {
        let branch = tree.branch("open_files");
        branch.set("allocated", files.allocated);
        branch.set("max", files.max);
    }
    if let Some(count) = &reading.processes {
        let branch = tree.branch("processes");
        branch.set("running", count.running);
        branch.set("sleeping", count.sleeping);
        branch.set("blocked", count.blocked);
        branch.set("idle", count.idle);
        branch.set("stopped", count.stopped);
        branch.set("zombie", count.zombie);
        branch.set("total", count.total);
        branch.set("threads", count.threads);
    }
    tree
}

export_plugin! {
    name: "system",
    metrics: METRICS_TOML,
    new: SystemSource::new,
    interval_ms: INTERVAL_MS,
}
