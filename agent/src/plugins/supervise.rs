//! What a source's answers mean: its state, the reason for it, and when it may be asked again. Pure: time comes in, nothing is started here.
//!
//! | answer | state | asked again |
//! |---|---|---|
//! | a tree | `ok` (the reason names what was left out) | next tick |
//! | no data | as before, or `ok` if it was failing | next tick |
//! | unavailable | `unavailable` | after [`UNAVAILABLE_PACE`], not before its interval |
//! | failed | `failing` | next tick |
//! | crashed: panicked, or could not be made | `failing` | made anew after a back-off of 1 s, 2 s, … up to [`MAX_BACKOFF`] |
//! | none within the deadline | `failing` | not before it has returned |
//!
//! An answer that comes after the deadline is not published: nobody can say when its values were read.

use std::time::{Duration, Instant};

use devmon_core::wire::about::SourceState;
use tracing::{info, warn};

use super::source::Answer;

/// Hardware and drivers may appear at run time, but not every second.
pub const UNAVAILABLE_PACE: Duration = Duration::from_secs(60);
/// A source that panics each time is made anew this often at the slowest.
pub const MAX_BACKOFF: Duration = Duration::from_secs(300);
/// A deadline shorter than this would blame sources for a busy machine.
pub const MIN_DEADLINE: Duration = Duration::from_secs(2);
/// A source that hangs is found out within this time, however seldom it is asked.
pub const MAX_DEADLINE: Duration = Duration::from_secs(30);

/// How long a source with this interval may take for a round.
#[must_use]
pub fn deadline(interval: Duration) -> Duration {
    interval.clamp(MIN_DEADLINE, MAX_DEADLINE)
}

/// One source's state over time.
#[derive(Debug)]
pub struct Supervised {
    name: String,
    deadline: Duration,
    state: SourceState,
    reason: Option<String>,
    asked: Option<Instant>,
    /// The present round is over its deadline; the reason last named this many seconds.
    overrun_s: Option<u64>,
    not_before: Option<Instant>,
    /// Crashes since the last answer that was none.
    crashes: u32,
}

impl Supervised {
    #[must_use]
    pub fn new(name: &str, deadline: Duration) -> Self {
        Self {
            name: name.to_owned(),
            deadline,
            state: SourceState::Ok,
            reason: None,
            asked: None,
            overrun_s: None,
            not_before: None,
            crashes: 0,
        }
    }

    #[must_use]
    pub fn state(&self) -> SourceState {
        self.state
    }

    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// True while an answer is awaited and not yet overdue.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        self.asked.is_some() && self.overrun_s.is_none()
    }

    /// When the present round becomes overdue.
    #[must_use]
    pub fn overdue_at(&self) -> Option<Instant> {
        self.asked
            .filter(|_| self.overrun_s.is_none())
            .map(|asked| asked + self.deadline)
    }

    /// May it be asked at this tick? No while it is busy, and not before its back-off is over.
    #[must_use]
    pub fn may_ask(&self, now: Instant) -> bool {
        self.asked.is_none() && self.not_before.is_none_or(|at| now >= at)
    }

    /// It was asked.
    pub fn asked(&mut self, now: Instant) {
        self.asked = Some(now);
        self.overrun_s = None;
    }

    /// Looks at the clock; true if state or reason changed. The reason's seconds move on by doubling: each change is published.
    pub fn check(&mut self, now: Instant) -> bool {
        let Some(asked) = self.asked else {
            return false;
        };
        let waited = now.saturating_duration_since(asked);
        let waited_s = waited.as_secs();
        if waited < self.deadline || self.overrun_s.is_some_and(|said| waited_s < said * 2) {
            return false;
        }
        self.overrun_s = Some(waited_s);
        let reason = format!("collect has not returned for {waited_s} s");
        self.become_(SourceState::Failing, Some(reason))
    }

    /// It answered. Returns whether state or reason changed, and whether the answer came in time to be published.
    pub fn answered(&mut self, now: Instant, answer: &Answer) -> (bool, bool) {
        let late = self.overrun_s.take();
        let asked = self.asked.take();
        self.not_before = None;
        if !matches!(answer, Answer::Crashed(_)) {
            self.crashes = 0;
        }
        let changed = match answer {
            Answer::Tree { .. } | Answer::NoData if late.is_some() => {
                let took_s = asked.map_or(0, |at| now.saturating_duration_since(at).as_secs());
                let most = self.deadline.as_secs();
                let reason = format!("collect took {took_s} s; the most is {most} s");
                self.become_(SourceState::Failing, Some(reason))
            }
            Answer::Tree { left_out, .. } => self.become_(SourceState::Ok, left_out.clone()),
            Answer::NoData => self.become_(SourceState::Ok, None),
            Answer::Unavailable(reason) => {
                self.not_before = Some(now + UNAVAILABLE_PACE);
                self.become_(SourceState::Unavailable, Some(reason.clone()))
            }
            Answer::Failed(reason) => self.become_(SourceState::Failing, Some(reason.clone())),
            Answer::Crashed(reason) => {
                let backoff = Duration::from_secs(1 << self.crashes.min(16)).min(MAX_BACKOFF);
                self.crashes += 1;
                self.not_before = Some(now + backoff);
                self.become_(SourceState::Failing, Some(reason.clone()))
            }
        };
        (changed, late.is_none())
    }

    /// Its thread could not be started, or is gone.
    pub fn lost(&mut self, reason: String) -> bool {
        self.become_(SourceState::Failing, Some(reason))
    }

    fn become_(&mut self, state: SourceState, reason: Option<String>) -> bool {
        if self.state == state && self.reason == reason {
            return false;
        }
        let (source, why) = (self.name.as_str(), reason.as_deref().unwrap_or_default());
        match state {
            SourceState::Ok if reason.is_none() => info!(source, "source is ok"),
            SourceState::Ok => warn!(source, reason = why, "source is ok, but for some values"),
            SourceState::Unavailable => info!(source, reason = why, "source is unavailable"),
            _ => warn!(source, reason = why, "source is failing"),
        }
        (self.state, self.reason) = (state, reason);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daily_source_that_hangs_is_found_out_today() {
        let daily = Duration::from_secs(86_400);
        assert_eq!(deadline(daily), MAX_DEADLINE);
        assert_eq!(deadline(Duration::from_secs(10)), Duration::from_secs(10));
    }
    use devmon_core::MetricTree;

    fn tree() -> Answer {
        Answer::Tree {
            tree: MetricTree::new(),
            left_out: None,
        }
    }

    fn after(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn a_hang_is_failing_and_its_ticks_are_skipped_until_it_returns() {
        let (start, mut s) = (Instant::now(), Supervised::new("x", deadline(after(1))));
        assert!(s.may_ask(start));
        s.asked(start);
        assert!(!s.may_ask(start + after(1)));
        assert!(!s.check(start + Duration::from_millis(1_999)));
        assert!(s.check(start + after(2)), "the deadline is at least 2 s");
        assert_eq!(s.reason(), Some("collect has not returned for 2 s"));
        assert!(!s.check(start + after(3)), "published once, not each tick");
        assert!(s.check(start + after(4)));
        assert!(!s.may_ask(start + after(100)));
        let (changed, in_time) = s.answered(start + after(101), &tree());
        assert!(changed && !in_time);
        assert_eq!(s.state(), SourceState::Failing);
        assert!(s.may_ask(start + after(101)));
        s.asked(start + after(102));
        assert_eq!(s.answered(start + after(102), &tree()), (true, true));
        assert_eq!((s.state(), s.reason()), (SourceState::Ok, None));
    }

    #[test]
    fn a_source_that_panics_is_made_anew_ever_more_slowly() {
        let (mut now, mut s) = (Instant::now(), Supervised::new("x", deadline(after(1))));
        for wait in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            s.asked(now);
            s.answered(now, &Answer::Crashed("panicked: boom".into()));
            assert_eq!(s.state(), SourceState::Failing);
            assert!(!s.may_ask(now + after(wait) - Duration::from_millis(1)));
            now += after(wait);
            assert!(s.may_ask(now), "{wait}");
        }
        s.asked(now);
        s.answered(now, &tree());
        s.asked(now);
        s.answered(now, &Answer::Crashed("again".into()));
        assert!(s.may_ask(now + after(1)), "a good round ends the back-off");
    }

    #[test]
    fn what_is_unavailable_is_asked_once_a_minute_and_failures_at_each_tick() {
        let (now, mut s) = (Instant::now(), Supervised::new("gpu", deadline(after(1))));
        s.asked(now);
        s.answered(now, &Answer::Unavailable("no driver".into()));
        assert_eq!(s.state(), SourceState::Unavailable);
        assert!(!s.may_ask(now + after(59)));
        assert!(s.may_ask(now + after(60)));
        s.asked(now + after(60));
        s.answered(now + after(60), &Answer::Failed("read error".into()));
        assert!(s.may_ask(now + after(60)));
        assert_eq!(s.reason(), Some("read error"));
    }

    #[test]
    fn a_round_without_data_is_ok() {
        let (now, mut s) = (Instant::now(), Supervised::new("x", deadline(after(1))));
        s.asked(now);
        assert_eq!(s.answered(now, &Answer::NoData), (false, true));
        assert_eq!(s.state(), SourceState::Ok);
    }
}
