//! How often the log hears of one thing: a new text at once, the same again once [`PACE`] is over, with how many were left out meanwhile. Pure: time comes in.
//!
//! A script that fails each second would write 86 400 lines a day, and hide everything else.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

/// A text is repeated no sooner than this.
pub(super) const PACE: Duration = Duration::from_secs(300);
/// Different texts within it: enough for a trace of a stack, and an end for what says another text each time.
const MOST: usize = 50;

#[derive(Debug, Default)]
pub(super) struct Pace {
    since: Option<Instant>,
    /// Hashes of what was said since.
    said: Vec<u64>,
    left_out: u64,
}

impl Pace {
    /// Whether this may be said now, and then how many were left out since something was said last.
    pub(super) fn may_say(&mut self, now: Instant, text: &str) -> Option<u64> {
        if self.is_over(now) {
            self.since = Some(now);
            self.said.clear();
        }
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        let hash = hasher.finish();
        if self.said.len() >= MOST || self.said.contains(&hash) {
            self.left_out += 1;
            return None;
        }
        self.said.push(hash);
        Some(std::mem::take(&mut self.left_out))
    }

    /// How many were left out, once it is time to say so although nothing else is said.
    pub(super) fn take_left_out(&mut self, now: Instant) -> Option<u64> {
        (self.left_out > 0 && self.is_over(now)).then(|| std::mem::take(&mut self.left_out))
    }

    /// True when anything may be said again.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.since
            .is_none_or(|since| now.saturating_duration_since(since) >= PACE)
    }
}

/// For a field of a log line, which is not there if nothing was left out.
pub(super) fn some(left_out: u64) -> Option<u64> {
    (left_out > 0).then_some(left_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_is_said_at_once_and_the_same_after_minutes_with_its_number() {
        let (start, mut pace) = (Instant::now(), Pace::default());
        let at = |s| start + Duration::from_secs(s);
        assert_eq!(pace.may_say(at(0), "no such pump"), Some(0));
        for s in 1..200 {
            assert_eq!(pace.may_say(at(s), "no such pump"), None);
        }
        assert_eq!(pace.may_say(at(200), "no such tank"), Some(199));
        for s in 201..300 {
            assert_eq!(pace.may_say(at(s), "no such tank"), None);
        }
        assert_eq!(pace.may_say(at(300), "no such tank"), Some(99));
        assert_eq!(pace.may_say(at(300), "no such pump"), Some(0));
    }

    #[test]
    fn another_text_each_time_has_an_end_too() {
        let (start, mut pace) = (Instant::now(), Pace::default());
        let said = (0..3_600).filter(|s| {
            let now = start + Duration::from_secs(*s);
            pace.may_say(now, &s.to_string()).is_some()
        });
        assert_eq!(said.count(), 12 * MOST);
        let at = |s| start + Duration::from_secs(s);
        assert_eq!(pace.take_left_out(at(3_599)), None);
        // Nothing more comes: what was left out is said all the same, once.
        assert_eq!(pace.take_left_out(at(3_600)), Some(300 - MOST as u64));
        assert_eq!(pace.take_left_out(at(3_601)), None);
    }
}
