//! What a program costs the device that it runs on, from `/proc`, over the program and all its descendants.
//!
//! CPU is user and system time of all threads, of children that have ended and were waited for too; the kernel counts it by the nanosecond and shows it in 10 ms.
//! Wake-ups are voluntary context switches of the threads that live: each is once asleep and awake again. Bytes written are those that reached the block layer, not the page cache.

use std::collections::BTreeMap;
use std::fs;

use anyhow::Context;

/// `USER_HZ`.
const TICKS_PER_SECOND: f64 = 100.0;

/// Counters since the start, and memory now.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Usage {
    pub(super) cpu_s: f64,
    pub(super) wakeups: u64,
    pub(super) disk_bytes: u64,
    pub(super) rss: u64,
    pub(super) rss_most: u64,
    pub(super) pss: u64,
    /// Of PSS, what no other process has: heap, stacks, written pages.
    pub(super) private: u64,
    pub(super) threads: u64,
    pub(super) processes: u64,
}

impl Usage {
    /// Of some processes and all below them.
    ///
    /// # Errors
    /// One of them is not there, or `/proc` does not say.
    pub(super) fn of(pids: &[u32]) -> anyhow::Result<Self> {
        let mut all = Self::default();
        let parents = parents()?;
        let mut waiting = pids.to_vec();
        while let Some(pid) = waiting.pop() {
            let below = parents.iter().filter(|(_, parent)| **parent == pid);
            waiting.extend(below.map(|(child, _)| *child));
            let one = Self::of_one(pid);
            // A descendant may have ended since it was listed; one that we started must not.
            match one {
                Err(error) if pids.contains(&pid) => return Err(error),
                Err(_) => {}
                Ok(one) => all.add(one),
            }
        }
        Ok(all)
    }

    fn add(&mut self, one: Self) {
        self.cpu_s += one.cpu_s;
        self.wakeups += one.wakeups;
        self.disk_bytes += one.disk_bytes;
        self.rss += one.rss;
        self.rss_most += one.rss_most;
        self.pss += one.pss;
        self.private += one.private;
        self.threads += one.threads;
        self.processes += 1;
    }

    fn of_one(pid: u32) -> anyhow::Result<Self> {
        let read = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            fs::read_to_string(&path).context(path)
        };
        let (status, smaps) = (read("status")?, read("smaps_rollup")?);
        let kib = |text: &str, key: &str| number(text, key).unwrap_or(0) * 1024;
        let mut usage = Self {
            cpu_s: cpu_s(&read("stat")?).context("/proc/PID/stat")?,
            disk_bytes: number(&read("io")?, "write_bytes:").context("/proc/PID/io")?,
            rss: kib(&status, "VmRSS:"),
            rss_most: kib(&status, "VmHWM:"),
            pss: kib(&smaps, "Pss:"),
            private: kib(&smaps, "Private_Dirty:") + kib(&smaps, "Private_Clean:"),
            ..Self::default()
        };
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            // It may have ended since it was listed.
            let Ok(text) = fs::read_to_string(thread?.path().join("status")) else {
                continue;
            };
            usage.threads += 1;
            usage.wakeups += number(&text, "voluntary_ctxt_switches:").unwrap_or(0);
        }
        Ok(usage)
    }
}

fn parents() -> anyhow::Result<BTreeMap<u32, u32>> {
    let mut parents = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if let Some(parent) = fields(&stat).nth(1).and_then(|f| f.parse().ok()) {
            parents.insert(pid, parent);
        }
    }
    Ok(parents)
}

/// Fields behind the name, which may hold anything: from the third of proc(5) on.
fn fields(stat: &str) -> impl Iterator<Item = &str> {
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    rest.split_whitespace()
}

/// utime, stime, cutime, cstime: 14 to 17.
fn cpu_s(stat: &str) -> Option<f64> {
    let ticks: Vec<f64> = fields(stat)
        .skip(11)
        .take(4)
        .map_while(|f| f.parse().ok())
        .collect();
    (ticks.len() == 4).then(|| ticks.iter().sum::<f64>() / TICKS_PER_SECOND)
}

/// The number behind a key at the begin of a line.
fn number(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_costs_something() {
        let mut sum = 0_u64;
        let pid = std::process::id();
        while Usage::of(&[pid]).unwrap().cpu_s < 0.02 {
            sum = (0..1_000_000).fold(sum, |a, b| a ^ std::hint::black_box(b));
        }
        let usage = Usage::of(&[pid]).unwrap();
        assert!(
            usage.rss > usage.private && usage.rss >= usage.pss,
            "{usage:?}"
        );
        assert!(
            usage.rss_most >= usage.rss && usage.threads > 1,
            "{usage:?}"
        );
        assert!(Usage::of(&[u32::MAX]).is_err());
    }

    #[test]
    fn a_name_with_parentheses_moves_no_field() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 30 20 20 0 1 0";
        assert_eq!(cpu_s(stat), Some(2.5));
        assert_eq!(fields(stat).nth(1), Some("1"));
    }
}
