//! `/agent`: what the agent costs and how its messages fare, as an ordinary source.
//!
//! It is asked like any other, by name `agent` in the configuration; `own.toml` describes its metrics.

use std::time::Duration;

use devmon_core::MetricTree;
use devmon_core::descriptor::{self, Descriptor};
use devmon_core::wire::about::{SourceAbout, SourceState};

use crate::publish::LinkReport;

/// The source's name. No plugin may have it.
pub const NAME: &str = "agent";
const METRICS_TOML: &str = include_str!("own.toml");

/// What its metrics mean, from the device's root.
#[must_use]
pub fn descriptors() -> Vec<Descriptor> {
    let all = descriptor::parse_toml(METRICS_TOML).unwrap_or_default(); // a test reads it
    all.into_iter().filter_map(|d| d.below(NAME).ok()).collect()
}

/// How it stands among the sources.
#[must_use]
pub fn about(interval: Duration) -> SourceAbout {
    SourceAbout {
        name: NAME.to_owned(),
        state: SourceState::Ok,
        reason: None,
        interval_ms: u64::try_from(interval.as_millis()).unwrap_or(u64::MAX),
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        file: None,
        facts: serde_json::Map::new(),
    }
}

/// What there is to say, beside the link's report.
#[derive(Debug, Default)]
pub struct Facts<'a> {
    /// Sources by state.
    pub states: Vec<(&'static str, usize)>,
    /// How long the last round of each source took.
    pub rounds: Vec<(&'a str, Duration)>,
    pub clock_jumps: u64,
    pub clock_given_up: u64,
}

/// The tree of one round.
#[must_use]
pub fn tree(link: &LinkReport, facts: &Facts<'_>) -> MetricTree {
    let mut tree = MetricTree::new();
    tree.set("connected", link.connected);
    if let Some(seconds) = cpu_seconds() {
        tree.set("cpu_seconds_total", seconds);
    }
    if let Some(bytes) = resident_bytes() {
        tree.set("resident_bytes", bytes);
    }
    let messages = tree.branch("messages");
    messages.set("published_total", link.published);
    messages.set("acknowledged_total", link.acknowledged);
    for (reason, count) in &link.dropped {
        let dropped = tree.branch("dropped").branch(reason.as_str());
        dropped.set("messages_total", *count);
    }
    let outbox = tree.branch("outbox");
    outbox.set("messages", link.outbox_messages as u64);
    outbox.set("size_bytes", link.outbox_bytes as u64);
    tree.branch("spool")
        .set("size_bytes", link.spool.size_bytes);
    for (state, count) in &facts.states {
        tree.branch("sources").set(*state, *count as u64);
    }
    for (source, took) in &facts.rounds {
        let seconds = (took.as_secs_f64() * 1e4).round() / 1e4;
        tree.branch("collect_seconds").set(*source, seconds);
    }
    tree.set("clock_jumps_total", facts.clock_jumps);
    tree.set("clock_lost_frames_total", facts.clock_given_up);
    tree
}

/// User and system time of this process and of its children that have ended; in hundredths, as the kernel keeps it (proc(5)).
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |i: usize| fields.get(i)?.parse::<u64>().ok();
    // utime, stime, cutime, cstime: 14 to 17, counted from 1; the state behind the name is 3.
    let all = ticks(11)? + ticks(12)? + ticks(13)? + ticks(14)?;
    Some(all as f64 / rustix::param::clock_ticks_per_second() as f64)
}

fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::DropReason;
    use devmon_core::descriptor::best_match;

    #[test]
    fn every_leaf_is_described() {
        let facts = Facts {
            states: vec![("ok", 3)],
            rounds: vec![("cpu", Duration::from_millis(3))],
            clock_jumps: 1,
            clock_given_up: 0,
        };
        let link = LinkReport {
            dropped: [(DropReason::OutboxFull, 2)].into(),
            ..LinkReport::default()
        };
        let mut device = MetricTree::new();
        device.insert(NAME, devmon_core::Node::Branch(tree(&link, &facts)));
        let descriptors = descriptors();
        assert!(!descriptors.is_empty());
        for (path, _) in device.leaves() {
            assert!(best_match(&descriptors, &path).is_some(), "{path}");
        }
        assert_eq!(
            device.leaves().count(),
            descriptors.len(),
            "and no more are described"
        );
    }
}
