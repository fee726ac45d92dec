//! The paths of a stream's series by number, shared between all streams that have the same ones: a thousand like devices keep one copy.
//!
//! Paths stand below the stream's own first segment (`/core/0/utilization`, not `/cpu/core/0/utilization`), so that the streams of different sources can
//! share as well. A layout only grows; growing a shared one copies it first.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Weak};

/// Paths by number.
#[derive(Debug, Clone, Default)]
pub(super) struct Layout {
    /// One behind the other.
    text: String,
    /// Where each ends in `text`. The bound on a device's series keeps it far below 4 GiB.
    ends: Vec<u32>,
    /// Numbers by path.
    sorted: Vec<u32>,
    /// Of all paths, in order of their numbers.
    hash: u64,
}

impl PartialEq for Layout {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.ends == other.ends && self.text == other.text
    }
}

impl Layout {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Bytes of all paths.
    pub(super) fn text_bytes(&self) -> usize {
        self.text.len()
    }

    /// The path of a number that was given.
    pub(super) fn path(&self, number: u32) -> &str {
        let at = number as usize;
        let begin = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.text[begin as usize..self.ends[at] as usize]
    }

    pub(super) fn paths(&self) -> impl ExactSizeIterator<Item = &str> {
        (0..self.len()).map(|number| self.path(number as u32))
    }

    pub(super) fn find(&self, path: &str) -> Option<u32> {
        let at = self
            .sorted
            .binary_search_by(|&number| self.path(number).cmp(path));
        at.ok().map(|at| self.sorted[at])
    }

    /// Numbers by path, those behind `from` and, if `including`, that of `from` itself.
    pub(super) fn sorted_from(&self, from: &str, including: bool) -> &[u32] {
        let before = |number: &u32| {
            let path = self.path(*number);
            path < from || (!including && path == from)
        };
        &self.sorted[self.sorted.partition_point(before)..]
    }

    /// Gives a path that has none a number.
    pub(super) fn push(&mut self, path: &str) -> u32 {
        let number = self.len() as u32;
        let before = |other: &u32| self.path(*other) < path;
        // Sorted paths are put behind all others: no search.
        let at = match self.sorted.last() {
            Some(last) if !before(last) => self.sorted.partition_point(before),
            _ => self.sorted.len(),
        };
        self.sorted.insert(at, number);
        self.text.push_str(path);
        self.ends.push(self.text.len() as u32);
        let mut hasher = DefaultHasher::new();
        (self.hash, path).hash(&mut hasher);
        self.hash = hasher.finish();
        number
    }
}

/// All layouts that are in use.
#[derive(Debug, Default)]
pub(super) struct Layouts {
    by_hash: HashMap<u64, Weak<Layout>>,
    /// Those that nobody uses any more are removed when there are so many.
    purge_at: usize,
}

impl Layouts {
    /// Replaces the layout by an equal one that is there already, or makes it the one that later ones are replaced by.
    pub(super) fn share(&mut self, layout: &mut Arc<Layout>) {
        match self.by_hash.get(&layout.hash).and_then(Weak::upgrade) {
            Some(known) if known == *layout => *layout = known,
            Some(_) => {} // another one of the same hash: they are not shared, which is all that it costs
            None => {
                if self.by_hash.len() >= self.purge_at {
                    self.by_hash.retain(|_, layout| layout.strong_count() > 0);
                    self.purge_at = (2 * self.by_hash.len()).max(1024);
                }
                let text_was = layout.text.capacity();
                if text_was > layout.text.len()
                    && let Some(layout) = Arc::get_mut(layout)
                {
                    layout.text.shrink_to_fit();
                    layout.ends.shrink_to_fit();
                    layout.sorted.shrink_to_fit();
                }
                self.by_hash.insert(layout.hash, Arc::downgrade(layout));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_layout_is_a_map_from_path_to_number(paths in prop::collection::vec("/[a-c]{1,3}", 0..40), from in "/[a-c]{0,3}") {
            let (mut layout, mut model) = (Layout::default(), BTreeMap::new());
            for path in &paths {
                prop_assert_eq!(layout.find(path), model.get(path).copied());
                let next = model.len() as u32;
                model.entry(path.clone()).or_insert_with(|| {
                    assert_eq!(layout.push(path), next);
                    next
                });
            }
            for (path, number) in &model {
                prop_assert_eq!(layout.path(*number), path);
            }
            for including in [true, false] {
                let expected: Vec<u32> = model.iter().filter(|(p, _)| **p > from || (including && **p == from)).map(|(_, n)| *n).collect();
                prop_assert_eq!(layout.sorted_from(&from, including), &expected);
            }
        }
    }

    #[test]
    fn equal_layouts_are_one_and_growing_one_leaves_the_other() {
        let mut layouts = Layouts::default();
        let mut make = |paths: &[&str]| {
            let mut layout = Arc::new(Layout::default());
            for path in paths {
                Arc::make_mut(&mut layout).push(path);
            }
            layouts.share(&mut layout);
            layout
        };
        let (a, mut b, c) = (
            make(&["/x", "/y"]),
            make(&["/x", "/y"]),
            make(&["/y", "/x"]),
        );
        assert!(Arc::ptr_eq(&a, &b));
        assert!(!Arc::ptr_eq(&a, &c), "the same paths under other numbers");
        Arc::make_mut(&mut b).push("/z");
        assert_eq!((a.len(), b.len()), (2, 3));
    }
}
