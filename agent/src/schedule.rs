//! Ticks: when each source is due, on multiples of its interval on the wall clock.
//!
//! A 10 s source fires at :00, :10, :20 of every minute, on every device. So samples of different devices and sources fall on the same instants: they can be laid side by side
//! without interpolation, several sources share one message, and a block's shared timestamp column compresses to almost nothing. A frame carries its tick, not
//! the moment at which the plugin returned; the difference is a few ms.
//!
//! Missed ticks (a suspended machine, a stopped process) are skipped, not made up for: nothing was measured then. If the wall clock is set, the next tick is the next
//! multiple on the new clock. Pure: the caller sleeps.

use std::collections::BTreeMap;
use std::time::Duration;

use devmon_core::wire::TimestampMs;

/// The wall clock is looked at this often, so that setting it delays no tick for longer.
pub const LONGEST_SLEEP: Duration = Duration::from_secs(5);

/// Intervals and next ticks of all sources, by their number.
#[derive(Debug, Default)]
pub struct Schedule {
    entries: BTreeMap<usize, Entry>,
}

#[derive(Debug)]
struct Entry {
    interval_ms: i64,
    next: TimestampMs,
}

impl Schedule {
    /// Adds a source, first due at the next multiple of its interval.
    pub fn add(&mut self, source: usize, interval: Duration, now: TimestampMs) {
        let interval_ms = i64::try_from(interval.as_millis())
            .unwrap_or(i64::MAX)
            .max(1);
        let next = after(now, interval_ms);
        self.entries.insert(source, Entry { interval_ms, next });
    }

    /// Takes a source out.
    pub fn remove(&mut self, source: usize) {
        self.entries.remove(&source);
    }

    /// How long to sleep until something may be due.
    #[must_use]
    pub fn sleep(&self, now: TimestampMs) -> Duration {
        let next = self.entries.values().map(|e| e.next).min();
        let ms = next.map_or(i64::MAX, |next| next.since(now).max(0));
        Duration::from_millis(ms.cast_unsigned()).min(LONGEST_SLEEP)
    }

    /// The sources that are due now with the tick that each is due for, and moves them on.
    pub fn due(&mut self, now: TimestampMs) -> Vec<(usize, TimestampMs)> {
        let mut due = Vec::new();
        for (source, entry) in &mut self.entries {
            if entry.next > now {
                // Further away than one interval: the clock was set back.
                entry.next = entry.next.min(after(now, entry.interval_ms));
                continue;
            }
            let next = after(now, entry.interval_ms);
            due.push((*source, TimestampMs(next.0 - entry.interval_ms)));
            entry.next = next;
        }
        due
    }
}

/// The first multiple of the interval after `now`.
fn after(now: TimestampMs, interval_ms: i64) -> TimestampMs {
    let multiple = now.0.div_euclid(interval_ms).saturating_add(1);
    TimestampMs(multiple.saturating_mul(interval_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(now: i64, seconds: &[u64]) -> Schedule {
        let mut s = Schedule::default();
        for (i, x) in seconds.iter().enumerate() {
            s.add(i, Duration::from_secs(*x), TimestampMs(now));
        }
        s
    }

    #[test]
    fn ticks_fall_on_multiples_of_the_interval() {
        let mut s = schedule(1_003, &[1, 10]);
        assert_eq!(s.sleep(TimestampMs(1_003)), Duration::from_millis(997));
        assert_eq!(s.due(TimestampMs(1_999)), []);
        assert_eq!(s.due(TimestampMs(2_004)), [(0, TimestampMs(2_000))]);
        assert_eq!(
            s.due(TimestampMs(10_001)),
            [(0, TimestampMs(10_000)), (1, TimestampMs(10_000))]
        );
    }

    #[test]
    fn missed_ticks_are_skipped() {
        let mut s = schedule(0, &[1]);
        assert_eq!(s.due(TimestampMs(57_300)), [(0, TimestampMs(57_000))]);
        assert_eq!(s.due(TimestampMs(57_301)), []);
        assert_eq!(s.sleep(TimestampMs(57_301)), Duration::from_millis(699));
    }

    #[test]
    fn a_clock_that_is_set_back_delays_no_tick() {
        let mut s = schedule(1_000_000, &[10]);
        assert_eq!(s.due(TimestampMs(3_000)), []);
        assert_eq!(s.due(TimestampMs(10_000)), [(0, TimestampMs(10_000))]);
        let far = schedule(0, &[3_600]);
        assert_eq!(far.sleep(TimestampMs(0)), LONGEST_SLEEP);
        assert_eq!(schedule(0, &[]).sleep(TimestampMs(0)), LONGEST_SLEEP);
    }
}
