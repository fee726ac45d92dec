//! The metrics of a device: which there are, and their newest values.

use std::sync::Arc;

use devmon_core::tree::MetricTree;

use super::descriptors::{Described, DescriptorCache};
use super::{MAX_POINTS, Page, QueryError, devices};
use crate::store::engine::{SeriesRecord, Store};

/// A page of series by path, with the descriptors to read them by.
///
/// # Errors
/// [`QueryError::NoDevice`].
pub fn list(
    store: &dyn Store,
    cache: &DescriptorCache,
    device: &str,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<(Page<SeriesRecord>, Arc<Described>), QueryError> {
    let about = devices::about(store, device)?;
    let series = store.series(device, prefix, after, limit + 1);
    Ok((Page::cut(series, limit), cache.of(about.as_ref())))
}

/// All series at or below `prefix` with their newest samples, by path.
///
/// # Errors
/// [`QueryError::NoDevice`], [`QueryError::TooManyPoints`].
pub fn latest(
    store: &dyn Store,
    cache: &DescriptorCache,
    device: &str,
    prefix: &str,
) -> Result<(Vec<SeriesRecord>, Arc<Described>), QueryError> {
    let about = devices::about(store, device)?;
    let series = store.series(device, prefix, None, MAX_POINTS + 1);
    if series.len() > MAX_POINTS {
        let detail = format!(
            "the device has more than {MAX_POINTS} metrics there; ask for part of them with prefix"
        );
        return Err(QueryError::TooManyPoints(detail));
    }
    Ok((series, cache.of(about.as_ref())))
}

/// The newest values as the tree they came from. Where one path is both a leaf and a branch (a source changed its shape), the branch is shown.
#[must_use]
pub fn tree(series: &[SeriesRecord]) -> MetricTree {
    let mut root = MetricTree::new();
    for record in series {
        let names: Vec<_> = record.path.segments().collect();
        let Some((leaf, branches)) = names.split_last() else {
            continue;
        };
        let mut at = &mut root;
        for name in branches {
            at = at.branch(name.as_ref());
        }
        // By path, a leaf comes before all that is below it: no leaf comes here after the branch of its name.
        at.set(leaf.as_ref(), record.last_value.clone());
    }
    root
}
