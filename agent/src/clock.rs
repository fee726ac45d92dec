//! The wall clock, and what to do while it is wrong. Pure: readings come in.
//!
//! Small boards have no clock of their own: they start in 1970 (or where a file system's last time stamp puts them) and jump when the network answers. What is measured before that is
//! **held** with the time since boot, which never jumps, and gets its time once the wall clock is plausible: never a sample of 1970. Later jumps are noticed by comparing both
//! clocks, logged and counted; what was measured before a jump keeps the time that was believed then, for nobody can say since when it was wrong.

use devmon_core::wire::{Frame, TimestampMs};

/// A wall clock before this was never set: this code is younger. 2025-01-01T00:00:00Z.
pub const UNSET_BEFORE: TimestampMs = TimestampMs(1_735_689_600_000);
/// A difference between both clocks that is a jump, not the slewing of a time daemon (at most 500 ppm: 0.5 ms a second).
const JUMP_MS: i64 = 1_000;
/// Held leaves; with names, some 10 MB at most. Oldest are given up and counted.
const MAX_HELD_LEAVES: usize = 100_000;

/// Both clocks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    pub wall: TimestampMs,
    /// Since boot, suspension included (`CLOCK_BOOTTIME`).
    pub boot_ms: i64,
}

impl Reading {
    #[must_use]
    pub fn now() -> Self {
        let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Self {
            wall: TimestampMs::now(),
            boot_ms: boot.tv_sec * 1_000 + boot.tv_nsec / 1_000_000,
        }
    }

    /// True if the wall clock was set.
    #[must_use]
    pub fn is_set(self) -> bool {
        self.wall >= UNSET_BEFORE
    }
}

/// What was seen of the clocks so far, and what waits for a time.
#[derive(Debug, Default)]
pub struct Clock {
    last: Option<Reading>,
    held: Vec<(Frame, i64)>,
    held_leaves: usize,
    jumps: u64,
    given_up: u64,
}

impl Clock {
    /// Compares with the last reading; by how many ms the wall clock jumped, if it did.
    pub fn observe(&mut self, now: Reading) -> Option<i64> {
        let before = self.last.replace(now)?;
        let by = (now.wall.0 - before.wall.0) - (now.boot_ms - before.boot_ms);
        if by.abs() < JUMP_MS {
            return None;
        }
        self.jumps += 1;
        Some(by)
    }

    /// Keeps a frame that was measured at this time since boot.
    pub fn hold(&mut self, frame: Frame, boot_ms: i64) {
        self.held_leaves += frame.metrics.leaves().count();
        self.held.push((frame, boot_ms));
        while self.held_leaves > MAX_HELD_LEAVES && self.held.len() > 1 {
            let (frame, _) = self.held.remove(0);
            self.held_leaves -= frame.metrics.leaves().count();
            self.given_up += 1;
        }
    }

    /// All that was held, with its time. Only right once the clock is set.
    pub fn release(&mut self, now: Reading) -> Vec<Frame> {
        self.held_leaves = 0;
        let held = std::mem::take(&mut self.held).into_iter();
        held.map(|(mut frame, boot_ms)| {
            frame.ts = Some(TimestampMs(now.wall.0 - (now.boot_ms - boot_ms)));
            frame
        })
        .collect()
    }

    /// Frames that wait for a time.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Jumps since the start.
    #[must_use]
    pub fn jumps(&self) -> u64 {
        self.jumps
    }

    /// Frames that were given up while waiting for a time.
    #[must_use]
    pub fn given_up(&self) -> u64 {
        self.given_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use devmon_core::MetricTree;

    fn at(wall: i64, boot_ms: i64) -> Reading {
        Reading {
            wall: TimestampMs(wall),
            boot_ms,
        }
    }

    fn frame(leaves: usize) -> Frame {
        let mut metrics = MetricTree::new();
        for i in 0..leaves {
            metrics.set(i.to_string(), 1);
        }
        Frame {
            ts: None,
            source: Some("x".into()),
            metrics,
        }
    }

    #[test]
    fn what_is_measured_before_the_clock_is_set_gets_its_true_time() {
        let now = 1_795_450_000_000;
        let mut clock = Clock::default();
        assert!(!at(30_000, 20_000).is_set());
        clock.hold(frame(1), 20_000);
        clock.hold(frame(1), 21_000);
        assert_eq!(clock.held(), 2);
        let frames = clock.release(at(now, 60_000));
        let times: Vec<_> = frames.iter().map(|f| f.ts.unwrap().0).collect();
        assert_eq!(times, [now - 40_000, now - 39_000]);
        assert_eq!(clock.held(), 0);
    }

    #[test]
    fn a_jump_is_told_from_slewing_and_from_a_sleeping_machine() {
        let mut clock = Clock::default();
        assert_eq!(clock.observe(at(1_000_000, 0)), None);
        assert_eq!(clock.observe(at(1_010_005, 10_000)), None, "slewed by 5 ms");
        assert_eq!(clock.observe(at(9_010_005, 8_010_000)), None, "suspended");
        assert_eq!(
            clock.observe(at(9_020_005 + 3_600_000, 8_020_000)),
            Some(3_600_000)
        );
        assert_eq!(clock.observe(at(9_030_005, 8_030_000)), Some(-3_600_000));
        assert_eq!(clock.jumps(), 2);
    }

    #[test]
    fn what_is_held_is_bounded() {
        let mut clock = Clock::default();
        for i in 0..30 {
            clock.hold(frame(5_000), i);
        }
        assert_eq!((clock.held(), clock.given_up()), (20, 10));
    }
}
