//! What a source's answers mean: its state, the reason for it, and when it may be asked again. Pure: time comes in, nothing is started here.
//!
//! | answer | state | asked again |
//! |---|---|---|
//! | a tree | `ok` (the reason names what was left out, or that it writes too much to standard error) | next tick |
//! | no data | as before, or `ok` if it was failing | next tick |
//! | unavailable | `unavailable` | after [`UNAVAILABLE_PACE`], not before its interval |
//! | failed | `failing` | next tick |
//! | could not be made, and said why | `failing` | made anew after a back-off of 1 s, 2 s, … up to [`MAX_BACKOFF`] |
//! | too slow: an executable that was not done in time | `failing` | after the same back-off |
//! | crashed: panicked, or its process ended or was killed for its slowness | `failing`; from the second on, the reason says how often within [`CRASH_WINDOW`] | made anew after the same back-off |
//! | crashed [`MAX_CRASHES`] times in a row, or [`MAX_CRASHES_IN_WINDOW`] times in [`CRASH_WINDOW`] | `quarantined` | when its file changes or an operator says so ([`Supervised::readmit`]) |
//! | none within the deadline | `failing` | not before it has returned |
//!
//! Each new state and reason is logged at once; a source that goes to and fro between a few is spoken of every five minutes ([`pace`](super::pace)).
//!
//! An answer that comes after the deadline is not published: nobody can say when its values were read.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use devmon_core::wire::about::SourceState;
use tracing::{info, warn};

use super::host;
use super::pace::{self, Pace};
use super::source::Answer;

/// Hardware and drivers may appear at run time, but not every second.
pub const UNAVAILABLE_PACE: Duration = Duration::from_secs(60);
/// A source that panics each time is made anew this often at the slowest.
pub const MAX_BACKOFF: Duration = Duration::from_secs(300);
/// Crashes in a row after which a source is left alone: with the back-off, about two minutes of trying.
pub const MAX_CRASHES: u32 = 8;
/// One that crashes now and then is as little use, and costs as much.
pub const MAX_CRASHES_IN_WINDOW: usize = 20;
pub const CRASH_WINDOW: Duration = Duration::from_secs(3600);
/// A deadline shorter than this would blame sources for a busy machine.
pub const MIN_DEADLINE: Duration = Duration::from_secs(2);
/// A source that hangs is found out within this time, however seldom it is asked.
pub const MAX_DEADLINE: Duration = Duration::from_secs(30);

/// Longest reason: some lines on a screen. It travels in `about`, in the status and in the log.
pub const MAX_REASON_BYTES: usize = 500;
/// A source that fails with another text each time is told of this often; its newest reason stands in the status.
pub const REASON_PACE: Duration = Duration::from_secs(60);

/// A text of others, not longer than a reason.
#[must_use]
pub fn cut(text: &str) -> Cow<'_, str> {
    if text.len() <= MAX_REASON_BYTES {
        return text.into();
    }
    let end = text.floor_char_boundary(MAX_REASON_BYTES - '…'.len_utf8());
    format!("{}…", text.get(..end).unwrap_or_default()).into()
}

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
    /// Of the last round that was answered.
    took: Option<Duration>,
    /// The present round is over its deadline; the reason last named this many seconds.
    overrun_s: Option<u64>,
    not_before: Option<Instant>,
    /// Times without a source since the last answer from one.
    in_a_row: u32,
    /// How many of them were crashes.
    crashes_in_a_row: u32,
    /// When it crashed within the window.
    crashed: VecDeque<Instant>,
    /// Crashes since it was loaded.
    crashes: u64,
    /// When a new reason was last told of.
    told: Option<Instant>,
    pace: Pace,
    /// The log does not know the present state and reason yet.
    unsaid: bool,
    /// What was logged.
    #[cfg(test)]
    said: Vec<String>,
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
            took: None,
            overrun_s: None,
            not_before: None,
            in_a_row: 0,
            crashes_in_a_row: 0,
            crashed: VecDeque::new(),
            crashes: 0,
            told: None,
            pace: Pace::default(),
            unsaid: false,
            #[cfg(test)]
            said: Vec::new(),
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

    /// How often it has crashed since it was loaded.
    #[must_use]
    pub fn crashes(&self) -> u64 {
        self.crashes
    }

    /// How long the last answered round took.
    #[must_use]
    pub fn took(&self) -> Option<Duration> {
        self.took
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
        self.asked.is_none()
            && self.state != SourceState::Quarantined
            && self.not_before.is_none_or(|at| now >= at)
    }

    /// It was asked.
    pub fn asked(&mut self, now: Instant) {
        self.asked = Some(now);
        self.overrun_s = None;
    }

    /// Looks at the clock; true if state or reason changed. The reason's seconds move on by doubling: each change is published.
    pub fn check(&mut self, now: Instant) -> bool {
        if self.unsaid && self.pace.is_over(now) {
            self.say(now);
        }
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
        self.become_(now, SourceState::Failing, Some(reason))
    }

    /// It answered. Returns whether state or reason changed, and whether the answer came in time to be published.
    pub fn answered(&mut self, now: Instant, answer: &Answer) -> (bool, bool) {
        let late = self.overrun_s.take();
        let asked = self.asked.take();
        self.took = asked.map(|at| now.saturating_duration_since(at));
        self.not_before = None;
        if !matches!(
            answer,
            Answer::Crashed(_) | Answer::NotStarted(_) | Answer::TooSlow(_)
        ) {
            (self.in_a_row, self.crashes_in_a_row) = (0, 0);
        }
        let changed = match answer {
            Answer::Tree { .. } | Answer::NoData if late.is_some() => {
                let took_s = asked.map_or(0, |at| now.saturating_duration_since(at).as_secs());
                let most = self.deadline.as_secs();
                let reason = format!("collect took {took_s} s; the most is {most} s");
                self.become_(now, SourceState::Failing, Some(reason))
            }
            Answer::Tree { left_out, .. } => self.tell(now, SourceState::Ok, left_out.as_deref()),
            Answer::NoData => self.become_(now, SourceState::Ok, None),
            Answer::Unavailable(reason) => {
                self.not_before = Some(now + UNAVAILABLE_PACE);
                self.become_(now, SourceState::Unavailable, Some(reason.clone()))
            }
            Answer::Failed(reason) => self.tell(now, SourceState::Failing, Some(reason)),
            Answer::TooSlow(reason) => {
                self.back_off(now);
                self.become_(now, SourceState::Failing, Some(reason.clone()))
            }
            Answer::NotStarted(reason) => {
                self.back_off(now);
                self.become_(
                    now,
                    SourceState::Failing,
                    Some(format!("cannot start: {reason}")),
                )
            }
            Answer::Crashed(reason) => {
                self.back_off(now);
                self.crashes += 1;
                self.crashes_in_a_row += 1;
                self.crashed.push_back(now);
                let old = |at: &Instant| now.saturating_duration_since(*at) > CRASH_WINDOW;
                while self.crashed.front().is_some_and(old) {
                    self.crashed.pop_front();
                }
                let times = self.crashed.len();
                let crashed = match reason.contains(host::DID_NOT_ANSWER) {
                    true => "crashed or hung",
                    false => "crashed",
                };
                if self.crashes_in_a_row >= MAX_CRASHES || times >= MAX_CRASHES_IN_WINDOW {
                    let name = &self.name;
                    let reason = format!(
                        "{crashed} {times} times, the last time: {reason}; it is left alone until its file changes or `devmon-agent retry {name}`"
                    );
                    self.become_(now, SourceState::Quarantined, Some(reason))
                } else {
                    let reason = match times {
                        1 => reason.clone(),
                        _ => {
                            format!(
                                "{crashed} {times} times within an hour, the last time: {reason}"
                            )
                        }
                    };
                    self.become_(now, SourceState::Failing, Some(reason))
                }
            }
        };
        (changed, late.is_none())
    }

    fn back_off(&mut self, now: Instant) {
        let wait = Duration::from_secs(1 << self.in_a_row.min(16)).min(MAX_BACKOFF);
        self.in_a_row += 1;
        self.not_before = Some(now + wait);
    }

    /// An operator says that it shall be tried again, at its next tick.
    pub fn readmit(&mut self, now: Instant) -> bool {
        (self.in_a_row, self.crashes_in_a_row, self.not_before) = (0, 0, None);
        self.crashed.clear();
        if self.state != SourceState::Quarantined {
            return false;
        }
        let reason = "let in again; not asked yet".to_owned();
        self.become_(now, SourceState::Failing, Some(reason))
    }

    /// Its thread could not be started, or is gone.
    pub fn lost(&mut self, now: Instant, reason: String) -> bool {
        self.become_(now, SourceState::Failing, Some(reason))
    }

    /// As [`become_`](Self::become_), but a reason in place of another is only told of now and then.
    fn tell(&mut self, now: Instant, state: SourceState, reason: Option<&str>) -> bool {
        let reason = reason.map(|r| cut(r).into_owned());
        let same = self.state == state && self.reason.is_some() && reason.is_some();
        let lately = |at: Instant| now.saturating_duration_since(at) < REASON_PACE;
        if same && self.told.is_some_and(lately) {
            self.reason = reason;
            return false;
        }
        let changed = self.become_(now, state, reason);
        if changed {
            self.told = Some(now);
        }
        changed
    }

    fn become_(&mut self, now: Instant, state: SourceState, reason: Option<String>) -> bool {
        let reason = reason.map(|r| cut(&r).into_owned());
        if self.state == state && self.reason == reason {
            return false;
        }
        (self.state, self.reason) = (state, reason);
        self.say(now);
        true
    }

    /// Logs the present state, unless the log has heard of it lately.
    fn say(&mut self, now: Instant) {
        let source = self.name.as_str();
        let reason = self.reason.as_deref();
        let text = format!("{:?} {}", self.state, reason.unwrap_or_default());
        let Some(left_out) = self.pace.may_say(now, &text) else {
            self.unsaid = true;
            return;
        };
        self.unsaid = false;
        #[cfg(test)]
        self.said.push(text);
        let left_out = pace::some(left_out);
        match self.state {
            SourceState::Ok if reason.is_none() => info!(source, left_out, "source is ok"),
            SourceState::Ok => warn!(
                source,
                reason, left_out, "source is ok, but there is something to look at"
            ),
            SourceState::Unavailable => info!(source, reason, left_out, "source is unavailable"),
            _ => warn!(source, reason, left_out, "source is failing"),
        }
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
            s.answered(now, &Answer::NotStarted("no database yet".into()));
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
    fn a_source_that_only_crashes_is_left_alone_until_somebody_says_so() {
        let (mut now, mut s) = (Instant::now(), Supervised::new("x", deadline(after(1))));
        let crash = Answer::Crashed("panicked: boom".into());
        for _ in 1..MAX_CRASHES {
            s.asked(now);
            s.answered(now, &crash);
            assert_eq!(s.state(), SourceState::Failing);
            now += MAX_BACKOFF;
        }
        s.asked(now);
        s.answered(now, &crash);
        assert_eq!(s.state(), SourceState::Quarantined);
        let reason = s.reason().unwrap();
        assert!(
            reason.contains("crashed 8 times") && reason.contains("retry x"),
            "{reason}"
        );
        assert!(!s.may_ask(now + after(1_000_000)));
        assert!(s.readmit(now));
        assert!(s.may_ask(now));
        s.asked(now);
        s.answered(now, &tree());
        assert_eq!(s.state(), SourceState::Ok);
    }

    #[test]
    fn an_executable_that_only_hangs_is_run_again_for_ever() {
        let (mut now, mut s) = (Instant::now(), Supervised::new("x", deadline(after(1))));
        for _ in 0..100 {
            s.asked(now);
            s.answered(now, &Answer::TooSlow("did not end within 1.8 s".into()));
            assert_eq!(s.state(), SourceState::Failing);
            assert_eq!(s.reason(), Some("did not end within 1.8 s"));
            now += MAX_BACKOFF;
            assert!(s.may_ask(now));
        }
        assert!(!s.may_ask(now - after(1)), "but ever more seldom");
        assert_eq!(s.crashes(), 0);
        // A crash after a long outage is the first of its kind.
        s.asked(now);
        s.answered(now, &Answer::Crashed("boom".into()));
        assert_eq!(s.state(), SourceState::Failing);
    }

    #[test]
    fn reasons_are_short_and_a_new_one_each_round_is_told_of_once_a_minute() {
        let (start, mut s) = (Instant::now(), Supervised::new("x", deadline(after(1))));
        let mut told = 0;
        for round in 0..120 {
            s.asked(start + after(round));
            let reason = format!("{round} {}", "é".repeat(100_000));
            let (changed, _) = s.answered(start + after(round), &Answer::Failed(reason));
            told += u32::from(changed);
            let reason = s.reason().unwrap();
            assert!(reason.starts_with(&format!("{round} é")) && reason.len() <= MAX_REASON_BYTES);
        }
        assert_eq!(told, 2);
        s.asked(start + after(120));
        assert_eq!(s.answered(start + after(120), &tree()), (true, true));
    }

    #[test]
    fn a_source_that_goes_to_and_fro_is_spoken_of_now_and_then_and_the_last_word_is_true() {
        let (start, mut s) = (Instant::now(), Supervised::new("x", deadline(after(1))));
        let ok = tree();
        let round = |s: &mut Supervised, second: u64, fails: bool| {
            let now = start + after(second);
            s.check(now);
            s.asked(now);
            let failed = Answer::Failed("no such pump".into());
            s.answered(now, if fails { &failed } else { &ok });
        };
        for second in 0..600 {
            round(&mut s, second, second % 2 == 0);
        }
        let (failing, is_ok) = ("Failing no such pump", "Ok ");
        // As it was at the end of the first five minutes, and what came then.
        assert_eq!(s.said, [failing, is_ok, is_ok, failing], "in ten minutes");
        // It stays as it is: the log must not end with something else.
        round(&mut s, 600, true);
        for second in 601..1_000 {
            s.check(start + after(second));
        }
        assert!(s.said.len() <= 6, "{:?}", s.said);
        assert_eq!(s.said.last().unwrap(), failing);
    }

    #[test]
    fn a_source_that_crashes_now_and_then_is_left_alone_too() {
        let (mut now, mut s) = (Instant::now(), Supervised::new("x", deadline(after(1))));
        for i in 0..MAX_CRASHES_IN_WINDOW {
            assert_ne!(s.state(), SourceState::Quarantined, "{i}");
            s.asked(now);
            s.answered(now, &tree());
            s.asked(now);
            s.answered(now, &Answer::Crashed("boom".into()));
            now += after(60);
            if i == 2 {
                let reason = "crashed 3 times within an hour, the last time: boom";
                assert_eq!(s.reason(), Some(reason));
            }
        }
        assert_eq!(s.state(), SourceState::Quarantined);
        assert_eq!(s.crashes(), MAX_CRASHES_IN_WINDOW as u64);
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
