//! How often a device sends, from the gaps between its metrics messages: what is known of publishers that do not say it themselves.
//!
//! In memory only. After a restart it is learnt from what the journal still has, and from what comes.

use devmon_core::wire::TimestampMs;

/// Gaps that count: enough that a few sensors which each send once in a round, one after the other, do not hide the gap between the rounds.
const KEPT: usize = 8;
/// Messages that come closer than this are one: a burst.
const BURST_MS: i64 = 1_000;
/// The longest gap: who sends less often is not waited for.
const LONGEST_MS: i64 = 24 * 3600 * 1000;

/// The last gaps of a device, by times of arrival.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gaps {
    last: Option<TimestampMs>,
    /// In ms, at any place; 0: none yet.
    gaps_ms: [u32; KEPT],
    next: u8,
}

impl Gaps {
    /// A message arrived, and the one before it at `before`, if that is known from elsewhere only. True if that was another gap.
    pub fn heard(&mut self, before: Option<TimestampMs>, received: TimestampMs) -> bool {
        let last = self.last.or(before);
        self.last = self.last.max(Some(received));
        let gap_ms = last.map_or(0, |last| received.since(last));
        if gap_ms < BURST_MS {
            return false;
        }
        let place = usize::from(self.next) % KEPT;
        self.gaps_ms[place] = gap_ms.min(LONGEST_MS) as u32; // a day, in ms
        self.next = self.next.wrapping_add(1);
        true
    }

    /// The gap that is to be expected, in ms: the longest but one of the last eight, for the longest may be that of an outage; of one only, that. `None`: there was none.
    #[must_use]
    pub fn usual_ms(&self) -> Option<u64> {
        let mut gaps = self.gaps_ms;
        gaps.sort_unstable_by_key(|&gap| std::cmp::Reverse(gap));
        let usual = if gaps[1] > 0 { gaps[1] } else { gaps[0] };
        (usual > 0).then_some(usual.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usual_s(seconds: &[i64]) -> Option<u64> {
        let mut gaps = Gaps::default();
        for s in seconds {
            gaps.heard(None, TimestampMs(s * 1000));
        }
        gaps.usual_ms().map(|ms| ms / 1000)
    }

    #[test]
    fn the_usual_gap_is_that_between_rounds_and_no_outage() {
        assert_eq!(usual_s(&[]), None);
        assert_eq!(usual_s(&[60]), None, "one message has no gap");
        assert_eq!(usual_s(&[60, 120]), Some(60));
        assert_eq!(usual_s(&[60, 120, 180, 9_000, 9_060]), Some(60), "outage");
        assert_eq!(usual_s(&[60, 60, 60, 120, 120, 120]), Some(60), "bursts");
        assert_eq!(
            usual_s(&[0, 5, 10, 60, 65, 70, 120, 125, 130, 180]),
            Some(50),
            "three sensors, one after the other"
        );
        let then_often: Vec<_> = [0, 600, 1200].into_iter().chain(1201..1220).collect();
        assert_eq!(usual_s(&then_often), Some(1), "it has changed its mind");
        assert_eq!(usual_s(&[60, 0, 120]), Some(60), "a clock set back");
        assert_eq!(usual_s(&[0, i64::MAX / 1000]), Some(24 * 3600));
    }

    #[test]
    fn what_is_read_again_after_a_restart_is_learnt_from() {
        let mut gaps = Gaps::default();
        let known = Some(TimestampMs(180_000));
        for ms in [60_000, 120_000, 180_000] {
            gaps.heard(known, TimestampMs(ms));
        }
        assert_eq!(gaps.usual_ms(), Some(60_000));
        let mut gaps = Gaps::default();
        assert!(gaps.heard(known, TimestampMs(240_000)));
        assert_eq!(
            gaps.usual_ms(),
            Some(60_000),
            "nothing to read: the time that is known"
        );
    }
}
