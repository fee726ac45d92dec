//! The order of a list, and where a page of it starts.

use super::all::all;
use super::{Params, bad_cursor, word};
use crate::api::page::Cursor;
use crate::api::problem::Problem;
use crate::query::sort::{Place, Sort};

/// How a list is sorted, and what it is called in cursors.
pub(in crate::api) struct Order<K> {
    pub(in crate::api) sort: Sort<K>,
    /// `None`: sorted by name, upwards, with cursors of its own.
    list: Option<String>,
}

impl<K> Order<K> {
    /// The cursor of the page behind a place; `plain` makes that of a list sorted by name, upwards.
    pub(in crate::api) fn behind(&self, place: &Place, plain: fn(String) -> Cursor) -> Cursor {
        let name = place.name().to_owned();
        match &self.list {
            None => plain(name),
            Some(list) => Cursor::Sorted {
                list: list.clone(),
                key: place.key,
                name,
            },
        }
    }
}

impl Params {
    /// The order of a list: a field of its items, the largest first with a `-` before it. By default the first of `all`, upwards.
    ///
    /// # Errors
    /// Nothing that the list can be sorted by.
    pub fn sort<K: Copy>(
        &self,
        all: &[K],
        as_str: fn(K) -> &'static str,
    ) -> Result<Sort<K>, Problem> {
        let text = self.get("sort").unwrap_or_else(|| as_str(all[0]));
        let name = text.strip_prefix('-');
        Ok(Sort {
            by: word("sort", name.unwrap_or(text), all, as_str)?,
            down: name.is_some(),
        })
    }

    /// The order of a list that begins with `letter` in cursors, and where the page starts; the first of `fields` is the name, and `plain` knows the cursor of one sorted by it, upwards.
    ///
    /// # Errors
    /// As [`sort`](Self::sort); not a cursor, or of another list or order.
    pub(in crate::api) fn order<K: Copy + PartialEq>(
        &self,
        letter: char,
        fields: &[K],
        as_str: fn(K) -> &'static str,
        plain: fn(Cursor) -> Option<String>,
    ) -> Result<(Order<K>, Option<Place>), Problem> {
        // Without an order any cursor may be one of it.
        let (sort, cursor) = all((self.sort(fields, as_str), self.cursor()))?;
        let by_name = sort.by == fields[0];
        let list = (!by_name || sort.down).then(|| {
            let down = if sort.down { "-" } else { "" };
            format!("{letter}{down}{}", as_str(sort.by))
        });
        let place = |cursor| match (&list, cursor) {
            (None, cursor) => plain(cursor).map(|name| Place::new(0, &name, false)),
            (Some(list), Cursor::Sorted { list: l, key, name }) if l == *list => {
                Some(Place::new(key, &name, by_name && sort.down))
            }
            _ => None,
        };
        let start = cursor.map(|cursor| place(cursor).ok_or_else(bad_cursor));
        let start = start.transpose()?;
        Ok((Order { sort, list }, start))
    }
}
