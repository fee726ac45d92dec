//! `/processes`: which commands use the processor and the memory.
//!
//! **Measures**, for the commands at the top (and those that the options name): processor time, its share of the machine, resident memory, number of
//! processes. All others are summed in `/processes/other`, so that the sums are whole.
//! **Units**: seconds in the kernel's clock ticks (0.01 on most machines); bytes; utilization is a ratio 0–1 of all cores in steps of 0.00001.
//! **Cost**: one small file a process, so unless told otherwise the agent asks every 10 s ([`INTERVAL_MS`]). README.md has it measured.
//! **Leaves out**: arguments, environment, users, open files, single processes and threads; shared memory is not split among those who share it; what a
//! process used after the last look at it ([`groups`]).
//! **When it fails**: processes that end meanwhile are passed over; those that may not be read are counted in `processes_left_out`. A `/proc` that cannot be listed, or
//! an agent that has no file descriptor left, is a failed round, and the next good one has what was used meanwhile.

use std::path::PathBuf;
use std::time::Instant;

use devmon_core::{CollectError, MetricSource, MetricTree, export_plugin};

pub mod choose;
pub mod config;
pub mod groups;
pub mod read;
pub mod stat;

use choose::{Choice, Chosen};
use config::Config;
use groups::{Group, Groups, Units};
use read::Reader;

/// What a metric of this source means.
pub const METRICS_TOML: &str = include_str!("../metrics.toml");

/// The interval if the operator sets none: walking all processes costs, and who is at the top is a question of minutes.
pub const INTERVAL_MS: u64 = 10_000;

/// The `processes` source.
pub struct ProcessesSource {
    units: Units,
    reader: Reader,
    groups: Groups,
    choice: Choice,
    /// Processor time of the commands that were not shown.
    other_ticks: u64,
}

impl ProcessesSource {
    /// Starts the source; use of the processor is known from the second round on.
    ///
    /// # Errors
    /// A text that names the option that is wrong.
    pub fn new(config: &str) -> Result<Self, String> {
        Self::with_proc(config, "/proc".into(), Units::here())
    }

    /// The same with another `/proc`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_proc(config: &str, proc: PathBuf, units: Units) -> Result<Self, String> {
        let config = Config::parse(config)?;
        let groups = Groups::new(units, &config.names);
        Ok(Self {
            units,
            reader: Reader::new(proc),
            choice: Choice::new(&config, &groups),
            groups,
            other_ticks: 0,
        })
    }

    /// One round at a time that is given, and not before that of the last.
    ///
    /// # Errors
    /// As [`collect`](MetricSource::collect).
    pub fn collect_at(&mut self, now: Instant) -> Result<MetricTree, CollectError> {
        let reading = self.reader.read()?;
        let left_out = reading.left_out;
        let machine_ticks = self.groups.account(&reading, now);
        let chosen = self.choice.choose(&mut self.groups, now);
        self.other_ticks = self.other_ticks.saturating_add(chosen.other_ticks);
        Ok(self.tree_of(machine_ticks, chosen, left_out))
    }

    fn tree_of(&self, machine_ticks: Option<u64>, chosen: Chosen, left_out: u64) -> MetricTree {
        let mut tree = MetricTree::new();
        let mut other = Group {
            total_ticks: self.other_ticks,
            ..Group::default()
        };
        let commands = tree.branch("command");
        for (name, group) in self.groups.iter() {
            if group.shown.is_now() {
                self.describe(group, machine_ticks, commands.branch(name));
            } else {
                other.ticks = other.ticks.saturating_add(group.ticks);
                other.resident_pages = other.resident_pages.saturating_add(group.resident_pages);
                other.count += group.count;
            }
        }
        self.describe(&other, machine_ticks, tree.branch("other"));
        for (name, n) in [
            ("names_left_out", chosen.names_left_out),
            ("processes_left_out", left_out),
        ] {
            tree.set_some(name, (n > 0).then_some(n));
        }
        tree
    }

    fn describe(&self, group: &Group, machine_ticks: Option<u64>, branch: &mut MetricTree) {
        let seconds = group.total_ticks as f64 / self.units.ticks_per_second as f64;
        branch.set("cpu_seconds_total", seconds);
        let share = machine_ticks.map(|all| utilization(group.ticks, all));
        branch.set_some("utilization", share);
        let bytes = group.resident_pages.saturating_mul(self.units.page_bytes);
        branch.set("resident_bytes", bytes);
        branch.set("count", group.count);
    }
}

/// The kernel keeps time of processes more exactly than that of cores, so the one may be a little more than the other.
fn utilization(ticks: u64, machine_ticks: u64) -> f64 {
    let ratio = ticks as f64 / machine_ticks as f64;
    // Five decimals: a tick of 10 s on 100 cores; more would be noise that costs storage.
    ((ratio * 100_000.0).round() / 100_000.0).min(1.0)
}

impl MetricSource for ProcessesSource {
    fn collect(&mut self) -> Result<MetricTree, CollectError> {
        self.collect_at(Instant::now())
    }
}

export_plugin! {
    name: "processes",
    metrics: METRICS_TOML,
    new: ProcessesSource::new,
    interval_ms: INTERVAL_MS,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utilization_is_a_short_decimal_of_at_most_1() {
        assert_eq!(utilization(0, 2000), 0.0);
        assert_eq!(utilization(1, 3), 0.33333);
        assert_eq!(utilization(201, 200), 1.0);
    }
}
