//! `/network`: what goes through the network interfaces.
//!
//! **Measures**, per interface: bytes, packets, errors and dropped packets in both directions, whether it is up, and its speed where it has one.
//! **Units**: bytes and packets as counters since the interface appeared; speed in bytes a second, so that a rate divided by it is how busy the link is.
//! **Cost**: one read of `/proc/net/dev` a round and one of `operstate` for each interface measured; the speed, which some drivers take
//! long to tell, is read once a minute ([`read::SPEED_EVERY`]) and when an interface goes up or down. README.md has the measured cost.
//! **Leaves out**: the loopback and what containers and virtual machines put up and tear down ([`select::VIRTUAL`]), unless the option `include` names
//! them; addresses, routes and sockets. Other network namespaces: the agent sees the one that it runs in.
//! **When it fails**: an unreadable `/proc/net/dev` is a failed round; an interface without `operstate` or speed lacks that leaf only.
//! No interface to measure is unavailable, with the reason.

use devmon_core::{CollectError, MetricSource, MetricTree, export_plugin};

pub mod read;
pub mod select;

use read::{Interface, Reader, Reading, Roots};
use select::Filter;

/// What a metric of this source means.
pub const METRICS_TOML: &str = include_str!("../metrics.toml");

/// The plugin's options; README.md explains them.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a JSON object")]
struct Config {
    /// Globs; when there are any, the interfaces that match one are measured and no others.
    include: Vec<String>,
    /// Globs of interfaces to leave out; wins over `include`.
    exclude: Vec<String>,
}

/// The `network` source.
pub struct NetworkSource {
    reader: Reader,
}

impl NetworkSource {
    /// Starts the source.
    ///
    /// # Errors
    /// A text that names the option or the glob that is wrong.
    pub fn new(config: &str) -> Result<Self, String> {
        Self::with_roots(config, Roots::default())
    }

    /// The same with other directories.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_roots(config: &str, roots: Roots) -> Result<Self, String> {
        let config: Config =
            serde_json::from_str(config).map_err(|e| format!("network options: {e}"))?;
        let filter = Filter::new(&config.include, &config.exclude)
            .map_err(|e| format!("network options: {e}"))?;
        Ok(Self {
            reader: Reader::new(roots, filter),
        })
    }
}

impl MetricSource for NetworkSource {
    fn collect(&mut self) -> Result<MetricTree, CollectError> {
        Ok(tree_of(&self.reader.read()?))
    }
}

fn tree_of(reading: &Reading) -> MetricTree {
    let mut tree = MetricTree::new();
    for interface in &reading.interfaces {
        describe(interface, tree.branch(&interface.name));
    }
    if reading.left_out > 0 {
        tree.set("interfaces_left_out", reading.left_out as u64);
    }
    tree
}

fn describe(interface: &Interface, tree: &mut MetricTree) {
    for (direction, counters) in [("received", interface.received), ("sent", interface.sent)] {
        tree.set(format!("{direction}_bytes_total"), counters.bytes);
        tree.set(format!("{direction}_packets_total"), counters.packets);
        tree.set(format!("{direction}_errors_total"), counters.errors);
        tree.set(format!("{direction}_dropped_total"), counters.dropped);
    }
    tree.set_some("up", interface.up);
    tree.set_some("speed_bytes_per_second", interface.speed_bytes_per_second);
}

export_plugin! {
    name: "network",
    metrics: METRICS_TOML,
    new: NetworkSource::new,
}
