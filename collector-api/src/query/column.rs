//! One column of an answer: a value or a gap for each row. The values stay typed and dense until they are written.

use std::ops::Range;

use devmon_core::Value;

use crate::store::Cells;

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

    /// The values of all rows, if none is a gap.
    #[must_use]
    pub fn dense(&self) -> Option<&Cells> {
        self.present.is_none().then_some(&self.values)
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

    /// Row by row.
    pub fn iter(&self) -> impl Iterator<Item = Option<Value>> {
        let mut next = 0;
        (0..self.len()).map(move |row| {
            let here = self.present.as_ref().is_none_or(|present| present[row]);
            next += usize::from(here);
            here.then(|| self.values.get(next - 1))
        })
    }

    fn presence(&mut self) -> &mut Vec<bool> {
        let rows = self.values.len();
        self.present.get_or_insert_with(|| vec![true; rows])
    }
}
