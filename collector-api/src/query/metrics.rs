//! The metrics of a device: which there are, and their newest values.

use std::collections::BTreeMap;
use std::sync::Arc;

use devmon_core::descriptor::Kind;
use devmon_core::tree::MetricTree;

use super::descriptors::{Described, DescriptorCache};
use super::sort::{First, Place, Placed, Sort};
use super::{MAX_POINTS, Page, QueryError, devices};
use crate::store::engine::{SeriesRecord, Store};

/// Series of a device that are looked through between two looks at the list of them.
const SERIES_AT_ONCE: usize = 1_000;

/// Which metrics of a device are meant; by default all.
#[derive(Debug, Clone, Default)]
pub struct MetricFilter {
    /// At or below this path.
    pub prefix: String,
    /// Part of the path, in any case.
    pub q: Option<String>,
    pub kind: Option<Kind>,
    pub unit: Option<String>,
}

impl MetricFilter {
    fn fits(&self, record: &SeriesRecord, described: &Described) -> bool {
        let part = self.q.as_ref().map(|q| q.to_lowercase());
        let named = |part: String| record.path.as_str().to_lowercase().contains(&part);
        if !part.is_none_or(named) {
            return false;
        }
        if self.kind.is_none() && self.unit.is_none() {
            return true;
        }
        described.find(&record.path).is_some_and(|descriptor| {
            self.kind.is_none_or(|kind| kind == descriptor.kind)
                && self.unit.as_ref().is_none_or(|u| *u == descriptor.unit)
        })
    }
}

/// What metrics can be sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SortBy {
    Path,
    FirstTs,
    LastTs,
}

impl SortBy {
    pub const ALL: [Self; 3] = [Self::Path, Self::FirstTs, Self::LastTs];

    /// The name of the field in the answer.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::FirstTs => "first_ts",
            Self::LastTs => "last_ts",
        }
    }
}

/// A page of series in this order, with the descriptors to read them by.
///
/// # Errors
/// [`QueryError::NoDevice`].
pub fn list(
    store: &dyn Store,
    cache: &DescriptorCache,
    device: &str,
    filter: &MetricFilter,
    sort: Sort<SortBy>,
    after: Option<Place>,
    limit: usize,
) -> Result<(Page<Placed<SeriesRecord>>, Arc<Described>), QueryError> {
    let about = devices::about(store, device)?;
    let described = cache.of(about.as_ref());
    let by_path = sort.by == SortBy::Path;
    let upwards = by_path && !sort.down;
    let mut first = First::new(after.clone(), limit + 1, sort.down, by_path);
    let mut found = BTreeMap::new();
    let mut behind = after.filter(|_| upwards).map(|p| p.name().to_owned());
    let mut all = 0;
    while !upwards || all <= limit {
        let at_once = SERIES_AT_ONCE.max(limit + 1);
        let series = store.series(device, &filter.prefix, behind.as_deref(), at_once);
        let ended = series.len() < at_once;
        behind = series.last().map(|record| record.path.to_string());
        for record in series.into_iter().filter(|r| filter.fits(r, &described)) {
            let figure = match sort.by {
                SortBy::Path => 0,
                SortBy::FirstTs => record.first_ts.0,
                SortBy::LastTs => record.last_ts.0,
            };
            first.add(figure, record.path.as_str());
            all += 1;
            found.insert(record.path.to_string(), record);
        }
        if ended {
            break;
        }
    }
    let page = Page::cut(first.into_sorted(), limit);
    let record = |place: Place| Some((place.clone(), found.remove(place.name())?));
    let page = Page {
        more: page.more,
        items: page.items.into_iter().filter_map(record).collect(),
    };
    Ok((page, described))
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
