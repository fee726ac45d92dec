//! The order of a list: by what, which way, and where a page of it starts.
//!
//! Of equals the name decides, upwards, so that the order is total. A page is chosen in one look over all, in memory for one page. What a list is sorted by may change from page to
//! page; only the order by name loses none and repeats none whatever happens meanwhile.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A way to sort: by one of the things that a list can be sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sort<K> {
    pub by: K,
    /// The largest first.
    pub down: bool,
}

/// The place of an item in a sorted list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Its figure, turned around where the largest is first.
    pub key: i64,
    name: Name,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Up(String),
    Down(Reverse<String>),
}

/// An item, and where it stands.
pub type Placed<T> = (Place, T);

impl Place {
    /// As it was told before: [`key`](Self::key) and [`name`](Self::name).
    #[must_use]
    pub fn new(key: i64, name: &str, names_down: bool) -> Self {
        let name = if names_down {
            Name::Down(Reverse(name.to_owned()))
        } else {
            Name::Up(name.to_owned())
        };
        Self { key, name }
    }

    #[must_use]
    pub fn name(&self) -> &str {
        match &self.name {
            Name::Up(name) | Name::Down(Reverse(name)) => name,
        }
    }
}

/// The first so many places of a list behind one.
#[derive(Debug)]
pub(super) struct First {
    behind: Option<Place>,
    limit: usize,
    down: bool,
    names_down: bool,
    /// The last of them on top.
    best: BinaryHeap<Place>,
}

impl First {
    /// Of a list sorted by a figure, or, with `by_name`, by the name alone.
    pub(super) fn new(behind: Option<Place>, limit: usize, down: bool, by_name: bool) -> Self {
        Self {
            behind,
            limit,
            down,
            names_down: down && by_name,
            best: BinaryHeap::new(),
        }
    }

    pub(super) fn add(&mut self, figure: i64, name: &str) {
        let key = if self.down { !figure } else { figure };
        let full = self.best.len() >= self.limit;
        if full && self.best.peek().is_some_and(|last| key > last.key) {
            return;
        }
        let place = Place::new(key, name, self.names_down);
        if self.behind.as_ref().is_some_and(|behind| place <= *behind) {
            return;
        }
        self.best.push(place);
        if full {
            self.best.pop();
        }
    }

    pub(super) fn into_sorted(self) -> Vec<Place> {
        self.best.into_sorted_vec()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pages_join_to_the_sorted_list(
            items in prop::collection::btree_map("[a-d]{1,3}", -3_i64..3, 0..30), limit in 1_usize..7, down in any::<bool>(), by_name in any::<bool>(),
        ) {
            let figure = |name: &str| if by_name { 0 } else { items[name] };
            let mut expected: Vec<String> = items.keys().cloned().collect();
            expected.sort_by(|a, b| {
                let (x, y) = (figure(a), figure(b));
                let figures = if down { y.cmp(&x) } else { x.cmp(&y) };
                figures.then(if down && by_name { b.cmp(a) } else { a.cmp(b) })
            });
            let (mut joined, mut behind) = (Vec::new(), None);
            loop {
                let mut first = First::new(behind.clone(), limit, down, by_name);
                items.keys().for_each(|name| first.add(figure(name), name));
                let page = first.into_sorted();
                prop_assert!(page.len() <= limit);
                let Some(last) = page.last() else { break };
                behind = Some(Place::new(last.key, last.name(), down && by_name));
                joined.extend(page.iter().map(|place| place.name().to_owned()));
            }
            prop_assert_eq!(joined, expected);
        }
    }
}
