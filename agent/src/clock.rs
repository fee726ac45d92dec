//! The wall clock, and what to do while it is wrong. Pure: readings come in.
//!
//! Small boards have no clock of their own: they start in 1970, or where a file's time stamp puts them (fake-hwclock), and jump when the network answers. What is measured before that is
//! **held** with the time since boot, which never jumps, and gets its time once the wall clock is believed: never a sample of 1970, nor of the day that the machine was switched off.
//!
//! | the wall clock | is believed |
//! |---|---|
//! | before 2025 | never |
//! | of a machine that started more than [`DOUBT`] ago | yes: one that never has network time must not wait for ever |
//! | after it was set (jumped), or systemd-timesyncd says that it is right | yes |
//! | as a hardware clock has it | yes |
//! | otherwise | not yet |
//!
//! Once believed it stays so. Later jumps are noticed by comparing both clocks, logged and counted; what was measured before a jump keeps the time that was believed then, for nobody can
//! say since when it was wrong. The kernel's own word (adjtimex) is not asked: decision 0011.

use std::collections::BTreeSet;
use std::path::Path;

use devmon_core::wire::{Frame, TimestampMs};

/// A wall clock before this was never set: this code is younger. 2025-01-01T00:00:00Z.
pub const UNSET_BEFORE: TimestampMs = TimestampMs(1_735_689_600_000);
/// A difference between both clocks that is a jump, not the slewing of a time daemon (at most 500 ppm: 0.5 ms a second).
const JUMP_MS: i64 = 1_000;
/// After a boot: network time is there within seconds of the network, and most networks within a minute. The bound of what a machine without either waits.
pub const DOUBT: std::time::Duration = std::time::Duration::from_secs(120);
/// A hardware clock may run in any local time: zones reach from -12 h to +14 h.
const ZONE_S: i64 = 15 * 3_600;
/// Ticks that were asked in doubt and are not answered; more are forgotten.
const MAX_DOUBTED: usize = 1_000;
/// What is held, in memory: what an outbox of its usual size takes when all of it gets its time at once. Oldest are given up and counted.
const MAX_HELD_BYTES: usize = 8 * 1024 * 1024;

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

    /// False if the wall clock was surely never set.
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
    held_bytes: usize,
    jumps: u64,
    given_up: u64,
    believed: bool,
    /// Ticks that were asked while the clock was not believed.
    doubted: BTreeSet<TimestampMs>,
}

impl Clock {
    /// Takes what speaks for the wall clock, which may change as long as it is not believed; true if it is believed.
    pub fn weigh(&mut self, now: Reading, evidence: impl FnOnce() -> bool) -> bool {
        let doubt_ms = i64::try_from(DOUBT.as_millis()).unwrap_or(i64::MAX);
        if !self.believed && now.is_set() {
            self.believed = now.boot_ms >= doubt_ms || evidence();
        }
        self.believes(now)
    }

    /// True if what is measured now gets the time that the wall clock has.
    #[must_use]
    pub fn believes(&self, now: Reading) -> bool {
        self.believed && now.is_set()
    }

    /// A source was asked for this tick.
    pub fn asked(&mut self, tick: TimestampMs, now: Reading) {
        if !self.believes(now) && self.doubted.len() < MAX_DOUBTED {
            self.doubted.insert(tick);
        }
    }

    /// True if this tick's time can be published: the clock is believed, and was when the tick was asked.
    #[must_use]
    pub fn vouches_for(&self, tick: TimestampMs, now: Reading) -> bool {
        self.believes(now) && tick >= UNSET_BEFORE && !self.doubted.contains(&tick)
    }

    /// No answer is awaited: no tick of a doubtful time is under way.
    pub fn all_answered(&mut self, now: Reading) {
        if self.believes(now) {
            self.doubted.clear();
        }
    }

    /// Compares with the last reading; by how many ms the wall clock jumped, if it did.
    pub fn observe(&mut self, now: Reading) -> Option<i64> {
        let before = self.last.replace(now)?;
        let by = (now.wall.0 - before.wall.0) - (now.boot_ms - before.boot_ms);
        if by.abs() < JUMP_MS {
            return None;
        }
        self.jumps += 1;
        self.believed |= now.is_set(); // somebody set it
        Some(by)
    }

    /// Keeps a frame that was measured at this time since boot.
    pub fn hold(&mut self, frame: Frame, boot_ms: i64) {
        self.held_bytes += frame.metrics.size_bytes();
        self.held.push((frame, boot_ms));
        while self.held_bytes > MAX_HELD_BYTES && self.held.len() > 1 {
            let (frame, _) = self.held.remove(0);
            self.held_bytes -= frame.metrics.size_bytes();
            self.given_up += 1;
        }
    }

    /// Gives all up that is held; how many frames that was.
    pub fn give_up(&mut self) -> usize {
        let lost = std::mem::take(&mut self.held).len();
        self.held_bytes = 0;
        self.given_up += lost as u64;
        lost
    }

    /// All that was held, with its time. Only right once the clock is set.
    pub fn release(&mut self, now: Reading) -> Vec<Frame> {
        self.held_bytes = 0;
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

/// True if a [`Clock`] that has seen nothing yet believes the wall clock of this machine.
#[must_use]
pub fn is_believed_at_start(now: Reading) -> bool {
    Clock::default().weigh(now, || {
        evidence(Path::new("/run"), Path::new("/sys"), now.wall)
    })
}

/// What speaks for a wall clock soon after boot, below these roots (`/run`, `/sys`): systemd-timesyncd's word, or a hardware clock that has the same time.
#[must_use]
pub fn evidence(run: &Path, sys: &Path, wall: TimestampMs) -> bool {
    // Made anew in each boot: /run is a memory file system.
    if run.join("systemd/timesync/synchronized").exists() {
        return true;
    }
    let clocks = std::fs::read_dir(sys.join("class/rtc"));
    let mut clocks = clocks.into_iter().flatten().flatten();
    clocks.any(|clock| {
        let text = std::fs::read_to_string(clock.path().join("since_epoch"));
        let seconds = text.ok().and_then(|t| t.trim().parse::<i64>().ok());
        seconds.is_some_and(|s| (s - wall.0 / 1_000).abs() <= ZONE_S)
    })
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

    const NOW: i64 = 1_795_450_000_000;
    const DAY: i64 = 86_400_000;

    #[test]
    fn a_clock_restored_from_a_file_is_not_believed_before_it_is_set() {
        let mut clock = Clock::default();
        let behind = |boot_ms| at(NOW - 300 * DAY + boot_ms, boot_ms);
        clock.observe(behind(20_000));
        assert!(!clock.weigh(behind(20_000), || false));
        let tick = TimestampMs(behind(20_000).wall.0);
        clock.asked(tick, behind(20_000));
        assert!(!clock.vouches_for(tick, behind(20_000)));
        clock.hold(frame(1), 20_000);
        // The network answers.
        let set = at(NOW + 30_000, 30_000);
        assert_eq!(clock.observe(set), Some(300 * DAY));
        assert!(clock.weigh(set, || false));
        assert_eq!(clock.release(set)[0].ts, Some(TimestampMs(NOW + 20_000)));
        // An answer that was under way has the time of its question.
        assert!(!clock.vouches_for(tick, set));
        clock.all_answered(set);
        assert!(clock.vouches_for(set.wall, set));
    }

    #[test]
    fn a_machine_without_network_time_waits_two_minutes_and_no_longer() {
        let mut clock = Clock::default();
        assert!(!clock.weigh(at(NOW, 119_999), || false));
        assert!(clock.weigh(at(NOW, 120_000), || false));
        let mut late = Clock::default();
        assert!(late.weigh(at(NOW, DAY), || panic!("nothing is asked")));
        let mut unset = Clock::default();
        assert!(
            !unset.weigh(at(30_000, DAY), || true),
            "1970 is never right"
        );
    }

    #[test]
    fn a_hardware_clock_and_timesyncd_vouch_for_the_time() {
        let root = tempfile::tempdir().unwrap();
        let (run, sys) = (root.path().join("run"), root.path().join("sys"));
        let says = |wall| evidence(&run, &sys, TimestampMs(wall));
        assert!(!says(NOW));
        let clock = sys.join("class/rtc/rtc0");
        std::fs::create_dir_all(&clock).unwrap();
        let seconds = NOW / 1_000 + 2 * 3_600; // local time
        std::fs::write(clock.join("since_epoch"), format!("{seconds}\n")).unwrap();
        assert!(says(NOW));
        assert!(!says(NOW - 300 * DAY), "the hardware clock has another day");
        let flag = run.join("systemd/timesync");
        std::fs::create_dir_all(&flag).unwrap();
        std::fs::write(flag.join("synchronized"), "").unwrap();
        assert!(says(NOW - 300 * DAY));
    }

    #[test]
    fn what_can_get_no_time_is_counted() {
        let mut clock = Clock::default();
        clock.hold(frame(1), 0);
        clock.hold(frame(1), 1);
        assert_eq!((clock.give_up(), clock.given_up(), clock.held()), (2, 2, 0));
    }

    #[test]
    fn what_is_held_is_bounded() {
        let mut clock = Clock::default();
        for i in 0..30 {
            clock.hold(frame(5_000), i);
        }
        let (held, given_up) = (clock.held(), clock.given_up());
        assert!(
            (10..20).contains(&held) && given_up == 30 - held as u64,
            "{held}"
        );
        // By what they weigh, not by their number.
        let mut clock = Clock::default();
        for i in 0..30 {
            let mut heavy = frame(0);
            for leaf in 0..1_000 {
                heavy.metrics.set(leaf.to_string(), "x".repeat(1_000));
            }
            clock.hold(heavy, i);
        }
        assert_eq!((clock.held(), clock.given_up()), (7, 23));
    }
}
