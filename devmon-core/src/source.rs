//! What a plugin author implements: one method, and the three honest ways of having nothing to return.

use crate::tree::MetricTree;

/// A running source: asked at its interval, it returns what it measures now.
///
/// One thread calls it at a time, never an async one; a call may block, but the agent gives up on it after its deadline (the interval, at
/// least 2 s and at most 30 s) and marks the source `failing`. Counters are returned raw (ever growing, named `…_total`); rates are made
/// when querying.
pub trait MetricSource: Send + 'static {
    /// Reads the current values. Names are relative to the source: `utilization`, not `cpu/utilization`.
    ///
    /// # Errors
    /// [`CollectError::NoData`] when there is nothing to say this round, [`CollectError::Unavailable`] when this machine has nothing to measure,
    /// [`CollectError::Failed`] when a reading failed. A single value that cannot be read is left out of the tree; never put 0 for it.
    fn collect(&mut self) -> Result<MetricTree, CollectError>;

    /// Facts that do not change while the source runs (a driver version, a model name), shown with the device. Empty by default.
    fn facts(&self) -> MetricTree {
        MetricTree::new()
    }
}

/// Why a round gave no tree. Each is shown as what it is; none is ever stored as 0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CollectError {
    /// Nothing this round, and nothing wrong: a rate source's first round, say. The source's state stays `ok`.
    #[error("no data this round")]
    NoData,
    /// There is nothing to measure on this machine: no driver, no such hardware. Asked again at a slower pace; state `unavailable`.
    #[error("{0}")]
    Unavailable(String),
    /// The reading failed. Asked again next round; state `failing`.
    #[error("{0}")]
    Failed(String),
}

impl CollectError {
    /// A failed reading, from any error.
    pub fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }
}
