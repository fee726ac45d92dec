//! How many calls the API has answered, with what, and how long it took.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of the histogram's buckets, in seconds: a newest value takes below one ms, a full page of series seconds.
pub(super) const BOUNDS_S: [f64; 8] = [0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0];
/// First digits of a status.
pub(super) const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Figures since the start.
#[derive(Debug, Default)]
pub struct Requests {
    by_class: [AtomicU64; 5],
    /// One more than bounds: what took longer than all.
    by_bound: [AtomicU64; 9],
    micros: AtomicU64,
    turned_away: AtomicU64,
}

impl Requests {
    /// Counts an answer.
    pub(in crate::api) fn count(&self, status: u16, took: Duration) {
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        self.by_class[class].fetch_add(1, Relaxed);
        let bound = BOUNDS_S.iter().position(|b| took.as_secs_f64() <= *b);
        self.by_bound[bound.unwrap_or(BOUNDS_S.len())].fetch_add(1, Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Relaxed);
    }

    /// Counts a query of PromQL that found all others at work.
    pub(in crate::api) fn turn_away(&self) {
        self.turned_away.fetch_add(1, Relaxed);
    }

    /// Such queries.
    pub(super) fn turned_away(&self) -> u64 {
        self.turned_away.load(Relaxed)
    }

    /// Answers by class of status, in the order of [`CLASSES`].
    pub(super) fn classes(&self) -> [u64; 5] {
        std::array::from_fn(|i| self.by_class[i].load(Relaxed))
    }

    /// Answers that took at most so long, for each bound and for no bound; and the seconds of all.
    pub(super) fn durations(&self) -> ([u64; 9], f64) {
        let mut below = 0;
        let counts = std::array::from_fn(|i| {
            below += self.by_bound[i].load(Relaxed);
            below
        });
        (counts, self.micros.load(Relaxed) as f64 / 1e6)
    }
}
