//! One column of an answer: a value or a gap for each row. The values stay typed and dense until they are written.

use std::borrow::Cow;
use std::hash::Hasher;
use std::ops::Range;

use devmon_core::Value;

use crate::store::Cells;

/// Where somebody is who reads a column row by row, now and again.
#[derive(Debug, Clone, Copy, Default)]
pub struct Place {
    row: usize,
    value: usize,
}

impl Place {
    /// The number of the row that is next.
    #[must_use]
    pub fn row(&self) -> usize {
        self.row
    }
}

/// Values on the rows of an answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Column {
    /// The rows' values, gaps left out.
    values: Cells,
    /// For each row, whether it has a value; `None`: all have.
    present: Option<Vec<bool>>,
}

impl Column {
    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.present.as_ref().map_or(self.values.len(), Vec::len)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends a row.
    pub fn push(&mut self, value: Option<Value>) {
        match value {
            Some(value) => {
                self.values.push(&value);
                if let Some(present) = &mut self.present {
                    present.push(true);
                }
            }
            None => self.presence().push(false),
        }
    }

    /// Appends gaps until there are `rows`.
    pub fn pad(&mut self, rows: usize) {
        if self.len() < rows {
            self.presence().resize(rows, false);
        }
    }

    /// Appends a row for each of these values.
    pub fn append(&mut self, values: &Cells, range: Range<usize>) {
        if let Some(present) = &mut self.present {
            present.resize(present.len() + range.len(), true);
        }
        self.values.append(values, range);
    }

    /// Appends rows of which those that are `present` have the next of these values.
    pub fn append_sparse(&mut self, values: &Cells, range: Range<usize>, present: &[bool]) {
        if present.iter().all(|&p| p) {
            return self.append(values, range);
        }
        self.presence().extend_from_slice(present);
        self.values.append(values, range);
    }

    /// Leaves out what is behind the first `rows`.
    pub fn truncate(&mut self, rows: usize) {
        let kept = match &mut self.present {
            None => rows,
            Some(present) => {
                present.truncate(rows);
                present.iter().filter(|&&p| p).count()
            }
        };
        self.values.truncate(kept);
    }

    /// The row at a place, which moves on: a value, or a gap. `None` behind the last.
    #[must_use]
    pub fn next(&self, at: &mut Place) -> Option<Option<Cow<'_, Value>>> {
        let here = match &self.present {
            None if at.row < self.values.len() => true,
            None => return None,
            Some(present) => *present.get(at.row)?,
        };
        at.row += 1;
        let value = at.value;
        at.value += usize::from(here);
        Some(here.then(|| self.values.peek(value)))
    }

    /// Row by row.
    pub fn iter(&self) -> impl Iterator<Item = Option<Value>> {
        let mut at = Place::default();
        std::iter::from_fn(move || Some(self.next(&mut at)?.map(Cow::into_owned)))
    }

    /// What it takes in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.values.bytes() + self.present.as_ref().map_or(0, Vec::len)
    }

    /// Feeds what is in it to a hash.
    pub fn digest(&self, into: &mut impl Hasher) {
        into.write_usize(self.len());
        for &here in self.present.iter().flatten() {
            into.write_u8(here.into());
        }
        for i in 0..self.values.len() {
            let value = self.values.peek(i);
            into.write_u8(kind(&value));
            match &*value {
                Value::Float(x) => into.write_u64(x.to_bits()),
                Value::Integer(x) => into.write_i64(*x),
                Value::Boolean(x) => into.write_u8((*x).into()),
                Value::Text(x) => {
                    into.write(x.as_bytes());
                    into.write_u8(0xff); // in no text
                }
            }
        }
    }

    fn presence(&mut self) -> &mut Vec<bool> {
        let rows = self.values.len();
        self.present.get_or_insert_with(|| vec![true; rows])
    }
}

fn kind(value: &Value) -> u8 {
    match value {
        Value::Float(_) => 0,
        Value::Integer(_) => 1,
        Value::Boolean(_) => 2,
        Value::Text(_) => 3,
    }
}
