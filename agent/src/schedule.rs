//! Ticks: when each source is due, on multiples of its interval on the wall clock.
//!
//! A 10 s source fires at :00, :10, :20 of every minute, on every device. So samples of different devices and sources fall on the same instants: they can be laid side by side
//! without interpolation, several sources share one message, and a block's shared timestamp column compresses to almost nothing. A frame carries its tick, not
//! the moment at which the plugin returned; the difference is a few ms.
//!
//! The first tick of a source whose next multiple is further away than [`SOON_MS`] is the next whole second: whoever drops in a source that is asked once an hour sees at once whether it can
//! measure, and a machine that has nothing to measure says so.
//!
//! Missed ticks (a suspended machine, a stopped process) are skipped, not made up for: nothing was measured then. If the wall clock is set, the next tick is the next
//! multiple on the new clock. Pure: the caller sleeps.

use std::collections::BTreeMap;
use std::time::Duration;

use devmon_core::wire::TimestampMs;

/// The wall clock is looked at this often, so that setting it delays no tick for longer.
pub const LONGEST_SLEEP: Duration = Duration::from_secs(5);

/// A first multiple of the interval that is this near is waited for.
const SOON_MS: i64 = 2_000;
/// The multiples of this are the first ticks of the others.
const FIRST_MS: i64 = 1_000;

/// Intervals and next ticks of all sources, by their number.
#[derive(Debug, Default)]
pub struct Schedule {
    entries: BTreeMap<usize, Entry>,
}

#[derive(Debug)]
struct Entry {
    interval_ms: i64,
    /// What `next` is a multiple of: the interval, but for the first tick.
    grid_ms: i64,
    next: TimestampMs,
}

impl Schedule {
    /// Adds a source, first due at the next multiple of its interval, or of a second if that is too far away.
    pub fn add(&mut self, source: usize, interval: Duration, now: TimestampMs) {
        let interval_ms = i64::try_from(interval.as_millis())
            .unwrap_or(i64::MAX)
            .max(1);
        let is_soon = after(now, interval_ms).since(now) <= SOON_MS;
        let grid_ms = if is_soon { interval_ms } else { FIRST_MS };
        let entry = Entry {
            interval_ms,
            grid_ms,
            next: after(now, grid_ms),
        };
        self.entries.insert(source, entry);
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
                entry.next = entry.next.min(after(now, entry.grid_ms));
                continue;
            }
            let latest = after(now, entry.grid_ms).0 - entry.grid_ms;
            due.push((*source, TimestampMs(latest)));
            entry.grid_ms = entry.interval_ms;
            entry.next = after(now, entry.interval_ms);
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
        let mut s = schedule(9_003, &[1, 10]);
        assert_eq!(s.sleep(TimestampMs(9_003)), Duration::from_millis(997));
        assert_eq!(s.due(TimestampMs(9_999)), []);
        let both = |tick| [(0, TimestampMs(tick)), (1, TimestampMs(tick))];
        assert_eq!(s.due(TimestampMs(10_004)), both(10_000));
        assert_eq!(s.due(TimestampMs(11_000)), [(0, TimestampMs(11_000))]);
        assert_eq!(s.due(TimestampMs(20_001)), both(20_000));
    }

    #[test]
    fn the_first_tick_is_soon_however_long_the_interval() {
        let hour = 3_600_000;
        let mut s = schedule(5 * hour + 700, &[3_600, 10, 2]);
        let first = TimestampMs(5 * hour + 1_000);
        assert_eq!(s.due(TimestampMs(first.0 - 1)), []);
        assert_eq!(s.due(TimestampMs(first.0 + 3)), [(0, first), (1, first)]);
        // From then on, multiples only.
        let second = TimestampMs(5 * hour + 2_000);
        assert_eq!(s.due(second), [(2, second)]);
        assert_eq!(s.due(TimestampMs(5 * hour + 9_999)).len(), 1);
        let tenth = TimestampMs(5 * hour + 10_000);
        assert_eq!(s.due(tenth), [(1, tenth), (2, tenth)]);
        assert_eq!(s.due(TimestampMs(6 * hour))[0], (0, TimestampMs(6 * hour)));
        // A multiple that is near is waited for: nothing is asked twice within a second.
        let mut s = schedule(8_500, &[10]);
        assert_eq!(s.due(TimestampMs(9_500)), []);
        assert_eq!(s.due(TimestampMs(10_000)), [(0, TimestampMs(10_000))]);
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
        let mut far = schedule(0, &[3_600]);
        far.due(TimestampMs(1_000));
        assert_eq!(far.sleep(TimestampMs(1_000)), LONGEST_SLEEP);
        assert_eq!(schedule(0, &[]).sleep(TimestampMs(0)), LONGEST_SLEEP);
    }
}
