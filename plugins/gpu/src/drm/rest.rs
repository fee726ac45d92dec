//! Runtime power management: a GPU that sleeps is not to be woken by reading it, and an idle one not to be kept awake.
//!
//! Most values are registers of the GPU, so reading one wakes it or sets its autosuspend timer back (amdgpu's and i915's `pm_runtime_get_*` around each).
//! What is read here is the kernel's own: Documentation/ABI/testing/sysfs-devices-power. An agent that asks each second would keep a laptop's
//! second GPU awake for ever; so while a GPU is idle and may sleep, it is left alone once a minute for as long as its driver waits before putting it to sleep.
//! If it is awake after that, something else keeps it awake (a display, mostly).

use std::path::Path;
use std::time::{Duration, Instant};

use super::attribute::text;

/// How long an idle GPU is read between two rests; it costs 6 s of values a minute where the driver waits 5 s.
const READ_FOR: Duration = Duration::from_secs(60);
/// Longer than the driver's delay, whose timer may be late.
const MARGIN: Duration = Duration::from_secs(1);
/// Reading may itself show as some percent.
const IDLE_BELOW: f64 = 0.05;

/// Whether a utilization counts as idle.
pub(super) fn is_idle(utilization: f64) -> bool {
    utilization < IDLE_BELOW
}

/// What the kernel says of a device's power.
pub(super) struct Power {
    /// Asleep, or falling asleep.
    pub suspended: bool,
    /// How long it stays awake unused; `None` if it never sleeps, or at once.
    pub autosuspend: Option<Duration>,
    /// How long it has slept in all: changes if it slept between two looks.
    pub suspended_ms: Option<u64>,
}

impl Power {
    /// Reads `power/` of a device. A kernel without power management has no such files: then the GPU is always awake.
    pub(super) fn read(device: &Path) -> Self {
        let power = device.join("power");
        let word = |name: &str| text(&power.join(name)).unwrap_or_default();
        let status = word("runtime_status");
        let delay = || word("autosuspend_delay_ms").parse().ok(); // negative: never
        let auto = word("control") == "auto";
        Self {
            suspended: matches!(status.as_str(), "suspended" | "suspending"),
            autosuspend: auto.then(delay).flatten().map(Duration::from_millis),
            suspended_ms: word("runtime_suspended_time").parse().ok(),
        }
    }
}

/// Whether an idle GPU is left alone.
#[derive(Default)]
pub(super) struct Rest {
    read_since: Option<Instant>,
    last_read: Option<Instant>,
    until: Option<Instant>,
}

impl Rest {
    /// Whether to leave the GPU alone in this round; it counts as read otherwise.
    pub(super) fn now(&mut self, now: Instant, autosuspend: Option<Duration>, idle: bool) -> bool {
        // One that waits longer than we read would get no sleep in the end either.
        let Some(delay) = autosuspend.filter(|delay| *delay < READ_FOR) else {
            *self = Self::default();
            return false;
        };
        match self.until {
            Some(until) if now < until => return true,
            Some(_) => *self = Self::default(),
            None => {}
        }
        let slept_between = |last| now.saturating_duration_since(last) > delay;
        if self.last_read.is_some_and(slept_between) {
            self.read_since = None; // asked rarely enough: it could have slept
        }
        let since = *self.read_since.get_or_insert(now);
        if idle && now.saturating_duration_since(since) >= READ_FOR {
            self.until = Some(now + delay + MARGIN);
            return true;
        }
        self.last_read = Some(now);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Option<Duration> = Some(Duration::from_secs(5));

    const NEVER: [u64; 0] = [];

    /// The seconds of 3 minutes in which the GPU was left alone.
    fn rests(every: u64, delay: Option<Duration>, idle: bool) -> Vec<u64> {
        let (start, mut rest) = (Instant::now(), Rest::default());
        (0..180)
            .step_by(every as usize)
            .filter(|s| rest.now(start + Duration::from_secs(*s), delay, idle))
            .collect()
    }

    #[test]
    fn an_idle_gpu_is_left_alone_as_long_as_its_driver_waits() {
        let expected: Vec<u64> = (60..66).chain(126..132).collect();
        assert_eq!(rests(1, DELAY, true), expected);
    }

    #[test]
    fn values_are_not_given_up_in_vain() {
        assert_eq!(rests(1, DELAY, false), NEVER, "busy");
        assert_eq!(rests(1, None, true), NEVER, "never sleeps");
        assert_eq!(
            rests(10, DELAY, true),
            NEVER,
            "can sleep between two rounds"
        );
        let hour = Some(Duration::from_secs(3600));
        assert_eq!(rests(1, hour, true), NEVER, "sleeps after an hour only");
    }
}
