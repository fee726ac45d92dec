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
mod tests;
