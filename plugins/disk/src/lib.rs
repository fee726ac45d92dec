//! `/disk`: how full the filesystems are, and how much is read from and written to them.
//!
//! **Measures**, per mount: total, used and available bytes, utilization, and the bytes read and written by the block device below it.
//! The mount's path is the name of its branch: `/disk/~1home/used_bytes`.
//! **Units**: bytes; utilization is a ratio 0–1 in steps of 0.0001, used ÷ (used + available) as `df` shows it: 1 means that an ordinary user can write no more.
//! **Cost**: one read of `/proc/self/mountinfo` and of `/proc/diskstats` a round, one statvfs a mount on a helper thread.
//! **Leaves out**: pseudo filesystems, all but one mount of a filesystem, mounts hidden by others ([`mounts`]), and what the options exclude
//! ([`config`]); inodes; I/O of network filesystems and of those that hide their devices (zfs).
//! **When it fails**: a mount that does not answer is `stuck`, one that refuses has `error`; their sizes are absent, their I/O counters and
//! all other mounts stay ([`capacity`]).

use std::sync::Arc;

use devmon_core::{CollectError, MetricSource, MetricTree, export_plugin};

pub mod capacity;
pub mod config;
pub mod diskstats;
pub mod mounts;
pub mod read;

use capacity::{Answer, Capacity, Prober, Statvfs};
use config::Config;
use mounts::Filter;
use read::{MountReading, Reader, Roots};

/// What a metric of this source means.
pub const METRICS_TOML: &str = include_str!("../metrics.toml");

/// The `disk` source.
pub struct DiskSource {
    reader: Reader,
}

impl DiskSource {
    /// Starts the source.
    ///
    /// # Errors
    /// A text that names the option that is wrong.
    pub fn new(config: &str) -> Result<Self, String> {
        Self::with(config, Roots::default(), Arc::new(capacity::statvfs))
    }

    /// The same with other directories and another way to ask a filesystem.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with(config: &str, roots: Roots, statvfs: Statvfs) -> Result<Self, String> {
        let config = Config::parse(config)?;
        let prober = Prober::new(statvfs, config.statvfs_timeout());
        let reader = Reader::new(roots, Filter::new(&config)?, prober);
        Ok(Self { reader })
    }
}

impl MetricSource for DiskSource {
    fn collect(&mut self) -> Result<MetricTree, CollectError> {
        let reading = self.reader.read()?;
        let mut tree = MetricTree::new();
        for mount in reading.mounts {
            describe(&mount, tree.branch(mount.name.as_str()));
        }
        if reading.left_out > 0 {
            tree.set("mounts_left_out", reading.left_out as u64);
        }
        Ok(tree)
    }
}

fn describe(mount: &MountReading, tree: &mut MetricTree) {
    // Also when false: a state that is only ever true could not be seen to end.
    tree.set("stuck", mount.answer == Answer::Stuck);
    match &mount.answer {
        Answer::Capacity(capacity) => set_capacity(*capacity, tree),
        Answer::Failed(reason) => tree.set("error", reason.as_str()),
        Answer::Stuck => {}
    }
    if let Some(io) = mount.io {
        tree.set("read_bytes_total", io.read_bytes);
        tree.set("written_bytes_total", io.written_bytes);
    }
}

fn set_capacity(capacity: Capacity, tree: &mut MetricTree) {
    if capacity.total == 0 {
        return; // no filesystem that holds data has no size
    }
    tree.set("total_bytes", capacity.total);
    tree.set("used_bytes", capacity.used);
    tree.set("available_bytes", capacity.available);
    let usable = capacity.used.saturating_add(capacity.available);
    if usable > 0 {
        let ratio = capacity.used as f64 / usable as f64;
        // Four decimals: the bytes beside it are exact, and short decimals store small.
        tree.set("utilization", (ratio * 10_000.0).round() / 10_000.0);
    }
}

export_plugin! {
    name: "disk",
    metrics: METRICS_TOML,
    new: DiskSource::new,
}
