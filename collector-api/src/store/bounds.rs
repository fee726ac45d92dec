//! When the heads are full: the configured bounds, and above them what a large fleet needs.
//!
//! A seal writes a block for each stream, and some records for each device, however few rows have come. With a bound on samples alone a fleet of a hundred thousand
//! devices would be sealed every few seconds, a row at a time. So there is room for [`ROWS`] samples of each series, as long as memory allows it
//! ([`Options::seal_max_bytes`]).

use super::head;
use super::local::Options;

/// Samples of each series that the heads have room for.
const ROWS: u64 = 8;
/// What a sample is taken to have in the journal: text, and its share of the message.
const JOURNAL_BYTES: u64 = 40;
/// The journal's bound does not grow above this, for a start replays it (`docs/benchmarks.md`, a fleet, has how long that takes).
const JOURNAL_MAX_BYTES: u64 = 2 << 30;
/// How many times their bounds the heads may hold before commits wait for the sealing thread. One batch may pass it: the intake bounds those.
const FACTOR: u64 = 4;
/// The same for memory above [`Options::seal_bytes`]: one part is sealed while another grows.
const MAX_FACTOR: u64 = 2;

/// Beyond one of these the heads are sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) samples: u64,
    pub(super) bytes: u64,
    pub(super) journal_bytes: u64,
}

impl Bounds {
    /// For a store of so many series.
    pub(super) fn of(options: &Options, series: u64) -> Self {
        let rows = series.saturating_mul(ROWS);
        let values = rows.saturating_mul(head::SAMPLE_BYTES);
        let bytes = values.saturating_add(series.saturating_mul(head::COLUMN_BYTES));
        let journal_bytes = rows.saturating_mul(JOURNAL_BYTES).min(JOURNAL_MAX_BYTES);
        Self {
            samples: options.seal_samples.max(rows),
            bytes: options
                .seal_bytes
                .max(bytes.min(options.seal_max_bytes / MAX_FACTOR)),
            journal_bytes: options.seal_journal_bytes.max(journal_bytes),
        }
    }

    /// How much the heads may hold, those being sealed too, before commits wait: samples, bytes.
    pub(super) fn most(&self, options: &Options) -> (u64, u64) {
        let bytes = options.seal_bytes.saturating_mul(FACTOR);
        (
            self.samples.saturating_mul(FACTOR),
            bytes.max(self.bytes.saturating_mul(MAX_FACTOR)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_grow_with_the_series_as_far_as_memory_allows() {
        let options = Options::default();
        let few = Bounds::of(&options, 5_000);
        let configured = (
            options.seal_samples,
            options.seal_bytes,
            options.seal_journal_bytes,
        );
        assert_eq!((few.samples, few.bytes, few.journal_bytes), configured);
        let many = Bounds::of(&options, 5_000_000);
        assert_eq!(many.samples, 40_000_000);
        assert!(many.journal_bytes > 1 << 30);
        let (_, most) = many.most(&options);
        assert!(most <= options.seal_max_bytes.max(FACTOR * options.seal_bytes));
        let endless = Bounds::of(&options, u64::MAX);
        assert_eq!(endless.journal_bytes, JOURNAL_MAX_BYTES);
        let small = Options {
            seal_max_bytes: 1,
            ..options
        };
        assert_eq!(Bounds::of(&small, 5_000_000).bytes, small.seal_bytes);
    }
}
