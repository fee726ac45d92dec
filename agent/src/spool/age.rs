//! How old what waits in the spool is, for its age limit. Pure: readings come in.
//!
//! A wall clock that is set makes nothing older: a board without a clock of its own starts in some past and leaps to the present just when the network is back, and what it spooled meanwhile must not be
//! thought old by that. So the age of what this agent wrote is time since boot, which never leaps. For what an earlier one left there are only the time stamps of its files:
//!
//! | its stamp | its age when the spool is opened |
//! |---|---|
//! | while the clock is not believed ([`clock`](crate::clock)) | 0 |
//! | before 2025, or in the future | 0 |
//! | otherwise | by the stamp |
//!
//! From there on it grows by time since boot; by the stamp it may turn out younger (a clock that was ahead was set back), never older. And it is kept for [`GRACE`] at least: stamps of a clock
//! that was wrong then make all look old at once, and whoever starts an agent wants it delivered.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use devmon_core::wire::TimestampMs;

use crate::clock::{Reading, UNSET_BEFORE};

/// What is found at the start is not given up for its age before this, or before `max_age` if that is shorter. A backlog of 256 MiB is delivered within an hour.
const GRACE: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug)]
pub(super) struct Ages {
    max: Duration,
    opened: Reading,
    believed: bool,
    /// Segments of this agent, with the time since boot of their last record.
    written_ms: BTreeMap<u64, i64>,
}

impl Ages {
    /// `believed`: so is the wall clock at this moment.
    pub(super) fn new(max: Duration, opened: Reading, believed: bool) -> Self {
        Self {
            max,
            opened,
            believed,
            written_ms: BTreeMap::new(),
        }
    }

    /// A record was written to this segment.
    pub(super) fn written(&mut self, segment: u64, now: Reading) {
        self.written_ms.insert(segment, now.boot_ms);
    }

    /// Segments before this are gone.
    pub(super) fn forget_before(&mut self, oldest: u64) {
        self.written_ms = self.written_ms.split_off(&oldest);
    }

    /// Whether this segment is over the limit; `stamp`: when the wall clock says that it was written.
    pub(super) fn is_too_old(&self, segment: u64, stamp: SystemTime, now: Reading) -> bool {
        let max_ms = millis(self.max);
        if let Some(written_ms) = self.written_ms.get(&segment) {
            return now.boot_ms - written_ms > max_ms;
        }
        let since_opened_ms = now.boot_ms - self.opened.boot_ms;
        if since_opened_ms < millis(GRACE).min(max_ms) {
            return false;
        }
        let at_opening_ms = if self.believed {
            by_stamp_ms(stamp, self.opened.wall)
        } else {
            0
        };
        let age_ms = (at_opening_ms + since_opened_ms).min(by_stamp_ms(stamp, now.wall));
        age_ms > max_ms
    }
}

fn by_stamp_ms(stamp: SystemTime, wall: TimestampMs) -> i64 {
    let stamp_ms = stamp
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, millis);
    if stamp_ms < UNSET_BEFORE.0 {
        return 0;
    }
    (wall.0 - stamp_ms).max(0)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000;
    const NOW: i64 = 1_795_450_000_000;

    fn at(wall: i64, boot_ms: i64) -> Reading {
        Reading {
            wall: TimestampMs(wall),
            boot_ms,
        }
    }

    fn stamp(wall: i64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(wall.cast_unsigned())
    }

    /// A week at most, opened half a minute after boot.
    fn week(wall: i64, believed: bool) -> Ages {
        Ages::new(Duration::from_secs(7 * 86_400), at(wall, 30_000), believed)
    }

    #[test]
    fn what_this_agent_wrote_ages_with_the_time_since_boot_only() {
        let mut ages = week(NOW, true);
        ages.written(4, at(NOW, 40_000));
        let old = |now| ages.is_too_old(4, stamp(NOW), now);
        assert!(!old(at(NOW + 300 * DAY, 50_000)), "the clock was set");
        assert!(!old(at(NOW, 40_000 + 7 * DAY)));
        assert!(old(at(NOW - 300 * DAY, 40_001 + 7 * DAY)));
    }

    #[test]
    fn what_an_earlier_agent_left_has_a_day_and_then_the_age_of_its_stamp() {
        let ages = week(NOW, true);
        let old = |days: i64, later: i64| {
            ages.is_too_old(0, stamp(NOW - days * DAY), at(NOW + later, 30_000 + later))
        };
        assert!(!old(30, DAY - 1));
        assert!(old(30, DAY));
        assert!(!old(5, DAY) && !old(5, 2 * DAY) && old(5, 2 * DAY + 1));
    }

    #[test]
    fn a_clock_that_is_set_makes_nothing_older() {
        // A board that starts in the past, without anything that vouches for its clock.
        let ages = week(NOW - 300 * DAY, false);
        let found = stamp(NOW - 310 * DAY);
        assert!(!ages.is_too_old(0, found, at(NOW, 31_000 + 2 * DAY)));
        assert!(ages.is_too_old(0, found, at(NOW, 31_000 + 7 * DAY)));
        // One that is believed and wrong, set right while the agent runs.
        let ages = week(NOW - 300 * DAY, true);
        let found = stamp(NOW - 301 * DAY);
        assert!(!ages.is_too_old(0, found, at(NOW, 30_000 + 2 * DAY)));
        // A clock that was ahead: younger than was thought.
        let ages = week(NOW + 300 * DAY, true);
        assert!(!ages.is_too_old(0, stamp(NOW), at(NOW + 2 * DAY, 30_000 + 2 * DAY)));
    }

    #[test]
    fn stamps_that_can_not_be_true_count_from_the_opening_on() {
        let ages = week(NOW, true);
        for stamp in [stamp(50_000), stamp(NOW + 90 * DAY)] {
            assert!(!ages.is_too_old(0, stamp, at(NOW + 6 * DAY, 30_000 + 6 * DAY)));
        }
    }
}
