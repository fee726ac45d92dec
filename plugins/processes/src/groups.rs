//! Processes by command, and what each command used since the round before. Pure: processes and times in, groups out.
//!
//! A process is told by pid **and** start time, so that a pid that is given to another process does not pass for the old one.
//!
//! | process | counts with |
//! |---|---|
//! | seen in the round before | what it used since |
//! | began since then | all it has used |
//! | older, but not seen before (first round; it was hidden) | nothing yet: how much of it is new cannot be known |
//!
//! What a process uses between the last look at it and its end is never seen, nor is one that lives between two looks.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::read::Reading;

/// Time over which use of the processor is smoothed before commands are compared: an e-fold. What is at the top for one round only is not worth a series.
const SMOOTHED_OVER: Duration = Duration::from_secs(60);
/// Smoothed use of the processor, in cores, below which a command is idle: 60 ms a minute.
pub const LEAST_CORES: f64 = 0.001;
/// A process born while the round before went through the list may have been missed there, though others, a little younger, were not.
const BORN_DURING_A_ROUND: Duration = Duration::from_secs(1);

/// Constants of the kernel.
#[derive(Debug, Clone, Copy)]
pub struct Units {
    pub ticks_per_second: u64,
    pub page_bytes: u64,
}

impl Units {
    /// Those of the kernel that runs here.
    #[must_use]
    pub fn here() -> Self {
        Self {
            ticks_per_second: rustix::param::clock_ticks_per_second().max(1),
            page_bytes: rustix::param::page_size() as u64,
        }
    }
}

/// The processes of one command.
#[derive(Debug, Clone, Default)]
pub struct Group {
    /// Processor time since the round before, in clock ticks.
    pub ticks: u64,
    pub resident_pages: u64,
    pub count: u64,
    /// Use of the processor, smoothed, in cores.
    pub cores: f64,
    /// Whether it is shown; [`choose`](crate::choose) decides.
    pub shown: Shown,
    /// Processor time of rounds in which it was shown.
    pub total_ticks: u64,
}

/// Whether a command is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Shown {
    /// It never was.
    #[default]
    Never,
    /// It was, and its counter waits to go on.
    Before,
    /// It is, and was last near the top at that time.
    Since(Instant),
    Always,
}

impl Shown {
    #[must_use]
    pub fn is_now(self) -> bool {
        matches!(self, Self::Since(_) | Self::Always)
    }
}

#[derive(Debug, Clone, Copy)]
struct Known {
    started: u64,
    ticks: u64,
    round: u64,
}

/// All commands of this machine.
pub struct Groups {
    units: Units,
    by_name: HashMap<String, Group>,
    /// By pid: the processes of the round before.
    known: HashMap<u32, Known>,
    round: u64,
    /// When the round before was.
    at: Option<Instant>,
    /// Start of the youngest process of the round before.
    youngest: Option<u64>,
    machine_ticks: Option<u64>,
}

impl Groups {
    /// No processes yet; `names` are always shown.
    #[must_use]
    pub fn new(units: Units, names: &[String]) -> Self {
        let always = || Group {
            shown: Shown::Always,
            ..Group::default()
        };
        Self {
            units,
            by_name: names.iter().map(|name| (name.clone(), always())).collect(),
            known: HashMap::new(),
            round: 0,
            at: None,
            youngest: None,
            machine_ticks: None,
        }
    }

    /// Counts a round that was read at `now`. Gives the time of all cores since the round before, in clock ticks, if there is any to divide by.
    pub fn account(&mut self, reading: &Reading<'_>, now: Instant) -> Option<u64> {
        for group in self.by_name.values_mut() {
            (group.ticks, group.resident_pages, group.count) = (0, 0, 0);
        }
        self.round += 1;
        let mut youngest = 0;
        for process in reading.processes {
            let ticks = self.since_last(process.pid, process.started, process.ticks);
            youngest = youngest.max(process.started);
            let name = process.name();
            if !self.by_name.contains_key(&*name) {
                self.by_name.insert(name.to_string(), Group::default());
            }
            if let Some(group) = self.by_name.get_mut(&*name) {
                group.ticks = group.ticks.saturating_add(ticks);
                group.resident_pages = group.resident_pages.saturating_add(process.resident_pages);
                group.count += 1;
            }
        }
        self.youngest = Some(youngest);
        self.known.retain(|_, known| known.round == self.round);

        if let Some(at) = self.at.replace(now) {
            self.smooth(now.saturating_duration_since(at));
        }
        let is_needed =
            |group: &Group| group.count > 0 || group.shown != Shown::Never || !is_idle(group);
        self.by_name.retain(|_, group| is_needed(group));

        let before = std::mem::replace(&mut self.machine_ticks, reading.machine_ticks);
        let since = self.machine_ticks?.checked_sub(before?)?;
        (since > 0).then_some(since)
    }

    /// Clock ticks that this process used since the round before, and notes it for the next.
    fn since_last(&mut self, pid: u32, started: u64, ticks: u64) -> u64 {
        let round = self.round;
        let margin = BORN_DURING_A_ROUND.as_secs() * self.units.ticks_per_second;
        let began_since = self
            .youngest
            .is_some_and(|youngest| started.saturating_add(margin) >= youngest);
        let mut known = Known {
            started,
            ticks,
            round,
        };
        let used = match self.known.get(&pid) {
            Some(before) if before.started == started => {
                known.ticks = ticks.max(before.ticks);
                known.ticks - before.ticks
            }
            Some(_) => ticks, // the pid's last bearer was there in the round before, so this one began since
            None if began_since => ticks,
            None => 0,
        };
        self.known.insert(pid, known);
        used
    }

    fn smooth(&mut self, since: Duration) {
        let seconds = since.as_secs_f64().max(0.001); // two rounds at once
        let kept = (-seconds / SMOOTHED_OVER.as_secs_f64()).exp();
        for group in self.by_name.values_mut() {
            let cores = group.ticks as f64 / self.units.ticks_per_second as f64 / seconds;
            group.cores = group.cores * kept + cores * (1.0 - kept);
        }
    }

    /// Names and groups, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Group)> {
        self.by_name
            .iter()
            .map(|(name, group)| (name.as_str(), group))
    }

    /// The same, to change.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut Group)> {
        self.by_name
            .iter_mut()
            .map(|(name, group)| (name.as_str(), group))
    }
}

/// Too little use of the processor to be compared.
#[must_use]
pub fn is_idle(group: &Group) -> bool {
    group.cores < LEAST_CORES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stat::Process;

    #[test]
    fn what_has_ended_is_forgotten() {
        let units = Units {
            ticks_per_second: 100,
            page_bytes: 4096,
        };
        let mut groups = Groups::new(units, &[]);
        let mut now = Instant::now();
        for round in 0..2_000_u32 {
            let line =
                format!("1 (c{round}) S 1 1 1 0 -1 0 0 0 0 0 500 0 0 0 20 0 1 0 {round} 0 1 0");
            let process = Process::parse(round, line.as_bytes()).expect("a line");
            let reading = Reading {
                processes: &[process],
                machine_ticks: None,
                left_out: 0,
            };
            groups.account(&reading, now);
            now += Duration::from_secs(10);
            assert_eq!(groups.known.len(), 1);
            // What it used is remembered until it is idle by the smoothed measure.
            assert!(groups.by_name.len() < 60, "{}", groups.by_name.len());
        }
    }
}
