//! Rollups: what is kept of a series' samples in one minute or one hour.
//!
//! A rollup is made from all samples of its bucket, so late ones correct it: as long as raw samples are kept, it is made anew from them. What crosses the edge
//! between two buckets (the increase of a counter from the last sample of one to the first of the next) belongs to neither: both ends are kept, and
//! the reader joins them.

use devmon_core::Value;
use devmon_core::wire::TimestampMs;

/// Resolution of stored data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Samples as they came.
    Raw,
    Minute,
    Hour,
}

impl Tier {
    /// Its name in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Minute => "1m",
            Self::Hour => "1h",
        }
    }

    /// Length of its buckets in ms; `None` for raw samples.
    #[must_use]
    pub fn bucket_ms(self) -> Option<i64> {
        match self {
            Self::Raw => None,
            Self::Minute => Some(60_000),
            Self::Hour => Some(3_600_000),
        }
    }
}

/// What is kept of the samples of one bucket. There is at least one.
#[derive(Debug, Clone, PartialEq)]
pub struct Rollup {
    /// Start of the bucket: a multiple of its length.
    pub ts: TimestampMs,
    /// Samples of any type.
    pub count: u64,
    /// Samples that count as numbers: booleans do, as 0 and 1; texts do not.
    pub numbers: u64,
    /// Smallest and largest number; `None` without numbers.
    pub min: Option<Value>,
    pub max: Option<Value>,
    /// Sum of the numbers: an integer if all are and it fits, else a float.
    pub sum: Option<Value>,
    pub first: Value,
    pub first_ts: TimestampMs,
    pub last: Value,
    pub last_ts: TimestampMs,
    /// What a counter grew by between neighbouring numbers of the bucket; where it fell, it began anew at 0.
    pub increase: f64,
}
