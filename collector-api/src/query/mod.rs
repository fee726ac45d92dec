//! Answers over the store: which devices there are and how they do, which metrics they have, what these were.
//!
//! Pure logic over [`Store`]: no HTTP, no clock (`now` is a parameter), no threads. All calls block as the store's do. Three rules live here
//! and nowhere else: when a device is online, stale or offline ([`devices`]), how samples become buckets ([`aggregate`]), and how counters
//! become rates ([`aggregate`] again).
//!
//! What is left to others: parsing what was asked and writing what is answered (`api`), keeping samples (`store`).

pub mod aggregate;
pub mod column;
pub mod dead_letters;
pub mod descriptors;
pub mod devices;
pub mod families;
pub mod fleet;
pub mod fleet_series;
pub mod metrics;
pub mod names;
mod plan;
pub mod promql;
pub mod range;
pub mod sort;
pub mod step;

#[cfg(doc)]
use crate::store::engine::Store;
use crate::store::engine::StoreError;

/// Most points (rows × paths) in one answer; some 20 MB of JSON.
pub const MAX_POINTS: usize = 1_000_000;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    #[error("no device {0:?} has sent anything yet")]
    NoDevice(String),
    #[error("device {device:?} has no metric {path:?}")]
    NoMetric { device: String, path: String },
    #[error(
        "{pattern} and what else is asked for are more than {most} metrics of {device}; name them, or fewer at a time"
    )]
    TooManyPaths {
        device: String,
        pattern: String,
        most: usize,
    },
    #[error("a device has {0} labels of an operator at most; take some away with null")]
    TooManyLabels(usize),
    #[error("no dead letter {0}: it never was, or made room for newer ones")]
    NoDeadLetter(u64),
    /// The text says how to narrow the question.
    #[error("{0}")]
    TooManyPoints(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// True if more follow the last item.
    pub more: bool,
}

impl<T> Page<T> {
    /// A page of at most `limit` out of items of which one more than that was asked for.
    fn cut(mut items: Vec<T>, limit: usize) -> Self {
        let more = items.len() > limit;
        items.truncate(limit);
        Self { items, more }
    }

    /// The last item, if more follow.
    #[must_use]
    pub fn last(&self) -> Option<&T> {
        self.items.last().filter(|_| self.more)
    }

    fn map<U>(self, f: impl FnMut(T) -> U) -> Page<U> {
        Page {
            items: self.items.into_iter().map(f).collect(),
            more: self.more,
        }
    }
}
